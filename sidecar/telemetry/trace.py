"""Trace context on the wire, and spans.

Read: W3C trace context (https://www.w3.org/TR/trace-context/) first, then B3 in one field or in several. Written: W3C only.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from sidecar.headers import Field
from sidecar.record import ExchangeRecord

TRACEPARENT = b"traceparent"
TRACESTATE = b"tracestate"
B3 = b"b3"
B3_TRACE = b"x-b3-traceid"
B3_SPAN = b"x-b3-spanid"
B3_SAMPLED = b"x-b3-sampled"
B3_FLAGS = b"x-b3-flags"
# What `context_of` looks at.
FIELDS = frozenset({TRACEPARENT, B3, B3_TRACE, B3_SPAN, B3_SAMPLED, B3_FLAGS})

SAMPLED = 0x01
# Level 2: the trace id is random. Kept as long as the id is kept.
RANDOM = 0x02

# Section 3.2: lower-case hex only. A later version may append "-" and more; version 00 may not, ff is none.
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
# https://github.com/openzipkin/b3-propagation
_B3 = re.compile(rb"([0-9a-f]{16}|[0-9a-f]{32})-([0-9a-f]{16})(?:-([01d])(?:-[0-9a-f]{16})?)?")
_B3_TRACE = re.compile(rb"[0-9a-f]{16}|[0-9a-f]{32}")
_B3_SPAN = re.compile(rb"[0-9a-f]{16}")

class TraceContext(msgspec.Struct, frozen=True):
    """What a caller said. `trace_id` (32 hex digits) and `span_id` (16) are "" when it only said whether to sample. `flags` as in traceparent.

    `sampled` None: not decided. `is_w3c`: from a valid traceparent, so that the tracestate beside it goes on.
    """

    trace_id: str
    span_id: str
    sampled: bool | None
    flags: int = 0
    is_w3c: bool = False


def parse_traceparent(value: bytes) -> TraceContext | None:
    """The context, or None for a value that section 3.2 calls invalid."""
    match = _TRACEPARENT.fullmatch(value)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == b"ff" or (version == b"00" and more is not None) or trace_id == b"0" * 32 or span_id == b"0" * 16:
        return None
    bits = int(flags, 16)
    return TraceContext(trace_id.decode(), span_id.decode(), bool(bits & SAMPLED), bits & (SAMPLED | RANDOM), True)


def parse_b3(value: bytes) -> TraceContext | None:
    """The context of the single field `b3`; None when it is malformed. "0" and "1" and "d" alone are decisions without ids."""
    value = value.lower()
    if value in (b"0", b"1", b"d"):
        return TraceContext("", "", value != b"0")
    match = _B3.fullmatch(value)
    return None if match is None else _b3_context(match[1], match[2], match[3])


def parse_b3_fields(trace_id: bytes | None, span_id: bytes | None, sampled: bytes | None, flags: bytes | None) -> TraceContext | None:
    """The context of the `x-b3-` fields; None when there is none or it is malformed."""
    decision = b"1" if flags == b"1" else {b"1": b"1", b"true": b"1", b"0": b"0", b"false": b"0"}.get((sampled or b"").lower())
    if trace_id is None and span_id is None:
        return None if decision is None else TraceContext("", "", decision == b"1")
    trace, span = (trace_id or b"").lower(), (span_id or b"").lower()
    if _B3_TRACE.fullmatch(trace) is None or _B3_SPAN.fullmatch(span) is None:
        return None
    return _b3_context(trace, span, decision)


def _b3_context(trace_id: bytes, span_id: bytes, decision: bytes | None) -> TraceContext | None:
    sampled = None if decision is None else decision != b"0"
    # A 64-bit id is the right half of a 128-bit one.
    wide = trace_id.decode().rjust(32, "0")
    if wide == "0" * 32 or span_id == b"0" * 16:
        return None
    return TraceContext(wide, span_id.decode(), sampled)


def context_of(fields: list[Field]) -> TraceContext | None:
    """The caller's context, from a head's fields; None when there is none that is valid. More than one traceparent is invalid."""
    found: dict[bytes, bytes] = {}
    repeated = False
    for name, value, _ in fields:
        if name in FIELDS:
            repeated = repeated or (name == TRACEPARENT and name in found)
            found[name] = value
    if not found:
        return None
    if TRACEPARENT in found and not repeated:
        context = parse_traceparent(found[TRACEPARENT])
        if context is not None:
            return context
    if B3 in found:
        context = parse_b3(found[B3])
        if context is not None:
            return context
    return parse_b3_fields(found.get(B3_TRACE), found.get(B3_SPAN), found.get(B3_SAMPLED), found.get(B3_FLAGS))


def is_sampled(trace_id: str, share: float) -> bool:
    """The decision for a new trace, by its id, so that all who apply the same share to the same trace agree. The right 56 bits are random by W3C level 2."""
    return share >= 1.0 or int(trace_id[18:], 16) < share * 2.0**56


class Span(msgspec.Struct, kw_only=True, gc=False):
    """One finished span. Times in nanoseconds since 1970. `attributes`: OpenTelemetry's HTTP conventions, 1.23 and later. `status` "error": it failed."""

    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    kind: Literal["server", "client"]
    start_ns: int
    end_ns: int
    attributes: dict[str, str | int | float]
    status: Literal["unset", "error"] = "unset"
    status_message: str = ""
    trace_state: str = ""


