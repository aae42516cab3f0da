"""A request of the sidecar's own, in the place of an exchange: plugins' questions, health checks. The whole answer, or the error, at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from zope.interface import implementer

from sidecar.codec.h1.grammar import is_authority
from sidecar.errors import SidecarError, UpstreamBodyTooLarge, UpstreamClosed, UpstreamError, UpstreamProtocolError, UpstreamTimeout
from sidecar.headers import Headers
from sidecar.interfaces import IStreamOwner
from sidecar.message import RequestHead, ResponseHead
from sidecar.upstream.replay import SAFE


@attrs.frozen
class Answer:
    """What a call fires with. `version`: 11 or 20."""

    status: int
    headers: Headers
    body: bytes
    trailers: Headers | None = None
    version: int = 11


def first_authority(*names: str) -> str:
    """The first of these names that may stand in Host, "localhost" when none may: clusters may be called anything, and endpoints are by whoever tells of them.
    """
    return next((name for name in names if is_authority(name.encode())), "localhost")


class _Downstream:
    """The exchange side that an upstream connection flushes: nobody."""

    def flush(self) -> None:
        """Nothing to write."""


@implementer(IStreamOwner)
class Call:
    """One request. `open(owner, fresh)`: asks for a stream and returns the ticket or None, as `IConnector.open`. `who`: begins the sentence on a body
    above `limit_bytes`.

    A safe request, or one that is `repeatable`, that met a stale connection is sent again, once.
    """

    downstream = _Downstream()

    def __init__(self, open: Callable[[Any, bool], Any], who: str, limit_bytes: int, head: RequestHead, body: bytes = b"", repeatable: bool = False) -> None:
        self.request = head
        self.finished = False
        self._open = open
        self._who = who
        self._limit_bytes = limit_bytes
        self._body = self._unsent = body
        self._repeatable = repeatable or (head.method in SAFE and head.end_stream)
        self._stream: Any = None
        self._ticket: Any = None
        self._head: ResponseHead | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._trailers: Headers | None = None
        self._retried = False
        self._delayed: Any = None
        self._result: Deferred[Answer] = Deferred(self._cancelled)

    def begin(self, call_later: Callable[..., Any] | None = None, timeout_seconds: float = 0.0, late: str = "") -> Deferred[Answer]:
        """Send it. Fires with the `Answer`, or fails with an `UpstreamError`; cancel it to give up. With `call_later` it fails after `timeout_seconds`
        with the sentence `late`."""
        if call_later is not None:
            self._delayed = call_later(timeout_seconds, lambda: self._end(UpstreamTimeout(late)))
        self._ticket = self._open(self, False)
        return self._result

    def hash_key(self) -> int | None:
        """For balancers: no route's hash policy stands behind it."""
        return None

    def upstream_ready(self, stream: Any) -> None:
        self._stream = stream
        # A stream that an HTTP/2 server did not take sends the body again by itself.
        body, self._unsent = self._unsent, b""
        try:
            stream.send_head(self.request)
            if body:
                stream.send_data(body)
                stream.send_end(None)
        except SidecarError as error:
            self._end(error)
            return
        stream.flush()

    def upstream_unavailable(self, error: UpstreamError, endpoint: Any) -> None:
        self._end(error)

    @property
    def upstream(self) -> Any:
        """The stream in use, for a stream that was moved to another connection."""
        return self._stream

    def response_head(self, head: ResponseHead) -> None:
        if head.status == 101:
            self._end(UpstreamProtocolError(f"{self._who} that switches to a protocol that it was not asked for"))
        if head.status < 200:
            return
        self._head = head
        if head.end_stream:
            self._stream = None
            self._end(None)

    def response_data(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size > self._limit_bytes:
            self._end(UpstreamBodyTooLarge(f"{self._who} with more than {self._limit_bytes} octets"))
        else:
            self._chunks.append(chunk)

    def response_last(self, chunk: bytes) -> bool:
        self.response_data(chunk)
        return False

    def response_end(self, trailers: Headers | None) -> None:
        self._stream = None
        self._trailers = trailers
        self._end(None)

    def response_failed(self, error: UpstreamError) -> None:
        stream, self._stream = self._stream, None
        stale = stream is not None and stream.is_reused and isinstance(error, UpstreamClosed) and self._head is None
        if stale and not self._retried and self._repeatable and not self.finished:
            self._retried = True
            self._unsent = self._body
            self._ticket = self._open(self, True)
            return
        self._end(error)

    def fail(self, error: SidecarError) -> None:
        self._end(error)

    def request_data(self, chunk: bytes) -> None:
        raise AssertionError("a request of our own has no downstream")

    def request_last(self, chunk: bytes) -> bool:
        raise AssertionError("a request of our own has no downstream")

    def request_end(self, trailers: Headers | None) -> None:
        raise AssertionError("a request of our own has no downstream")

    def downstream_lost(self, error: SidecarError) -> None:
        raise AssertionError("a request of our own has no downstream")

    def timed_out(self) -> None:
        raise AssertionError("a request of our own has no downstream")

    def flush_request(self) -> None:
        """Nothing waits."""

    def downstream_congested(self) -> None:
        """Cannot happen."""

    def downstream_drained(self) -> None:
        """Cannot happen."""

    def upstream_congested(self) -> None:
        """The body is in the connection's queue already."""

    def upstream_drained(self) -> None:
        """Likewise."""

    def _cancelled(self, deferred: Deferred[Answer]) -> None:
        self._end(None, silent=True)

    def _end(self, error: SidecarError | None, silent: bool = False) -> None:
        if self.finished:
            return
        self.finished = True
        if self._delayed is not None and self._delayed.active():
            self._delayed.cancel()
        if self._ticket is not None:
            self._ticket.cancel()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.reset(error)
        if silent:
            return
        if error is not None:
            self._result.errback(error)
        else:
            assert self._head is not None
            self._result.callback(Answer(self._head.status, self._head.headers, b"".join(self._chunks), self._trailers, self._head.version))
