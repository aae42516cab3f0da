"""Applications behind a sidecar: threads on blocking sockets, HTTP by hand, so that they can also do everything wrong."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator

SOCKET_SECONDS = 40.0
Behaviour = Callable[["Wire", "Request"], object]


class Request:
    """A request as it came: `fields` in order, names as sent."""

    def __init__(self, head: bytes) -> None:
        self.head = head
        line, *rest = head.decode("latin-1").split("\r\n")
        self.method, self.target, self.version = line.split(" ")
        self.fields = [(name, value.strip()) for name, _, value in (each.partition(":") for each in rest if each)]
        self.path = self.target.partition("?")[0]

    def values(self, name: str) -> list[str]:
        """All values of a field, in order."""
        return [value for each, value in self.fields if each.lower() == name]


class Wire:
    """One connection, read by pieces."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._held = b""

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.sock.sendall(data)

    def read_head(self) -> Request | None:
        """The next request's head; None at the end of the connection."""
        while b"\r\n\r\n" not in self._held:
            data = self.sock.recv(65536)
            if not data:
                return None
            self._held += data
        head, _, self._held = self._held.partition(b"\r\n\r\n")
        return Request(head)

    def read_some(self) -> bytes:
        """What is there, at least an octet; b"" at the end."""
        held, self._held = self._held, b""
        return held or self.sock.recv(262144)

    def _exactly(self, count: int) -> Iterator[bytes]:
        while count:
            data = self.read_some()
            if not data:
                raise ConnectionError("the body is cut short")
            self._held = data[count:]
            count -= len(data[:count])
            yield data[: len(data) - len(self._held)]

    def _line(self) -> bytes:
        while b"\r\n" not in self._held:
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError("the body is cut short")
            self._held += data
        line, _, self._held = self._held.partition(b"\r\n")
        return line

    def body(self, request: Request) -> Iterator[bytes]:
        """The request's body by pieces."""
        if request.values("transfer-encoding"):
            while size := int(self._line().split(b";")[0], 16):
                yield from self._exactly(size)
                self._line()
            while self._line():
                pass
        else:
            yield from self._exactly(int((request.values("content-length") or ["0"])[0]))

    def answer(self, body: bytes = b"", status: str = "200 OK", *fields: str) -> None:
        """A complete response with content-length."""
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def cut(self) -> None:
        """End the connection by a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Application:
    """Serves `converse(wire)` on a thread for each connection. `address` is as a configuration file has it; `port`: 0 for a free one."""

    def __init__(self, family: int = socket.AF_INET, path: str = "", context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.listener = socket.socket(family)
        if family == socket.AF_UNIX:
            self.listener.bind(path)
            self.address = f"unix:{path}"
        else:
            host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind((host, port))
            port = self.listener.getsockname()[1]
            self.address = f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
        self.listener.listen(512)
        self.behaviours: dict[str, Behaviour] = {"/facts": facts, "/echo": echo}
        self.served = 0
        self.connections = 0
        self._context = context
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def on(self, path: str, behaviour: Behaviour) -> None:
        """What happens to requests for `path`; `behaviour` returns False when the connection should end."""
        self.behaviours[path] = behaviour

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                sock.settimeout(SOCKET_SECONDS)
                if sock.family != socket.AF_UNIX:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._open.add(sock)
                    self.connections += 1
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), contextlib.closing(sock if self._context is None else self._context.wrap_socket(sock, True)) as inner:
            self.converse(Wire(inner))
        with self._lock:
            self._open.discard(sock)

    def converse(self, wire: Wire) -> None:
        """One connection: request after request."""
        while (request := wire.read_head()) is not None:
            behaviour = self.behaviours.get(request.path, hello)
            with self._lock:
                self.served += 1
            if behaviour(wire, request) is False:
                return

    def cut_all(self) -> None:
        """End every connection now, as a killed process does."""
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Accept nothing more and end what is open."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut_all()


class RawApplication(Application):
    """Speaks no HTTP: `talk(wire)` has the connection."""

    def __init__(self, talk: Callable[[Wire], object]) -> None:
        self._talk = talk
        super().__init__()

    def converse(self, wire: Wire) -> None:
        """As told."""
        self._talk(wire)


def hello(wire: Wire, request: Request) -> None:
    """Read the body, say ok."""
    for _ in wire.body(request):
        pass
    wire.answer(b"" if request.method == "HEAD" else b"ok\n")


def echo(wire: Wire, request: Request) -> None:
    """The body comes back."""
    wire.answer(b"".join(wire.body(request)))


def facts(wire: Wire, request: Request) -> None:
    """The head, as JSON."""
    body = b"".join(wire.body(request))
    answer = {"method": request.method, "target": request.target, "version": request.version, "fields": request.fields, "body": body.decode("latin-1")}
    wire.answer(json.dumps(answer).encode(), "200 OK", "Content-Type: application/json")
