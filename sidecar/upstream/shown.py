"""A cluster and its endpoints as `/clusters` shows them: numbers that the path keeps anyway, and why an endpoint is used or not."""

from __future__ import annotations

from collections.abc import Generator
from itertools import islice
from typing import TYPE_CHECKING, Any

from sidecar.cluster.grouping import Level, Match, is_degraded
from sidecar.cluster.subsets import NOBODY
from sidecar.model import Locality
from sidecar.upstream.endpoint import EndpointPool
from sidecar.upstream.usage import why_out

if TYPE_CHECKING:
    from sidecar.upstream.pool import Connector


ENDPOINTS_SHOWN = 1000  # of a cluster on one page: nobody reads more, and it has a megabyte
DRAINING_SHOWN = 100  # nobody waits for a certain one
ENDPOINTS_AT_ONCE = 25  # told of in one step, half a millisecond; of ten thousand none is in a processor's cache


def shown(connector: Connector, offset: int = 0) -> Generator[None, None, dict[str, Any]]:
    """The cluster, as what JSON can hold, with its endpoints from `offset` on; made in steps."""
    members, watch, circuit, checks = connector.members, connector.watch, connector.circuit, connector.checks
    usage = members.usage
    pools = members.pools[offset : offset + ENDPOINTS_SHOWN]
    made = {
        "name": connector.name,
        "connections": connector.connections,
        "pending": connector.pending,
        **connector.counters,
        **({} if circuit is None else circuit.snapshot()),
        "ejections": 0 if watch is None else watch.ejections,
        "ejections_overflow": 0 if watch is None else watch.overflows,
        "panicking": usage.is_panicking,
        "priorities": [_level(level) for level in usage.levels],
        "subsets": [{"metadata": dict(match), "endpoints": count, "served_by": _served_by(usage.served_by(match))} for match, count in usage.subsets.items()],
        "endpoints": [],
        "endpoints_not_shown": len(members.pools) - len(pools),
        "draining": [],
    }
    for start in range(0, len(pools), ENDPOINTS_AT_ONCE):
        yield
        made["endpoints"] += [
            {
                **_endpoint(pool, usage.weight_scale),
                **({} if watch is None else watch.snapshot(pool)),
                **({} if checks is None else {"health_checks": checks.snapshot(pool)}),
            }
            for pool in pools[start : start + ENDPOINTS_AT_ONCE]
        ]
    yield
    made["draining"] = [_endpoint(pool, usage.weight_scale) for pool in islice(members.retired.values(), DRAINING_SHOWN)]
    return made


def _served_by(match: Match | None) -> str | dict[str, str]:
    return "any endpoint" if match is None else "nobody" if match == NOBODY else dict(match)


def _level(level: Level) -> dict[str, Any]:
    well, total = level.counts
    return {
        "priority": level.priority,
        "distance": level.distance,
        "share": round(level.share, 4),
        "degraded_share": round(level.degraded_share, 4),
        "panicking": level.is_panicking,
        "healthy": well,
        "degraded": level.degraded,
        "endpoints": total,
        "localities": {
            str(place): {"healthy": len(group.well), "endpoints": len(group.staying), **_zone_share(level, place)}
            for place, group in level.groups.items()
            if place is not None
        },
        **({"zone_routing": level.zone_routing} if level.zone_routing else {}),
    }


def _zone_share(level: Level, place: Locality) -> dict[str, float]:
    return {} if level.zone_shares is None else {"share": round(level.zone_shares.get(place, 0.0), 4)}


def _endpoint(pool: EndpointPool, weight_scale: int) -> dict[str, Any]:
    configured = pool.configured
    return {
        "address": pool.text,
        "hostname": configured.hostname,
        "priority": configured.priority,
        "locality": "" if configured.locality is None else str(configured.locality),
        "metadata": configured.metadata,
        "weight": configured.weight,
        "weight_now": round(pool.weight / weight_scale, 2),
        "healthy": not why_out(pool),
        "degraded": is_degraded(pool),
        "discovery": configured.health,
        "check": "ok" if pool.check_failure is None else pool.check_failure,
        "outlier": pool.health.reason if pool.health is not None and pool.health.is_ejected else "ok",
        "failing": pool.is_failing,
        "active_requests": pool.active,
        "connections": pool.connections,
        "idle": len(pool.idle),
        "connecting": len(pool.connecting),
        "waiting": len(pool.waiting),
        "requests": pool.requests,
        "failures": pool.errors,
        "connect_failures": pool.failures,
    }
