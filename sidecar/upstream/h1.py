"""HTTP/1.1 towards an application: one connection, one exchange at a time, then back to the pool.

The connection is itself the upstream stream (`IUpstreamStream`) of the exchange that has it. It goes back to the pool before the exchange hears of the
response's end, because
that may at once start the next exchange.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, IProtocol, IPushProducer
from zope.interface import implementer

from sidecar.codec.h1.reader import ResponseReader
from sidecar.codec.h1.writer import RequestWriter
from sidecar.errors import SidecarError, UpstreamClosed, UpstreamError
from sidecar.facts import TLSFacts
from sidecar.headers import Headers
from sidecar.interfaces import IUpstreamStream
from sidecar.message import End, RequestHead, ResponseHead

CONNECTING, READY, GONE = "connecting", "ready", "gone"


@implementer(IProtocol, IPushProducer, IHalfCloseableProtocol, IHandshakeListener, IUpstreamStream)
class H1ClientConnection:
    """Made by the pool for one endpoint; `owner` is the exchange that has it, None while idle or connecting."""

    __slots__ = (
        "_age", "_is_old", "_is_tunnel", "_out", "_paused", "_reader", "_request_done", "_writer", "connecting", "endpoint", "idle_since",
        "is_congested", "is_reused", "owner", "pool", "requests", "state", "tls", "transport",
    )  # fmt: skip

    def __init__(self, pool: Any, endpoint: Any, head_bytes: int, head_fields: int) -> None:
        self.pool = pool
        self.endpoint = endpoint
        self.transport: Any = None
        self.tls: TLSFacts | None = None
        self.owner: Any = None
        self.state = CONNECTING
        self.is_reused = False
        self.requests = 0
        self.idle_since = 0.0
        # What `connect` returned, to cancel it.
        self.connecting: Any = None
        self._reader = ResponseReader(head_bytes, head_fields)
        self._writer = RequestWriter()
        self._out: list[bytes] = []
        self._request_done = True
        self._age: Any = None  # a timer where connections have a maximum age
        self._is_old = False
        self._is_tunnel = False
        self.is_congested = False
        self._paused = False

    # -- what the transport calls ----------------------------------------------------------------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:
        """Connected; with TLS the handshake comes first."""
        self.transport = transport
        high = self.pool.cluster.watermark_bytes
        transport.set_write_watermarks(high, high // 2)
        transport.registerProducer(self, True)
        self._age = self.pool.age_timer(self._grown_old)
        if not self.pool.is_secure:
            self.state = READY
            self.pool.connected(self)

    def connectionMade(self) -> None:
        """Part of IProtocol; `makeConnection` does it all."""

    def handshakeCompleted(self) -> None:
        """TLS is up: look who answered."""
        try:
            self.tls = self.pool.check_peer(self)
        except UpstreamError as error:
            self.state = GONE
            self.transport.abortConnection()
            self.pool.failed(self, error)
            return
        self.state = READY
        self.pool.connected(self)

    def connection_failed(self, error: UpstreamError) -> None:
        """There will be no connection."""
        if self.state is not GONE:
            self.state = GONE
            self.pool.failed(self, error)

    def dataReceived(self, data: bytes) -> None:
        """Octets of the response, or of a tunnel."""
        owner = self.owner
        if owner is None:
            # An application that talks on an idle connection cannot be trusted with the next request on it.
            self._drop()
            return
        if self._is_tunnel:
            owner.response_data(data)
        else:
            self._deliver(self._reader.receive(data), owner)
        if not owner.finished:
            owner.downstream.flush()

    def _deliver(self, events: list[Any], owner: Any) -> None:
        try:
            for event in events:
                kind = event.__class__
                if kind is bytes:
                    owner.response_data(event)
                elif kind is ResponseHead:
                    if event.end_stream and event.status >= 200:
                        self._detach()
                    owner.response_head(event)
                elif kind is End:
                    self._detach()
                    owner.response_end(event.trailers)
                else:
                    self._fail(event)
                if self.owner is not owner:
                    return
        except SidecarError as error:
            # A writer refused what filters made of the message.
            owner.fail(error)

    def _detach(self) -> None:
        """The response is complete: back to the pool, or closed when it cannot serve again."""
        self.owner = None
        reader = self._reader
        # One that is still congested, with a request that was answered before it had left, would tell the next owner of a drain that is none of its own.
        reusable = self._request_done and reader.keep_alive and reader.finished and self.state is READY and not self.is_congested and not self._is_old
        if self._paused:
            # The owner paused within the batch that ended the response: it will not resume what it does not have any more.
            self.resume_response()
        self.pool.released(self, reusable)
        if not reusable:
            self._drop()

    def _fail(self, error: SidecarError) -> None:
        owner, self.owner = self.owner, None
        self._drop()
        self.pool.released(self, False)
        if owner is not None:
            owner.response_failed(error)

    def _drop(self) -> None:
        if self.state is not GONE:
            self.state = GONE
            self.pool.forget(self)
            if self._request_done and not self.transport.buffered:
                self.transport.loseConnection()
            else:
                self.transport.abortConnection()

    def readConnectionLost(self) -> None:
        """The application ended its side; it will not read another request."""
        owner = self.owner
        if owner is None:
            self._drop()
            return
        if self._is_tunnel:
            self._end_tunnel(owner)
        else:
            self._ended(owner, None)
        if not owner.finished:
            owner.downstream.flush()

    def writeConnectionLost(self) -> None:
        """Our side is ended, as asked."""

    def _grown_old(self) -> None:
        """It has reached its age: no further request."""
        self._is_old = True
        if self.owner is None and self.state is READY:
            self._drop()

    def connectionLost(self, reason: Any) -> None:
        """The connection is gone, for whatever reason."""
        if self._age is not None:
            self._age.clear()
        if self.state is CONNECTING:
            self.state = GONE
            self.pool.failed(self, self.pool.explain(self, reason))
            return
        was_ready = self.state is READY
        self.state = GONE
        if was_ready:
            self.pool.forget(self)
        owner = self.owner
        if owner is not None:
            if self._is_tunnel:
                self._end_tunnel(owner)
            else:
                self._ended(owner, reason)
            if not owner.finished:
                owner.downstream.flush()

    def _end_tunnel(self, owner: Any) -> None:
        self.owner = None
        self._request_done = True
        self.pool.released(self, False)
        self._drop()
        owner.response_end(None)

    def _ended(self, owner: Any, reason: Any) -> None:
        """No more octets: that may be the end of a close-delimited body, else the response is cut short."""
        events = self._reader.receive_eof()
        # A reset is no end of a body. Only with a request that is not sent to its end it says nothing: who answers early and closes resets what is on its way.
        is_cut = reason is not None and self._request_done and reason.check(ConnectionDone) is None
        if events and reason is not None and (is_cut or isinstance(events[-1], SidecarError)):
            error = self.pool.explain(self, reason)
            self.pool.report(error)
            if error is not None:
                events[-1] = error
        self._deliver(events, owner)
        if self.owner is owner:
            self._fail(UpstreamClosed(f"{self.pool.describe(self.endpoint)} closed the connection"))

    # -- what the exchange calls -----------------------------------------------------------------------------------------------------------------

    def attach(self, owner: Any) -> None:
        """This exchange has the connection now."""
        self.owner = owner
        self.is_reused = self.requests > 0
        self.requests += 1
        self._request_done = False

    def send_head(self, head: RequestHead) -> None:
        """See `IUpstreamStream`."""
        self._reader.expect(head.method)
        self._writer.head(head, self._out)
        self._request_done = head.end_stream

    def send_data(self, chunk: bytes) -> None:
        """See `IUpstreamStream`."""
        if self._is_tunnel:
            self._out.append(chunk)
        else:
            self._writer.data(chunk, self._out)

    def send_last(self, chunk: bytes) -> None:
        """See `IUpstreamStream`."""
        self.send_data(chunk)
        self.send_end(None)

    def send_end(self, trailers: Headers | None) -> None:
        """See `IUpstreamStream`."""
        if self._is_tunnel:
            self.flush()
            self.transport.loseWriteConnection()
            return
        self._writer.end(trailers, self._out)
        self._request_done = True

    def flush(self) -> None:
        """See `IUpstreamStream`."""
        out = self._out
        if out:
            self._out = []
            if len(out) == 1:
                self.transport.write(out[0])
            else:
                self.transport.writeSequence(out)

    def open_tunnel(self) -> None:
        """See `IUpstreamStream`."""
        self._is_tunnel = True
        early = self._reader.open_tunnel()
        self._writer.open_tunnel()
        if early and self.owner is not None:
            self.owner.response_data(early)

    def reset(self, error: SidecarError) -> None:
        """See `IUpstreamStream`: HTTP/1 can only close."""
        self.owner = None
        if self.state is READY:
            self.state = GONE
            self.pool.released(self, False)
            self.pool.forget(self)
            self.transport.abortConnection()

    def pause_response(self) -> None:
        """See `IUpstreamStream`."""
        self._paused = True
        self.transport.pauseProducing()

    def resume_response(self) -> None:
        """See `IUpstreamStream`."""
        self._paused = False
        if self.state is READY:
            self.transport.resumeProducing()

    # -- what the transport's write watermarks call --------------------------------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """Above the high watermark: the application reads slowly."""
        if not self.is_congested:
            self.is_congested = True
            if self.owner is not None:
                self.owner.upstream_congested()

    def resumeProducing(self) -> None:
        """Below the low watermark."""
        if self.is_congested:
            self.is_congested = False
            if self.owner is not None:
                self.owner.upstream_drained()

    def stopProducing(self) -> None:
        """The transport is going; `connectionLost` follows."""

    def close_idle(self) -> None:
        """Called by the pool for a connection that nobody uses and that is no longer kept."""
        self._drop()

    def looks_alive(self) -> bool:
        """No end of the connection is waiting unread: asked before a request goes out that could not be sent twice."""
        return bool(self.state is READY and self.transport.looks_alive())

    def __repr__(self) -> str:
        return f"<H1ClientConnection {self.endpoint} {self.state} requests={self.requests}>"
