"""Discovery for the clusters that have one: started together, shown and counted by cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import DeferredList
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from sidecar import model
from sidecar.discovery.cluster import ClusterDiscovery
from sidecar.errors import ConfigError, Problem
from sidecar.upstream.pool import Connector

_log = Logger(namespace="sidecar.discovery")
LOOK_SECONDS = 0.01  # between two looks at a set that is being taken into use


class Discoveries:
    """All of one running configuration. `add` each, then `start`, and `stop` at the end. `reactor` is the clock."""

    def __init__(self, reactor: Any) -> None:
        self.by_cluster: dict[str, ClusterDiscovery] = {}
        self._reactor = reactor
        self._entries: list[tuple[model.Cluster, ClusterDiscovery, Connector]] = []

    def add(self, cluster: model.Cluster, plugin: Any, connector: Connector) -> None:
        """The cluster's endpoints are those that `plugin` (an `IDiscovery`) tells of."""
        assert cluster.discovery is not None
        made = ClusterDiscovery(cluster.name, cluster.discovery.name, plugin, connector.set_endpoints, self._reactor)
        self.by_cluster[cluster.name] = made
        self._entries.append((cluster, made, connector))

    async def start(self) -> None:
        """All watch, and each has its first answer, which is in use by then, or its time for that is over. Raises `ConfigError` for plugins that cannot."""
        waits = [discovery.start(cluster.initial_fetch_timeout) for cluster, discovery, _ in self._entries]
        outcomes: list[tuple[bool, Any]] = await DeferredList(waits, consumeErrors=True)
        problems: list[Problem] = []
        for (cluster, _, _), (is_good, result) in zip(self._entries, outcomes, strict=True):
            if not is_good:
                self._report(cluster, result, problems)
        if problems:
            raise ConfigError(problems)
        for _, _, connector in self._entries:
            while connector.members.is_changing:  # a large set takes a few turns, and may rest for up to a second before the next one
                await deferLater(self._reactor, LOOK_SECONDS, lambda: None)

    def _report(self, cluster: model.Cluster, failure: Failure, problems: list[Problem]) -> None:
        ref = cluster.discovery
        assert ref is not None
        sentence = f"cluster {cluster.name}: discovery {ref.name} could not start: {failure.getErrorMessage() or type(failure.value).__name__}"
        if ref.fail_open:
            _log.failure("{sentence}; the cluster goes without endpoints", failure, sentence=sentence)
            return
        _log.debug("{sentence}: {failure}", sentence=sentence, failure=failure)
        file, line, column = ("", "0", "0") if ref.origin.count(":") < 2 else ref.origin.rsplit(":", 2)
        problems.append(Problem(sentence, file, int(line) if line.isdigit() else 0, int(column) if column.isdigit() else 0))

    def stop(self) -> None:
        """Nobody watches any more."""
        for discovery in self.by_cluster.values():
            discovery.stop()

    def snapshot(self, cluster: str) -> dict[str, Any]:
        """What `/clusters` adds to a cluster; nothing for one without discovery."""
        discovery = self.by_cluster.get(cluster)
        return {} if discovery is None else {"discovery": discovery.snapshot()}


def register_discovery_metrics(add: Callable[..., None], discoveries: Discoveries) -> None:
    """Add the sources to a registry (`add`: its `gauge_function`)."""

    def numbers(key: str) -> Callable[[], dict[tuple[str, ...], float]]:
        def read() -> dict[tuple[str, ...], float]:
            shown = {name: each.snapshot() for name, each in discoveries.by_cluster.items()}
            return {(name,): each[key] for name, each in shown.items() if each[key] is not None}

        return read

    labels = ("cluster",)
    add("sidecar_discovery_updates_total", "Sets of endpoints taken into use.", numbers("updates"), labels, type="counter")
    add("sidecar_discovery_failures_total", "Look-ups that failed; what was known stays in use.", numbers("failures"), labels, type="counter")
    add("sidecar_discovery_refusals_total", "Sets refused because a plugin told of something else than endpoints.", numbers("refusals"), labels, type="counter")
    add("sidecar_discovery_age_seconds", "Time since the last good answer.", numbers("age_seconds"), labels)
    add("sidecar_discovery_endpoints", "Endpoints that discovery knows.", numbers("endpoints"), labels)
