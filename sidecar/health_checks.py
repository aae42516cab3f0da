"""Active health checks, from the model to running objects: introduces plugins, probes, clusters, metrics and the event log to each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, gatherResults

from sidecar.export.lines import LineWriter
from sidecar.http2 import multiplex
from sidecar.model import Cluster, HealthCheck, PluginRef
from sidecar.telemetry.metrics import Registry
from sidecar.transport.descriptors import client_descriptors
from sidecar.upstream.pool import Connector
from sidecar.upstream.probe import KEPT_CONNECTIONS, ProbeConnector, for_probes
from sidecar.upstream.probing import Checker, ClusterChecks

# For each connection that all probes together may keep, so many of clients.
CLIENTS_PER_PROBE = 4


def is_used(connector: Connector) -> bool:
    """Has the cluster ever had a request, in any version of HTTP?"""
    twin = connector.h2_twin
    return connector.counters["requests"] > 0 or (twin is not None and twin.counters["requests"] > 0)


class HealthChecks:
    """The checks of all clusters. `plugin_of(ref, where)`: the plugin and its account; `context_of(name)`: a plugin's context, for the event log.
    `count`: how many checks there are."""

    def __init__(
        self,
        reactor: Any,
        timer: Callable[[Callable[[], object]], Any],
        plugin_of: Callable[[PluginRef, str], tuple[Any, Any]],
        context_of: Callable[[str], Any],
        count: int,
    ) -> None:
        self.clusters: list[ClusterChecks] = []
        self._reactor = reactor
        self._timer = timer
        self._plugin_of = plugin_of
        self._context_of = context_of
        # Descriptors are there for clients and for requests first.
        self._kept = min(KEPT_CONNECTIONS, client_descriptors() // (CLIENTS_PER_PROBE * max(1, count)))
        self._dice = Random().random
        self._logs: dict[str, LineWriter] = {}

    def add(self, cluster: Cluster, connector: Connector, security: Any, dial: Callable[[Cluster], Callable[..., Any]]) -> None:
        """Check this cluster's endpoints, if it has checks. `dial(cluster)`: what connects as the cluster says."""
        checkers = [self._checker(cluster, check, connector, security, dial) for check in cluster.health_checks]
        if checkers:
            connector.checks = ClusterChecks(connector, checkers)
            self.clusters.append(connector.checks)

    def _checker(self, cluster: Cluster, check: HealthCheck, connector: Connector, security: Any, dial: Callable[[Cluster], Callable[..., Any]]) -> Checker:
        plugin, account = self._plugin_of(check.check, f"cluster {cluster.name}")
        probed = for_probes(cluster, check, self._kept)
        seconds = self._reactor.seconds
        probes = ProbeConnector(probed, check.port, self._kept, dial(probed), seconds, self._timer, security)
        multiplex(probes, probed, self._reactor, self._timer)
        return Checker(
            check,
            plugin,
            account,
            probes,
            partial(is_used, connector),
            seconds,
            self._timer,
            partial(self._reactor.callLater, 0),
            self._dice,
            None if check.event_log_path is None else partial(self._write, self._log_at(str(check.event_log_path))),
        )

    def _log_at(self, path: str) -> LineWriter:
        """One writer for each file, however many checks write to it."""
        if path not in self._logs:
            self._logs[path] = LineWriter(path, self._context_of("health-check-events"))
        return self._logs[path]

    def _write(self, log: LineWriter, event: dict[str, Any]) -> None:
        now = datetime.fromtimestamp(self._reactor.seconds(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        log.write(msgspec.json.encode({"timestamp": now, **event}) + b"\n")

    async def start(self, warming_seconds: float) -> None:
        """Begin, and wait until each endpoint has been checked once, at most this long. Raises `OSError` for an event log that cannot be written."""
        for log in self._logs.values():
            log.start()
        if not self.clusters:
            return
        done = gatherResults([checks.start() for checks in self.clusters])
        if warming_seconds and not done.called:
            enough: Deferred[None] = Deferred()
            late = self._reactor.callLater(warming_seconds, enough.callback, None)
            done.addCallback(lambda _: None if enough.called else enough.callback(None))
            await enough
            if late.active():
                late.cancel()
        for checks in self.clusters:
            checks.warmed()

    def stop(self) -> None:
        """No more checks; the event logs are written out."""
        for checks in self.clusters:
            checks.stop()
        for log in self._logs.values():
            log.stop()

    def register_metrics(self, registry: Registry) -> None:
        """Numbers by cluster and check, and endpoints by state."""
        labels = ("cluster", "check")
        for name, counter, help in (
            ("sidecar_health_check_attempts_total", "attempts", "Probes begun."),
            ("sidecar_health_check_success_total", "success", "Probes that found the endpoint well."),
            ("sidecar_health_check_failure_total", "failure", "Probes that did not."),
            ("sidecar_health_check_timeouts_total", "timeouts", "Those of them that got no answer in time."),
        ):
            registry.gauge_function(name, help, partial(self._sums, counter), labels, "counter")
        registry.gauge_function("sidecar_health_check_endpoints", "Endpoints by what their checks say now.", self._states, ("cluster", "state"))

    def _sums(self, counter: str) -> dict[tuple[str, ...], float]:
        sums: dict[tuple[str, ...], float] = {}
        for checks, checker in self._all():
            key = (checks.name, checker.name)
            sums[key] = sums.get(key, 0) + checker.counters[counter]
        return sums

    def _all(self) -> Iterable[tuple[ClusterChecks, Checker]]:
        return ((checks, checker) for checks in self.clusters for checker in checks.checkers)

    def _states(self) -> dict[tuple[str, ...], float]:
        return {(checks.name, state): count for checks in self.clusters for state, count in checks.counts().items()}
