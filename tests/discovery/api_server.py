"""An HTTP server on loopback that answers as a test says, octet by octet: whole answers, streams in pieces, cuts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from twisted.internet.protocol import Factory, Protocol


class Asked:
    """One request; the test answers it when it likes. `query` has the last value of each key; `fields` lower-case names."""

    def __init__(self, transport: Any, head: bytes) -> None:
        line, *rest = head.decode("latin-1").split("\r\n")
        self.method, target, _ = line.split(" ")
        parts = urlsplit(target)
        self.path = parts.path
        self.pairs = parse_qsl(parts.query, keep_blank_values=True)
        self.query = dict(self.pairs)
        self.fields = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in rest)}
        self.transport = transport

    def answer(self, body: bytes = b"", status: int = 200, **fields: str) -> None:
        """A whole answer."""
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items()]
        self.transport.write(f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(body)}\r\n{''.join(lines)}\r\n".encode() + body)

    def begin(self) -> None:
        """The head of a stream."""
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")

    def send(self, data: bytes) -> None:
        """A piece of it."""
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def finish(self) -> None:
        """Its end in good order."""
        self.transport.write(b"0\r\n\r\n")

    def cut(self) -> None:
        """Its end without."""
        self.transport.loseConnection()


class _Connection(Protocol):
    def __init__(self, take: Callable[[Asked], None], connections: set[Any]) -> None:
        self._take = take
        self._connections = connections
        self._held = b""

    def connectionMade(self) -> None:
        self._connections.add(self)

    def connectionLost(self, reason: object = None) -> None:
        self._connections.discard(self)

    def dataReceived(self, data: bytes) -> None:
        self._held += data
        while b"\r\n\r\n" in self._held:
            head, _, self._held = self._held.partition(b"\r\n\r\n")
            self._take(Asked(self.transport, head))


class API:
    """`asked`: every request so far. `script`: functions that answer the next ones, one each; then requests wait for the test."""

    def __init__(self, reactor: Any, *script: Callable[[Asked], Any], context: Any = None) -> None:
        self.asked: list[Asked] = []
        self.script = list(script)
        self._connections: set[Any] = set()
        factory = Factory.forProtocol(lambda: _Connection(self._take, self._connections))  # type: ignore[arg-type]
        factory.noisy = False
        self._port = reactor.listenTCP(0, factory, interface="127.0.0.1") if context is None else reactor.listenSSL(0, factory, context, interface="127.0.0.1")
        self.port = self._port.getHost().port

    def _take(self, request: Asked) -> None:
        self.asked.append(request)
        if self.script:
            self.script.pop(0)(request)

    async def end(self) -> None:
        """Close everything."""
        for connection in list(self._connections):
            connection.transport.abortConnection()
        await self._port.stopListening()
