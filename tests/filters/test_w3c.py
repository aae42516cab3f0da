"""The W3C tracer: whose trace it is, what goes on the wire, and which spans there are."""

from __future__ import annotations

import re
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from sidecar.address import Address
from sidecar.filters.w3c import ATTEMPTS_LIMIT, W3CTracer
from sidecar.interfaces import IPropagator, ITracer
from sidecar.telemetry.trace import Span, parse_traceparent
from sidecar.testing import STARTED, FakeContext, FakeExchange, make_record, make_request

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


class Run:
    """A tracer and one exchange, step by step."""

    def __init__(self, headers: list[tuple[str, str]] | None = None, sample: float = 1.0, trust_caller: bool = True) -> None:
        self.context = FakeContext("w3c")
        self.tracer = W3CTracer(W3CTracer.Config(trust_caller=trust_caller), self.context)
        self.exchange = FakeExchange(make_request(headers=headers or []))
        self.tracer.begin(self.exchange, sample)

    def inject(self, endpoint: str = "127.0.0.1:8080") -> Any:
        self.exchange.endpoint = Address.parse(endpoint)
        self.tracer.inject(self.exchange)
        (value,) = self.exchange.request.headers.get_all(b"traceparent")
        assert (b"traceparent", value, b"traceparent: " + value + b"\r\n") in self.exchange.request.headers.fields
        context = parse_traceparent(value)
        assert context is not None
        return context

    def end(self) -> list[Span]:
        trace = self.exchange.trace
        spans = self.tracer.end(self.exchange, make_record(trace_id=trace.trace_id, span_id=trace.span_id, duration_ms=5000.0))
        assert all(isinstance(span, Span) for span in spans)
        return spans  # type: ignore[return-value]


def test_a_new_trace() -> None:
    """Root server span, client span below it, and its id on the wire."""
    run = Run()
    trace = run.exchange.trace
    context = run.inject()
    client, server = run.end()
    assert (len(trace.trace_id), len(trace.span_id)) == (32, 16)
    assert (context.trace_id, context.span_id, context.flags) == (trace.trace_id, client.span_id, 1)
    assert (server.span_id, server.parent_span_id, server.kind) == (trace.span_id, "", "server")
    assert (client.parent_span_id, client.kind) == (trace.span_id, "client")
    assert client.span_id != server.span_id
    assert run.inject().trace_id != Run().inject().trace_id


def test_where_nobody_takes_spans() -> None:
    """Each attempt has its context all the same, and nothing is kept for spans."""
    run = Run()
    assert verifyObject(IPropagator, run.tracer)
    found = set()
    for _ in range(2):
        run.tracer.propagate(run.exchange)
        (value,) = run.exchange.request.headers.get_all(b"traceparent")
        context = parse_traceparent(value)
        assert context is not None and context.trace_id == run.exchange.trace.trace_id
        found.add(context.span_id)
    assert len(found) == 2 and run.exchange.trace.attempts == []
    run.exchange.trace = None
    run.tracer.propagate(run.exchange)
    run.tracer.inject(run.exchange)


def test_ids_are_different() -> None:
    """Those of many exchanges, new traces and callers' in turn, with two attempts each; trace ids in all their parts."""
    context = FakeContext("w3c")
    tracer = W3CTracer(W3CTracer.Config(), context)
    traces, spans = set(), []
    for number in range(600):
        exchange = FakeExchange(make_request(headers=[("traceparent", PARENT)] if number % 2 else []))
        tracer.begin(exchange, 1.0)
        if not number % 2:
            traces.add(exchange.trace.trace_id)
        tracer.inject(exchange)
        tracer.inject(exchange)
        spans += [exchange.trace.span_id, *(span_id for span_id, _, _ in exchange.trace.attempts)]
    assert len(traces) == 300 and len(set(spans)) == len(spans) == 1800
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in traces) and all(re.fullmatch("[0-9a-f]{16}", each) for each in spans)
    assert all(len({each[start : start + 8] for each in traces}) > 295 for start in range(0, 32, 8))


