"""Trace context on the wire, and spans in OpenTelemetry's terms."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sidecar.telemetry.trace import (
    TraceContext,
    client_span,
    context_of,
    is_sampled,
    parse_b3,
    parse_b3_fields,
    parse_traceparent,
    server_span,
)
from sidecar.testing import STARTED, make_headers, make_record

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("value", "context"),
    [
        (f"00-{TRACE}-{SPAN}-01", TraceContext(TRACE, SPAN, True, 1, True)),
        (f"00-{TRACE}-{SPAN}-00", TraceContext(TRACE, SPAN, False, 0, True)),
        (f"00-{TRACE}-{SPAN}-03", TraceContext(TRACE, SPAN, True, 3, True)),
        (f"00-{TRACE}-{SPAN}-ff", TraceContext(TRACE, SPAN, True, 3, True)),
        (f"cc-{TRACE}-{SPAN}-01", TraceContext(TRACE, SPAN, True, 1, True)),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be", TraceContext(TRACE, SPAN, True, 1, True)),
        (f"cc-{TRACE}-{SPAN}-01.what", None),
        (f"00-{TRACE}-{SPAN}-01-extra", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE}-{SPAN}-1", None),
        (f"00-{TRACE}-{SPAN}", None),
        (f"0-{TRACE}-{SPAN}-01", None),
        (f" 00-{TRACE}-{SPAN}-01", None),
        ("", None),
    ],
)
def test_traceparent(value: str, context: TraceContext | None) -> None:
    """Section 3.2 and 4.1 of the recommendation: strict about version 00, open to what later versions append."""
    assert parse_traceparent(value.encode()) == context


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 3))
def test_traceparent_round_trip(trace: int, span: int, flags: int) -> None:
    """Whatever the ids and flags, they are read as they were written."""
    context = parse_traceparent(f"00-{trace:032x}-{span:016x}-{flags:02x}".encode())
    assert context == TraceContext(f"{trace:032x}", f"{span:016x}", bool(flags & 1), flags, True)


@given(st.binary(max_size=60))
def test_any_bytes_are_decided(value: bytes) -> None:
    """No value raises."""
    parse_traceparent(value)
    parse_b3(value)
    parse_b3_fields(value, value, value, value)


@pytest.mark.parametrize(
    ("value", "context"),
    [
        (f"{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90", TraceContext(TRACE, SPAN, True)),
        (f"{TRACE}-{SPAN}-d", TraceContext(TRACE, SPAN, True)),
        (f"{TRACE}-{SPAN}-0", TraceContext(TRACE, SPAN, False)),
        (f"{TRACE}-{SPAN}", TraceContext(TRACE, SPAN, None)),
        (f"{TRACE[16:].upper()}-{SPAN}-1", TraceContext("0" * 16 + TRACE[16:], SPAN, True)),
        ("0", TraceContext("", "", False)),
        ("1", TraceContext("", "", True)),
        ("d", TraceContext("", "", True)),
        (f"{TRACE}-{SPAN}-2", None),
        (f"{'0' * 32}-{SPAN}-1", None),
        (f"{TRACE}-{'0' * 16}-1", None),
        (f"{TRACE[1:]}-{SPAN}-1", None),
        ("", None),
    ],
)
def test_b3_in_one_field(value: str, context: TraceContext | None) -> None:
    """64-bit trace ids are widened; a decision may stand alone."""
    assert parse_b3(value.encode()) == context


@pytest.mark.parametrize(
    ("fields", "context"),
    [
        ((TRACE.encode(), SPAN.encode(), b"1", None), TraceContext(TRACE, SPAN, True)),
        ((TRACE.encode(), SPAN.encode(), b"false", None), TraceContext(TRACE, SPAN, False)),
        ((TRACE.encode(), SPAN.encode(), None, None), TraceContext(TRACE, SPAN, None)),
        ((TRACE.encode(), SPAN.encode(), b"0", b"1"), TraceContext(TRACE, SPAN, True)),
        ((None, None, b"0", None), TraceContext("", "", False)),
        ((TRACE.encode(), None, b"1", None), None),
        ((b"x", SPAN.encode(), b"1", None), None),
        ((None, None, b"maybe", None), None),
        ((None, None, None, None), None),
    ],
)
def test_b3_in_several_fields(fields: tuple[bytes | None, bytes | None, bytes | None, bytes | None], context: TraceContext | None) -> None:
    """Both ids or none; the debug flag means sampled."""
    assert parse_b3_fields(*fields) == context


def test_which_context_counts() -> None:
    """W3C before B3; an invalid or repeated traceparent is as if there was none."""
    good = ("traceparent", f"00-{TRACE}-{SPAN}-01")
    b3 = ("b3", f"{TRACE}-{SPAN}-0")
    many = [("X-B3-TraceId", TRACE), ("X-B3-SpanId", SPAN), ("X-B3-Sampled", "1")]
    cases: list[tuple[list[tuple[str, str]], bool | None]] = [
        ([good, b3], True),
        ([("traceparent", "00-x"), b3], False),
        ([good, good], None),
        ([good, good, b3], False),
        ([("b3", "nonsense"), *many], True),
        (many, True),
        ([("accept", "*/*")], None),
    ]
    for fields, sampled in cases:
        context = context_of(make_headers(fields).fields)
        assert (None if context is None else context.sampled) == sampled


def test_sampling_follows_the_trace_id() -> None:
    """The same trace gets the same answer everywhere; a share of all means all, none means none."""
    low, high = "f" * 16 + "ff" + "0" * 14, "0" * 16 + "00" + "f" * 14
    assert [is_sampled(low, share) for share in (0.0, 0.001, 0.5, 1.0)] == [False, True, True, True]
    assert [is_sampled(high, share) for share in (0.0, 0.001, 0.5, 1.0)] == [False, False, False, True]


def test_server_span() -> None:
    """OpenTelemetry's names; the query, which may hold secrets, is not there."""
    record = make_record(
        trace_id=TRACE,
        span_id=SPAN,
        path="/a?token=1",
        authority="app.example:81",
        user_agent="curl",
        principal="p",
        request_id="i",
        request_bytes=3,
        response_bytes=4,
    )
    span = server_span(record, "", "a=b")
    assert (span.trace_id, span.span_id, span.parent_span_id, span.name, span.kind, span.status, span.trace_state) == (
        TRACE,
        SPAN,
        "",
        "GET default",
        "server",
        "unset",
        "a=b",
    )
    assert (span.start_ns, span.end_ns) == (int(STARTED) * 10**9, int(STARTED) * 10**9 + 5_000_000)
    assert span.attributes == {
        "http.request.method": "GET",
        "url.path": "/a",
        "network.protocol.version": "1.1",
        "http.request.body.size": 3,
        "http.response.body.size": 4,
        "server.address": "app.example",
        "server.port": 81,
        "http.response.status_code": 200,
        "guid:x-request-id": "i",
        "client.address": "192.0.2.1",
        "user_agent.original": "curl",
        "http.route": "default",
        "enduser.id": "p",
    }


