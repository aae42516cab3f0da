"""`sidecar/health_checks.py`: from the model to running checks, the wait at the start, the event log and the metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock

from sidecar.address import Address
from sidecar.filters.tcp_check import TCPCheck
from sidecar.health_checks import HealthChecks
from sidecar.model import Cluster, Endpoint, HealthCheck, PluginRef
from sidecar.proxy.steps import Account
from sidecar.telemetry.metrics import Registry
from sidecar.testing import FakeContext
from sidecar.transport.wheel import TimerWheel
from sidecar.upstream.pool import Connector
from tests.memory import Attempt, FirstUntried


class World:
    """Two clusters, one of them without checks; nobody answers yet."""

    def __init__(self, event_log: Path | None = None) -> None:
        self.clock = Clock()
        self.clock.rightNow = 1_000_000_000.0
        self.wheel = TimerWheel(self.clock)
        self.attempts: list[Attempt] = []
        self.health = HealthChecks(self.clock, self.wheel.timer, self._plugin, FakeContext, 1)
        self.registry = Registry()
        self.health.register_metrics(self.registry)
        ref = PluginRef(kind="health-check", name="tcp")
        endpoints = (Endpoint(address=Address("127.0.0.1", 1)), Endpoint(address=Address("127.0.0.1", 2)))
        checks = (HealthCheck(check=ref, timeout=30.0, event_log_path=event_log),)
        self.connectors = [self._add(Cluster(name="a", endpoints=endpoints, health_checks=checks)), self._add(Cluster(name="b", endpoints=endpoints))]
        self.started: list[Any] = []

    def _plugin(self, ref: PluginRef, where: str) -> tuple[TCPCheck, Account]:
        return TCPCheck(TCPCheck.Config(), None), Account(ref.kind, ref.name)

    def _add(self, cluster: Cluster) -> Connector:
        connector = Connector(cluster, FirstUntried(), self._connect, self.clock.seconds, self.wheel.timer, None)
        self.health.add(cluster, connector, None, lambda probed: self._connect)
        return connector

    def _connect(self, address: Address, protocol: Any, tls: Any) -> Attempt:
        self.attempts.append(Attempt(address, protocol))
        return self.attempts[-1]

    def start(self, seconds: float = 5.0) -> None:
        ensureDeferred(self.health.start(seconds)).addBoth(self.started.append)

    def end(self) -> None:
        """Stop everything; nothing may be left to do."""
        self.health.stop()
        self.wheel.stop()
        self.clock.advance(0)
        assert self.clock.getDelayedCalls() == []

    @property
    def unchecked(self) -> int:
        return sum(pool.check_failure == "not checked yet" for pool in self.connectors[0].pools)


def test_only_clusters_with_checks_have_them() -> None:
    """The others cost nothing."""
    world = World()
    assert [checks.name for checks in world.health.clusters] == ["a"] and world.connectors[1].checks is None


def test_the_start_waits_for_the_first_checks() -> None:
    """And no longer."""
    world = World()
    world.start()
    world.attempts[0].succeed()
    assert world.started == [] and world.unchecked == 0
    world.attempts[1].succeed()
    assert world.started == [None] and world.unchecked == 0
    world.end()


@pytest.mark.parametrize("seconds", [5.0, 0.0])
def test_the_start_waits_no_longer_than_it_is_told(seconds: float) -> None:
    """Then those without a result are out."""
    world = World()
    world.start(seconds)
    world.attempts[0].succeed()
    world.clock.advance(seconds)
    assert world.started == [None] and world.unchecked == 1
    world.attempts[1].succeed()
    assert [pool.check_failure for pool in world.connectors[0].pools][1] is None


def test_a_stop_during_the_start() -> None:
    """Nothing waits any more."""
    world = World()
    world.start()
    world.end()
    assert world.started == [None]


def test_metrics() -> None:
    """Probes by cluster and check, endpoints by state."""
    world = World()
    world.start()
    world.attempts[0].succeed()
    text = world.registry.text().decode()
    assert 'sidecar_health_check_attempts_total{cluster="a",check="tcp"} 2' in text
    assert 'sidecar_health_check_success_total{cluster="a",check="tcp"} 1' in text
    assert 'sidecar_health_check_endpoints{cluster="a",state="healthy"} 1' in text
    assert 'sidecar_health_check_endpoints{cluster="a",state="unchecked"} 1' in text


def test_event_log(tmp_path: Path) -> None:
    """A line for each change, with the time."""
    world = World(tmp_path / "events.log")
    world.start()
    for attempt in world.attempts:
        attempt.succeed()
    world.health.stop()
    lines = [json.loads(line) for line in (tmp_path / "events.log").read_text().splitlines()]
    assert [line["host"] for line in lines] == ["127.0.0.1:1", "127.0.0.1:2"]
    assert lines[0]["timestamp"] == "2001-09-09T01:46:40.000Z" and lines[0]["event"] == "add_healthy"


def test_an_event_log_that_cannot_be_written_ends_the_start(tmp_path: Path) -> None:
    """Before anything is asked."""
    world = World(tmp_path / "missing" / "events.log")
    world.start()
    assert isinstance(world.started[0].value, OSError) and world.attempts == []