_NANOSECONDS = 1_000_000_000
_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})


# By OpenTelemetry's conventions for gRPC: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS; to callers anything but OK is an error.
_FAULTS_OF_SERVERS = frozenset((2, 4, 12, 13, 14, 15))


def server_span(record: ExchangeRecord, parent_span_id: str, trace_state: str = "") -> Span:
    """The span of the request as the sidecar served it; its ids are the record's."""
    attributes = _http_attributes(record)
    attributes["client.address"] = record.peer
    if record.user_agent:
        attributes["user_agent.original"] = record.user_agent
    if record.route:
        attributes["http.route"] = record.route
    if record.principal:
        attributes["enduser.id"] = record.principal
    # A server's span is an error for its own failures only: 4xx is the client's (HTTP conventions, "Status").
    failed = record.status >= 500 or (record.status == 0 and bool(record.code)) or record.grpc_status in _FAULTS_OF_SERVERS
    return _span(record, "server", record.span_id, parent_span_id, record.started, failed, attributes, trace_state)


def client_span(
    record: ExchangeRecord, span_id: str, started: float, endpoint: str, is_last: bool, attempt: int, ended: float | None = None, trace_state: str = ""
) -> Span:
    """The span of one attempt upstream, below the server span. `attempt` counts from 0; one that is not the last failed. `started`, `ended`: POSIX seconds,
    None: with the exchange."""
    attributes = _http_attributes(record)
    host, _, port = endpoint.rpartition(":")
    attributes["server.address"] = host.strip("[]") if port.isdigit() else endpoint
    if port.isdigit():
        attributes["server.port"] = int(port)
    attributes["sidecar.cluster"] = record.cluster
    if attempt:
        attributes["http.request.resend_count"] = attempt
    if not is_last:
        for name in ("http.response.status_code", "http.response.body.size", "rpc.grpc.status_code"):
            attributes.pop(name, None)
    failed = not is_last or record.status >= 400 or bool(record.code) or bool(record.grpc_status)
    span = _span(record, "client", span_id, record.span_id, started, failed, attributes, trace_state)
    if ended is not None:
        span.end_ns = int(ended * _NANOSECONDS)
    return span


def _http_attributes(record: ExchangeRecord) -> dict[str, str | int | float]:
    """What both sides have. The query is left out: it may hold secrets."""
    known = record.method in _KNOWN_METHODS
    attributes: dict[str, str | int | float] = {
        "http.request.method": record.method if known else "_OTHER",
        "url.path": record.path.partition("?")[0],
        "network.protocol.version": record.protocol.partition("/")[2],
        "http.request.body.size": record.request_bytes,
        "http.response.body.size": record.response_bytes,
    }
    if not known:
        attributes["http.request.method_original"] = record.method
    host, _, port = record.authority.rpartition(":")
    attributes["server.address"] = host if port.isdigit() else record.authority
    if port.isdigit():
        attributes["server.port"] = int(port)
    if record.status:
        attributes["http.response.status_code"] = record.status
    if record.code:
        attributes["error.type"] = record.code
    elif record.status >= 500:
        attributes["error.type"] = str(record.status)
    if record.grpc_status is not None:
        attributes["rpc.system"] = "grpc"
        attributes["rpc.grpc.status_code"] = record.grpc_status
    if record.request_id:
        # Envoy's name for it, so that one search finds a request in both.
        attributes["guid:x-request-id"] = record.request_id
    return attributes


def _span(
    record: ExchangeRecord,
    kind: Literal["server", "client"],
    span_id: str,
    parent: str,
    started: float,
    failed: bool,
    attributes: dict[str, str | int | float],
    trace_state: str,
) -> Span:
    method = record.method if record.method in _KNOWN_METHODS else "HTTP"
    return Span(
        trace_id=record.trace_id,
        span_id=span_id,
        parent_span_id=parent,
        name=f"{method} {record.route}".rstrip() if kind == "server" else method,
        kind=kind,
        start_ns=int(started * _NANOSECONDS),
        end_ns=int(record.started * _NANOSECONDS) + round(record.duration_ms * 1_000_000),
        attributes=attributes,
        status="error" if failed else "unset",
        status_message=record.detail if failed else "",
        trace_state=trace_state,
    )
