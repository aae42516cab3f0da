"""The record of one finished exchange: what access logs write, tracers and metrics read, and `exchange_done` hands to plugins."""

from __future__ import annotations

from typing import Any

import msgspec


class Try(msgspec.Struct, gc=False):
    """One attempt of several. `outcome`: "status 503", an error's code, or "given up" when another one was quicker. `ms`: milliseconds from its begin to that. `why`: why it was not the last
    one, "" for the last."""

    endpoint: str
    outcome: str
    ms: float
    why: str = ""


class CommonFields(msgspec.Struct, eq=False, gc=False):
    """What the records of many exchanges have in common; see `ExchangeRecord`."""

    listener: str
    direction: str
    method: str
    authority: str
    path: str
    protocol: str
    status: int
    flags: str
    code: str
    side: str
    detail: str
    route: str
    cluster: str
    endpoint: str
    principal: str
    peer_identity: str
    upstream_identity: str
    user_agent: str
    grpc_status: int | None


class OwnFields(msgspec.Struct, eq=False, gc=False):
    """What one exchange's record has for itself; see `ExchangeRecord`."""

    started: float
    peer: str
    request_bytes: int
    response_bytes: int
    duration_ms: float
    upstream_ms: float | None
    attempts: int
    request_id: str
    trace_id: str
    span_id: str
    notes: list[tuple[str, str]]
    request_messages: int
    response_messages: int
    tries: list[Try]


class Likeness:
    """What exchanges that are alike share: the fields of their records, and what others work out of these once: `json`, how logs write them (b"" until one
    does), and `row`, where metrics count them.
    """

    __slots__ = ("fields", "json", "row")

    def __init__(self, fields: CommonFields) -> None:
        self.fields = fields
        self.json = b""
        self.row: Any = None

    def __repr__(self) -> str:
        return f"<Likeness {self.fields!r}>"


class ExchangeRecord(msgspec.Struct, gc=False):
    """One exchange, whole: `CommonFields` and `OwnFields`, in their order.

    Times: `started` is POSIX seconds, the rest are milliseconds since then (None: did not happen). Sizes are body octets.
    `flags`: Envoy's response flags, comma-separated, "" when all went well. `code`: our stable error code, "" likewise. `detail`: one sentence.
    `notes`: the decision record, (who, what) pairs in the order in which things were decided. `grpc_status` (None: no call of gRPC) and the messages of both
    directions are gRPC's. `tries`: the attempts, when there were several.
    """

    listener: str
    direction: str
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
    user_agent: str = ""
    grpc_status: int | None = None
    started: float = 0.0
    peer: str = ""
    request_bytes: int = 0
    response_bytes: int = 0
    duration_ms: float = 0.0
    upstream_ms: float | None = None
    attempts: int = 0
    request_id: str = ""
    trace_id: str = ""
    span_id: str = ""
    notes: list[tuple[str, str]] = []
    request_messages: int = 0
    response_messages: int = 0
    tries: list[Try] = []
