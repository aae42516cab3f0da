"""One attempt on an HTTP/2 connection: the `IUpstreamStream` of its exchange. Made by `upstream.h2`.

What was sent is kept until the answer begins, up to `REPLAY_BYTES`: a server that refuses a stream, or leaves with GOAWAY before it looked at it, has not seen
the request, so it goes to another connection and nobody is told.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from sidecar.codec import websocket
from sidecar.codec.h2.events import LastChunk
from sidecar.codec.h2.fields import weight
from sidecar.codec.h2.frames import CANCEL
from sidecar.errors import HeadTooLarge, SidecarError, UpstreamClosed, UpstreamError, UpstreamProtocolError
from sidecar.headers import Headers
from sidecar.interfaces import IUpstreamStream
from sidecar.message import END, End, RequestHead, ResponseHead

if TYPE_CHECKING:
    from sidecar.upstream.h2 import H2ClientConnection

# Octets of a request kept until its answer begins, to send them again on another connection: unary gRPC calls fit, uploads are not held twice.
REPLAY_BYTES = 64 * 1024

Event = ResponseHead | bytes | LastChunk | End


@implementer(IUpstreamStream)
class H2ClientStream:
    """One attempt on the connection. `id` 0: before its head was sent, or over."""

    __slots__ = (
        "_connection", "_ticket", "endpoint", "held", "id", "inbox", "is_congested", "is_over", "is_paused", "is_reused", "is_tunnel", "key", "owner", "replay",
        "replay_octets", "replays", "request_done", "tls",
    )  # fmt: skip

    def __init__(self, connection: H2ClientConnection, owner: Any) -> None:
        self._connection = connection
        self.owner = owner
        self.endpoint = connection.endpoint
        self.tls = connection.tls
        self.is_reused = connection.requests > 0
        self.id = 0
        self.held = 0  # octets with the exchange that are not credited yet
        self.inbox: deque[Event] | None = None
        self.is_paused = self.is_congested = self.is_tunnel = self.request_done = self.is_over = False
        self.key: bytes | None = None
        self.replay: list[bytes | End] | None = []  # what was sent behind the head, while it may have to be sent again
        self.replay_octets = 0
        self.replays = 0
        self._ticket: Any = None

    @property
    def request(self) -> RequestHead:
        """The request's head, for whoever decides about it."""
        head: RequestHead = self.owner.request
        return head

    # -- what the exchange calls -----------------------------------------------------------------------------------------------------------------

    def send_head(self, head: RequestHead) -> None:
        """See `IUpstreamStream`. Raises `UpstreamProtocolError` when the server takes no extended CONNECT and the request needs it, `HeadTooLarge` when the
        head is larger than the server announced to take: it might end the connection of all for it."""
        connection = self._connection
        h2 = connection.h2
        if head.upgrade is not None and (head.upgrade == b"h2c" or head.method != b"GET" or not head.end_stream):
            # h2c is for HTTP/1.1 alone, and here the server speaks HTTP/2 already. Extended CONNECT has neither another method nor a body, which would be taken
            # for the tunnel's first octets: the request goes without its wish (RFC 9110, section 7.8).
            if head.upgrade == b"h2c":
                head.headers.remove(b"http2-settings")
            head.upgrade = None
        most = h2.peer.header_list_octets
        if most is not None and weight(head) > most:
            raise HeadTooLarge(f"the head has more than the {most} octets that {connection.describe()} takes (SETTINGS_MAX_HEADER_LIST_SIZE)")
        end = head.end_stream
        if head.upgrade is not None or head.method == b"CONNECT":
            end = False
            if head.upgrade is not None and not h2.peer.connect_protocol:
                raise UpstreamProtocolError(f"{connection.describe()} does not take upgrades over HTTP/2 (RFC 8441)")
            if head.upgrade == websocket.NAME:
                self.key = head.headers.get(websocket.KEY)
                fields = [each for each in head.headers.fields if each[0] != websocket.KEY]
                head = RequestHead(head.method, head.path, head.authority, Headers(fields), 20, head.scheme, None, False, head.upgrade)
        stream_id = h2.send_request(head, end)
        if stream_id is None:
            raise UpstreamClosed(f"{connection.describe()} takes no more streams on this connection")
        self.id = stream_id
        self.request_done = end
        connection.streams[stream_id] = self
        if h2.is_used_up:
            connection.leave()

    def send_data(self, chunk: bytes) -> None:
        """See `IUpstreamStream`."""
        if self._ticket is not None:
            self._keep_waiting(chunk)
            return
        if self.replay is not None:
            # It may have to be sent again.
            self.replay_octets += len(chunk)
            if self.replay_octets > REPLAY_BYTES:
                self.replay = None
            else:
                self.replay.append(chunk)
        connection = self._connection
        queued = connection.h2.send_data(self.id, chunk)
        if (queued > connection.slow.mark or connection.is_congested) and not self.is_congested and self.owner is not None:
            connection.hold(self)

    def send_last(self, chunk: bytes) -> None:
        """See `IUpstreamStream`."""
        self.request_done = True
        replay = self.replay
        if self._ticket is not None or replay is None or self.replay_octets + len(chunk) > REPLAY_BYTES:
            self.send_data(chunk)
            self.send_end(None)
            return
        self.replay_octets += len(chunk)
        replay += (chunk, END)
        connection = self._connection
        queued = connection.h2.send_data(self.id, chunk, True)
        if (queued > connection.slow.mark or connection.is_congested) and not self.is_congested and self.owner is not None:
            connection.hold(self)

    def _keep_waiting(self, event: bytes | End) -> None:
        """There is no stream to send it on yet: no more, please."""
        assert self.replay is not None
        self.replay.append(event)
        if not self.is_congested:
            self.is_congested = True
            self.owner.upstream_congested()

    def send_end(self, trailers: Headers | None) -> None:
        """See `IUpstreamStream`."""
        self.request_done = True
        end = END if trailers is None else End(trailers)
        if self._ticket is not None:
            self._keep_waiting(end)
            return
        if self.replay is not None:
            self.replay.append(end)
        self._connection.h2.send_end(self.id, trailers)

    def flush(self) -> None:
        """See `IUpstreamStream`."""
        connection = self._connection
        if not (connection.is_delivering or connection.is_due):
            connection.flush()

    def open_tunnel(self) -> None:
        """See `IUpstreamStream`."""
        self.is_tunnel = True
        self.request_done = False

    def reset(self, error: SidecarError) -> None:
        """See `IUpstreamStream`."""
        self.owner = None
        if self._ticket is not None:
            self._ticket.cancel()
            self._ticket = None
            return
        connection, stream_id = self._connection, self.id
        connection.let_go(self)
        if stream_id:
            connection.h2.reset(stream_id, CANCEL)
            connection.flush()

    def pause_response(self) -> None:
        """See `IUpstreamStream`."""
        self.is_paused = True

    def resume_response(self) -> None:
        """See `IUpstreamStream`."""
        self.is_paused = False
        self._connection.resume(self)

    # -- what the connection calls ---------------------------------------------------------------------------------------------------------------

    def receive(self, event: Event) -> None:
        """A part of the answer. The owner may be another one afterwards, or none."""
        owner = self.owner
        kind = type(event)
        try:
            if kind is bytes:
                self.held += len(event)  # type: ignore[arg-type]
                owner.response_data(event)
            elif kind is ResponseHead:
                self.replay = None
                if event.end_stream or event.status == 101:  # type: ignore[union-attr]
                    self._head_is_last(event)
                owner.response_head(event)
            elif kind is LastChunk:
                self._receive_last(event.chunk)  # type: ignore[union-attr]
            else:
                self.held = 0  # no credit is due behind the end
                if self.request_done:
                    self._connection.let_go(self)
                else:
                    self._connection.finish(self)
                owner.response_end(None if self.is_tunnel else event.trailers)  # type: ignore[union-attr]
        except SidecarError as error:
            # A writer refused what filters made of the message.
            owner.fail(error)

    def _receive_last(self, chunk: bytes) -> None:
        """The end with the last octets, for which no credit is due."""
        owner = self.owner
        if owner.response_last(chunk):
            self._connection.finish(self)
        elif self.owner is owner:
            # The owner took the chunk alone.
            if self.is_paused:
                self.inbox = deque((END,))
            else:
                self.receive(END)

    def _head_is_last(self, head: Any) -> None:
        """No body follows this head, or a tunnel does."""
        if head.end_stream and (head.status == 101 or (head.status < 300 and self.request.method == b"CONNECT")):
            raise UpstreamProtocolError(f"{self._connection.describe()} opened a tunnel and ended it with the same frame")
        if head.status == 101:
            if self.key is not None:
                head.headers.fields = [each for each in head.headers.fields if each[0] != websocket.ACCEPT]
                head.headers.fields.append(websocket.accept_field(self.key))
        elif head.end_stream and head.status >= 200:
            self._connection.finish(self)

    # -- a second try ----------------------------------------------------------------------------------------------------------------------------

    def may_replay(self) -> bool:
        """Is all that was sent still here? Then the same request can go to another connection."""
        return self.replay is not None and self._connection.multiplexer.refused.may_replay(self.replays)

    def wait_for_another(self) -> None:
        """The server did not take the stream: ask for one elsewhere. The exchange keeps this object until there is one."""
        self._ticket = self._connection.multiplexer.refused.again(self, self._connection)

    def ask_over_h1(self) -> None:
        """The server wants the request over HTTP/1.1. Raises `UpstreamWantsHTTP1` when that cannot be."""
        self._ticket = self._connection.multiplexer.refused.over_h1(self)

    def resume_asking(self, ticket: Any) -> None:
        """It is asked for after a pause; `ticket`: the place in the queue, None when it was served at once."""
        self._ticket = ticket

    def upstream_ready(self, stream: Any) -> None:
        """There is another stream: the exchange is told, sends the head, and what was sent before follows."""
        owner, self.owner, self._ticket = self.owner, None, None
        stream.owner = owner
        replay, self.replay = self.replay, None
        owner.upstream_ready(stream)
        if owner.upstream is not stream:
            return
        if isinstance(stream, H2ClientStream):
            stream.replays = self.replays + 1
        for event in replay or ():
            if owner.upstream is not stream:
                return
            if isinstance(event, End):
                stream.send_end(event.trailers)
            else:
                stream.send_data(event)
        stream.flush()
        if self.is_paused:
            stream.pause_response()
        if self.is_congested and not stream.is_congested:
            owner.upstream_drained()

    def upstream_unavailable(self, error: UpstreamError, endpoint: Any) -> None:
        """There will be none."""
        owner, self.owner, self._ticket = self.owner, None, None
        owner.response_failed(error)

    def __repr__(self) -> str:
        return f"<H2ClientStream {self.id} owner={self.owner!r} held={self.held}>"
