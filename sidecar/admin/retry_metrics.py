"""Metrics of attempts, by cluster and by endpoint. Read from the connectors when scraped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

Numbers = Mapping[tuple[str, ...], float]

CLUSTER_COUNTERS = (
    ("retries", "Attempts that followed a failed one."),
    ("retries_succeeded", "Requests with several attempts that were answered below 500."),
    ("retries_exhausted", "Requests that failed after all attempts."),
    ("retries_denied", "Attempts that the budget or max_retries did not allow."),
    ("per_try_timeouts", "Attempts whose time was over."),
    ("hedges", "Attempts that ran beside another one."),
    ("hedges_won", "Attempts beside another one whose answer the client got."),
)
ENDPOINT_COUNTERS = (
    ("retries", "Attempts at it that another one followed."),
    ("per_try_timeouts", "Attempts at it whose time was over."),
)


def register_retry_metrics(add: Callable[..., None], connectors: Callable[[], Mapping[str, Any]]) -> None:
    """`add`: `Registry.gauge_function`. `connectors()`: the clusters by name."""
    for name, help in CLUSTER_COUNTERS:
        add(f"sidecar_upstream_{name}_total", help, _by_cluster(connectors, name), ("cluster",), type="counter")
    for name, help in ENDPOINT_COUNTERS:
        add(f"sidecar_endpoint_{name}_total", help, _by_endpoint(connectors, name), ("cluster", "endpoint"), type="counter")


def _by_cluster(connectors: Callable[[], Mapping[str, Any]], counter: str) -> Callable[[], Numbers]:
    return lambda: {(name,): each.counters[counter] for name, each in connectors().items()}


def _by_endpoint(connectors: Callable[[], Mapping[str, Any]], counter: str) -> Callable[[], Numbers]:
    # No more than have metrics of their own, and those that nothing happened to are left out.
    return lambda: {
        (name, pool.text): value
        for name, each in connectors().items()
        for pool in islice(each.pools, each.cluster.endpoint_metrics)
        if (value := getattr(pool, counter))
    }
