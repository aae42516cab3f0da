"""Cleartext HTTP whose version the client decides with its first bytes: HTTP/2's preface (prior knowledge, RFC 9113 section 3.3), or anything else.

Until then the connection is an HTTP/1.1 one in all respects; afterwards the transport talks to the chosen connection directly, and this object only stands for
it with the listener.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol
from zope.interface import implementer

from sidecar.errors import SidecarError

# No method of HTTP/1.1 begins so: RFC 9113 section 3.4 chose it for that.
MARK = b"PRI * HTTP/2.0"


@implementer(IProtocol, IHalfCloseableProtocol)
class FirstBytes:
    """`make_h1(closed)` and `make_h2(closed)` make the connection; `closed(self)` is told when it is gone."""

    __slots__ = ("_began", "_held", "_inner", "_make_h2", "_outer_closed", "transport")

    def __init__(self, make_h1: Callable[[Callable[[Any], None]], Any], make_h2: Callable[[Callable[[Any], None]], Any], closed: Callable[[Any], None]) -> None:
        self.transport: Any = None
        self._inner: Any = make_h1(self._closed)
        self._make_h2 = make_h2
        self._outer_closed = closed
        self._held = b""
        self._began = 0.0

    def makeConnection(self, transport: Any) -> None:
        """Ready to read."""
        self.transport = transport
        self._began = self._inner.runtime.seconds()
        self._inner.makeConnection(transport)

    def connectionMade(self) -> None:
        """Part of IProtocol; `makeConnection` does it all."""

    def dataReceived(self, data: bytes) -> None:
        """The first octets, or more of them."""
        if self._held:
            data = self._held + data
            self._held = b""
        transport = self.transport
        if data[:3] != MARK[: len(data[:3])] or data[: len(MARK)] != MARK[: len(data)]:
            transport.protocol = self._inner
        elif len(data) < len(MARK):
            self._held = data
            return
        else:
            self._inner.timer.close()
            transport.unregisterProducer()
            transport.protocol = self._inner = self._make_h2(self._closed)
            self._inner.makeConnection(transport)
            self._inner.waited_since(self._began)
        self._inner.dataReceived(data)

    def readConnectionLost(self) -> None:
        """The client ended its sending side before it said anything."""
        self._inner.readConnectionLost()

    def writeConnectionLost(self) -> None:
        """Our side is ended, as asked."""
        self._inner.writeConnectionLost()

    def connectionLost(self, reason: Any) -> None:
        """The connection is gone."""
        self._inner.connectionLost(reason)

    def abort(self, error: SidecarError) -> None:
        """Close now."""
        if self._inner is not None:
            self._inner.abort(error)

    def drain(self) -> None:
        """The sidecar is going."""
        if self._inner is not None:
            self._inner.drain()

    def _closed(self, inner: Any) -> None:
        # It knows us by this method: together they would be a cycle, which only the collector finds.
        self._inner = None
        self._outer_closed(self)

    def __repr__(self) -> str:
        return f"<FirstBytes {self._inner!r}>"
