"""Clients of the tests: octets at a socket, and what came back."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from http.client import HTTPConnection, HTTPResponse
from typing import Any

from tests.e2e.processes import Place

SOCKET_SECONDS = 30.0


def connect(place: Place, context: ssl.SSLContext | None = None, receive_buffer: int = 0) -> socket.socket:
    """A blocking connection with a time limit; `receive_buffer`: octets, for clients that read slowly."""
    sock = socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET6 if ":" in place[0] else socket.AF_INET)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(SOCKET_SECONDS)
    sock.connect(place)
    return sock if context is None else context.wrap_socket(sock, server_hostname="sidecar.example")


def read_all(sock: socket.socket) -> bytes:
    """Everything until the other side ends the connection, in order or by a reset."""
    pieces = []
    try:
        while data := sock.recv(262144):
            pieces.append(data)
    except (ConnectionResetError, ssl.SSLError):
        pass
    return b"".join(pieces)


def exchange(place: Place, data: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """Send octets; what comes back until the other side closes."""
    with connect(place, context) as sock:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
        return read_all(sock)


class Channel(HTTPConnection):
    """`http.client` over any address, with TLS of our own making when `context` is given."""

    def __init__(self, place: Place, context: ssl.SSLContext | None = None) -> None:
        super().__init__("app.example", timeout=SOCKET_SECONDS)
        self._place = place
        self._tls = context

    def connect(self) -> None:
        """Connect."""
        self.sock = connect(self._place, self._tls)

    def ask(self, path: str, method: str = "GET", body: Any = None, **fields: str) -> Answer:
        """One request on this connection. Underscores in names of fields stand for hyphens."""
        self.request(method, path, body, {name.replace("_", "-"): value for name, value in fields.items()})
        return Answer(self.getresponse())


class Answer:
    """One answer, whole."""

    def __init__(self, response: HTTPResponse) -> None:
        self.status = response.status
        self.body = response.read()
        self.fields = {name.lower(): value for name, value in response.getheaders()}

    @property
    def json(self) -> Any:
        """The body's value."""
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.body[:500]!r}>"


def ask(place: Place, path: str, method: str = "GET", body: Any = None, context: ssl.SSLContext | None = None, **fields: str) -> Answer:
    """One request on a connection of its own."""
    channel = Channel(place, context)
    try:
        return channel.ask(path, method, body, **fields)
    finally:
        channel.close()
