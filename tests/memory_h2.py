"""HTTP/2 peers for `tests.memory.World`: our own codec on the other side of a transport in memory."""

from __future__ import annotations

from typing import Any

from sidecar.codec.h2.connection import H2Connection
from sidecar.codec.h2.limits import H2Limits
from sidecar.downstream.h2 import H2ServerConnection
from sidecar.headers import Headers
from sidecar.message import End, RequestHead, ResponseHead
from sidecar.model import HTTP2Options
from sidecar.upstream.multiplex import Multiplexer
from tests.memory import MemoryTransport, World


def request(method: bytes = b"GET", path: bytes = b"/a", *fields: tuple[bytes, bytes], end: bool = True, upgrade: bytes | None = None) -> RequestHead:
    """A request's head for the host "app"."""
    return RequestHead(method, path, b"app", Headers.of(fields), 20, b"http", None, end, upgrade)


def response(status: int = 200, *fields: tuple[bytes, bytes], end: bool = False) -> ResponseHead:
    """A response's head."""
    return ResponseHead(status, Headers.of(fields), b"", 20, None, end)


class Peer:
    """One side of HTTP/2 in front of `transport`, whose other side is the sidecar's. Octets of bodies are credited when they come, unless `credits` is off."""

    def __init__(self, world: World, transport: MemoryTransport, is_client: bool, limits: H2Limits | None = None, connect_protocol: bool = True) -> None:
        self.world = world
        self.transport = transport
        self.h2 = H2Connection(is_client, limits or H2Limits(), connect_protocol)
        self.credits = True
        self.events: list[tuple[int, Any]] = []
        self.h2.start()

    def exchange(self) -> None:
        """Octets go both ways until there are no more."""
        for _ in range(100):
            self.world.turn()
            data = self.transport.take()
            if data:
                found = self.h2.receive(data, self.world.clock.seconds())
                self.events += found
                for stream_id, event in found:
                    if isinstance(event, bytes) and self.credits:
                        self.h2.consumed(stream_id, len(event))
            out = b"".join(self.h2.data_to_send())
            if out and not self.transport.closing and not self.transport.lost:
                self.transport.receive(out)
            elif not data:
                return

    def of(self, stream_id: int) -> list[Any]:
        """What came on a stream (0: on the connection)."""
        return [event for each, event in self.events if each == stream_id]

    def head(self, stream_id: int) -> Any:
        """The final head that came on a stream."""
        return next(each for each in self.of(stream_id) if isinstance(each, RequestHead | ResponseHead) and getattr(each, "status", 200) >= 101)

    def body(self, stream_id: int) -> bytes:
        """The octets that came on a stream."""
        return b"".join(each for each in self.of(stream_id) if isinstance(each, bytes))

    def ended(self, stream_id: int) -> bool:
        """Did the peer end its side?"""
        return any(isinstance(each, End) or getattr(each, "end_stream", False) for each in self.of(stream_id))

    def kinds(self, stream_id: int = 0) -> list[str]:
        """The names of what came."""
        return [type(each).__name__ for each in self.of(stream_id)]


class H2Client(Peer):
    """A client of a sidecar that speaks HTTP/2."""

    def __init__(self, world: World, limits: H2Limits | None = None, options: HTTP2Options | None = None, server_limits: H2Limits | None = None) -> None:
        connection = H2ServerConnection(
            world.http, world.limits, options or HTTP2Options(), world._begin, world._refuse, world.closed.append, b"http", server_limits or H2Limits()
        )
        transport = MemoryTransport(connection)
        super().__init__(world, transport, True, limits)
        self.connection = connection
        connection.makeConnection(transport)
        self.exchange()

    def send(self, head: RequestHead, *chunks: bytes, end: bool = True, trailers: Headers | None = None) -> int:
        """Send a request; its stream."""
        stream_id = self.h2.open_stream()
        assert stream_id is not None
        is_tunnel = head.upgrade is not None or head.method == b"CONNECT"
        head.end_stream = end and not chunks and trailers is None and not is_tunnel
        self.h2.send_head(stream_id, head, head.end_stream)
        for chunk in chunks:
            self.h2.send_data(stream_id, chunk)
        if end and not head.end_stream and not is_tunnel:
            self.h2.send_end(stream_id, trailers)
        self.exchange()
        return stream_id


class H2App(Peer):
    """An application that speaks HTTP/2, on the newest connection of the world unless another one is named."""

    def __init__(self, world: World, limits: H2Limits | None = None, connect_protocol: bool = True, transport: MemoryTransport | None = None) -> None:
        super().__init__(world, transport or world.app, False, limits, connect_protocol)
        self.exchange()

    def requests(self) -> list[int]:
        """The streams on which requests came."""
        return [stream_id for stream_id, event in self.events if isinstance(event, RequestHead)]

    def answer(self, stream_id: int, head: ResponseHead | None = None, *chunks: bytes, trailers: Headers | None = None) -> None:
        """Answer on a stream."""
        head = head or response(end=not chunks and trailers is None)
        self.h2.send_head(stream_id, head, head.end_stream)
        for chunk in chunks:
            self.h2.send_data(stream_id, chunk)
        if not head.end_stream:
            self.h2.send_end(stream_id, trailers)
        self.exchange()


def multiplexed(world: World, options: HTTP2Options | None = None, negotiates: bool = False) -> World:
    """The world's cluster speaks HTTP/2."""
    world.connector.multiplexer = Multiplexer(
        world.connector, options or HTTP2Options(), H2Limits(), world.clock.seconds, world.wheel.timer, lambda call: world.clock.callLater(0, call), negotiates
    )
    return world
