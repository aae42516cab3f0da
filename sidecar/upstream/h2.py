"""HTTP/2 towards an application: one connection, many streams (RFC 9113). Each stream object is the `IUpstreamStream` of one attempt.

The connection counts as connected when the server's SETTINGS are here: then its limits are known, and whether it takes extended CONNECT.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, IProtocol, IPushProducer
from zope.interface import implementer

from sidecar.codec.h2.connection import H2Connection
from sidecar.codec.h2.events import ConnectionFailed, GoAwayReceived, PingAcked, SettingsChanged, StreamReset, WindowOpened
from sidecar.codec.h2.frames import CANCEL, HTTP_1_1_REQUIRED, NO_ERROR
from sidecar.errors import ConnectFailed, ConnectTimeout, SidecarError, UpstreamClosed, UpstreamError, UpstreamProtocolError, UpstreamReset, UpstreamStalled
from sidecar.facts import TLSFacts
from sidecar.message import ResponseHead
from sidecar.transport.lifetime import end_of_life
from sidecar.transport.slow import SlowStreams
from sidecar.upstream.h2_stream import H2ClientStream

CONNECTING, READY, LEAVING, GONE = "connecting", "ready", "leaving", "gone"

# An application that takes nothing of what waits for it for this long is gone for us.
STALL_SECONDS = 60.0
# How often a busy connection is looked at: for streams that do not move, and PINGs without answer.
LOOK_SECONDS = 15.0

_ALIVE_PING = b"  alive?"


@implementer(IProtocol, IPushProducer, IHalfCloseableProtocol, IHandshakeListener)
class H2ClientConnection:
    """Made by the pool for one endpoint. `pool`: the `Connector`; `multiplexer`: shares the connection out."""

    __slots__ = (
        "_ends_at", "_last_moved", "_pinged_at", "_shut_since", "_timer", "_unsent", "_used_at", "connecting", "endpoint", "h2", "high",
        "is_congested", "is_delivering", "is_due", "most", "multiplexer", "owner", "pool", "requests", "reserved", "slow", "state", "streams", "tls",
        "transport",
    )  # fmt: skip

    def __init__(self, pool: Any, endpoint: Any, multiplexer: Any) -> None:
        self.pool = pool
        self.endpoint = endpoint
        self.multiplexer = multiplexer
        self.transport: Any = None
        self.tls: TLSFacts | None = None
        self.owner: Any = None  # nobody has all of it; the pool asks
        self.state = CONNECTING
        self.requests = 0
        self.connecting: Any = None
        self.h2 = H2Connection(True, multiplexer.limits)
        self.h2.joins_ends = True
        self.high = pool.cluster.watermark_bytes
        self.most = multiplexer.options.max_concurrent_streams
        self.streams: dict[int, H2ClientStream] = {}
        self.reserved = 0  # exchanges that have a stream of this connection
        self.is_congested = False
        self.slow: SlowStreams[H2ClientStream] = SlowStreams(self.high)
        self.is_delivering = self.is_due = False
        self._timer = multiplexer.timer(self._look)
        self._last_moved = self._used_at = 0.0
        self._ends_at = inf
        self._shut_since = 0.0  # when MAX_CONCURRENT_STREAMS became 0
        self._pinged_at: float | None = None
        self._unsent = 0

    def describe(self) -> str:
        """Whom it goes to, for a person."""
        text: str = self.pool.describe(self.endpoint)
        return text

    # -- what the transport calls ----------------------------------------------------------------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:
        """Connected; with TLS the handshake comes first."""
        self.transport = transport
        transport.set_write_watermarks(self.high, self.high // 2)
        transport.registerProducer(self, True)
        if not self.pool.is_secure:
            self._begin()

    def connectionMade(self) -> None:
        """Part of IProtocol; `makeConnection` does it all."""

    def handshakeCompleted(self) -> None:
        """TLS is up: look who answered, and what it speaks."""
        try:
            self.tls = self.pool.check_peer(self)
            if self.tls is not None and self.tls.alpn not in ("h2", ""):
                raise UpstreamProtocolError(f"{self.describe()} speaks {self.tls.alpn}, not HTTP/2")
        except UpstreamError as error:
            self._give_up(error)
            return
        self._begin()

    def _begin(self) -> None:
        """Our preface goes out; the server's is awaited."""
        self._last_moved = now = self.multiplexer.seconds()
        timeout = self.pool.cluster.connect_timeout
        if timeout:
            self._timer.set(now + timeout)
        self.h2.start()
        self._write()

    def _give_up(self, error: UpstreamError) -> None:
        """It never became a connection."""
        self.state = GONE
        self._timer.clear()
        self.transport.abortConnection()
        self.pool.failed(self, error)

    def connection_failed(self, error: UpstreamError) -> None:
        """There will be no connection."""
        if self.state is not GONE:
            self.state = GONE
            self.pool.failed(self, error)

    def dataReceived(self, data: bytes) -> None:
        """Octets of frames."""
        if self.state is GONE:
            return
        self._last_moved = now = self.multiplexer.seconds()
        self.is_delivering = True
        touched: list[H2ClientStream] = []
        owners: list[Any] = []
        last: H2ClientStream | None = None  # a head and what follows it come together
        streams = self.streams
        for stream_id, event in self.h2.receive(data, now):
            if stream_id:
                stream = streams.get(stream_id)
                kind = type(event)
                if stream is None:
                    if kind is bytes:
                        self.h2.consumed(stream_id, len(event))
                elif kind is StreamReset:
                    owner = stream.owner
                    self._stream_reset(stream, event)
                    owners.append(owner)
                elif stream.is_paused or stream.inbox:
                    if stream.inbox is None:
                        stream.inbox = deque()
                    stream.inbox.append(event)
                else:
                    owner = stream.owner
                    if stream is not last:
                        owners.append(owner)
                        last = stream
                    try:
                        # The usual cases of `H2ClientStream.receive`, without the call.
                        if kind is bytes:
                            touched.append(stream)
                            stream.held += len(event)
                            owner.response_data(event)
                        elif kind is ResponseHead and not event.end_stream and event.status != 101:
                            stream.replay = None
                            owner.response_head(event)
                        else:
                            stream.receive(event)
                    except SidecarError as error:
                        # A writer refused what filters made of the message.
                        owner.fail(error)
            else:
                self._about_connection(event)
        for owner in owners:
            if owner is not None and not owner.finished:
                owner.downstream.flush()
        for stream in touched:
            if stream.held and not stream.is_paused and stream.id:
                self._credit(stream)
        self.is_delivering = False
        if self.h2.wants_write or self.slow:
            self._write()
        if self.state is READY or self.state is LEAVING:
            self.multiplexer.room(self)

    def _credit(self, stream: H2ClientStream) -> None:
        held, stream.held = stream.held, 0
        self.h2.consumed(stream.id, held)

    def _stream_reset(self, stream: H2ClientStream, event: StreamReset) -> None:
        owner = stream.owner
        self.let_go(stream)
        if owner is None:
            return
        if event.retry_safe and stream.may_replay():
            stream.owner = owner
            stream.wait_for_another()
        elif event.by_peer and event.code == HTTP_1_1_REQUIRED and stream.replay is not None:
            stream.owner = owner
            try:
                stream.ask_over_h1()
            except UpstreamError as wanted:
                owner.response_failed(wanted)
        elif stream.is_tunnel and event.by_peer and event.code == NO_ERROR:
            owner.response_end(None)
        elif event.by_peer:
            again = f" also when it was asked {stream.replays} times more" if stream.replays else ""
            what = f"did not take the stream (REFUSED_STREAM){again}" if event.retry_safe else f"reset the stream (code {event.code})"
            error = UpstreamReset(f"{self.describe()} {what}")
            error.retry_safe = event.retry_safe
            owner.response_failed(error)
        else:
            owner.response_failed(UpstreamProtocolError(event.reason))

    def _about_connection(self, event: Any) -> None:
        kind = type(event)
        if kind is SettingsChanged:
            if not self.h2.peer.concurrent_streams:
                self._shut_out()
            elif self.state is CONNECTING:
                self.state = READY
                self._used_at = now = self.multiplexer.seconds()
                self._ends_at = end_of_life(self.pool.cluster.pool, now)
                self._timer.set(now + self._next_look())
                self.multiplexer.connected(self)
        elif kind is GoAwayReceived:
            self.leave()
        elif kind is PingAcked:
            self._pinged_at = None
        elif kind is ConnectionFailed:
            self._write()
            error = UpstreamProtocolError(f"{self.describe()} breaks HTTP/2: {event.reason}")
            if self.state is CONNECTING:
                self._give_up(ConnectFailed(f"{self.describe()} does not speak HTTP/2: {event.reason}"))
            else:
                self._lost(error)
                self.transport.abortConnection()
        elif kind is WindowOpened:
            pass  # the batch is written anyway

    def _shut_out(self) -> None:
        """MAX_CONCURRENT_STREAMS is 0 (RFC 9113, section 6.5.2: for short durations). A new connection is none yet; one that was used is left after the time
        that a new one has.
        """
        timeout = self.pool.cluster.connect_timeout
        if self.state is READY and timeout:
            self._shut_since = now = self.multiplexer.seconds()
            self._timer.set(min(self._timer.deadline, now + timeout))

    def readConnectionLost(self) -> None:
        """The application ended its side."""
        self._ended(None)
        self.transport.abortConnection()

    def writeConnectionLost(self) -> None:
        """Our side is ended, as asked."""

    def connectionLost(self, reason: Any) -> None:
        """The connection is gone, for whatever reason."""
        self._ended(reason)

    def _ended(self, reason: Any) -> None:
        if self.state is CONNECTING:
            self.state = GONE
            self._timer.clear()
            error = self.pool.explain(self, reason) if reason is not None else None
            self.pool.failed(self, error or ConnectFailed(f"{self.describe()} closed the connection before its HTTP/2 settings came"))
        elif self.state is not GONE:
            error = self.pool.explain(self, reason) if reason is not None and self.streams else None
            self._lost(error or UpstreamClosed(f"{self.describe()} closed the connection"))

    def _lost(self, error: UpstreamError) -> None:
        """All its streams are over."""
        self.state = GONE
        self._timer.clear()
        self.multiplexer.forget(self)
        for stream in list(self.streams.values()):
            owner = stream.owner
            self.let_go(stream)
            if owner is None:
                continue
            if stream.is_tunnel:
                owner.response_end(None)
            else:
                owner.response_failed(error)
            if not owner.finished:
                owner.downstream.flush()

    # -- streams -----------------------------------------------------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """May another exchange have a stream of it?"""
        return self.state is READY and self.reserved < self.most and self.h2.can_open_stream()

    def attach(self, owner: Any) -> H2ClientStream:
        """A stream for this exchange, which sends its head before anybody else asks."""
        stream = H2ClientStream(self, owner)
        self.requests += 1
        self.reserved += 1
        limit = self.pool.cluster.pool.max_requests
        if limit and self.requests >= limit:
            self.state = LEAVING
            self.multiplexer.left(self)
        return stream

    def let_go(self, stream: H2ClientStream) -> None:
        """The exchange has done with the stream, or it is over."""
        if stream.is_over:
            return
        stream.is_over = True
        stream.owner = None
        self.streams.pop(stream.id, None)
        held = stream.held
        if stream.inbox:
            held += sum(len(event) for event in stream.inbox if isinstance(event, bytes))
            stream.inbox = None
        if held and stream.id:
            self.h2.consumed(stream.id, held)
        stream.held = 0
        stream.id = 0
        if stream.is_congested:
            self.slow.discard(stream)
        self.reserved -= 1
        self.endpoint.active -= 1
        if self.pool.pending:
            self.multiplexer.room(self)
        if self.state is LEAVING:
            self.close_if_unused()

    def finish(self, stream: H2ClientStream) -> None:
        """The answer is complete. A request that is not is of no more use."""
        stream_id, is_done = stream.id, stream.request_done
        self.let_go(stream)
        if not is_done:
            self.h2.reset(stream_id, CANCEL)

    def resume(self, stream: H2ClientStream) -> None:
        """The exchange takes the answer again: what waited, then credit for more."""
        inbox = stream.inbox
        owner: Any = None
        while inbox and not stream.is_paused and stream.id:
            owner = stream.owner
            stream.receive(inbox.popleft())
        if owner is not None and not owner.finished:
            # Also when it pauses again: nobody else may have a reason to write.
            owner.downstream.flush()
        if stream.id and stream.held and not stream.is_paused:
            self._credit(stream)
            self.flush()

    def hold(self, stream: H2ClientStream) -> None:
        """More waits for the application than should."""
        self.slow.add(stream)
        stream.owner.upstream_congested()

    # -- writing ---------------------------------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what was produced: at once, with the batch being delivered, or with what else this turn of the reactor brings."""
        if self.is_delivering or self.is_due:
            return
        if self.reserved > 1 and self.multiplexer.later is not None:
            self.is_due = True
            self.multiplexer.later(self._write)
        else:
            self._write()

    def _write(self) -> None:
        self.is_due = False
        h2 = self.h2
        while not self.is_congested:
            out = h2.data_to_send(self.high)
            if not out:
                break
            self.transport.writeSequence(out)
        h2.take_drained()
        if self.slow and not self.is_congested:
            for stream in self.slow.drained(h2.queued):
                if stream.owner is not None:
                    stream.owner.upstream_drained()

    def pauseProducing(self) -> None:
        """The transport is above its high watermark: the application does not read."""
        self.is_congested = True
        self._unsent = self.transport.buffered
        if self.state is not CONNECTING:
            self._timer.set(self.multiplexer.seconds() + STALL_SECONDS)
        for stream in list(self.streams.values()):
            if not stream.is_congested and not stream.request_done and stream.owner is not None:
                self.hold(stream)

    def resumeProducing(self) -> None:
        """Below the low watermark."""
        self.is_congested = False
        if self.state is not GONE:
            if self.state is not CONNECTING:
                self._timer.set(self.multiplexer.seconds() + self._next_look())
            self._write()

    def stopProducing(self) -> None:
        """The transport is going; `connectionLost` follows."""

    # -- time and the end ------------------------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """The connection's timer: is it connected in time, is anything stuck, is it idle for too long?"""
        now = self.multiplexer.seconds()
        if self.state is GONE:
            return
        if self.state is CONNECTING:
            said = "takes no streams (SETTINGS_MAX_CONCURRENT_STREAMS is 0), also not after"
            what = said if self.h2.peer.received else "did not send its HTTP/2 settings within"
            self._give_up(ConnectTimeout(f"{self.describe()} {what} {self.pool.cluster.connect_timeout:g} s"))
            return
        if self.is_congested:
            unsent = self.transport.buffered
            if unsent and unsent == self._unsent:
                self._lost(UpstreamStalled(f"{self.describe()} read nothing for {STALL_SECONDS:g} s"))
                self.transport.abortConnection()
                return
            self._unsent = unsent
            self._timer.set(now + STALL_SECONDS)
            return
        if now >= self._ends_at or self._is_shut_out(now):
            self.leave()
            if not self.reserved:
                return
        if self.streams:
            self._fail_stalled(now)
        if self.streams:
            self._used_at = now
        elif (idle := self.pool.cluster.pool.idle_timeout) and now - self._used_at >= idle:
            self.close()
            return
        if not self._is_answering(now):
            self._lost(UpstreamStalled(f"{self.describe()} did not answer a PING"))
            self.transport.abortConnection()
            return
        self._timer.set(now + self._next_look())

    def _is_shut_out(self, now: float) -> bool:
        """Has the server taken no streams for so long that it is asked on a new connection?"""
        return self.state is READY and not self.h2.peer.concurrent_streams and now - self._shut_since >= self.pool.cluster.connect_timeout > 0.0

    def _next_look(self) -> float:
        options = self.multiplexer.options
        wait: float = min(LOOK_SECONDS, self.pool.cluster.pool.idle_timeout or LOOK_SECONDS)
        if self.state is READY:
            wait = max(min(wait, self._ends_at - self.multiplexer.seconds()), 0.0)
        if options.keepalive_interval:
            wait = min(wait, options.keepalive_interval, options.keepalive_timeout or wait)
        return wait

    def _is_answering(self, now: float) -> bool:
        options = self.multiplexer.options
        if not options.keepalive_interval:
            return True
        if self._pinged_at is not None:
            return not options.keepalive_timeout or now - self._pinged_at < options.keepalive_timeout
        if now - self._last_moved >= options.keepalive_interval:
            self._pinged_at = now
            self.h2.ping(_ALIVE_PING)
            self._write()
        return True

    def _fail_stalled(self, now: float) -> None:
        for stream_id, since in self.h2.stalled(now):
            if now - since >= STALL_SECONDS:
                stream = self.streams.get(stream_id)
                self.h2.counters["streams_stalled"] = self.h2.counters.get("streams_stalled", 0) + 1
                self.h2.reset(stream_id, CANCEL)
                if stream is not None:
                    owner = stream.owner
                    self.let_go(stream)
                    if owner is not None:
                        owner.response_failed(UpstreamStalled(f"{self.describe()} opened no window for {STALL_SECONDS:g} s"))
        self._write()

    def leave(self) -> None:
        """No new streams; it closes when the last one has ended."""
        if self.state is READY:
            self.state = LEAVING
            self.multiplexer.left(self)
        self.close_if_unused()

    def close_if_unused(self) -> None:
        """A connection that takes no more streams and has none is closed."""
        if self.state is LEAVING and not self.reserved:
            self.close()

    def close(self) -> None:
        """Nobody uses it: say goodbye."""
        if self.state is not GONE:
            self.state = GONE
            self._timer.clear()
            self.multiplexer.forget(self)
            self.h2.goaway(NO_ERROR)
            self._write()
            self.transport.loseConnection()

    def __repr__(self) -> str:
        return f"<H2ClientConnection {self.endpoint} {self.state} requests={self.requests} streams={len(self.streams)}>"
