"""How endpoints leave a cluster: nothing new goes there, what runs ends in peace, who waits is moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.interfaces import IUpstreamStream
from sidecar.upstream.endpoint import EndpointPool, Ticket
from sidecar.upstream.picking import picking_failed

if TYPE_CHECKING:
    from sidecar.upstream.pool import Connector


class Leaving:
    """A part of the connector. `successes`, `failures`: attempts at endpoints that are gone."""

    def __init__(self, connector: Connector) -> None:
        self.successes = self.failures = 0
        self._connector = connector

    def retire(self, pool: EndpointPool) -> None:
        """It left the cluster, and the balancers do not know it any more. May be called again while it has connections."""
        connector = self._connector
        pool.is_closed = True
        while pool.idle:
            pool.idle.popleft().close_idle()
        if connector.multiplexer is not None:
            connector.multiplexer.retire(pool)
        for ticket in list(pool.waiting):
            self._move(ticket)
        self.look_at(pool)

    def look_at(self, pool: EndpointPool) -> None:
        """One that left has lost a connection, or somebody who waited: is it gone?"""
        retired = self._connector.members.retired
        if not pool.connections and not pool.waiting and retired.get(pool.address) is pool:
            del retired[pool.address]
            self.successes += pool.successes
            self.failures += pool.errors

    def come_back(self, pool: EndpointPool) -> None:
        """Somebody waits at one that left. When it was gone already it is counted with those that are leaving once more: what comes now is not lost."""
        retired = self._connector.members.retired
        if pool.address not in retired:
            retired[pool.address] = pool
            self.successes -= pool.successes
            self.failures -= pool.errors

    def another(self, pool: EndpointPool, owner: Any, tried: tuple[Any, ...]) -> EndpointPool:
        """An endpoint in the place of one that left; when there is no other who has its address now, or the same one."""
        # A stream that a server refused asks for its exchange; everybody else asks for a stream.
        last = self._connector.members.at(pool.address) or pool
        exchange = getattr(owner, "owner", owner) if IUpstreamStream.providedBy(owner) else owner
        try:
            other: Any = self._connector.pick(exchange, tried)
        except BaseException:
            picking_failed(self._connector.cluster)
            return last
        return last if other.__class__ is not EndpointPool or other.is_closed else other

    def _move(self, ticket: Ticket) -> None:
        connector, old, owner = self._connector, ticket.pool, ticket.owner
        if owner is None:
            return
        pool = self.another(old, owner, ticket.tried)
        if pool is old:
            # Its connection may be on the way, and is better than an error.
            return
        old.waiting.remove(ticket)
        connector.pending -= 1
        ticket.owner = None
        if not connector.serve(pool, owner, ticket.fresh):
            ticket.owner = owner
            ticket.pool = pool
            connector.queue(ticket)
