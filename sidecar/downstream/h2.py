"""HTTP/2 towards clients: one connection, many exchanges at once (RFC 9113).

Each request gets a stream object, the `IDownstreamStream` of its exchange; used ones serve later requests. Bytes that were read are delivered as one batch, and
what the batch produced is written in one go. While several exchanges run, what one of them flushes waits for the end of the reactor's turn, so that answers
that arrive together leave together.

Credit follows delivery: the octets of a request's body are credited when the exchange took them and did not ask to pause; what comes while it pauses waits in
the stream, bounded by its window. Towards the client a stream that the peer's windows hold up tells its own exchange, and a transport that is full tells all.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol, IPushProducer
from zope.interface import implementer

from sidecar.codec.h2.connection import H2Connection
from sidecar.codec.h2.events import ConnectionFailed, HeadMalformed, HeadRefused, LastChunk, PingAcked, StreamReset
from sidecar.codec.h2.frames import CANCEL, ENHANCE_YOUR_CALM, LARGEST_STREAM_ID, NO_ERROR
from sidecar.codec.h2.limits import H2Limits
from sidecar.downstream.h2_stream import H2ServerStream
from sidecar.downstream.unfinished import Unfinished
from sidecar.errors import DownstreamClosed, DownstreamError, SidecarError, UpgradeRefused
from sidecar.message import End, RequestHead, ResponseHead
from sidecar.transport.lifetime import end_of_life
from sidecar.transport.readiness import at_turn_end
from sidecar.transport.slow import SlowStreams

# A client that takes nothing of what waits for it for this long is gone for us, as over HTTP/1.1.
STALL_SECONDS = 60.0
# How often a busy connection is looked at: for stalled streams, unanswered PINGs and frames that never end. Fine enough for limits of a minute.
LOOK_SECONDS = 15.0
# While draining: how long the answer to the PING behind the first GOAWAY may take; requests on their way then are still served.
DRAIN_ROUND_TRIP_SECONDS = 1.0
# After GOAWAY for an error what the client still sends is thrown away for this long, or the reset would destroy the GOAWAY on its way.
LINGER_SECONDS = 2.0
# Stream objects kept for later requests: as many as a busy connection has at a time.
FREE_STREAMS = 128

_DRAIN_PING = b"draining"
_ALIVE_PING = b"  alive?"

OPEN, ANNOUNCED, LEAVING = range(3)  # nothing said; GOAWAY for no stream in particular; GOAWAY with the last one


@implementer(IProtocol, IPushProducer, IHalfCloseableProtocol)
class H2ServerConnection:
    """`runtime`, `limits`, `begin`, `refuse`, `closed` and `scheme`: as for `H1ServerConnection`; `begin` is called with a stream.
    `options`: `model.HTTP2Options`."""

    __slots__ = (
        "_begin", "_busy_at", "_closed", "_closing", "_drain_state", "_ends_at", "_free", "_last_moved", "_later", "_lingering",
        "_pinged_at", "_refuse", "_stopping", "_streams", "_unfinished", "_unsent", "h2", "high", "is_congested", "is_delivering", "is_due", "limits",
        "options", "requests", "runtime", "scheme", "slow", "timer", "transport",
    )  # fmt: skip

    def __init__(
        self,
        runtime: Any,
        limits: Any,
        options: Any,
        begin: Callable[[Any, RequestHead, float], Any],
        refuse: Callable[[Any, SidecarError, float, RequestHead], tuple[ResponseHead, bytes]],
        closed: Callable[[Any], None],
        scheme: bytes,
        codec_limits: H2Limits,
    ) -> None:
        self.runtime = runtime
        self.limits = limits
        self.options = options
        self.scheme = scheme
        self.transport: Any = None
        self.timer = runtime.wheel.timer(self._look)
        self.requests = 0
        self.high = limits.watermark_bytes
        self.h2 = H2Connection(False, codec_limits)
        self.h2.joins_ends = True
        self.is_congested = False
        self._begin = begin
        self._refuse = refuse
        self._later = at_turn_end(runtime.clock)
        self._closed = closed
        self._streams: dict[int, H2ServerStream] = {}
        self._free: list[H2ServerStream] = []
        self.slow: SlowStreams[H2ServerStream] = SlowStreams(self.high)
        self._stopping: set[int] = set()  # answered, and to be reset when the answer has left
        self.is_delivering = self._closing = self.is_due = self._lingering = False
        self._drain_state = OPEN
        self._ends_at = inf
        self._last_moved = self._busy_at = 0.0  # when the client sent something; when it last had a request
        self._unfinished = Unfinished(limits.head_timeout)
        self._pinged_at: float | None = None
        self._unsent = 0

    # -- what the transport calls ----------------------------------------------------------------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:
        """Ready to read; TLS, if any, is done."""
        self.transport = transport
        high = self.limits.watermark_bytes
        transport.set_write_watermarks(high, high // 2)
        transport.registerProducer(self, True)
        self.h2.start()
        self._last_moved = self._busy_at = now = self.runtime.seconds()
        self._ends_at = end_of_life(self.limits, now)
        self.timer.set(now + self._next_look(now))
        self._write()

    def connectionMade(self) -> None:
        """Part of IProtocol; `makeConnection` does it all."""

    def waited_since(self, seconds: float) -> None:
        """The client connected then: a preface that came slowly has used up some of the time for the first request."""
        self._busy_at = seconds
        now = self.runtime.seconds()
        self.timer.set(now + self._next_look(now))

    def dataReceived(self, data: bytes) -> None:
        """Octets of frames."""
        if self._lingering or self._closing:
            return
        self._last_moved = now = self.runtime.seconds()
        self.is_delivering = True
        touched: list[H2ServerStream] = []
        last: H2ServerStream | None = None  # a body and its end come together
        streams = self._streams
        for stream_id, event in self.h2.receive(data, now):
            kind = type(event)
            if kind is RequestHead:
                self._start(stream_id, event, now)
            elif kind is bytes or kind is LastChunk or kind is End:
                stream = streams.get(stream_id)
                if stream is not None:
                    if stream.is_paused or stream.waits_for_tunnel or stream.inbox:
                        stream.inbox.append(event)
                    elif kind is bytes:
                        stream.held += len(event)
                        stream.exchange.request_data(event)
                    elif kind is LastChunk:
                        # `take_last`, without the call.
                        stream.request_done = True
                        if stream.exchange.request_last(event.chunk):
                            continue
                        stream.take_end(stream_id)
                    else:
                        stream.request_done = True
                        stream.exchange.request_end(event.trailers)
                    if stream is not last:
                        touched.append(stream)
                        last = stream
                elif kind is bytes:
                    self.h2.consumed(stream_id, len(event))
            else:
                self._other(stream_id, event, kind)
        for stream in touched:
            exchange = stream.exchange
            if exchange is not None:
                exchange.flush_request()
            if stream.held and not (stream.is_paused or stream.request_done) and stream.id:
                stream.credit()
        self.is_delivering = False
        if self.h2.wants_write or self.slow:
            self._write()

    def _start(self, stream_id: int, head: RequestHead, now: float) -> None:
        """A request's head is here: it becomes an exchange."""
        self.requests += 1
        self._busy_at = now
        free = self._free
        stream = free.pop() if free else H2ServerStream(self)
        stream.begin(stream_id, head.end_stream)
        head.scheme = self.scheme
        self._streams[stream_id] = stream
        if head.upgrade is not None or not head.path:  # CONNECT alone has no path
            self._start_tunnel(stream, head, now)
        else:
            stream.exchange = exchange = self._begin(stream, head, now)
            exchange.start()
        limit = self.limits.requests_per_connection
        if (self.runtime.draining or (limit and self.requests >= limit)) and self._drain_state == OPEN:
            self._announce()

    def _start_tunnel(self, stream: H2ServerStream, head: RequestHead, now: float) -> None:
        stream.begin_tunnel(head)
        stream.exchange = exchange = self._begin(stream, head, now)
        if head.upgrade is not None and head.upgrade not in self.runtime.upgrades:
            # Over HTTP/1.1 it would be passed on as a plain request; here the answer to that would be taken for the tunnel.
            exchange.fail(UpgradeRefused(f"upgrading to {head.upgrade[:40].decode('latin-1')} is not allowed by this listener"))
        else:
            exchange.start()

    def _other(self, stream_id: int, event: Any, kind: type) -> None:
        """What is rare. `WindowOpened` asks for nothing: the batch is written anyway."""
        if kind is StreamReset:
            self._stopping.discard(stream_id)
            error = DownstreamClosed(f"the client reset the stream (code {event.code})") if event.by_peer else DownstreamError(event.reason)
            self._lose(stream_id, error)
        elif kind is HeadRefused:
            self._answer_unread(stream_id, event)
        elif kind is HeadMalformed:
            # The reset says all that the client is told; the record says it to us.
            self._refuse(self, DownstreamError(event.reason), self.runtime.seconds(), event.request)
        elif kind is PingAcked:
            self._pinged_at = None
            if event.payload == _DRAIN_PING and self._drain_state == ANNOUNCED:
                self._leave()
        elif kind is ConnectionFailed:
            self._failed(DownstreamError(event.reason))

    def _lose(self, stream_id: int, error: SidecarError) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            exchange = stream.exchange
            self.let_go(stream)
            if exchange is not None:
                exchange.downstream_lost(error)

    def _answer_unread(self, stream_id: int, refused: HeadRefused) -> None:
        """Answer a request whose head was refused; the codec drops the rest of it."""
        head, body = self._refuse(self, refused.error, self.runtime.seconds(), refused.request)
        self.h2.send_head(stream_id, head, head.end_stream)
        if not head.end_stream:
            self.h2.send_data(stream_id, body)
            self.h2.send_end(stream_id, None)

    def _failed(self, error: SidecarError) -> None:
        """The client broke the connection's rules: GOAWAY is in the batch."""
        for stream_id in list(self._streams):
            self._lose(stream_id, error)
        self._stopping.clear()
        self._write()
        self._linger()

    def readConnectionLost(self) -> None:
        """The client ended its sending side: no request can be on its way, and no credit for our answers."""
        self._all_lost(DownstreamClosed("the client ended its sending side"))
        self._shut()

    def writeConnectionLost(self) -> None:
        """Our side is ended, as asked."""

    def connectionLost(self, reason: Any) -> None:
        """The connection is gone."""
        self._closing = True
        self._all_lost(DownstreamClosed("the client closed the connection"))
        self.timer.close()
        for stream in self._free:
            stream.timer.close()
        self._free.clear()
        self._closed(self)

    def _all_lost(self, error: SidecarError) -> None:
        for stream_id in list(self._streams):
            self._lose(stream_id, error)

    def abort(self, error: SidecarError) -> None:
        """Close now; the exchanges that are running end with `error`, which is ours and not the client's."""
        self._closing = True
        self._all_lost(error)
        self.transport.abortConnection()

    # -- what streams call -----------------------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what was produced: at once, or with the batch, or with what else this turn of the reactor brings."""
        if self.is_delivering or self.is_due:
            return
        if len(self._streams) > 1:
            self.is_due = True
            self._later(self._write)
        else:
            self._write()

    def let_go(self, stream: H2ServerStream) -> None:
        """The stream's exchange is over."""
        stream_id, stream.id = stream.id, 0
        if self._streams.pop(stream_id, None) is None:
            return
        stream.exchange = None
        if stream.inbox:
            stream.held += sum(len(event) for event in stream.inbox if isinstance(event, bytes))
            stream.inbox.clear()
        if stream.held and not stream.request_done:
            self.h2.consumed(stream_id, stream.held)
        if stream.is_congested:
            self.slow.discard(stream)
        if len(self._free) < FREE_STREAMS:
            self._free.append(stream)
        else:
            stream.timer.close()
        if self._drain_state != OPEN and not self._streams:
            self._drained()

    def stop_request(self, stream_id: int) -> None:
        """The rest of this request is not wanted; the answer may still wait for windows."""
        if self.h2.queued(stream_id):
            self._stopping.add(stream_id)
        else:
            self.h2.reset(stream_id, NO_ERROR)

    def hold(self, stream: H2ServerStream) -> None:
        """More waits for the client than should."""
        self.slow.add(stream)
        stream.exchange.downstream_congested()

    # -- writing ---------------------------------------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        self.is_due = False
        h2 = self.h2
        while not (self.is_congested or self._closing):
            out = h2.data_to_send(self.high)
            if not out:
                break
            self.transport.writeSequence(out)
        if self._stopping:
            self._stop_answered()
        if self.slow and not self.is_congested:
            self.is_due = True  # what streams give now is written in a round of its own, not from within
            told = [stream.exchange.downstream_drained() for stream in self.slow.drained(h2.queued) if stream.exchange is not None]
            self.is_due = False
            if told and h2.wants_write:
                self._write()
        h2.take_drained()
        if self._drain_state == LEAVING and not self._streams:
            self._drained()

    def _stop_answered(self) -> None:
        for stream_id in [each for each in self._stopping if not self.h2.queued(each)]:
            self._stopping.discard(stream_id)
            self.h2.reset(stream_id, NO_ERROR)
            self.flush()

    def pauseProducing(self) -> None:
        """The transport is above its high watermark: the client does not read. Nothing is read from it either, because every request would add an answer."""
        self.is_congested = True
        self.transport.pauseProducing()
        self._unsent = self.transport.buffered
        self.timer.set(self.runtime.seconds() + STALL_SECONDS)
        for stream in list(self._streams.values()):
            # Those that answer; others are told with the first octets of their answer.
            if not stream.is_congested and stream.exchange is not None and stream.exchange.response is not None:
                self.hold(stream)

    def resumeProducing(self) -> None:
        """Below the low watermark."""
        self.is_congested = False
        if self._closing or self._lingering:
            return
        self.transport.resumeProducing()
        self.timer.set(self.runtime.seconds() + LOOK_SECONDS)
        self._write()

    def stopProducing(self) -> None:
        """The transport is going; `connectionLost` follows."""

    # -- time ------------------------------------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """The connection's timer: is anything stuck, or idle for too long?"""
        now = self.runtime.seconds()
        if self._closing or self.is_congested:
            self._look_for_progress(now)
            return
        if self._lingering:
            self._closing = True
            self.transport.abortConnection()
            return
        if self._drain_state == ANNOUNCED:
            self._leave()
            return
        if now >= self._ends_at and self._drain_state == OPEN:
            self._announce()
            return
        if self.h2.open_streams:
            self._reset_stalled(now)
        if self._streams or self.h2.open_streams:
            # A body in slow pieces is its stream's matter; a head that never ends stops all of the client's streams.
            self._busy_at = now
            if self._unfinished.is_over(now, self.h2.is_mid_block, self.requests):
                self.h2.goaway(ENHANCE_YOUR_CALM)
                self._failed(DownstreamError(f"the client began a head and did not complete it within {self.limits.head_timeout:g} s (limits.head_timeout)"))
                return
        elif now >= self._idle_deadline() or self._unfinished.is_over(now, self.h2.is_mid_head, self.requests):
            self._goodbye()
            return
        if self.options.keepalive_interval and not self._keep_alive(now):
            return
        self.timer.set(now + self._next_look(now))

    def _idle_deadline(self) -> float:
        limit = self.limits.idle_timeout if self.requests else self.limits.head_timeout
        return self._busy_at + limit if limit else inf

    def _next_look(self, now: float) -> float:
        options = self.options
        wait = min(LOOK_SECONDS, self.limits.idle_timeout or LOOK_SECONDS, self._unfinished.wait(now))
        if not self._streams and not self.h2.open_streams:
            wait = min(wait, max(self._idle_deadline() - now, 0.0))
        if self._drain_state == OPEN:
            wait = min(wait, max(self._ends_at - now, 0.0))
        if options.keepalive_interval:
            wait = min(wait, options.keepalive_interval, options.keepalive_timeout or wait)
        return float(wait)

    def _keep_alive(self, now: float) -> bool:
        options = self.options
        if self._pinged_at is not None:
            if options.keepalive_timeout and now - self._pinged_at >= options.keepalive_timeout:
                self._closing = True
                self.transport.abortConnection()
                return False
        elif now - self._last_moved >= options.keepalive_interval:
            self._pinged_at = now
            self.h2.ping(_ALIVE_PING)
            self._write()
        return True

    def _reset_stalled(self, now: float) -> None:
        """Streams whose client opens no window keep their answer in memory for ever."""
        for stream_id, since in self.h2.stalled(now):
            if now - since >= STALL_SECONDS:
                self.h2.counters["streams_stalled"] = self.h2.counters.get("streams_stalled", 0) + 1
                self.h2.reset(stream_id, CANCEL)
                self._lose(stream_id, DownstreamClosed(f"the client took nothing of its answer for {STALL_SECONDS:g} s"))
        self._write()

    def _look_for_progress(self, now: float) -> None:
        unsent = self.transport.buffered
        if unsent == self._unsent:  # as over HTTP/1.1, also when nothing is queued
            self._closing = True
            self.transport.abortConnection()
            return
        self._unsent = unsent
        self.timer.set(now + STALL_SECONDS)

    # -- the end ---------------------------------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """The sidecar is going: the client is told, what it has begun or sent by then is served, then the connection closes."""
        if self._drain_state == OPEN and not self._closing and not self._lingering:
            self._announce()

    def _announce(self) -> None:
        """First step (RFC 9113, section 6.8): no new streams, please; those on their way still count. The PING's answer tells that this was read."""
        self._drain_state = ANNOUNCED
        self.h2.goaway(NO_ERROR, LARGEST_STREAM_ID)
        self.h2.ping(_DRAIN_PING)
        self.flush()
        self.timer.set(self.runtime.seconds() + DRAIN_ROUND_TRIP_SECONDS)

    def _leave(self) -> None:
        """Second step: which stream was the last."""
        self._drain_state = LEAVING
        self.h2.goaway(NO_ERROR)
        self._write()
        self.timer.set(self.runtime.seconds() + LOOK_SECONDS)
        if not self._streams:
            self._drained()

    def _drained(self) -> None:
        """The last exchange is over, though its answer may still wait for windows; others in this turn may have something to write."""
        if self._drain_state == LEAVING and not self._closing and not self.is_due and not self.h2.open_streams:
            self.is_due = True
            self._later(self._close_drained)

    def _close_drained(self) -> None:
        self._write()
        if not self._streams and not self.h2.open_streams and not self.h2.wants_write:
            self._shut()

    def _goodbye(self) -> None:
        """Idle too long, or the first request never came."""
        self.h2.goaway(NO_ERROR)
        self._write()
        self._shut()

    def _shut(self) -> None:
        """Close after what was written has left; a client that does not read it is not waited for."""
        if not self._closing:
            self._closing = True
            self._unsent = self.transport.buffered
            self.timer.set(self.runtime.seconds() + STALL_SECONDS)
            self.transport.loseConnection()

    def _linger(self) -> None:
        if self._closing or self._lingering:
            return
        self._lingering = True
        self.timer.set(self.runtime.seconds() + LINGER_SECONDS)
        self.transport.resumeProducing()
        self.transport.loseWriteConnection()

    def __repr__(self) -> str:
        return f"<H2ServerConnection requests={self.requests} streams={len(self._streams)} {self.h2!r}>"
