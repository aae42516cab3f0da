"""HTTP/1.1 towards clients: one connection, its requests one after the other.

The connection is itself the downstream stream (`IDownstreamStream`) of the exchange in progress. Pipelined requests wait as bytes in the reader, at most
`pipeline_bytes` of
them; then reading pauses. What an exchange sends is collected and written in one go when it is flushed.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol, IPushProducer
from zope.interface import implementer

from sidecar.codec.h1.reader import RequestReader
from sidecar.codec.h1.writer import ResponseWriter
from sidecar.errors import DownstreamClosed, RequestTimeout, SidecarError
from sidecar.headers import Headers
from sidecar.interfaces import IDownstreamStream
from sidecar.message import End, RequestHead, ResponseHead
from sidecar.transport.lifetime import end_of_life

# After an answer that came before the request was complete, the rest is read and thrown away for this long, so that closing does not destroy the answer on
# its way
# (RFC 9112 section 9.6); then the client has had its chance.
LINGER_SECONDS = 2.0
# A client that takes nothing of what is queued for it for this long is gone for us: nginx (send_timeout) and HAProxy users set 60 s.
STALL_SECONDS = 60.0
# A head and a small body leave as one piece; copying is cheaper than a vector up to about this many octets.
JOINED_BYTES = 16 * 1024
# While draining, an idle connection is closed after this time without a request: longer than the pauses of a busy client, short against any drain time.
DRAIN_IDLE_SECONDS = 0.5


@implementer(IProtocol, IPushProducer, IHalfCloseableProtocol, IDownstreamStream)
class H1ServerConnection:
    """`begin(connection, head, now)` makes and returns the exchange of a request that was read; `refuse(error)` gives (head, body) for one that could not be;
    `closed(connection)`
    is told once when the connection is gone. `limits` is a `model.HTTPLimits`; `runtime` has `seconds()`, `wheel`, `draining`."""

    __slots__ = (
        "_advancing", "_begin", "_closed", "_closing", "_congested", "_delivering", "_ends_at", "_exchange", "_exchange_paused", "_half_closed", "_idle",
        "_is_tunnel", "_lingering", "_out", "_read_paused", "_reader", "_refuse", "_released", "_request_done", "_unsent", "_writer",
        "allow_half_close", "limits", "requests", "runtime", "timer", "transport",
    )  # fmt: skip

    def __init__(
        self,
        runtime: Any,
        limits: Any,
        begin: Callable[[Any, RequestHead, float], Any],
        refuse: Callable[[Any, SidecarError, float], tuple[ResponseHead, bytes]],
        closed: Callable[[Any], None],
        scheme: bytes,
        allow_half_close: bool,
    ) -> None:
        self.runtime = runtime
        self.limits = limits
        self.transport: Any = None
        self.timer = runtime.wheel.timer(self._on_timer)
        self.requests = 0
        self.allow_half_close = allow_half_close
        self._begin = begin
        self._refuse = refuse
        self._closed = closed
        self._reader = RequestReader(limits.head_bytes, limits.head_fields, scheme)
        self._writer = ResponseWriter()
        self._out: list[bytes] = []
        self._exchange: Any = None
        self._request_done = True
        self._advancing = self._closing = self._congested = self._released = self._half_closed = self._is_tunnel = self._lingering = (
            self._read_paused
        ) = False
        self._idle = True
        self._ends_at = inf
        # The exchange wants no more of the request now; pipelined octets may keep reading paused for longer.
        self._exchange_paused = False
        # The events being delivered.
        self._delivering: list[Any] | None = None
        # Octets still queued when the close began or was last looked at.
        self._unsent = 0

    # -- what the transport calls ----------------------------------------------------------------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:
        """Ready to read; TLS, if any, is done."""
        self.transport = transport
        self._ends_at = end_of_life(self.limits, self.runtime.seconds())
        high = self.limits.watermark_bytes
        transport.set_write_watermarks(high, high // 2)
        transport.registerProducer(self, True)
        self._await_request()

    def connectionMade(self) -> None:
        """Part of IProtocol; `makeConnection` does it all."""

    def dataReceived(self, data: bytes) -> None:
        """Octets of requests, or of a tunnel."""
        exchange = self._exchange
        if self._is_tunnel:
            if exchange is not None:
                exchange.request_data(data)
                exchange.flush_request()
        elif self._lingering or self._closing:
            return
        elif exchange is None:
            events = self._reader.receive(data)
            if events:
                self._deliver(events)
            elif self._idle and not self._reader.at_message_start:
                self._idle = False
                if self.limits.head_timeout:
                    self.timer.set(self.runtime.seconds() + self.limits.head_timeout)
                else:
                    self.timer.clear()
        elif self._request_done:
            # A later request, or early octets for a tunnel: kept in the reader until its turn.
            self._reader.receive(data)
            if self._reader.buffered > self.limits.pipeline_bytes:
                self._pause()
        else:
            self._deliver(self._reader.receive(data))

    def _deliver(self, events: list[Any]) -> None:
        self._delivering = events
        kind: Any = None
        for event in events:
            kind = event.__class__
            if kind is RequestHead:
                self._start(event)
            elif kind is bytes:
                if self._exchange is not None:
                    self._exchange.request_data(event)
            elif kind is End:
                self._request_done = True
                if self._exchange is not None:
                    self._exchange.request_end(event.trailers)
            else:
                self._broken(event)
                break
        self._delivering = None
        exchange = self._exchange
        if exchange is not None:
            if kind is not RequestHead:  # which goes out by itself when there is a connection for it
                exchange.flush_request()
        elif self._released:
            self._released = False
            self._after_exchange()

    def _start(self, head: RequestHead) -> None:
        """A request's head is here: it becomes an exchange."""
        runtime = self.runtime
        self.requests += 1
        self._idle = False
        self._request_done = head.end_stream
        limit = self.limits.requests_per_connection
        is_last = runtime.draining or (limit and self.requests >= limit) or (self._half_closed and not self._reader.buffered)
        keep_alive = self._reader.keep_alive and not (is_last or (self._ends_at != inf and self._is_old()))
        self._writer.begin(head, keep_alive)
        self._exchange_paused = False
        self._exchange = exchange = self._begin(self, head, runtime.seconds())
        exchange.start()

    def _is_old(self) -> bool:
        """Has it reached its age, which it must have (`_ends_at`)? Then it closes when what was asked for is answered."""
        return bool(self.runtime.seconds() >= self._ends_at)

    def _broken(self, error: SidecarError) -> None:
        """Bytes that are no request: with an exchange running it is told, else they are answered here. Either way the connection ends."""
        if self._released:
            # The request was answered before its body broke the rules: there is nothing left to answer.
            self._request_done = False
            return
        exchange = self._exchange
        if exchange is not None:
            if exchange.status == 0:
                self._writer.closes = True
                exchange.fail(error)
            else:
                self._exchange = None
                exchange.downstream_lost(error)
                self._shut()
            return
        if isinstance(error, DownstreamClosed):
            self._shut()
            return
        self._answer_unread(error)

    def _answer_unread(self, error: SidecarError) -> None:
        """Answer a request that could not be read. The client may still be sending: what comes is read and thrown away for a moment."""
        runtime = self.runtime
        head, body = self._refuse(self, error, runtime.seconds())
        self._request_done = False
        self._writer.begin(RequestHead(b"GET", b"/", b"", Headers()), False)
        self._writer.head(head, self._out)
        if not head.end_stream:
            self._writer.data(body, self._out)
            self._writer.end(None, self._out)
        self.flush()
        self._linger()

    def _advance(self) -> None:
        """Take the next requests from what is buffered, as long as none is in progress. A loop, not a recursion: a thousand pipelined requests answered
        from here must not nest.
        """
        if self._advancing:
            return
        self._advancing = True
        while self._exchange is None and self._request_done and not self._closing and not self._lingering:
            if self._congested:
                # The client does not read: its next request waits, or its answers would pile up here.
                self._pause()
                self.timer.set(self.runtime.seconds() + STALL_SECONDS)
                break
            events = self._reader.next_message()
            if not events:
                if self._half_closed:
                    self._shut()
                else:
                    self._await_request()
                break
            self._deliver(events)
            if self._read_paused and not self._exchange_paused and self._exchange is not None:
                # Paused for what was pipelined, or by the exchange before: this one may need the rest of its body.
                self.resume_request()
        self._advancing = False

    def _await_request(self) -> None:
        """Nothing is in progress: wait for the next head."""
        limits = self.limits
        if self._reader.at_message_start:
            self._idle = True
            seconds = limits.head_timeout if self.requests == 0 else limits.idle_timeout
            if self.runtime.draining:
                seconds = DRAIN_IDLE_SECONDS
        else:
            self._idle = False
            seconds = limits.head_timeout
        deadline = self.runtime.seconds() + seconds if seconds else inf
        if self._idle and self._ends_at < deadline:
            deadline = self._ends_at
        if deadline != inf:
            self.timer.set(deadline)
        else:
            self.timer.clear()
        if self._read_paused:
            self._read_paused = False
            self.transport.resumeProducing()

    def readConnectionLost(self) -> None:
        """The client ended its sending side."""
        if self._is_tunnel:
            if self._exchange is not None:
                self._exchange.request_end(None)
        elif not self._request_done or (self._exchange is None and not self._congested):
            self._lost()
            self._shut()
        elif self.allow_half_close:
            # What it had asked for before, pipelined, is answered.
            self._reader.receive_eof()
            self._half_closed = True
        else:
            self._lost()
            self._shut()

    def writeConnectionLost(self) -> None:
        """Our side is ended, as asked."""

    def connectionLost(self, reason: Any) -> None:
        """The connection is gone."""
        self._closing = True
        self._lost()
        self.timer.close()
        self._closed(self)

    def _lost(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.downstream_lost(DownstreamClosed("the client closed the connection"))

    def _shut(self) -> None:
        """Close after what was written has left; a client that does not read it is not waited for."""
        if not self._closing:
            self._closing = True
            self._unsent = self.transport.buffered
            self.timer.set(self.runtime.seconds() + STALL_SECONDS)
            self.transport.loseConnection()

    def _linger(self) -> None:
        """Close our side and throw away what the client still sends, for a moment."""
        if self._closing or self._lingering:
            return
        self._lingering = True
        self._out = []
        if self._read_paused:
            self._read_paused = False
            self.transport.resumeProducing()
        self.timer.set(self.runtime.seconds() + LINGER_SECONDS)
        self.transport.loseWriteConnection()

    def _on_timer(self) -> None:
        exchange = self._exchange
        if exchange is not None:
            exchange.timed_out()
        elif self._closing or self._congested:
            self._look_for_progress()
        elif self._lingering:
            if self.transport.buffered:
                # The answer itself is still on its way.
                self._look_for_progress()
                return
            self._closing = True
            self.transport.abortConnection()
        elif self._idle:
            self._shut()
        else:
            self._answer_unread(RequestTimeout(f"the head was not complete within {self.limits.head_timeout:g} s"))

    def _look_for_progress(self) -> None:
        """Something is queued for a client that may have stopped reading."""
        unsent = self.transport.buffered
        if unsent == self._unsent:
            # Nothing queued is no progress either: TLS's own goodbye may not fit into what the client does not read.
            self._closing = True
            self.transport.abortConnection()
            return
        self._unsent = unsent
        self.timer.set(self.runtime.seconds() + STALL_SECONDS)

    def abort(self, error: SidecarError) -> None:
        """Close now; an exchange that is running ends with `error`, which is ours and not the client's."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.downstream_lost(error)
        self._closing = True
        self.transport.abortConnection()

    def drain(self) -> None:
        """The sidecar is going: a busy connection closes after its exchange, an idle one when it stays idle for a moment. A request that is on its way
        right now is still served.
        """
        if self._exchange is None and self._idle and not self._closing and not self._lingering:
            self.timer.set(self.runtime.seconds() + DRAIN_IDLE_SECONDS)

    # -- what the exchange calls -----------------------------------------------------------------------------------------------------------------

    def send_informational(self, head: ResponseHead) -> None:
        """See `IDownstreamStream`."""
        self._writer.informational(head, self._out)

    def send_head(self, head: ResponseHead) -> None:
        """See `IDownstreamStream`."""
        if self.runtime.draining or (self._ends_at != inf and self._is_old()) or (not self._request_done and self._ends_at_once()):
            self._writer.closes = True
        self._writer.head(head, self._out)

    def _ends_at_once(self) -> bool:
        """Is this an answer to a request whose body is still to come? Where its next request begins cannot be told, so the connection will not wait for it, and
        says so: else a client that takes the answer for the end of the exchange, as curl does after 417, loses its next request (RFC 9112 section 9.6).
        """
        events = self._delivering
        return not (events and events[-1].__class__ is End)

    def send_data(self, chunk: bytes) -> None:
        """See `IDownstreamStream`."""
        if self._is_tunnel:
            self._out.append(chunk)
        else:
            self._writer.data(chunk, self._out)

    def send_last(self, chunk: bytes) -> None:
        """See `IDownstreamStream`."""
        self.send_data(chunk)
        self.send_end(None)

    def send_end(self, trailers: Headers | None) -> None:
        """See `IDownstreamStream`."""
        if self._is_tunnel:
            self.flush()
            self.transport.loseWriteConnection()
        else:
            self._writer.end(trailers, self._out)

    def flush(self) -> None:
        """See `IDownstreamStream`."""
        out = self._out
        if out:
            self._out = []
            if len(out) == 1:
                self.transport.write(out[0])
            elif len(out) == 2 and len(out[1]) <= JOINED_BYTES:
                self.transport.write(out[0] + out[1])
            else:
                self.transport.writeSequence(out)

    def open_tunnel(self) -> None:
        """See `IDownstreamStream`."""
        self._is_tunnel = True
        self._request_done = False
        self._writer.open_tunnel()
        early = self._reader.open_tunnel()
        if self._read_paused:
            self._read_paused = False
            self.transport.resumeProducing()
        if early and self._exchange is not None:
            self._exchange.request_data(early)
            self._exchange.flush_request()

    def reset(self, error: SidecarError) -> None:
        """See `IDownstreamStream`: the answer is cut short, and HTTP/1 can only say so by closing."""
        self._exchange = None
        self.flush()
        if not self._closing:
            # What was written still leaves; a chunked or counted body that ends early tells the client. A close-delimited one is told by the reset.
            if self._writer.is_close_delimited:
                self._closing = True
                self.timer.clear()
                self.transport.abortConnection()
            else:
                self._shut()

    def release(self) -> None:
        """See `IDownstreamStream`."""
        self._exchange = None
        reader = self._reader
        if (
            not self._delivering
            and self._request_done
            and not (self._writer.closes or self._congested or self._closing or self._read_paused or self._half_closed or self._is_tunnel)
            and self.limits.idle_timeout
            and not self.runtime.draining
            and self._ends_at == inf
            and reader.begin_idle()
        ):
            # The usual case, without the ceremony of the unusual ones: wait for the next request.
            self._idle = True
            self.timer.set(self.runtime.seconds() + self.limits.idle_timeout)
        elif self._delivering:
            # The rest of this request may be in hand already.
            self._released = True
        else:
            self._after_exchange()

    def _after_exchange(self) -> None:
        if self._closing:
            return
        if self._is_tunnel or (self._request_done and (self._writer.closes or (self._half_closed and not self._reader.buffered))):
            self._shut()
        elif not self._request_done:
            self._linger()
        else:
            self._advance()

    def _pause(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self.transport.pauseProducing()

    def pause_request(self) -> None:
        """See `IDownstreamStream`."""
        self._exchange_paused = True
        self._pause()

    def resume_request(self) -> None:
        """See `IDownstreamStream`."""
        self._exchange_paused = False
        if self._read_paused and not self._closing and not (self._request_done and self._reader.buffered > self.limits.pipeline_bytes):
            self._read_paused = False
            self.transport.resumeProducing()

    # -- what the transport's write watermarks call --------------------------------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """Above the high watermark: the client reads slowly."""
        self._congested = True
        if self._exchange is not None:
            self._exchange.downstream_congested()

    def resumeProducing(self) -> None:
        """Below the low watermark."""
        self._congested = False
        if self._exchange is not None:
            self._exchange.downstream_drained()
        elif self._read_paused and not self._closing:
            self._read_paused = False
            self.transport.resumeProducing()
            self._advance()

    def stopProducing(self) -> None:
        """The transport is going; `connectionLost` follows."""

    def __repr__(self) -> str:
        return f"<H1ServerConnection requests={self.requests} exchange={self._exchange!r} closing={self._closing}>"
