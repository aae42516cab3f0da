"""The admin address: a handful of pages over the same HTTP/1.1 connections that carry traffic, each request answered at once.

What changes something is POST only, and refused when a browser says that another site asked for it: an admin port on loopback must not be driven by a web page.
Nor read by one: a site whose name is made to resolve to loopback (DNS rebinding) is same-origin for the browser, and only the Host field tells.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from sidecar.address import Address
from sidecar.admin.indented import indented
from sidecar.discovery.steps import in_turns
from sidecar.downstream.h1 import H1ServerConnection
from sidecar.errors import SidecarError
from sidecar.headers import Headers
from sidecar.message import RequestHead, ResponseHead
from sidecar.model import HTTPLimits
from sidecar.naming.places import Steps
from sidecar.proxy import replies

_log = Logger(namespace="sidecar.admin")
# Nobody needs more at once on this page; a scraper that leaks connections must not eat descriptors meant for traffic.
ADMIN_CONNECTIONS = 200
# Answers that their clients have not read: some dumps of ten thousand endpoints, of which each has two MiB. As long as there is more no long page is made.
UNREAD_BYTES = 32 * 1024 * 1024
# What the kernel takes of each of them (SO_SNDBUF); by itself it takes megabytes, which count for the container's memory and not for the limit above.
SEND_BUFFER_BYTES = 64 * 1024


@attrs.frozen
class Answer:
    """What a page answers."""

    body: bytes
    content_type: bytes = b"text/plain; charset=utf-8"
    status: int = 200

    @classmethod
    def json(cls, value: object, status: int = 200) -> Answer:
        """`value` as indented JSON."""
        return cls(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n", b"application/json", status)

    @classmethod
    def long_json(cls, value: object) -> Steps[Answer]:
        """The same in steps."""
        pieces = []
        for piece in indented(value):
            pieces.append(piece)
            yield
        return cls(b"".join([*pieces, b"\n"]), b"application/json")


@attrs.frozen
class Page:
    """`answer(query)` makes the page, or in steps where it may be long; `changes`: it does something, so only POST may ask for it."""

    answer: Callable[[bytes], Answer | Steps[Answer]]
    summary: str
    changes: bool = False


class AdminServer:
    """Serves `pages` (path -> Page) at an address. `wheel` as for any listener; `clock`: the reactor."""

    draining = False

    def __init__(self, pages: Mapping[bytes, Page], wheel: Any, clock: Any) -> None:
        self.pages = dict(pages)
        self.pages.setdefault(b"/", Page(self._index, "this list"))
        self.wheel = wheel
        self.clock = clock
        self.seconds: Callable[[], float] = clock.seconds
        self.port: Any = None
        self._limits = HTTPLimits(idle_timeout=60.0, head_timeout=10.0)
        self._connections: set[Any] = set()
        self._only_local_names = False
        # While a long page is made it takes more memory than in the end: one at a time.
        self._making = DeferredLock()

    def start(self, address: Address, listen: Callable[[Address, Callable[[Any], Any], int], Any]) -> None:
        """Open the port. Raises `OSError`."""
        self._only_local_names = address.is_loopback and not address.is_unix
        self.port = listen(address, self._build, 64)
        opened = getattr(self.port, "socket", None)
        if opened is not None:  # accepted connections have it from the port
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if not address.is_loopback:
            _log.warn("the admin pages at {address} can be reached from other hosts; they are meant for loopback", address=self.port.address)

    def stop(self) -> Any:
        """Close the port and every connection."""
        port, self.port = self.port, None
        for connection in list(self._connections):
            connection.transport.abortConnection()
        return None if port is None else port.stop()

    def _build(self, peer: Any) -> Any:
        if len(self._connections) >= ADMIN_CONNECTIONS:
            return None
        connection = H1ServerConnection(self, self._limits, self._begin, self._refuse, self._connections.discard, b"http", allow_half_close=True)
        self._connections.add(connection)
        return connection

    def _begin(self, connection: Any, head: RequestHead, now: float) -> Any:
        return _Visit(self, head, connection)

    def _refuse(self, connection: Any, error: SidecarError, now: float) -> tuple[ResponseHead, bytes]:
        return replies.error_reply(error)

    def make(self, head: RequestHead, steps: Steps[tuple[ResponseHead, bytes]]) -> Deferred[tuple[ResponseHead, bytes]]:
        """The rest of the steps, once it is their turn; a refusal as long as others do not read what they have asked for."""

        def begin() -> Any:
            unread = sum(connection.transport.buffered for connection in self._connections)
            if unread > UNREAD_BYTES:
                steps.close()
                words = f"{unread} octets of other answers wait for their readers; ask again when these are read\n"
                refusal = replies.text_reply(503, b"text/plain; charset=utf-8", words.encode(), head)
                # In a turn of its own: hundreds who wait would otherwise be answered within each other.
                return deferLater(self.clock, 0, lambda: refusal)
            return in_turns(self.clock, steps)

        return self._making.run(begin)

    def answering(self, head: RequestHead) -> Steps[tuple[ResponseHead, bytes]]:
        """The reply to one request, made in steps."""
        if self._only_local_names and not _is_local_name(head.authority):
            return replies.text_reply(403, b"text/plain; charset=utf-8", b"ask for localhost or for the address by number\n", head)
        path, _, query = head.path.partition(b"?")
        page = self.pages.get(path.rstrip(b"/") or b"/")
        if page is None:
            return replies.text_reply(404, b"text/plain; charset=utf-8", b"no such page; / lists them\n", head)
        allowed = (b"POST",) if page.changes else (b"GET", b"HEAD")
        if head.method not in allowed:
            return replies.text_reply(405, b"text/plain; charset=utf-8", b"use " + allowed[0] + b"\n", head, Headers.of([(b"Allow", b", ".join(allowed))]))
        if page.changes and (head.headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin") or b"origin" in head.headers):
            return replies.text_reply(403, b"text/plain; charset=utf-8", b"a web page may not do this\n", head)
        try:
            answer = page.answer(query)
            made = answer if isinstance(answer, Answer) else (yield from answer)
        except Exception:
            _log.failure("the admin page {path} failed", path=path)
            made = Answer(b"the page failed; see the log\n", status=500)
        return replies.text_reply(
            made.status, made.content_type, made.body, head, Headers.of([(b"Cache-Control", b"no-store"), (b"X-Content-Type-Options", b"nosniff")])
        )

    def _index(self, query: bytes) -> Answer:
        lines = [f"{path.decode():24} {'POST  ' if page.changes else ''}{page.summary}" for path, page in sorted(self.pages.items())]
        return Answer(("\n".join(lines) + "\n").encode())


def _is_local_name(authority: bytes) -> bool:
    """Is this `localhost`, an address by number or nothing (HTTP/1.0), with any port? These are the names that nobody else's DNS answers for."""
    host = authority.decode("latin-1")
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if host.lower() in ("", "localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class _Visit:
    """One admin request, in the place of an exchange: most end as soon as they start."""

    __slots__ = ("_connection", "_head", "_making", "_server", "finished", "status")

    def __init__(self, server: AdminServer, head: RequestHead, connection: Any) -> None:
        self._server = server
        self._head = head
        self._connection = connection
        self._making: Deferred[Any] | None = None
        self.finished = False
        self.status = 0

    def start(self) -> None:
        steps = self._server.answering(self._head)
        try:
            next(steps)
        except StopIteration as end:
            self._answer(end.value)
            return
        self._making = self._server.make(self._head, steps)
        self._making.addCallbacks(self._answer, self._failed)

    def _answer(self, reply: tuple[ResponseHead, bytes]) -> None:
        head, body = reply
        connection = self._connection
        self.status = head.status
        connection.send_head(head)
        if not head.end_stream:
            connection.send_data(body)
            connection.send_end(None)
        connection.flush()
        self.finished = True
        connection.release()

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            _log.failure("an admin page failed", failure)
            self._connection.transport.abortConnection()

    def request_data(self, chunk: bytes) -> None:
        """Bodies are not looked at."""

    def request_end(self, trailers: object) -> None:
        """Likewise."""

    def downstream_lost(self, error: SidecarError) -> None:
        """Nobody waits for the rest of it."""
        if self._making is not None:
            self._making.cancel()

    def downstream_congested(self) -> None:
        """The page is in the connection's queue already."""

    def downstream_drained(self) -> None:
        """Likewise."""

    def flush_request(self) -> None:
        """Nothing goes up."""

    def timed_out(self) -> None:
        """It is over before it could."""
