"""`sidecar/config/doubts.py`."""

from __future__ import annotations

from sidecar.address import Address
from sidecar.config.doubts import doubts
from sidecar.model import Cluster, Config, Endpoint, PluginRef


def test_clusters_of_nobody() -> None:
    """Neither listed nor discovered."""
    clusters = (
        Cluster(name="empty", origin="a.yaml:3:5"),
        Cluster(name="listed", endpoints=(Endpoint(address=Address("127.0.0.1", 1)),)),
        Cluster(name="found", discovery=PluginRef(kind="discovery", name="dns")),
        Cluster(name="nowhere"),
    )
    first, second = doubts(Config(clusters=clusters))
    assert first == "a.yaml:3:5: cluster empty has no endpoints: every request to it will be answered with 503 (UH)"
    assert second.startswith("cluster nowhere has ")
