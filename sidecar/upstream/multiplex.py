"""Sharing HTTP/2 connections out: streams across as few connections as the servers' limits allow.

A part of the `Connector` of a cluster that speaks HTTP/2, or whatever its endpoints choose by ALPN. The connector has the queue of waiting requests, the limits
and the balancer; here is which connection a request shares, and when there has to be another one. Requests that come while the first connection is being made
wait for that one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IHandshakeListener, IProtocol
from zope.interface import implementer

from sidecar.codec.h2.limits import H2Limits
from sidecar.errors import UpstreamError
from sidecar.model import HTTP2Options
from sidecar.upstream.h1 import H1ClientConnection
from sidecar.upstream.h2 import READY, H2ClientConnection
from sidecar.upstream.h2_stream import H2ClientStream
from sidecar.upstream.refused import Refused


class Multiplexer:
    """See the module. `later(call)`: calls at the end of this turn of the reactor; None writes every flush at once. `negotiates`: ALPN decides for each
    connection. `count(connection)`: told of each HTTP/2 connection made. `counters["replays"]`: requests sent again because a server refused the stream."""

    def __init__(
        self,
        connector: Any,
        options: HTTP2Options,
        limits: H2Limits,
        seconds: Callable[[], float],
        timer: Callable[[Callable[[], None]], Any],
        later: Callable[[Callable[[], None]], Any] | None,
        negotiates: bool,
        count: Callable[[Any], Any] | None = None,
    ) -> None:
        self.connector = connector
        self.options = options
        self.limits = limits
        self.seconds = seconds
        self.timer = timer
        self.later = later
        self.negotiates = negotiates
        self.counters = {"replays": 0}
        self.refused = Refused(self)
        self._count = count
        self._shared: dict[Any, list[H2ClientConnection]] = {}
        self._single: set[Any] = set()  # endpoints that chose HTTP/1.1 the last time

    def __repr__(self) -> str:
        return f"<Multiplexer {self.connector.name} {sum(map(len, self._shared.values()))} connections>"

    # -- what the connector asks -------------------------------------------------------------------------------------------------------------------

    def serve(self, pool: Any, owner: Any) -> bool:
        """Give the exchange a stream, if a connection has room."""
        for connection in self._shared.get(pool, ()):
            # `has_room` and `_give`, without the calls.
            if connection.state is READY and connection.reserved < connection.most and connection.h2.can_open_stream():
                pool.active += 1
                pool.requests += 1
                owner.upstream_ready(connection.attach(owner))
                return True
        return False

    def wanted(self, pool: Any) -> int:
        """How many connections should be in the making for those who wait."""
        waiting = len(pool.waiting)
        if pool in self._single:
            return waiting
        # A server that lets nobody in (MAX_CONCURRENT_STREAMS of 0, perhaps for a moment) would let nobody in on a thousand connections.
        if waiting and any(not each.reserved and not each.has_room for each in self._shared.get(pool, ())):
            return 0
        return min(waiting, 1)

    def new_connection(self, pool: Any) -> Any:
        """A connection to be made."""
        return Negotiation(self, pool) if self.negotiates else self.make_h2(pool)

    def make_h2(self, pool: Any) -> H2ClientConnection:
        """A connection that speaks HTTP/2."""
        connection = H2ClientConnection(self.connector, pool, self)
        if self._count is not None:
            self._count(connection)
        return connection

    def make_h1(self, pool: Any) -> H1ClientConnection:
        """A connection that speaks HTTP/1.1."""
        cluster = self.connector.cluster
        return H1ClientConnection(self.connector, pool, cluster.head_bytes, cluster.head_fields)

    def evict(self) -> bool:
        """Close a connection that nobody uses, to make room under the cluster's limit."""
        for connections in self._shared.values():
            for connection in connections:
                if not connection.reserved:
                    self.connector.counters["evicted"] += 1
                    connection.close()
                    return True
        return False

    def retire(self, pool: Any) -> None:
        """This endpoint left the cluster: no new streams to it; each connection says goodbye when its last one has ended."""
        self._single.discard(pool)
        self.refused.h1_only.discard(pool)
        for connection in list(self._shared.get(pool, ())):
            connection.leave()

    def step_down(self, pool: Any) -> None:
        """Only HTTP/1.1 is spoken with this endpoint from now on; streams that run end in peace."""
        self._single.add(pool)
        for connection in list(self._shared.get(pool, ())):
            connection.leave()

    def stop(self) -> None:
        """No new streams; each connection closes when its last one has ended."""
        for connections in list(self._shared.values()):
            for connection in list(connections):
                connection.leave()

    # -- what connections report -------------------------------------------------------------------------------------------------------------------

    def chose(self, pool: Any, is_h2: bool) -> None:
        """What ALPN ended with."""
        if (is_h2 and pool not in self.refused.h1_only) or pool.is_closed:
            self._single.discard(pool)
        else:
            self._single.add(pool)

    def connected(self, connection: H2ClientConnection) -> None:
        """A new connection is ready: all who wait share it, as far as it goes."""
        pool = connection.endpoint
        pool.connecting.discard(connection)
        self._shared.setdefault(pool, []).append(connection)
        connector = self.connector
        if pool in self.refused.h1_only:
            # It was on its way when the endpoint said so.
            connection.leave()
        while pool.waiting and connection.has_room:
            owner = connector._next_owner(pool)
            if owner is not None:
                self._give(pool, connection, owner)
        if pool.waiting:
            connector._grow(pool)
        if pool.is_closed:
            connection.leave()

    def room(self, connection: H2ClientConnection) -> None:
        """Streams ended: those who wait may have their places."""
        pool = connection.endpoint
        connector = self.connector
        while pool.waiting and connection.has_room:
            ticket = connector._next_for_used(pool)
            if ticket is None:
                return
            pool.waiting.remove(ticket)
            connector.pending -= 1
            owner, ticket.owner = ticket.owner, None
            if owner is not None:
                self._give(pool, connection, owner)

    def again(self, stream: H2ClientStream, refused_by: H2ClientConnection) -> Any:
        """Another stream for what a server did not take: on another connection, which is made if need be. The ticket, None when it was served at once."""
        self.counters["replays"] += 1
        pool = stream.endpoint
        for connection in self._shared.get(pool, ()):
            if connection is not refused_by and connection.has_room:
                self._give(pool, connection, stream)
                return None
        return self.connector.wait(pool, stream)

    def left(self, connection: H2ClientConnection) -> None:
        """The connection takes no more streams."""
        connections = self._shared.get(connection.endpoint, [])
        if connection in connections:
            connections.remove(connection)
            if not connections:
                del self._shared[connection.endpoint]

    def forget(self, connection: H2ClientConnection) -> None:
        """The connection is gone."""
        self.left(connection)
        self.connector.forget(connection)

    def _give(self, pool: Any, connection: H2ClientConnection, owner: Any) -> None:
        pool.active += 1
        pool.requests += 1
        owner.upstream_ready(connection.attach(owner))


