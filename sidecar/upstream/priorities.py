"""Where a cluster's circuit limits what waits and what is connected, by routing priority. Asked only when a request finds no free connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sidecar.cluster.circuit import DEFAULT, HIGH, Circuit


def priority_of(owner: Any) -> int:
    """Of an exchange, by its route; what plugins and health checks send is `DEFAULT`."""
    route = getattr(owner, "route", None)
    return DEFAULT if route is None else route.priority


def why_not_wait(circuit: Circuit, pending: int, pools: Iterable[Any], owner: Any) -> str:
    """May this exchange wait for a connection beside `pending` others, in the queues of `pools`? "" when it may."""
    priority = priority_of(owner)
    limit = circuit.most_pending(priority)
    if not limit or pending < limit:
        # However they are shared out.
        return ""
    waiting = [0, 0, priority]
    for pool in pools:
        for ticket in pool.waiting:
            waiting[priority_of(ticket.owner)] += 1
    return circuit.why_not_wait(waiting)


def most_connections(circuit: Circuit, most: int, pool: Any) -> int:
    """How many connections the cluster may have, for those who wait for one to this endpoint; `most`: the pool's own limit."""
    limit = circuit.most_connections(DEFAULT)
    high = circuit.most_connections(HIGH)
    if high != limit and any(priority_of(ticket.owner) == HIGH for ticket in pool.waiting):
        limit = high
    return min(most, limit) if limit else most
