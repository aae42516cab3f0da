"""A connection to an endpoint for opaque bytes, outside of the pool and its limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.cluster.choice import Wanted
from sidecar.cluster.grouping import Match
from sidecar.errors import UpstreamClosed, UpstreamError
from sidecar.outcomes import BROKEN, CONNECTED
from sidecar.upstream.endpoint import EndpointPool
from sidecar.upstream.picking import better_untried, picking_failed, why_not_picked

if TYPE_CHECKING:
    from sidecar.upstream.pool import Connector


def dial(connector: Connector, side: Any, tried: tuple[EndpointPool, ...], match: Match | None) -> RawConnection | None:
    """A connection to an endpoint of the balancer's choice, not to one of `tried`: None when there is no other, or, after `side` was told so, none at all.
    `match`: the metadata that is asked of the endpoint.
    """
    connector.counters["requests"] += 1
    try:
        pool: Any = connector.pick(None if match is None else Wanted(match), tried)
    except BaseException:
        pool = picking_failed(connector.cluster)
    if pool.__class__ is not EndpointPool:
        side.unavailable(why_not_picked(connector, pool, match))
        return None
    if tried:
        pool = better_untried(connector.pools, pool, tried, connector.members.usage.served_by(match))
        if pool in tried:
            return None
    return dial_to(connector, pool, side)


def dial_to(connector: Connector, pool: EndpointPool, side: Any) -> RawConnection:
    """A connection to this endpoint."""
    raw = RawConnection(connector, pool, side)
    raw.begin(connector.connect(pool, raw))
    return raw


class RawConnection:
    """A connection for opaque bytes: `side` (IProtocol with `established()` and `unavailable(error, endpoint=None)`) takes it over when it is connected and
    its peer checked. As long as it is open it is one of the endpoint's running requests, by which balancers go; who owns `side` calls `ended`.
    """

    __slots__ = ("_began", "_connecting", "_connector", "_done", "_is_counted", "_pool", "_side", "transport")

    def __init__(self, connector: Connector, pool: EndpointPool, side: Any) -> None:
        self._connector = connector
        self._pool = pool
        self._side = side
        self._connecting: Any = None
        self._began = connector.seconds()
        self._done = self._is_counted = False
        self.transport: Any = None

    @property
    def endpoint(self) -> EndpointPool:
        """The endpoint that it goes to."""
        return self._pool

    def begin(self, connecting: Any) -> None:
        """`connecting` can be cancelled."""
        self._connecting = connecting

    def makeConnection(self, transport: Any) -> None:
        """Connected; with TLS the handshake comes first."""
        self.transport = transport
        if not self._connector.is_secure:
            self._hand_over()

    def connectionMade(self) -> None:
        """Part of IProtocol; `makeConnection` does it all."""

    def dataReceived(self, data: bytes) -> None:
        """Cannot happen: the side has taken over by then."""
        raise AssertionError("data before the connection was handed over")

    def handshakeCompleted(self) -> None:
        """TLS is up: look who answered."""
        try:
            self._connector.check_peer(self)  # type: ignore[arg-type]
        except UpstreamError as error:
            self.transport.abortConnection()
            self.connection_failed(error)
            return
        self._hand_over()

    def _hand_over(self) -> None:
        if self._done:
            self.transport.abortConnection()
            return
        self._done = True
        self._is_counted = True
        self._pool.tunnel_begun()
        if self._connector.observe is not None:
            # It makes up for connections that failed before, as an answer does for requests.
            self._connector.observe(self._pool, CONNECTED, self._connector.seconds() - self._began)
        self.transport.protocol = self._side
        self._side.makeConnection(self.transport)
        self._side.established()

    def ended(self) -> None:
        """What was handed over is closed. May be called more than once, or without anything having been handed over."""
        if self._is_counted:
            self._is_counted = False
            self._pool.tunnel_ended()

    def connection_failed(self, error: UpstreamError) -> None:
        """There will be no connection."""
        if not self._done:
            self._done = True
            self._pool.found_nobody()
            self._connector.counters["connect_failures"] += 1
            if self._connector.observe is not None:
                self._connector.observe(self._pool, BROKEN, 0.0)
            self._connector.report(error)
            self._side.unavailable(error, self._pool)

    def connectionLost(self, reason: Any) -> None:
        """Lost before it was handed over."""
        self.connection_failed(self._connector.explain(self, reason) or UpstreamClosed(f"{self._connector.describe(self._pool)} closed the connection"))  # type: ignore[arg-type]

    def cancel(self) -> None:
        """Nobody wants it any more."""
        if not self._done:
            self._done = True
            if self._connecting is not None:
                self._connecting.cancel()
