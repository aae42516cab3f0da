"""The record of a finished exchange, made only when somebody reads it (access logs, tracer, hooks)."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    agent = request.headers.get(b"user-agent")
    upstream_seconds = exchange.upstream_seconds
    return ExchangeRecord(
        started=exchange.started,
        listener=facts.listener,
        direction=facts.direction,
        peer=exchange.caller.peer_text,
        method=request.method.decode("latin-1"),
        authority=request.authority.decode("latin-1"),
        path=request.path.decode("latin-1"),
        protocol=_PROTOCOLS[request.version],
        status=exchange.status,
        flags="" if error is None else error.flag,
        code="" if error is None else error.code,
        side="" if error is None else error.side,
        detail="" if error is None else error.sentence,
        route=exchange.route_name,
        cluster=exchange.cluster_name,
        endpoint=exchange.endpoint_text,
        principal="" if principal is None else principal.name,
        peer_identity="" if tls is None else tls.peer_identity,
        upstream_identity="" if upstream_tls is None else upstream_tls.peer_identity,
        request_bytes=exchange.request_bytes,
        response_bytes=exchange.response_bytes,
        duration_ms=duration * 1000.0,
        upstream_ms=None if upstream_seconds is None else upstream_seconds * 1000.0,
        attempts=exchange.attempts,
        request_id=exchange.request_id.decode("latin-1"),
        trace_id="" if trace is None else trace.trace_id,
        span_id="" if trace is None else trace.span_id,
        user_agent="" if agent is None else agent.decode("latin-1"),
        notes=exchange.notes,
    )
