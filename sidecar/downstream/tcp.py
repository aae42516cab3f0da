"""Opaque TCP: bytes from a client to an endpoint and back, with back-pressure and half-close on both sides (Envoy: TcpProxy)."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import attrs
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol, IPushProducer
from twisted.logger import Logger
from zope.interface import implementer

from sidecar.errors import SidecarError, UpstreamError
from sidecar.facts import ConnectionFacts

_log = Logger(namespace="sidecar.tcp")
# As for HTTP (`downstream.h1`): who takes nothing for this long while we wait to close is gone for us.
STALL_SECONDS = 60.0


@attrs.frozen
class Target:
    """Where the connections of a chain go. `choose()`: a connector, and the metadata asked of its endpoints (sorted pairs, or None). `attempts`: endpoints that
    are tried. `idle_timeout`: seconds, 0 for none. `ends_at(now)`: when a connection accepted now has reached its age; infinity for never.
    """

    choose: Callable[[], tuple[Any, Any]]
    attempts: int
    idle_timeout: float
    ends_at: Callable[[float], float] = lambda now: inf


@implementer(IProtocol, IPushProducer, IHalfCloseableProtocol)
class _Side:
    """One of the two transports of a tunnel; `other` is the opposite side."""

    __slots__ = ("ended", "other", "transport", "tunnel")

    def __init__(self, tunnel: Any) -> None:
        self.tunnel = tunnel
        self.transport: Any = None
        self.other: Any = None
        # This side has sent its end of stream.
        self.ended = False

    def makeConnection(self, transport: Any) -> None:
        """Connected."""
        self.transport = transport
        high = self.tunnel.watermark_bytes
        transport.set_write_watermarks(high, high // 2)
        transport.registerProducer(self, True)

    def connectionMade(self) -> None:
        """Part of IProtocol; `makeConnection` does it all."""

    def dataReceived(self, data: bytes) -> None:
        """Pass it on."""
        self.tunnel.moved(self, len(data))
        self.other.transport.write(data)

    def readConnectionLost(self) -> None:
        """This peer has no more to send: tell the other one."""
        self.ended = True
        if self.other.ended:
            self.tunnel.end()
        elif self.other.transport is not None:
            self.other.transport.loseWriteConnection()

    def writeConnectionLost(self) -> None:
        """As asked."""

    def connectionLost(self, reason: Any) -> None:
        """This peer is gone."""
        self.transport = None
        self.tunnel.lost(self)

    def pauseProducing(self) -> None:
        """This peer reads slowly: the other one is not read."""
        if self.other.transport is not None:
            self.other.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """It caught up."""
        if self.other.transport is not None:
            self.other.transport.resumeProducing()

    def stopProducing(self) -> None:
        """`connectionLost` follows."""


class TCPServerConnection(_Side):
    """The client's side, and the tunnel itself."""

    __slots__ = (
        "_closed",
        "_connector",
        "_ends_at",
        "_finished",
        "_is_up",
        "_last",
        "_lease",
        "_match",
        "_seconds",
        "_target",
        "_timer",
        "_tried",
        "_unsent",
        "facts",
        "received",
        "sent",
        "watermark_bytes",
    )

    def __init__(
        self, target: Target, wheel: Any, seconds: Callable[[], float], facts: ConnectionFacts, closed: Callable[[Any], None]
    ) -> None:  # fmt: skip
        super().__init__(self)
        self.facts = facts
        self.received = self.sent = 0
        self._target = target
        self._connector, self._match = target.choose()
        self._tried: tuple[Any, ...] = ()
        self.watermark_bytes = self._connector.cluster.watermark_bytes
        self._seconds = seconds
        self._closed = closed
        self._timer = wheel.timer(self._on_timer)
        self._last = 0.0
        self._ends_at = inf
        self._finished = self._is_up = False
        self._lease: Any = None
        # Octets still queued when the end began or was last looked at.
        self._unsent = 0

    def makeConnection(self, transport: Any) -> None:
        """Nothing is read before there is an upstream; a server-first protocol works all the same."""
        super().makeConnection(transport)
        transport.pauseProducing()
        self.other = _Upstream(self)
        self.other.other = self
        self._last = now = self._seconds()
        self._ends_at = self._target.ends_at(now)
        self._set_timer()
        self._lease = self._connector.dial(self.other, (), self._match)

    def upstream_connected(self) -> None:
        """Both sides are there."""
        if self._finished:
            self.other.transport.abortConnection()
            return
        self._is_up = True
        self._set_timer()
        self.transport.resumeProducing()

    def upstream_failed(self, error: UpstreamError, endpoint: Any) -> None:
        """That endpoint cannot be reached, or (None) there is no endpoint. Nothing was read from the client, so another one may serve it; when there is none,
        all that TCP can say is to close.
        """
        if endpoint is not None and not self._finished:
            self._tried = (*self._tried, endpoint)
            if len(self._tried) < self._target.attempts:
                self._lease = self._connector.dial(self.other, self._tried, self._match)
                if self._lease is not None:
                    self._connector.counters["retries"] += 1
                    endpoint.retries += 1
                    return
        if self._finished:
            return
        what = "{listener}: a connection from {peer} was closed: {error}"
        if len(self._tried) > 1:
            what += " (and {before} before)"
        before = ", ".join(each.text for each in self._tried[:-1])
        _log.warn(what, listener=self.facts.listener, peer=self.facts.peer, error=error.sentence, before=before)
        self.end(abort=True)

    def moved(self, side: _Side, size: int) -> None:
        """Octets passed."""
        self._last = self._seconds()
        if side is self:
            self.received += size
        else:
            self.sent += size

    def lost(self, side: _Side) -> None:
        """One side is gone: what the other one still has queued leaves, then it closes."""
        if side is not self and self._lease is not None:
            self._lease.ended()
        self.end()

    def end(self, abort: bool = False) -> None:
        """Close what is open; once."""
        if not self._finished:
            self._finished = True
            self._unsent = self._queued()
            self._timer.set(self._seconds() + STALL_SECONDS)
            if self._lease is not None:
                self._lease.cancel()
            for side in (self, self.other):
                if side.transport is not None:
                    if abort:
                        side.transport.abortConnection()
                    else:
                        side.transport.loseConnection()
        if self.transport is None:
            if self.other.transport is None:
                self._timer.close()
            self._closed(self)

    def abort(self, error: SidecarError) -> None:
        """Close both sides now."""
        self.end(abort=True)

    def drain(self) -> None:
        """The sidecar is going: a tunnel cannot be asked to end; it has the drain time."""

    def _on_timer(self) -> None:
        if self._finished:
            self._look_for_progress()
            return
        now = self._seconds()
        idle = self._target.idle_timeout
        if now >= self._ends_at:
            self._connector.counters["max_duration_reached"] += 1
            self.end()
        elif idle and self._is_up and now - self._last >= idle:
            self.end(abort=True)
        else:
            self._set_timer()

    def _queued(self) -> int:
        return sum(side.transport.buffered for side in (self, self.other) if side.transport is not None)

    def _look_for_progress(self) -> None:
        """A peer that takes nothing of what is queued for it does not keep its connection for ever."""
        unsent = self._queued()
        if unsent == self._unsent:
            # Nothing queued is no progress either: TLS's own goodbye may not fit into what a peer does not read.
            for side in (self, self.other):
                if side.transport is not None:
                    side.transport.abortConnection()
        else:
            self._unsent = unsent
            self._timer.set(self._seconds() + STALL_SECONDS)

    def _set_timer(self) -> None:
        idle = self._target.idle_timeout
        deadline = min(self._ends_at, self._last + idle) if idle and self._is_up else self._ends_at
        if deadline != inf:
            self._timer.set(deadline)


class _Upstream(_Side):
    """The endpoint's side."""

    __slots__ = ()

    def established(self) -> None:
        """Connected, TLS and identity included."""
        self.tunnel.upstream_connected()

    def unavailable(self, error: UpstreamError, endpoint: Any = None) -> None:
        """No connection."""
        self.tunnel.upstream_failed(error, endpoint)
