"""One request on an HTTP/2 connection: the `IDownstreamStream` of its exchange. Made and used again by `downstream.h2`."""

from __future__ import annotations

from collections import deque
from os import urandom
from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from sidecar.codec import websocket
from sidecar.codec.h2.events import LastChunk
from sidecar.errors import SidecarError, UpstreamProtocolError
from sidecar.headers import Headers
from sidecar.interfaces import IDownstreamStream
from sidecar.message import END, End, RequestHead, ResponseHead

if TYPE_CHECKING:
    from sidecar.downstream.h2 import H2ServerConnection


@implementer(IDownstreamStream)
class H2ServerStream:
    """One request of the connection. `id` 0: free."""

    __slots__ = (
        "_connection", "exchange", "held", "id", "inbox", "is_congested", "is_paused", "is_tunnel", "key", "request_done", "timer", "waits_for_tunnel",
    )  # fmt: skip

    def __init__(self, connection: H2ServerConnection) -> None:
        self._connection = connection
        self.timer = connection.runtime.wheel.timer(self._on_timer)
        self.exchange: Any = None
        self.inbox: deque[bytes | LastChunk | End] = deque()
        self.key = b""
        self.begin(0, True)

    def begin(self, stream_id: int, request_done: bool) -> None:
        """A request begins."""
        self.id = stream_id
        self.request_done = request_done
        self.held = 0  # octets with the exchange that are not credited yet
        self.is_paused = self.is_congested = self.is_tunnel = self.waits_for_tunnel = False

    def _on_timer(self) -> None:
        # The timer of a stream that was used before may still be set: the exchange knows its own deadlines.
        if self.exchange is not None:
            self.exchange.timed_out()
            self._connection.flush()

    # -- what the exchange calls -----------------------------------------------------------------------------------------------------------------

    def send_informational(self, head: ResponseHead) -> None:
        """See `IDownstreamStream`."""
        self._connection.h2.send_informational(self.id, head)

    def send_head(self, head: ResponseHead) -> None:
        """See `IDownstreamStream`."""
        if self.waits_for_tunnel:
            self._check_upgrade(head)
        self._connection.h2.send_head(self.id, head, head.end_stream)

    def _check_upgrade(self, head: ResponseHead) -> None:
        """A 2xx to an extended CONNECT opens the tunnel, so no other answer may have one (RFC 8441, section 5)."""
        if head.status == 101:
            if self.key:
                fields = head.headers.fields
                accept = head.headers.get(websocket.ACCEPT)
                if accept is not None and accept != websocket.accept_of(self.key):
                    raise UpstreamProtocolError("the application's Sec-WebSocket-Accept does not fit the key (RFC 6455 section 4.1)")
                head.headers.fields = [each for each in fields if each[0] != websocket.ACCEPT]
        elif head.status < 300 and self.exchange is not None and self.exchange.request.method != b"CONNECT":
            raise UpstreamProtocolError(f"the application answered a request to switch protocols with {head.status}")

    def send_data(self, chunk: bytes) -> None:
        """See `IDownstreamStream`."""
        connection = self._connection
        queued = connection.h2.send_data(self.id, chunk)
        if (queued > connection.slow.mark or connection.is_congested) and not self.is_congested and self.exchange is not None:
            connection.hold(self)

    def send_last(self, chunk: bytes) -> None:
        """See `IDownstreamStream`."""
        connection = self._connection
        queued = connection.h2.send_data(self.id, chunk, True)
        if (queued > connection.slow.mark or connection.is_congested) and not self.is_congested and self.exchange is not None:
            connection.hold(self)

    def send_end(self, trailers: Headers | None) -> None:
        """See `IDownstreamStream`."""
        self._connection.h2.send_end(self.id, trailers)

    def flush(self) -> None:
        """See `IDownstreamStream`."""
        connection = self._connection
        if not (connection.is_delivering or connection.is_due):
            connection.flush()

    def open_tunnel(self) -> None:
        """See `IDownstreamStream`."""
        self.is_tunnel = True
        self.request_done = False
        if self.waits_for_tunnel:
            self.waits_for_tunnel = False
            self.deliver()

    def reset(self, error: SidecarError) -> None:
        """See `IDownstreamStream`."""
        connection = self._connection
        stream_id = self.id
        connection.let_go(self)
        connection.h2.reset(stream_id, error.h2_code)
        connection.flush()

    def release(self) -> None:
        """See `IDownstreamStream`."""
        connection = self._connection
        stream_id = self.id
        if not stream_id:
            return
        if self.is_tunnel:
            connection.h2.send_end(stream_id, None)
        is_done = self.request_done
        connection.let_go(self)
        if not is_done:
            # RFC 9113, section 8.1: the answer is complete, and the rest of the request is not wanted.
            connection.stop_request(stream_id)
        if not (connection.is_delivering or connection.is_due):
            connection.flush()

    def pause_request(self) -> None:
        """See `IDownstreamStream`."""
        self.is_paused = True

    def resume_request(self) -> None:
        """See `IDownstreamStream`."""
        self.is_paused = False
        if not self.waits_for_tunnel and self.id:
            self.deliver()

    # -- what the connection calls ---------------------------------------------------------------------------------------------------------------

    def deliver(self) -> None:
        """What waited goes to the exchange as long as it takes it; then what it took is credited."""
        inbox, stream_id = self.inbox, self.id
        if inbox:
            exchange = self.exchange
            while inbox and not self.is_paused and self.id == stream_id and exchange is not None:
                event = inbox.popleft()
                if type(event) is bytes:
                    self.held += len(event)
                    exchange.request_data(event)
                elif type(event) is LastChunk:
                    self.take_last(event.chunk)
                else:
                    self.request_done = True
                    exchange.request_end(event.trailers)  # type: ignore[union-attr]
            if self.id == stream_id and self.exchange is not None:
                exchange.flush_request()
        if self.id == stream_id and not self.is_paused and self.held:
            self.credit()
            self._connection.flush()

    def take_last(self, chunk: bytes) -> None:
        """The end of the request with its last octets, for which no credit is due."""
        self.request_done = True
        stream_id = self.id
        if not self.exchange.request_last(chunk):
            self.take_end(stream_id)

    def take_end(self, stream_id: int) -> None:
        """The exchange took the last chunk alone."""
        if self.id != stream_id or self.exchange is None:
            return  # it is over
        if self.is_paused:
            self.inbox.append(END)
        else:
            self.exchange.request_end(None)

    def begin_tunnel(self, head: RequestHead) -> None:
        """What follows the head is for the tunnel, so it waits until there is one: the exchange sees a request without a body, as over HTTP/1.1."""
        self.waits_for_tunnel = True
        self.request_done = False
        if head.end_stream:
            self.inbox.append(END)
        head.end_stream = True
        head.content_length = 0
        self.key = b""
        if head.upgrade == websocket.NAME:
            key = websocket.key_field(urandom(websocket.KEY_OCTETS))
            self.key = key[1]
            head.headers.fields = [*(each for each in head.headers.fields if each[0] != websocket.KEY), key]

    def credit(self) -> None:
        """The exchange took it all."""
        held, self.held = self.held, 0
        self._connection.h2.consumed(self.id, held)

    def __repr__(self) -> str:
        return f"<H2ServerStream {self.id} exchange={self.exchange!r} held={self.held}>"
