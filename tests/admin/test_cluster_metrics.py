"""Numbers of clusters and endpoints, as they are scraped."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.admin.cluster_metrics import register_cluster_metrics
from sidecar.model import OutlierDetection
from sidecar.telemetry.metrics import Registry
from tests.memory import GET, OK, POST, World

BAD = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


class Scraped(World):
    """A world whose cluster can be scraped."""

    def __init__(self, **cluster: Any) -> None:
        super().__init__(endpoints=3, cluster=cluster)
        self.registry = Registry()
        register_cluster_metrics(SimpleNamespace(connectors={"app": self.connector}), self.registry.gauge_function)

    def ask(self, answer: bytes) -> None:
        client, _ = self.send(GET)
        self.exchanges[-1].upstream.transport.receive(answer)
        assert client.take()

    def value(self, name: str, endpoint: int | None = None) -> float | None:
        """The number of the cluster, or of one of its endpoints; None without a series."""
        labels = 'cluster="app"' if endpoint is None else f'cluster="app",endpoint="127.0.0.1:{8080 + endpoint}"'
        found = [line.split()[-1] for line in self.registry.text().decode().splitlines() if line.startswith(f"{name}{{{labels}}}")]
        return float(found[0]) if found else None


@pytest.mark.parametrize("watched", [{}, {"outlier_detection": OutlierDetection(consecutive_5xx=2)}])
def test_what_became_of_attempts(watched: dict[str, Any]) -> None:
    """Counted for the endpoint and the cluster, whether anybody watches or not."""
    world = Scraped(**watched)
    for answer in (OK, BAD, OK, BAD):
        world.ask(answer)
    for scope in ("endpoint", "upstream"):
        endpoint = 0 if scope == "endpoint" else None
        numbers = [world.value(f"sidecar_{scope}_{name}_total", endpoint) for name in ("requests", "successes", "failures", "connect_failures")]
        assert numbers == [4, 2, 2, 0]
    _, app = world.send(POST + b"hello")
    assert world.value("sidecar_endpoint_active", 0) == 1
    app.lose()
    assert world.value("sidecar_endpoint_failures_total", 0) == 3


def test_health() -> None:
    """Who is well, how many are, how often one was ejected, and panic."""
    world = Scraped(outlier_detection=OutlierDetection(consecutive_5xx=1, max_ejection_percent=100))
    world.ask(BAD)
    assert [world.value("sidecar_endpoint_healthy", number) for number in range(3)] == [0, 1, 1]
    assert [world.value("sidecar_endpoint_ejections_total", 0), world.value("sidecar_upstream_ejections_total")] == [1, 1]
    assert [world.value(f"sidecar_upstream_{name}") for name in ("endpoints", "endpoints_healthy", "panicking")] == [3, 2, 0]
    world.connector.set_checked(world.connector.pools[1], False, "no")
    assert [world.value(f"sidecar_upstream_{name}") for name in ("endpoints_healthy", "panicking")] == [1, 1]


def test_a_success_is_never_taken_back() -> None:
    """While an answer of 500 is still coming it counts as running and as failed, and the counter of successes stays."""
    world = Scraped()
    world.ask(OK)
    assert world.value("sidecar_endpoint_successes_total", 0) == 1
    _, app = world.send(GET)
    app.receive(BAD.replace(b"Length: 0", b"Length: 5"))
    assert world.value("sidecar_endpoint_successes_total", 0) == 1
    app.receive(b"sorry")
    assert world.value("sidecar_endpoint_successes_total", 0) == 1


@pytest.mark.parametrize(("limit", "series"), [(0, 0), (2, 2), (100, 3)])
def test_series_are_bounded(limit: int, series: int) -> None:
    """As many endpoints as `endpoint_metrics` says have their own; the cluster's count all."""
    world = Scraped(endpoint_metrics=limit)
    assert sum(world.value("sidecar_endpoint_requests_total", number) is not None for number in range(3)) == series
    assert world.value("sidecar_upstream_endpoints") == 3
