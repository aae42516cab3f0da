"""The record of a finished exchange, made only when somebody reads it (access logs, tracer, hooks).

Most of it is the same for many exchanges, and so is what is made of it: these have one `Likeness`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import astuple

from sidecar.codec.grpc import from_http_status
from sidecar.headers import Headers
from sidecar.message import RequestHead
from sidecar.proxy.attempts import tries_of
from sidecar.proxy.grpc_call import final_status
from sidecar.record import CommonFields, ExchangeRecord, Likeness, OwnFields, Try

if TYPE_CHECKING:
    from sidecar.proxy.exchange import Exchange

# Kept for each HTTP filter chain; then all are forgotten, so that clients who never ask the same twice cannot make them grow: 1 MB at most.
LIKENESSES = 512
# Octets of path, authority and user agent together: longer ones are not kept.
LIKENESS_OCTETS = 512

_PROTOCOLS = {10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2"}
_NO_TRIES: list[Try] = []


def likeness_of(exchange: Exchange) -> Likeness:
    """What this exchange has in common with others: made for it when something went wrong, else there since the last one that was like it."""
    if exchange.error is not None or exchange.flags:
        return Likeness(_common_fields(exchange))
    request = exchange.request
    response = exchange.response
    status = 0 if response is None or not exchange._response_sent else response.status
    call = exchange.grpc
    upstream_tls = exchange.upstream_tls
    principal = exchange.principal
    key = (
        request.method,
        request.authority,
        exchange.path,
        request.version,
        status,
        None if call is None else from_http_status(status) if call.status is None else call.status,
        exchange.route_name,
        exchange.cluster_name,
        exchange.endpoint_text,
        exchange._facts.agent,
        None if principal is None else principal.name,
        exchange.caller.identity,
        None if upstream_tls is None else upstream_tls.peer_identity,
    )
    likenesses = exchange.http.likenesses
    return likenesses.get(key) or _new_likeness(exchange, likenesses, key)


def _new_likeness(exchange: Exchange, likenesses: dict[Any, Likeness], key: Any) -> Likeness:
    fields = _common_fields(exchange)
    likeness = Likeness(fields)
    if len(fields.path) + len(fields.authority) + len(fields.user_agent) <= LIKENESS_OCTETS:
        if len(likenesses) >= LIKENESSES:
            likenesses.clear()
        likenesses[key] = likeness
    return likeness


def _common_fields(exchange: Exchange) -> CommonFields:
    request = exchange.request
    facts = exchange.connection
    error = exchange.error
    tls = facts.tls
    upstream_tls = exchange.upstream_tls
    principal = exchange.principal
    flags = "" if error is None else error.flag
    if exchange.flags:
        flags = f"{flags},{exchange.flags}" if flags else exchange.flags
    return CommonFields(
        listener=facts.listener,
        direction=facts.direction,
        method=request.method.decode("latin-1"),
        authority=request.authority.decode("latin-1"),
        path=exchange.path.decode("latin-1"),
        protocol=_PROTOCOLS[request.version],
        status=exchange.status,
        flags=flags,
        code="" if error is None else error.code,
        side="" if error is None else error.side,
        detail="" if error is None else error.sentence,
        route=exchange.route_name,
        cluster=exchange.cluster_name,
        endpoint=exchange.endpoint_text,
        principal="" if principal is None else principal.name,
        peer_identity="" if tls is None else tls.peer_identity,
        upstream_identity="" if upstream_tls is None else upstream_tls.peer_identity,
        user_agent=exchange._facts.agent,
        grpc_status=final_status(exchange),
    )


def own_fields(exchange: Exchange, duration: float) -> OwnFields:
    """What `exchange`, which took `duration` seconds, has for itself."""
    trace = exchange.trace
    call = exchange.grpc
    upstream_seconds = exchange.upstream_seconds
    # Positional, in the order of the fields: naming the arguments would cost a microsecond of each request.
    return OwnFields(
        exchange.started,
        exchange.caller.peer_text,
        exchange.request_bytes,
        exchange.response_bytes,
        duration * 1000.0,
        None if upstream_seconds is None else upstream_seconds * 1000.0,
        exchange.attempts,
        exchange.request_id.decode("latin-1"),
        "" if trace is None else trace.trace_id,
        "" if trace is None else trace.span_id,
        exchange.notes,
        0 if call is None else call.requests,
        0 if call is None else call.responses,
        _NO_TRIES if exchange.tries is None else tries_of(exchange),
    )


def leave_out_nonsense(exchange: Exchange) -> None:
    """From here on `exchange` has nothing that a plugin may have assigned and that is no principal, trace or head. It is recorded without that, because whoever
    counts exchanges in and out has to be told of the end of each.
    """
    exchange.principal = exchange.trace = None
    head = exchange.request
    texts = [value if isinstance(value, bytes) else b"-" for value in (head.method, head.path, head.authority)]
    exchange.request = RequestHead(texts[0], texts[1], texts[2], Headers(), head.version if head.version in _PROTOCOLS else 11)


def whole_record(common: CommonFields, own: OwnFields) -> ExchangeRecord:
    """Both parts in one."""
    return ExchangeRecord(*astuple(common), *astuple(own))
