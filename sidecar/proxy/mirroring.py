"""Copies of requests to other clusters: fire and forget. The original is never slowed, broken or held by one.

The chunks of a body are teed as they pass, without copying: both sides hold the same `bytes`. What a mirror cannot take yet waits in its own buffer, up to a
limit; then the mirror is cut, never the original paused. Answers are read and thrown away, failures are counted, nothing is sent twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger
from zope.interface import implementer

from sidecar.codec.grpc import UNKNOWN, http_status, status_in
from sidecar.errors import DownstreamClosed, SidecarError, UpstreamClosed, UpstreamError, UpstreamProtocolError, UpstreamTimeout
from sidecar.headers import Headers
from sidecar.interfaces import IStreamOwner
from sidecar.matching import compile_header_match
from sidecar.message import End, RequestHead, ResponseHead
from sidecar.model import Mirror
from sidecar.outcomes import BROKEN, NO_ANSWER
from sidecar.proxy.exchange_state import IDEMPOTENT
from sidecar.proxy.grpc_call import is_call

_log = Logger(namespace="sidecar.http")
SHADOW_SUFFIX = b"-shadow"  # Envoy's, so that an application and its logs can tell
COUNTERS = ("requests", "responses", "error_responses", "failures", "cut", "incomplete", "skipped")


class MirrorStats:
    """What became of the copies sent to one cluster. `active`: running now."""

    __slots__ = ("active", "counters")

    def __init__(self) -> None:
        self.active = 0
        self.counters = dict.fromkeys(COUNTERS, 0)


class MirrorRuntime:
    """One mirror of one route. `dice`: numbers in [0, 1)."""

    __slots__ = ("_matches", "_share", "connector", "dice", "seconds", "settings", "stats", "wheel")

    def __init__(self, settings: Mirror, connector: Any, stats: MirrorStats, seconds: Callable[[], float], wheel: Any) -> None:
        self.settings = settings
        self.connector = connector
        self.stats = stats
        self.seconds = seconds
        self.wheel = wheel
        self.dice: Callable[[], float] = random.random
        self._matches = tuple(compile_header_match(match) for match in settings.headers)
        self._share = settings.percentage / 100.0

    def wants(self, head: RequestHead) -> bool:
        """Does this request get a copy?"""
        for matches in self._matches:
            if not matches(head.headers):
                return False
        if self.dice() >= self._share:
            return False
        if self.stats.active >= self.settings.max_active:
            self.stats.counters["skipped"] += 1
            return False
        return True

    def copy_of(self, head: RequestHead) -> RequestHead:
        """The head as the mirror gets it: without an expectation, which nobody would wait for, and to another host."""
        headers = Headers([each for each in head.headers.fields if each[0] != b"expect"])
        authority = head.authority
        if not self.settings.disable_shadow_host_suffix_append and authority:
            authority = shadow_host(authority)
            if b"host" in headers:
                headers.set(b"Host", authority)
        if self.settings.trace_sampled is not None:
            context = headers.get(b"traceparent")
            if context is not None and len(context) >= 55:
                headers.set(b"traceparent", context[:53] + (b"01" if self.settings.trace_sampled else b"00") + context[55:])
        return RequestHead(head.method, head.path, authority, headers, head.version, head.scheme, head.content_length, head.end_stream)


def shadow_host(authority: bytes) -> bytes:
    """The host with "-shadow" behind it and its port behind that, as in Envoy. An address in brackets is no name and stays."""
    if authority.startswith(b"["):
        return authority
    host, colon, port = authority.partition(b":")
    return host + SHADOW_SUFFIX + colon + port


class Mirroring:
    """What an exchange with mirrors keeps, in the place of a body flow or behind one. `data` and `end` are where the body goes on to."""

    __slots__ = ("_data", "_end", "_shadows")

    def __init__(self, runtimes: list[MirrorRuntime], data: Callable[[bytes], None], end: Callable[[Headers | None], None]) -> None:
        self._shadows = [Shadow(runtime) for runtime in runtimes]
        self._data = data
        self._end = end

    def prepare(self, request: RequestHead) -> None:
        """The head is as it goes up. Copied now: each attempt writes its own trace context into it."""
        for shadow in self._shadows:
            shadow.request = shadow.runtime.copy_of(request)

    def begin(self) -> None:
        """The original is on its way: now the copies."""
        for shadow in self._shadows:
            shadow.guarded(shadow.begin)

    def data(self, chunk: bytes) -> None:
        """A chunk passed the hooks: the original goes first."""
        self._data(chunk)
        for shadow in self._shadows:
            shadow.guarded(shadow.send, chunk)

    def end(self, trailers: Headers | None) -> None:
        """The end passed the hooks."""
        # The original's writer may take fields out.
        copied = None if trailers is None else trailers.copy()
        self._end(trailers)
        for shadow in self._shadows:
            shadow.guarded(shadow.send_end, copied)

    def stop(self) -> None:
        """No more of the body comes."""
        self.finish()

    def finish(self) -> None:
        """The exchange is over. A copy whose request is whole runs on by itself."""
        for shadow in self._shadows:
            shadow.guarded(shadow.original_over)
        self._shadows = []


class _Nobody:
    """The exchange side that an upstream connection flushes."""

    def flush(self) -> None:
        """Nothing to write."""


@implementer(IStreamOwner)
class Shadow:
    """One copy of one request, in the place of an exchange."""

    __slots__ = (
        "_began",
        "_circuit",
        "_connector",
        "_held",
        "_held_bytes",
        "_is_congested",
        "_picked",
        "_status",
        "_stream",
        "_ticket",
        "_timer",
        "finished",
        "is_complete",
        "request",
        "runtime",
    )

    downstream = _Nobody()

    def __init__(self, runtime: MirrorRuntime) -> None:
        self.runtime = runtime
        self.request: Any = None
        # Nothing was begun yet.
        self.finished = True
        self.is_complete = False
        self._began = 0.0
        self._circuit: Any = None
        self._connector: Any = runtime.connector
        self._held: list[bytes | End] = []
        self._held_bytes = 0
        self._is_congested = False
        self._picked: Any = None
        # Of an answer that went well so far; how it went is judged when it is over.
        self._status = 0
        self._stream: Any = None
        self._ticket: Any = None
        self._timer: Any = None

    # -- what the original's way calls -------------------------------------------------------------------------------------------------------------

    def guarded(self, call: Callable[..., None], *args: Any) -> None:
        """Whatever goes wrong with a copy is no trouble of the original."""
        try:
            call(*args)
        except SidecarError as error:
            self.fail(error)
        except Exception:
            _log.failure("mirroring to {cluster} broke", cluster=self.runtime.connector.name)
            self.fail(UpstreamError("the sidecar made a mistake while mirroring"))

    def begin(self) -> None:
        """Ask for a stream."""
        runtime = self.runtime
        connector = self._connector = runtime.connector.of(self.request.version)
        self._began = now = runtime.seconds()
        circuit = connector.circuit
        if circuit is not None:
            if circuit.enter(now):
                runtime.stats.counters["skipped"] += 1
                return
            self._circuit = circuit
        self.finished = False
        runtime.stats.active += 1
        runtime.stats.counters["requests"] += 1
        if self.request.end_stream:
            self._completed()
        self._ticket = connector.open(self, (), False)

    def send(self, chunk: bytes) -> None:
        """A chunk of the body: sent, or held up to the limit."""
        if self.finished:
            return
        stream = self._stream
        if stream is not None and not self._is_congested:
            stream.send_data(chunk)
            stream.flush()
            return
        self._held_bytes += len(chunk)
        if self._held_bytes > self.runtime.settings.buffer_bytes:
            self._cut(UpstreamTimeout(f"mirror {self.runtime.connector.name} is too slow for the body"))
            return
        self._held.append(chunk)

    def send_end(self, trailers: Headers | None) -> None:
        """The end of the body."""
        if self.finished:
            return
        self._completed()
        stream = self._stream
        if stream is not None and not self._is_congested:
            stream.send_end(trailers)
            stream.flush()
        else:
            self._held.append(End(trailers))

    def original_over(self) -> None:
        """A copy that is not complete will not become so."""
        if not self.finished and not self.is_complete:
            self.runtime.stats.counters["incomplete"] += 1
            self._leave(DownstreamClosed("the original ended before its body did"), None)

    def _completed(self) -> None:
        """From now on the mirror's own time counts."""
        self.is_complete = True
        timeout = self.runtime.settings.timeout
        if timeout:
            self._timer = self.runtime.wheel.timer(self._late)
            self._timer.set(self.runtime.seconds() + timeout)

    # -- what the cluster calls --------------------------------------------------------------------------------------------------------------------

    def upstream_ready(self, stream: Any) -> None:
        """Send what there is."""
        self._ticket = None
        self._stream = stream
        self._picked = stream.endpoint
        self.guarded(self._send_all, stream)

    def _send_all(self, stream: Any) -> None:
        stream.send_head(self.request)
        self._send_held()
        if self._stream is stream:
            stream.flush()

    def _send_held(self) -> None:
        held, self._held = self._held, []
        self._held_bytes = 0
        for event in held:
            stream = self._stream
            if stream is None:
                return
            if isinstance(event, End):
                stream.send_end(event.trailers)
            else:
                stream.send_data(event)

    def upstream_unavailable(self, error: UpstreamError, endpoint: Any) -> None:
        """No stream."""
        self._ticket = None
        self._failed(error)

    def response_head(self, head: ResponseHead) -> None:
        """The answer: only whether it is an error matters."""
        if head.status == 101:
            self.fail(UpstreamProtocolError("the mirror switched to a protocol that it was not asked for"))
        if head.status < 200 or self.finished:
            return
        self.runtime.stats.counters["responses"] += 1
        self._status = head.status
        if head.end_stream:
            self._stream = None
            self._leave(None, self._judged(head.headers))
        elif head.status >= 500:
            self._leave_circuit(self._judged(None))

    def response_data(self, chunk: bytes) -> None:
        """Thrown away."""

    def response_last(self, chunk: bytes) -> bool:
        """Thrown away; the end follows."""
        return False

    def response_end(self, trailers: Headers | None) -> None:
        """The answer is over."""
        self._stream = None
        self._leave(None, self._judged(trailers))

    def _judged(self, fields: Headers | None) -> bool:
        """How the answer went is known, from these fields if it is one to a gRPC call: was it a failure? Says so to whoever counts; once."""
        status, self._status = self._status, 0
        if status == 200 and is_call(self.request):
            found = status_in(fields)
            status = http_status(UNKNOWN if found is None else found)
        if status >= 500:
            self.runtime.stats.counters["error_responses"] += 1
        if status:
            self._observe(status)
        return status >= 500

    def response_failed(self, error: UpstreamError) -> None:
        """The attempt broke. As for every request: one that can be sent again, and met a connection that had gone stale, gets a new one."""
        stream, self._stream = self._stream, None
        if self.finished:
            return
        is_stale = stream is not None and stream.is_reused and isinstance(error, UpstreamClosed)
        if is_stale and self.request.end_stream and self.request.method in IDEMPOTENT:
            self._ticket = self._connector.open(self, (), True)
            return
        self._observe(BROKEN)
        self._failed(error)

    def fail(self, error: SidecarError) -> None:
        """A writer refused the message, or the answer makes no sense."""
        if not self.finished:
            self._failed(error)

    def upstream_congested(self) -> None:
        """The mirror reads slowly: hold."""
        self._is_congested = True

    def upstream_drained(self) -> None:
        """It caught up."""
        self._is_congested = False
        if self._held:
            self.guarded(self._send_held)
        if self._stream is not None:
            self._stream.flush()

    # -- endings -------------------------------------------------------------------------------------------------------------------------------------

    def _late(self) -> None:
        if not self.finished:
            self._observe(NO_ANSWER)
            self._cut(UpstreamTimeout(f"mirror {self.runtime.connector.name} did not answer within {self.runtime.settings.timeout:g} s"))

    def _cut(self, error: SidecarError) -> None:
        self.runtime.stats.counters["cut"] += 1
        self._leave(error, True)

    def _failed(self, error: SidecarError) -> None:
        self.runtime.stats.counters["failures"] += 1
        _log.debug("mirror {cluster}: {sentence}", cluster=self.runtime.connector.name, sentence=error.sentence)
        self._leave(error, True)

    def _observe(self, status: int) -> None:
        observe = self._connector.observe
        if observe is not None and self._picked is not None:
            observe(self._picked, status, self.runtime.seconds() - self._began)

    def _leave(self, error: SidecarError | None, has_failed: bool | None) -> None:
        """Over, exactly once. `has_failed`: for the cluster's circuit; None says nothing about it."""
        if self.finished:
            return
        self.finished = True
        self.runtime.stats.active -= 1
        self._held = []
        if self._timer is not None:
            self._timer.close()
        if self._ticket is not None:
            self._ticket.cancel()
            self._ticket = None
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.reset(error)
        self._leave_circuit(has_failed)

    def _leave_circuit(self, has_failed: bool | None) -> None:
        circuit, self._circuit = self._circuit, None
        if circuit is not None:
            circuit.leave(self._began, has_failed, self.runtime.seconds())

    # -- a copy has no client ------------------------------------------------------------------------------------------------------------------------

    def request_data(self, chunk: bytes) -> None:
        """Part of IStreamOwner."""
        raise AssertionError("a copy has no downstream")

    def request_last(self, chunk: bytes) -> bool:
        """The client speaks to the exchange."""
        raise AssertionError("a copy has no downstream")

    def request_end(self, trailers: Headers | None) -> None:
        """Part of IStreamOwner."""
        raise AssertionError("a copy has no downstream")

    def downstream_lost(self, error: SidecarError) -> None:
        """Part of IStreamOwner."""
        raise AssertionError("a copy has no downstream")

    def timed_out(self) -> None:
        """Part of IStreamOwner."""
        raise AssertionError("a copy has no downstream")

    def flush_request(self) -> None:
        """Nothing waits."""

    def downstream_congested(self) -> None:
        """Cannot happen."""

    def downstream_drained(self) -> None:
        """Cannot happen."""
