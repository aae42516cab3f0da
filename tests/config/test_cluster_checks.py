"""What must hold within a cluster, with the built-in plugins. The rest stands in tests/data/config/broken_semantic."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.config.load import load
from sidecar.errors import ConfigError
from sidecar.plugins import Finder

FULL = "clusters: [{{name: a, endpoints: [10.0.0.1:80], balancer: {{kind: balancer, name: {balancer}}}, slow_start_config: {{slow_start_window: 30s}}}}]"
SHORT = (
    "service: s\nlocality: {{region: eu}}\noutbound: {{listen: 127.0.0.1:1, services: {{a: {{mtls: false, endpoints: [10.0.0.1:80], balancer: {balancer}, "
    "slow_start_config: {{slow_start_window: 30s}}, locality_lb: {{mode: prefer}}, healthy_panic_threshold: 7}}}}}}"
)


@pytest.mark.parametrize("text", [FULL, SHORT])
@pytest.mark.parametrize(("balancer", "fits"), [("round-robin", True), ("least-request", True), ("ring-hash", False), ("maglev", False)])
def test_slow_start_goes_by_weight(text: str, balancer: str, fits: bool, tmp_path: Path) -> None:
    """With a balancer that goes by keys it is told once, in both forms."""
    file = tmp_path / "sidecar.yaml"
    file.write_text(text.format(balancer=balancer))
    if fits:
        assert load(str(file), Finder(), {}).clusters[0].slow_start_config is not None
        return
    with pytest.raises(ConfigError) as found:
        load(str(file), Finder(), {})
    assert str(found.value).count("\n") == 0 and f"the balancer '{balancer}' goes by keys" in str(found.value)


def test_short_form_has_them_too(tmp_path: Path) -> None:
    """What a service says of localities, slow start and panic reaches its cluster, and the node's locality the node."""
    file = tmp_path / "sidecar.yaml"
    file.write_text(SHORT.format(balancer="round-robin"))
    config = load(str(file), Finder(), {})
    [cluster] = config.clusters
    assert cluster.locality_lb is not None and cluster.locality_lb.mode == "prefer" and cluster.healthy_panic_threshold == 7
    assert config.node.locality is not None and config.node.locality.region == "eu"
