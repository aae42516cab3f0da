"""WebSocket frames, lawful and not, through one sidecar and through two: `python -m tests.conformance.websocket`, from the root.

A tunnel is transparent when every octet arrives as it was sent, in both directions, however it is cut: then any suite for endpoints (Autobahn's needs
Python 2) ends as it would without the sidecar. The server makes RFC 6455's handshake and sends every octet back; a client that ends its side has the other
side's octets first.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import tempfile
import threading
from pathlib import Path

from sidecar.codec.websocket import accept_of
from tests.conformance.sidecars import Report, ways
from tests.e2e.applications import Application, Request, Wire

SECONDS = 20.0
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: calls\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def frame(opcode: int, payload: bytes = b"", final: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    """RFC 6455, section 5.2. The mask is fixed, so that both runs send the same."""
    head = bytes((final << 7 | reserved << 4 | opcode,))
    size = len(payload)
    bit = masked << 7
    head += (
        bytes((bit | size,)) if size < 126 else bytes((bit | 126,)) + struct.pack(">H", size) if size < 65536 else bytes((bit | 127,)) + struct.pack(">Q", size)
    )
    if not masked:
        return head + payload
    mask = b"\x12\x34\x56\x78"
    return head + mask + bytes(each ^ mask[place % 4] for place, each in enumerate(payload))


SIZES = (0, 1, 125, 126, 65535, 65536, 300_000)
BYE = frame(CLOSE, struct.pack(">H", 1000))
ROWS: dict[str, list[bytes]] = {
    **{f"text of {size} octets": [frame(TEXT, b"x" * size), BYE] for size in SIZES},
    **{f"binary of {size} octets": [frame(BINARY, b"x" * size), BYE] for size in SIZES},
    "fragments": [frame(TEXT, b"a", final=False), frame(0, b"b", final=False), frame(0, b"c"), BYE],
    "fragments with a ping between": [frame(TEXT, b"a", final=False), frame(PING, b"?"), frame(0, b"b"), BYE],
    "a thousand fragments": [frame(BINARY, b"", final=False), *[frame(0, b"z", final=False)] * 1000, frame(0, b""), BYE],
    "octet by octet": [bytes((each,)) for each in frame(TEXT, b"hello") + BYE],
    "many in one piece": [frame(TEXT, b"1") * 50 + BYE],
    "ping with 125 octets": [frame(PING, b"p" * 125), BYE],
    "pong that nobody asked for": [frame(PONG, b"p"), BYE],
    "ping that is too long": [frame(PING, b"p" * 126)],
    "ping in fragments": [frame(PING, b"p", final=False)],
    "reserved bits": [frame(TEXT, b"a", reserved=3)],
    "reserved opcode": [frame(3, b"a")],
    "no mask": [frame(TEXT, b"a", masked=False)],
    "continuation of nothing": [frame(0, b"a")],
    "text that is no UTF-8": [frame(TEXT, b"\xc3\x28")],
    "UTF-8 cut by a fragment": [frame(TEXT, b"\xe2\x98", final=False), frame(0, b"\x83"), BYE],
    "close without a code": [frame(CLOSE)],
    "close with one octet": [frame(CLOSE, b"\x03")],
    **{f"close with {code}": [frame(CLOSE, struct.pack(">H", code) + b"why")] for code in (1000, 1001, 1005, 1011, 2999, 3000, 4999, 65535)},
    "frames behind close": [BYE + frame(TEXT, b"late")],
    "end without close": [frame(TEXT, b"a")],
    "noise of three megabytes": [os.urandom(1 << 20)] * 3,
}  # fmt: skip


class Echo(Application):
    """The server."""

    def __init__(self) -> None:
        super().__init__()
        self.on("/", self.upgrade)

    def upgrade(self, wire: Wire, request: Request) -> bool:
        """Every octet comes back."""
        (key,) = request.values("sec-websocket-key")
        fields = ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept_of(key.encode()).decode()}"]
        fields += [f"Sec-WebSocket-Extensions: {each}" for each in request.values("sec-websocket-extensions")]
        wire.send("\r\n".join(["HTTP/1.1 101 Switching Protocols", *fields]).encode() + b"\r\n\r\n")
        while data := wire.read_some():
            wire.send(data)
        return False


def converse(port: int, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """(head, all octets of the tunnel) that come back."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(HANDSHAKE)
        data = b""
        while b"\r\n\r\n" not in data:
            data += sock.recv(65536)
        head, _, rest = data.partition(b"\r\n\r\n")
        sender = threading.Thread(target=send, args=(sock, pieces))
        sender.start()
        with contextlib.suppress(ConnectionResetError):
            while data := sock.recv(65536):
                rest += data
        sender.join()
        return head, rest


def send(sock: socket.socket, pieces: list[bytes]) -> None:
    """Send the pieces, then end our side."""
    with contextlib.suppress(OSError):
        for piece in pieces:
            sock.sendall(piece)
        sock.shutdown(socket.SHUT_WR)


def main() -> int:
    """Run it."""
    report = Report("WebSocket")
    server = Echo()
    try:
        with tempfile.TemporaryDirectory() as name, ways(Path(name), server.address, "h1") as found:
            for case, pieces in ROWS.items():
                for way in found:
                    head, octets = converse(way.port, pieces)
                    fits = head.startswith(b"HTTP/1.1 101 ") and b"permessage-deflate; client_max_window_bits" in head and octets == b"".join(pieces)
                    report.case(f"{case}, {way.name}", "" if fits else f"{head!r} {len(octets)} octets, {octets[-80:]!r}")
    finally:
        server.stop()
    return report.status


if __name__ == "__main__":
    sys.exit(main())
