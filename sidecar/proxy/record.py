"""The record of a finished exchange, made only when somebody reads it (access logs, tracer, hooks)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.proxy.attempts import tries_of
from sidecar.record import ExchangeRecord

if TYPE_CHECKING:
    from sidecar.proxy.exchange import Exchange

_PROTOCOLS = {10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2"}


def make_record(exchange: Exchange, duration: float) -> ExchangeRecord:
    """Everything about `exchange`, which took `duration` seconds."""
    request = exchange.request
    facts = exchange.connection
    error = exchange.error
    tls = facts.tls
    upstream_tls = exchange.upstream_tls
    principal = exchange.principal
    trace = exchange.trace
    grpc = exchange.grpc
    upstream_seconds = exchange.upstream_seconds
    flags = "" if error is None else error.flag
    if exchange.flags:
        flags = f"{flags},{exchange.flags}" if flags else exchange.flags
    # Positional, in the order of the fields: naming thirty arguments would cost two microseconds of each request.
    return ExchangeRecord(
        exchange.started,
        facts.listener,
        facts.direction,
        exchange.caller.peer_text,
        request.method.decode("latin-1"),
        request.authority.decode("latin-1"),
        exchange.path.decode("latin-1"),
        _PROTOCOLS[request.version],
        exchange.status,
        flags,
        "" if error is None else error.code,
        "" if error is None else error.side,
        "" if error is None else error.sentence,
        exchange.route_name,
        exchange.cluster_name,
        exchange.endpoint_text,
        "" if principal is None else principal.name,
        "" if tls is None else tls.peer_identity,
        "" if upstream_tls is None else upstream_tls.peer_identity,
        exchange.request_bytes,
        exchange.response_bytes,
        duration * 1000.0,
        None if upstream_seconds is None else upstream_seconds * 1000.0,
        exchange.attempts,
        exchange.request_id.decode("latin-1"),
        "" if trace is None else trace.trace_id,
        "" if trace is None else trace.span_id,
        exchange._facts.agent,
        exchange.notes,
        None if grpc is None else exchange.grpc_status,
        0 if grpc is None else grpc.requests.count,
        0 if grpc is None else grpc.responses.count,
        [] if exchange.tries is None else tries_of(exchange),
    )
