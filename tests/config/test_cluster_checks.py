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


CLUSTER = "clusters: [{{name: a, endpoints: [10.0.0.1:80], {}}}]"
LISTENER = (
    "listeners: [{{name: in, address: 127.0.0.1:0, direction: inbound, filter_chains: [{{http: {{{} routes: {{name: t, virtual_hosts: "
    "[{{name: v, routes: [{{cluster: a{}}}]}}]}}}}}}]}}]\nclusters: [{{name: a, endpoints: [10.0.0.1:80]{}}}]"
)
CANARY = (
    LISTENER.replace("{{cluster: a{}}}", "{{weighted_clusters: [{{cluster: a, weight: 1}}, {{cluster: b, weight: 9}}], hash_policy: [{{header: x}}]}}")
    .replace("endpoints: [10.0.0.1:80]{}", "endpoints: [10.0.0.1:80]}}, {{name: b, endpoints: [10.0.0.2:80], balancer: {{kind: balancer, name: {}}}")
    .replace("{{http: {{{} routes", "{{http: {{routes")
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (CLUSTER.format("http2: {max_concurrent_streams: 5}"), "clusters[0].http2: this cluster is spoken to in HTTP/1.1 (`protocol: h1`)"),
        (CLUSTER.format("protocol: auto, http2: {keepalive_interval: 5s}"), "clusters[0].http2: in cleartext `protocol: auto` is HTTP/1.1"),
        (CLUSTER.format("protocol: auto, tls: {hostname: a}, http2: {keepalive_interval: 5s}"), ""),
        (CLUSTER.format("protocol: h2, http2: {keepalive_interval: 5s}"), ""),
        (CLUSTER.format("protocol: downstream, http2: {keepalive_interval: 5s}"), ""),
        (CLUSTER.format("http2: {keepalive_interval: 0}"), ""),
        (LISTENER.format("codec: h1, http2: {keepalive_interval: 5s},", "", ""), "http.http2: this listener speaks HTTP/1.1 alone (`codec: h1`)"),
        (LISTENER.format("codec: h1, http2: {},", "", ""), ""),
        (LISTENER.format("http2: {keepalive_interval: 5s},", "", ""), ""),
        (LISTENER.format("", ", hash_policy: [{header: x}]", ""), "hash_policy: the balancer 'round-robin' of the cluster 'a' does not look at it"),
        (LISTENER.format("", ", hash_policy: [{header: x}]", ", balancer: {kind: balancer, name: peak-ewma}"), "the balancer 'peak-ewma' of the cluster 'a'"),
        (LISTENER.format("", ", hash_policy: [{header: x}]", ", balancer: {kind: balancer, name: maglev}"), ""),
        (CANARY.format("maglev"), ""),
        (CANARY.format("random"), "the balancer 'round-robin' of the cluster 'a' does not look at it, the balancer 'random' of the cluster 'b' does not"),
    ],
)
def test_what_nobody_would_look_at_is_told_of(text: str, problem: str, tmp_path: Path) -> None:
    """Settings of HTTP/2 where it is not spoken, keys where no balancer goes by them; defaults that are written out are right."""
    file = tmp_path / "sidecar.yaml"
    file.write_text(text)
    if not problem:
        assert load(str(file), Finder(), {})
        return
    with pytest.raises(ConfigError) as found:
        load(str(file), Finder(), {})
    [told] = found.value.problems
    assert problem in str(told)
    assert told.line > 0
