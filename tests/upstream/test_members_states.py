"""Endpoints that come and go in steps while requests run, wait, fail and are given up: nobody is forgotten, and nothing is kept that nobody uses."""

from __future__ import annotations

from typing import Any

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.address import Address
from sidecar.cluster.slices import Slices
from sidecar.errors import ConnectFailed
from sidecar.model import Cluster, Endpoint, OutlierDetection, PoolLimits
from sidecar.upstream.pool import Connector
from tests.upstream.test_pool import CLOSE, OK, Owner, Pools

NUMBERS = range(3)


class Changing(RuleBasedStateMachine):
    """A cluster whose changes take many turns, with room for four connections."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = pools = Pools()
        self.turns: list[Any] = []
        cluster = Cluster(
            name="app",
            endpoints=self.made({0, 1}),
            pool=PoolLimits(max_connections=4, max_idle=1, max_pending=5),
            outlier_detection=OutlierDetection(consecutive_5xx=2, max_ejection_percent=100, base_ejection_time=5.0),
            healthy_panic_threshold=0,
        )
        pools.connector = self.connector = Connector(
            cluster, pools.balancer, pools._connect, pools.clock.seconds, pools.wheel.timer, None, self.turns.append
        )
        self.connector.members._slices = Slices(2)
        self.wanted = {0, 1}
        self.owners: list[Owner] = []
        self.transports: list[Any] = []

    @staticmethod
    def made(numbers: set[int]) -> tuple[Endpoint, ...]:
        return tuple(Endpoint(address=Address("127.0.0.1", 8000 + number)) for number in sorted(numbers))

    @property
    def attempts(self) -> list[Any]:
        return [each for each in self.pools.attempts if each.transport is None and not each.cancelled and not getattr(each, "is_over", False)]

    @property
    def open(self) -> list[Any]:
        return [each for each in self.transports if not each.closing and not each.lost]

    def settle(self) -> None:
        """All turns that are due, and the rest after a long change."""
        for _ in range(200):
            while self.turns:
                self.turns.pop(0)()
            if not self.connector.members.is_changing:
                return
            self.pools.clock.advance(0.5)
        raise AssertionError("the change does not end")

    @rule(numbers=st.sets(st.sampled_from(NUMBERS)))
    def told(self, numbers: set[int]) -> None:
        self.wanted = numbers
        self.connector.set_endpoints(self.made(numbers))

    @precondition(lambda self: self.turns)
    @rule()
    def turn(self) -> None:
        self.turns.pop(0)()

    @rule()
    def all_turns(self) -> None:
        self.settle()

    @rule(seconds=st.sampled_from([0.1, 3.0, 30.0, 90.0]))
    def time(self, seconds: float) -> None:
        self.pools.clock.advance(seconds)

    @rule(want=st.integers(0, 2), fresh=st.booleans())
    def ask(self, want: int, fresh: bool) -> None:
        self.owners.append(Owner(self.pools, want=want, fresh=fresh))

    @precondition(lambda self: self.attempts)
    @rule(which=st.integers(0, 9), goes_well=st.booleans())
    def attempt_ends(self, which: int, goes_well: bool) -> None:
        attempt = self.attempts[which % len(self.attempts)]
        if goes_well:
            self.transports.append(attempt.succeed())
        else:
            attempt.is_over = True
            attempt.fail(ConnectFailed("refused"))

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 9), how=st.sampled_from([OK, CLOSE, None]))
    def connection_does(self, which: int, how: bytes | None) -> None:
        transport = self.open[which % len(self.open)]
        if how is None or transport.protocol.owner is None:
            transport.lose()
        else:
            transport.receive(how)
        transport.settle()

    @precondition(lambda self: self.owners)
    @rule(which=st.integers(0, 9))
    def give_up(self, which: int) -> None:
        self.owners[which % len(self.owners)].cancel()

    @invariant()
    def numbers_are_right(self) -> None:
        connector = self.connector
        known = {*connector.pools, *connector.members.retired.values(), *connector.open_pools}
        assert connector.connections == sum(pool.connections for pool in known) <= 4
        waiting = [owner for owner in self.owners if not owner.finished and owner.stream is None]
        assert connector.pending == len(waiting) == sum(len(pool.waiting) for pool in {*known, *connector._queues})
        assert connector.active == sum(owner.stream is not None for owner in self.owners)

    @invariant()
    def once_it_has_settled(self) -> None:
        connector = self.connector
        if connector.members.is_changing:
            return
        assert {pool.address.port - 8000 for pool in connector.pools} == self.wanted
        assert not any(pool.is_closed for pool in connector.pools)
        for pool in connector.members.retired.values():
            assert pool.is_closed
            assert pool.connections or pool.waiting
            assert not pool.idle
        assert {*self.pools.balancer.endpoints} == {pool for pool in connector.pools if pool.is_well}

    def teardown(self) -> None:
        """When nobody asks any more, nothing is left."""
        self.settle()
        for owner in self.owners:
            owner.cancel()
        for attempt in self.attempts:
            attempt.is_over = True
            attempt.fail(ConnectFailed("refused"))
        for transport in self.open:
            transport.lose()
            transport.settle()
        self.settle()
        assert self.connector.connections == self.connector.pending == self.connector.active == 0
        assert not self.connector.members.retired


Changing.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestChanging = Changing.TestCase
