"""The record of one finished exchange: what access logs write, tracers and metrics read, and `exchange_done` hands to plugins."""

from __future__ import annotations

import msgspec


class Try(msgspec.Struct, gc=False):
    """One attempt of several. `outcome`: "status 503", an error's code, or "given up" when another one was quicker. `ms`: milliseconds from its begin to that. `why`: why it was not the last
    one, "" for the last."""

    endpoint: str
    outcome: str
    ms: float
    why: str = ""


class ExchangeRecord(msgspec.Struct, gc=False):
    """One exchange, whole. Times: `started` is POSIX seconds, the rest are milliseconds since then (None: did not happen). Sizes are body octets.

    `flags`: Envoy's response flags, comma-separated, "" when all went well. `code`: our stable error code, "" likewise. `detail`: one sentence.
    `notes`: the decision record, (who, what) pairs in the order in which things were decided. `grpc_status` (None: no call of gRPC) and the messages of both
    directions are gRPC's. `tries`: the attempts, when there were several.
    """

    started: float
    listener: str
    direction: str
    peer: str
    method: str
    authority: str
    path: str
    protocol: str
    status: int
    flags: str = ""
    code: str = ""
    side: str = ""
    detail: str = ""
    route: str = ""
    cluster: str = ""
    endpoint: str = ""
    principal: str = ""
    peer_identity: str = ""
    upstream_identity: str = ""
    request_bytes: int = 0
    response_bytes: int = 0
    duration_ms: float = 0.0
    upstream_ms: float | None = None
    attempts: int = 0
    request_id: str = ""
    trace_id: str = ""
    span_id: str = ""
    user_agent: str = ""
    notes: list[tuple[str, str]] = []
    grpc_status: int | None = None
    request_messages: int = 0
    response_messages: int = 0
    tries: list[Try] = []