@pytest.mark.parametrize(
    ("status", "code", "server", "client"),
    [(200, "", "unset", "unset"), (404, "", "unset", "error"), (503, "connect-failed", "error", "error"), (0, "downstream-closed", "error", "error")],
)
def test_what_is_an_error(status: int, code: str, server: str, client: str) -> None:
    """A client's span fails with 4xx, a server's does not."""
    record = make_record(trace_id=TRACE, span_id=SPAN, status=status, code=code, detail="why")
    assert server_span(record, "").status == server
    span = client_span(record, "c" * 16, STARTED, "127.0.0.1:80", True, 0)
    assert (span.status, span.status_message) == (client, "why" if client == "error" else "")
    assert span.attributes.get("error.type") == (code or None)


def test_client_spans_of_two_attempts() -> None:
    """They hang below the server span; the first one failed and ends where the second begins."""
    record = make_record(trace_id=TRACE, span_id=SPAN, method="BREW", route="")
    first = client_span(record, "1" * 16, STARTED + 1, "127.0.0.1:80", False, 0, STARTED + 2)
    second = client_span(record, "2" * 16, STARTED + 2, "[::1]:80", True, 1)
    assert {first.parent_span_id, second.parent_span_id} == {SPAN}
    assert (first.start_ns, first.end_ns, first.status) == ((int(STARTED) + 1) * 10**9, (int(STARTED) + 2) * 10**9, "error")
    assert "http.response.status_code" not in first.attributes
    assert second.attributes["http.request.resend_count"] == 1
    assert (second.attributes["server.address"], second.attributes["server.port"]) == ("::1", 80)
    assert (second.name, second.attributes["http.request.method"], second.attributes["http.request.method_original"]) == ("HTTP", "_OTHER", "BREW")
    assert client_span(record, "3" * 16, STARTED, "unix:/run/a", True, 0).attributes["server.address"] == "unix:/run/a"


@pytest.mark.parametrize(("status", "server", "client"), [(0, "unset", "unset"), (5, "unset", "error"), (14, "error", "error"), (4, "error", "error")])
def test_grpc_calls(status: int, server: str, client: str) -> None:
    """The call's own status stands in both spans, and says whose error it is; other requests have none."""
    record = make_record(grpc_status=status, span_id="1" * 16, trace_id="2" * 32)
    ours, theirs = server_span(record, ""), client_span(record, "3" * 16, 0.0, "127.0.0.1:80", True, 0)
    assert (ours.status, theirs.status) == (server, client)
    assert ours.attributes["rpc.grpc.status_code"] == theirs.attributes["rpc.grpc.status_code"] == status and ours.attributes["rpc.system"] == "grpc"
    assert "rpc.system" not in server_span(make_record(), "").attributes
