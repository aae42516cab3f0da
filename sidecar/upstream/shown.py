"""A cluster and its endpoints as `/clusters` shows them: numbers that the path keeps anyway, and why an endpoint is used or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.upstream.endpoint import EndpointPool

if TYPE_CHECKING:
    from sidecar.upstream.pool import Connector


def snapshot(connector: Connector) -> dict[str, Any]:
    """The whole cluster, as what JSON can hold."""
    members, watch, circuit, checks = connector.members, connector.watch, connector.circuit, connector.checks
    return {
        "name": connector.name,
        "connections": connector.connections,
        "pending": connector.pending,
        **connector.counters,
        **({} if circuit is None else circuit.snapshot()),
        "ejections": 0 if watch is None else watch.ejections,
        "panicking": members.is_panicking,
        "endpoints": [
            {
                **_endpoint(pool),
                **({} if watch is None else watch.snapshot(pool)),
                **({} if checks is None else {"health_checks": checks.snapshot(pool)}),
            }
            for pool in members.pools
        ],
        "draining": [_endpoint(pool) for pool in members.retired.values()],
    }


def _endpoint(pool: EndpointPool) -> dict[str, Any]:
    configured = pool.configured
    return {
        "address": pool.text,
        "hostname": configured.hostname,
        "priority": configured.priority,
        "locality": "" if configured.locality is None else str(configured.locality),
        "metadata": configured.metadata,
        "discovery": configured.health,
        "check": pool.check_failure or "",
        "weight": pool.weight,
        "active_requests": pool.active,
        "connections": pool.connections,
        "idle": len(pool.idle),
        "connecting": len(pool.connecting),
        "waiting": len(pool.waiting),
        "requests": pool.requests,
        "connect_failures": pool.failures,
    }
