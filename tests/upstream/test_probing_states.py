"""Health checks under everything that may happen to a cluster at once: endpoints that come and go, answers of all kinds, time, failures of requests."""

from __future__ import annotations

from typing import Any

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.cluster.checking import combined
from sidecar.errors import ConnectFailed
from sidecar.model import OutlierDetection
from sidecar.verdicts import Unwell
from tests.upstream.test_probing import Asked, World

PORTS = range(1, 7)
ANSWERS = [None, Unwell("ill"), Unwell("very ill", at_once=True), ConnectFailed("nobody is there"), RuntimeError("a mistake"), "nonsense"]


class Probing(RuleBasedStateMachine):
    """Two checks of one cluster, at most two probes at a time."""

    def __init__(self) -> None:
        super().__init__()
        detection = OutlierDetection(consecutive_5xx=2, max_ejection_percent=100, base_ejection_time=7.0)
        self.world = World(Asked(), Asked(), endpoints=3, max_concurrent=2, cluster={"outlier_detection": detection})
        self.world.turn()

    @property
    def under_way(self) -> list[tuple[Asked, int]]:
        return [(plugin, port) for plugin in self.world.plugins for port in plugin.probes]

    @rule(ports=st.sets(st.sampled_from(PORTS)))
    def discovered(self, ports: set[int]) -> None:
        """Another set of endpoints."""
        self.world.connector.set_endpoints(self.world.made(*ports))

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 10), answer=st.sampled_from(ANSWERS))
    def answered(self, which: int, answer: Any) -> None:
        """A probe ends."""
        plugin, port = self.under_way[which % len(self.under_way)]
        plugin.answer(port, answer)

    @rule(seconds=st.sampled_from([0.0001, 0.5, 1.1, 5.0, 12.0]))
    def time_goes_on(self, seconds: float) -> None:
        """Probes are due, or are not answered in time; ejected endpoints come back."""
        self.world.walk(seconds) if seconds > 0.01 else self.world.turn()

    @rule(port=st.sampled_from(PORTS), status=st.sampled_from([200, 503]))
    def request(self, port: int, status: int) -> None:
        """An attempt at an endpoint ends; perhaps it has left since."""
        connector = self.world.connector
        connector.counters["requests"] += 1
        pool = next((each for each in connector.pools if each.address.port == port), None)
        if pool is not None and connector.observe is not None:
            connector.observe(pool, status, 0.1)

    @invariant()
    def probes_are_counted(self) -> None:
        """What runs is what is counted, and never more than may."""
        for checker, plugin in zip(self.world.checkers, self.world.plugins, strict=True):
            running = [turn for turn in checker.turns.values() if turn.probe is not None]
            assert checker.running == len(running) == len(plugin.probes) <= 2
            counters = checker.counters
            assert counters["success"] + counters["failure"] <= counters["attempts"]

    @invariant()
    def everybody_is_checked(self) -> None:
        """Who is in the cluster has its turn, and nobody else: a probe under way, a time for the next, or a place in the queue."""
        for checker in self.world.checkers:
            assert set(checker.turns) == set(self.world.connector.pools)
            queue = set(checker._queue)
            for turn in checker.turns.values():
                assert turn.probe is not None or turn.timer.is_set or turn in queue

    @invariant()
    def what_is_known_is_used(self) -> None:
        """The cluster's word on an endpoint is that of its checks; who is well is used, and nobody else."""
        for pool in self.world.connector.pools:
            states = [(checker.name, checker.turns[pool].state) for checker in self.world.checkers]
            assert (pool.check_failure is None) == combined(states)[0]
        assert sorted(self.world.used) == sorted(pool.address.port for pool in self.world.connector.pools if pool.is_well)

    def teardown(self) -> None:
        """At the end nothing is under way."""
        self.world.checks.stop()
        self.world.connector.stop()
        self.world.turn()
        assert not self.under_way


Probing.TestCase.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
TestProbing = Probing.TestCase
