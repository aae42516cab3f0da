"""Metrics of clusters and of their endpoints, from numbers that the path keeps anyway.

What a cluster may hold has no bound, so only the first `endpoint_metrics` endpoints of each have series of their own; the cluster's count all.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

Numbers = dict[tuple[str, ...], float]

_CLUSTER = ("cluster",)
_ENDPOINT = ("cluster", "endpoint")


def register_cluster_metrics(sidecar: Any, add: Callable[..., None]) -> None:
    """`add`: `Registry.gauge_function`."""
    for name, help, read in (
        ("connections", "Connections open or being opened now.", lambda each: each.connections),
        ("pending", "Requests waiting for a connection now.", lambda each: each.pending),
        ("endpoints", "Endpoints, those with weight 0 and those that drain left out.", lambda each: _counts(each)[1]),
        ("endpoints_healthy", "Of these, the ones that nobody says anything against.", lambda each: _counts(each)[0]),
        ("endpoints_degraded", "Of all, the ones that are used only where the healthy ones do not suffice.", _degraded),
        ("endpoints_draining", "Endpoints that left the cluster and still have connections.", lambda each: len(each.members.retired)),
        ("panicking", "1 while a priority has too few healthy endpoints and uses all.", lambda each: int(each.members.usage.is_panicking)),
    ):
        add(f"sidecar_upstream_{name}", help, _clusters(sidecar, read), _CLUSTER)
    for name, help in (
        ("requests", "Attempts."),
        ("connections_opened", "Connections begun."),
        ("connect_failures", "Connections that failed."),
        ("overflows", "Requests refused because of max_pending."),
        ("no_endpoint", "Requests refused because there was no endpoint."),
        ("max_duration_reached", "Connections of TCP proxies closed for their age."),
    ):
        add(f"sidecar_upstream_{name}_total", help, _clusters(sidecar, _counter(name)), _CLUSTER, type="counter")
    for name, help, read in (
        ("successes", "Attempts that were answered with a status below 500.", lambda each: each.successes),
        ("failures", "Attempts that were answered with 500 or above, broke, or were not answered in time.", lambda each: each.failures),
        ("ejections", "Endpoints taken out by outlier detection.", lambda each: 0 if each.watch is None else each.watch.ejections),
        ("ejections_overflow", "Ejections that max_ejection_percent did not allow.", lambda each: 0 if each.watch is None else each.watch.overflows),
    ):
        add(f"sidecar_upstream_{name}_total", help, _clusters(sidecar, read), _CLUSTER, type="counter")
    for name, help, kind, read in (
        ("requests_total", "Attempts.", "counter", lambda pool: pool.requests),
        ("successes_total", "Attempts that were answered with a status below 500.", "counter", lambda pool: pool.successes),
        ("failures_total", "Attempts that were answered with 500 or above, broke, or were not answered in time.", "counter", lambda pool: pool.errors),
        ("connect_failures_total", "Connections that failed.", "counter", lambda pool: pool.failures),
        ("ejections_total", "How often outlier detection took it out.", "counter", lambda pool: 0 if pool.health is None else pool.health.ejections),
        ("active", "Requests running now.", "gauge", lambda pool: pool.active),
        ("connections", "Connections open or being opened now.", "gauge", lambda pool: pool.connections),
        ("healthy", "1 when nobody says anything against it.", "gauge", lambda pool: int(pool.is_well)),
    ):
        add(f"sidecar_endpoint_{name}", help, _endpoints(sidecar, read), _ENDPOINT, type=kind)


def _clusters(sidecar: Any, read: Callable[[Any], float]) -> Callable[[], Numbers]:
    return lambda: {(name,): read(connector) for name, connector in sidecar.connectors.items()}


def _counter(name: str) -> Callable[[Any], float]:
    return lambda connector: float(connector.counters[name])


def _counts(connector: Any) -> tuple[int, int]:
    """(healthy, all)."""
    counts = [level.counts for level in connector.members.usage.levels]
    return sum(well for well, _ in counts), sum(total for _, total in counts)


def _degraded(connector: Any) -> int:
    return sum(level.degraded for level in connector.members.usage.levels)


def _endpoints(sidecar: Any, read: Callable[[Any], float]) -> Callable[[], Numbers]:
    def numbers() -> Numbers:
        return {
            (name, pool.text): read(pool)
            for name, connector in sidecar.connectors.items()
            for pool in islice(connector.pools, connector.cluster.endpoint_metrics)
        }

    return numbers