@implementer(IProtocol, IHandshakeListener)
class Negotiation:
    """A TLS connection in the making whose protocol the endpoint chooses (RFC 7301); then it is replaced by a connection that speaks it."""

    def __init__(self, multiplexer: Multiplexer, endpoint: Any) -> None:
        self.endpoint = endpoint
        self.transport: Any = None
        self.connecting: Any = None
        self.owner: Any = None
        self.requests = 0
        self._multiplexer = multiplexer
        self._is_over = False

    def makeConnection(self, transport: Any) -> None:
        """TLS is up; `handshakeCompleted` follows."""
        self.transport = transport

    def connectionMade(self) -> None:
        """Part of IProtocol; `makeConnection` does it all."""

    def dataReceived(self, data: bytes) -> None:
        """Cannot happen: the chosen protocol has taken over by then."""
        raise AssertionError("data before a protocol was chosen")

    def handshakeCompleted(self) -> None:
        """What did the endpoint choose?"""
        self._is_over = True
        multiplexer, pool = self._multiplexer, self.endpoint
        is_h2 = self.transport.negotiatedProtocol == b"h2"
        multiplexer.chose(pool, is_h2)
        chosen: Any = multiplexer.make_h2(pool) if is_h2 else multiplexer.make_h1(pool)
        chosen.connecting = self.connecting
        pool.connecting.discard(self)
        pool.connecting.add(chosen)
        self.transport.protocol = chosen
        chosen.makeConnection(self.transport)
        chosen.handshakeCompleted()
        if not is_h2 and pool.waiting:
            multiplexer.connector._grow(pool)

    def connection_failed(self, error: UpstreamError) -> None:
        """There will be no connection."""
        if not self._is_over:
            self._is_over = True
            self._multiplexer.connector.failed(self, error)

    def connectionLost(self, reason: Any) -> None:
        """Lost before a protocol was chosen."""
        if not self._is_over:
            self._is_over = True
            connector = self._multiplexer.connector
            connector.failed(self, connector.explain(self, reason))
