"""All discoveries of one configuration, started together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred
from zope.interface import implementer

from sidecar.address import Address
from sidecar.assembly import Sidecar
from sidecar.config.load import load
from sidecar.discovering import LOOK_SECONDS, Discoveries, register_discovery_metrics
from sidecar.errors import ConfigError
from sidecar.interfaces import IDiscovery
from sidecar.model import Cluster, Config, Endpoint, PluginRef
from sidecar.plugins import Finder
from sidecar.telemetry.metrics import Registry
from sidecar.testing import Clock


@implementer(IDiscovery)
class Plugin:
    """Answers when a test says so."""

    def __init__(self, error: Exception | None = None) -> None:
        self.first: Deferred[None] = Deferred()
        self.error = error
        self.is_stopped = False

    def watch(self, changed: Callable[[Any], None]) -> Deferred[None]:
        """See `IDiscovery`."""
        self.changed = changed
        if self.error is not None:
            raise self.error
        return self.first

    def stop(self) -> None:
        """See `IDiscovery`."""
        self.is_stopped = True

    def snapshot(self) -> dict[str, Any]:
        """See `IDiscovery`."""
        return {"source": "a test", "last_success": None, "last_error": "", "failures": 2}


class Members:
    """Of a connector."""

    is_changing = False


class Connector:
    """Takes sets."""

    def __init__(self) -> None:
        self.members = Members()
        self.sets: list[int] = []

    def set_endpoints(self, endpoints: Any) -> None:
        """See `upstream.pool.Connector`."""
        self.sets.append(len(endpoints))


def a_cluster(name: str, fail_open: bool = False) -> Cluster:
    """A cluster with discovery."""
    return Cluster(name=name, discovery=PluginRef(kind="discovery", name="test", fail_open=fail_open, origin="sidecar.yaml:3:7"))


def test_side_by_side() -> None:
    """All are asked at once; the start goes on when the last has answered and every set is in use."""
    clock = Clock()
    discoveries = Discoveries(clock)
    plugins, connectors = [Plugin(), Plugin()], [Connector(), Connector()]
    for name, plugin, connector in zip("ab", plugins, connectors, strict=True):
        discoveries.add(a_cluster(name), plugin, connector)  # type: ignore[arg-type]
    done: list[None] = []
    ensureDeferred(discoveries.start()).addCallback(done.append)
    for plugin in plugins:
        plugin.changed([Endpoint(address=Address("10.0.0.1", 80))])
    plugins[1].first.callback(None)
    assert done == []
    connectors[1].members.is_changing = True
    plugins[0].first.callback(None)
    assert done == []
    connectors[1].members.is_changing = False
    clock.advance(LOOK_SECONDS)
    assert done == [None]
    assert [each.sets for each in connectors] == [[1], [1]]
    assert discoveries.snapshot("a")["discovery"]["plugin"] == "test"
    assert discoveries.snapshot("other") == {}
    discoveries.stop()
    assert all(plugin.is_stopped for plugin in plugins)


def test_plugins_that_cannot_watch() -> None:
    """All of them are told, with their places; one that may fail is passed over."""
    discoveries = Discoveries(Clock())
    for name, fail_open in (("a", False), ("b", True), ("c", False)):
        discoveries.add(a_cluster(name, fail_open), Plugin(ValueError("no")), Connector())  # type: ignore[arg-type]
    outcome: list[Any] = []
    ensureDeferred(discoveries.start()).addErrback(lambda failure: outcome.append(failure.value))
    [error] = outcome
    assert isinstance(error, ConfigError)
    assert [str(each) for each in error.problems] == [f"sidecar.yaml:3:7: cluster {name}: discovery test could not start: no" for name in "ac"]


def test_metrics() -> None:
    """By cluster; no age before there was an answer."""
    registry, discoveries = Registry(), Discoveries(Clock())
    register_discovery_metrics(registry.gauge_function, discoveries)
    discoveries.add(a_cluster("a"), Plugin(), Connector())  # type: ignore[arg-type]
    text = registry.text().decode()
    assert 'sidecar_discovery_failures_total{cluster="a"} 2\n' in text
    assert 'sidecar_discovery_endpoints{cluster="a"} 0\n' in text
    assert "sidecar_discovery_age_seconds{" not in text


def sidecar(tmp_path: Path, text: str) -> Sidecar:
    """Of a configuration file."""
    (tmp_path / "sidecar.yaml").write_text(text)
    config: Config = load(str(tmp_path / "sidecar.yaml"), Finder(), {})
    return Sidecar(config, Clock(), Finder())


def test_two_clusters_of_one_entry(tmp_path: Path) -> None:
    """An alias gives each a discovery and a balancer of its own."""
    text = """
admin: null
clusters:
  - {name: a, discovery: &d {kind: discovery, name: static, config: {endpoints: ["10.0.0.1:80"]}}, balancer: &b {kind: balancer, name: random}}
  - {name: b, discovery: *d, balancer: *b}
"""
    made = sidecar(tmp_path, text)
    done: list[None] = []
    ensureDeferred(made.start()).addCallback(done.append)
    assert done == [None]
    for name in "ab":
        assert [pool.text for pool in made.connectors[name].pools] == ["10.0.0.1:80"]
    ensureDeferred(made.stop())


@pytest.mark.parametrize("fail_open", [False, True])
def test_a_start_that_fails(tmp_path: Path, fail_open: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the place of the entry; or goes on without endpoints, where that is wanted."""
    monkeypatch.setattr("sidecar.discovery.static.Static.watch", lambda self, changed: 1 / 0)
    entry = f"{{kind: discovery, name: static, fail_open: {str(fail_open).lower()}, config: {{endpoints: []}}}}"
    made = sidecar(tmp_path, f"admin: null\nclusters:\n  - {{name: a, discovery: {entry}}}\n")
    outcome: list[Any] = []
    ensureDeferred(made.start()).addBoth(outcome.append)
    if fail_open:
        assert outcome == [None]
        ensureDeferred(made.stop())
    else:
        assert str(outcome[0].value).endswith("sidecar.yaml:3:26: cluster a: discovery static could not start: division by zero")
