"""What the tests of the HTTP/2 codec share: connections past their prefaces, and a pump between two of them."""

from __future__ import annotations

from typing import Any

import hpack

from sidecar.codec.h2.connection import H2Connection
from sidecar.codec.h2.frames import END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame, read_head
from sidecar.codec.h2.limits import H2Limits
from sidecar.headers import Headers
from sidecar.message import RequestHead, ResponseHead

GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")]
POST = [(b":method", b"POST"), *GET[1:]]
OK = [(b":status", b"200")]


def block(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """A block that changes no table."""
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*pair) for pair in pairs], huffman=False)


def headers(stream_id: int, pairs: list[tuple[bytes, bytes]], flags: int = END_HEADERS | END_STREAM) -> bytes:
    return frame(HEADERS, flags, stream_id, block(pairs))


def server(limits: H2Limits | None = None, **more: Any) -> H2Connection:
    """A server whose client has sent its preface; nothing waits to be written."""
    connection = H2Connection(False, limits, **more)
    connection.start()
    connection.receive(PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, 1, 0), 0.0)
    connection.data_to_send()
    return connection


def client(limits: H2Limits | None = None, settings: bytes = b"") -> H2Connection:
    """A client whose server has sent `settings`."""
    connection = H2Connection(True, limits)
    connection.start()
    connection.receive(frame(SETTINGS, 0, 0, settings) + frame(SETTINGS, 1, 0), 0.0)
    connection.data_to_send()
    return connection


def pair(server_limits: H2Limits | None = None, client_limits: H2Limits | None = None) -> tuple[H2Connection, H2Connection]:
    """A client and a server of ours that know each other's settings."""
    ours, theirs = H2Connection(True, client_limits), H2Connection(False, server_limits)
    ours.start()
    theirs.start()
    pump(ours, theirs)
    return ours, theirs


def written(connection: H2Connection) -> bytes:
    return b"".join(connection.data_to_send())


def pump(ours: H2Connection, theirs: H2Connection, now: float = 0.0) -> tuple[list[Any], list[Any]]:
    """Carry octets both ways until nothing moves; what (ours, theirs) told."""
    told: tuple[list[Any], list[Any]] = ([], [])
    while True:
        there, back = written(ours), written(theirs)
        if not there and not back:
            return told
        told[1].extend(theirs.receive(there, now))
        told[0].extend(ours.receive(back, now))


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """(type, flags, stream id, payload) of whole frames."""
    found = []
    while data:
        large, size, kind, stream_id = read_head(data)
        stop = 9 + (large << 16) + size
        assert stop <= len(data), "a frame is cut"
        found.append((kind >> 8, kind & 0xFF, stream_id, data[9:stop]))
        data = data[stop:]
    return found


def request(method: bytes = b"GET", path: bytes = b"/", pairs: list[tuple[bytes, bytes]] | None = None, **more: Any) -> RequestHead:
    return RequestHead(method, path, b"a", Headers.of([(b"host", b"a"), *(pairs or [])]), **more)


def response(status: int = 200, pairs: list[tuple[bytes, bytes]] | None = None, **more: Any) -> ResponseHead:
    return ResponseHead(status, Headers.of(pairs or []), **more)