@pytest.mark.parametrize("parent", [PARENT, f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-03"])
def test_a_trace_goes_on(parent: str) -> None:
    """The caller's trace and decision are kept, whatever our own share is; tracestate passes on untouched."""
    run = Run([("tracestate", "a=1"), ("TraceParent", parent), ("tracestate", "b=2")], sample=0.0)
    context = run.inject()
    assert (context.trace_id, context.flags) == (TRACE, int(parent[-1]))
    assert context.span_id != SPAN
    assert run.exchange.request.headers.get_all(b"tracestate") == [b"a=1", b"b=2"]
    spans = run.end()
    if context.sampled:
        assert [span.trace_state for span in spans] == ["a=1,b=2"] * 2
        assert spans[-1].parent_span_id == SPAN
    else:
        assert spans == []


@pytest.mark.parametrize("headers", [[("traceparent", "00-bad")], [("traceparent", PARENT)] * 2, [("b3", "0")], []])
def test_tracestate_needs_its_traceparent(headers: list[tuple[str, str]]) -> None:
    """Beside an invalid, repeated or missing one it is dropped, and a trace begins here."""
    run = Run([*headers, ("tracestate", "a=1")])
    assert b"tracestate" not in run.exchange.request.headers
    assert run.inject().trace_id != TRACE


def test_b3_is_understood() -> None:
    """It becomes W3C; the decision is ours when the caller made none."""
    assert Run([("b3", f"{TRACE}-{SPAN}-1")], sample=0.0).inject().flags == 1
    run = Run([("b3", f"{TRACE}-{SPAN}")], sample=0.0)
    assert (run.inject().flags, run.exchange.trace.trace_id, run.exchange.trace.parent_span_id) == (0, TRACE, SPAN)
    assert Run([("b3", "0")]).inject().flags == 0


def test_not_sampled() -> None:
    """Ids are there all the same, for logs and for the next hop; no spans."""
    run = Run(sample=0.0)
    assert run.inject().flags == 0
    assert len(run.exchange.trace.trace_id) == 32
    assert run.end() == []


def test_a_caller_that_is_not_trusted() -> None:
    """Its trace ends at our door: replaced, tracestate and B3 dropped, our own decision."""
    b3 = [("b3", f"{TRACE}-00f067aa0ba902b7-1"), ("x-b3-traceid", TRACE), ("x-b3-sampled", "1"), ("x-b3-parentspanid", "1")]
    run = Run([("traceparent", PARENT), ("tracestate", "a=1"), *b3, ("x-other", "1")], sample=0.0, trust_caller=False)
    context = run.inject()
    assert context.trace_id != TRACE
    assert context.flags == 0
    assert [each[0] for each in run.exchange.request.headers.fields] == [b"host", b"x-other", b"traceparent"]


def test_one_client_span_for_each_attempt() -> None:
    """Each has its own id on the wire, its own time and endpoint."""
    run = Run([("traceparent", PARENT)])
    first = run.inject("127.0.0.1:1")
    run.context.clock.advance(2)
    second = run.inject("127.0.0.1:2")
    one, two, server = run.end()
    assert [one.span_id, two.span_id] == [first.span_id, second.span_id]
    assert len({first.span_id, second.span_id, server.span_id}) == 3
    assert (one.end_ns, two.start_ns) == (int(STARTED + 2) * 10**9,) * 2
    assert (one.attributes["server.port"], two.attributes["server.port"]) == (1, 2)
    assert (one.status, two.status, two.end_ns) == ("error", "unset", int(STARTED + 5) * 10**9)


def test_attempts_are_bounded() -> None:
    """However often it is tried."""
    run = Run()
    for _ in range(ATTEMPTS_LIMIT * 2):
        run.inject()
    assert len(run.end()) == ATTEMPTS_LIMIT + 1


def test_no_upstream() -> None:
    """A local reply has a server span only."""
    (server,) = Run().end()
    assert server.kind == "server"


def test_an_exchange_whose_begin_failed() -> None:
    """Nothing is written and nothing breaks."""
    run = Run([("traceparent", PARENT)])
    run.exchange.trace = None
    run.tracer.inject(run.exchange)
    assert run.exchange.request.headers.get(b"traceparent") == PARENT.encode()
    assert run.tracer.end(run.exchange, make_record()) == []


def test_provides_its_interface() -> None:
    """It is a tracer."""
    assert verifyObject(ITracer, Run().tracer)
