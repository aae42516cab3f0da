"""Trace context for each exchange: one server span, and one client span for each attempt upstream."""

from __future__ import annotations

import random
from typing import Any

import msgspec
from zope.interface import implementer

from sidecar.interfaces import IPropagator, ITracer
from sidecar.telemetry.trace import FIELDS, RANDOM, SAMPLED, TRACEPARENT, TRACESTATE, TraceContext, client_span, context_of, is_sampled, server_span

_FIELDS = FIELDS | {TRACESTATE, b"x-b3-parentspanid"}
# Enough for every attempt that retries and repicks allow.
ATTEMPTS_LIMIT = 16
_FLAGS_TEXT = tuple(f"{flags:02x}" for flags in range(256))
# Made at a time, because making one takes three times as long.
TRACE_IDS = 64
_ENDS = tuple(f"{number:02x}" for number in range(256))


class ExchangeTrace(msgspec.Struct, eq=False):
    """`exchange.trace`: the ids of the server span (hex), its parent's ("" for a root), and what was sent upstream."""

    trace_id: str
    span_id: str
    parent_span_id: str
    sampled: bool
    flags: int
    has_field: bool
    # (span id, POSIX seconds, endpoint) of each attempt, when sampled.
    attempts: list[tuple[str, float, Any]] | None
    trace_state: str = ""

    def __repr__(self) -> str:
        return f"<ExchangeTrace {self.trace_id} {self.span_id} sampled={self.sampled}>"


@implementer(ITracer, IPropagator)
class W3CTracer:
    """Tracer `w3c`. A caller's trace and decision to sample are kept; without them a trace begins here."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`trust_caller`: whether a trace that comes in is continued; false at the edge of the mesh, where anybody could decide what is sampled."""

        trust_caller: bool = True

    def __init__(self, config: Config, context: Any) -> None:
        self._trusts_caller = config.trust_caller
        self._seconds = context.clock.seconds
        # Ids need to be different, not secret; a generator of our own, so that nobody who seeds the global one makes them repeat.
        self.getrandbits = random.Random(random.SystemRandom().getrandbits(256)).getrandbits
        # Of which nobody has had one.
        self._trace_ids: list[str] = []
        self._span_ids: list[str] = []

    def begin(self, exchange: Any, sample: float) -> None:
        """See `ITracer`. tracestate goes on unless the traceparent beside it is not valid (section 4.3 of the recommendation)."""
        request = exchange.request
        known = request.known
        if known is not None and known.is_traced is False:
            exchange.trace = self._root(None, sample, False)
            return
        headers = request.headers
        came = [each for each in headers.fields if each[0] in _FIELDS]
        if known is not None:
            known.is_traced = bool(came)
        if not came:
            exchange.trace = self._root(None, sample, False)
            return
        if not self._trusts_caller:
            # None of them goes on: an application, or the next sidecar, would take up what a stranger wrote.
            headers.fields = [each for each in headers.fields if each[0] not in _FIELDS]
            exchange.trace = self._root(None, sample, False)
            return
        names = [each[0] for each in came]
        has_field = TRACEPARENT in names
        context = context_of(came)
        if TRACESTATE in names and (context is None or not context.is_w3c):
            headers.remove(TRACESTATE)
        if context is None or not context.trace_id:
            exchange.trace = self._root(context, sample, has_field)
            return
        sampled = is_sampled(context.trace_id, sample) if context.sampled is None else context.sampled
        flags = (context.flags & RANDOM) | (SAMPLED if sampled else 0)
        if not self._span_ids:
            self._make_span_ids()
        trace = ExchangeTrace(context.trace_id, self._span_ids.pop(), context.span_id, sampled, flags, has_field, [] if sampled else None)
        exchange.trace = trace
        if sampled and context.is_w3c and TRACESTATE in names:
            trace.trace_state = b",".join(each[1] for each in came if each[0] == TRACESTATE).decode("latin-1")

    def _root(self, context: TraceContext | None, sample: float, has_field: bool) -> ExchangeTrace:
        if not self._trace_ids:
            self._make_trace_ids()
        trace_id = self._trace_ids.pop()
        if not self._span_ids:
            self._make_span_ids()
        sampled = sample >= 1.0 or is_sampled(trace_id, sample)
        if context is not None and context.sampled is not None:
            sampled = context.sampled
        return ExchangeTrace(trace_id, self._span_ids.pop(), "", sampled, SAMPLED if sampled else 0, has_field, [] if sampled else None)

    def _make_trace_ids(self) -> None:
        """All of each is random, because others choose by parts of it. Zeros would be no id; once in 2^128 is never."""
        digits = self.getrandbits(128 * TRACE_IDS).to_bytes(16 * TRACE_IDS, "big").hex()
        self._trace_ids.extend([digits[start : start + 32] for start in range(0, 32 * TRACE_IDS, 32)])

    def _make_span_ids(self) -> None:
        """These have to be different, in one trace above all, and nothing more: 256 of them differ in their end alone. Zeros: once in 2^56."""
        begin = f"{self.getrandbits(56):014x}"
        self._span_ids.extend([begin + end for end in _ENDS])

    def inject(self, exchange: Any) -> None:
        """See `ITracer`: what `propagate` does, and what the attempt's span will say of it."""
        span_id = self.propagate(exchange)
        attempts = None if exchange.trace is None else exchange.trace.attempts
        if attempts is not None and len(attempts) < ATTEMPTS_LIMIT:
            attempts.append((span_id, self._seconds(), exchange.endpoint))

    def propagate(self, exchange: Any) -> str:
        """See `IPropagator`. The caller's traceparent is replaced, that of an earlier attempt as well. The span's id."""
        trace = exchange.trace
        if trace is None:
            # `begin` failed for this exchange; what the caller sent goes on.
            return ""
        if not self._span_ids:
            self._make_span_ids()
        span_id = self._span_ids.pop()
        value = f"00-{trace.trace_id}-{span_id}-{_FLAGS_TEXT[trace.flags]}".encode()
        headers = exchange.request.headers
        if trace.has_field:
            headers.fields = [each for each in headers.fields if each[0] != TRACEPARENT]
        trace.has_field = True
        headers.fields.append((TRACEPARENT, value, b"traceparent: %b\r\n" % value))
        return span_id

    def end(self, exchange: Any, record: Any) -> list[object]:
        """See `ITracer`. The server span last."""
        trace = exchange.trace
        if trace is None or trace.attempts is None:
            return []
        spans: list[object] = []
        attempts = trace.attempts
        last = len(attempts) - 1
        for index, (span_id, started, endpoint) in enumerate(attempts):
            ended = attempts[index + 1][1] if index < last else None
            spans.append(client_span(record, span_id, started, str(endpoint), index == last, index, ended, trace.trace_state))
        spans.append(server_span(record, trace.parent_span_id, trace.trace_state))
        return spans
