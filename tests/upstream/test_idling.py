"""Connections that are idle too long: each is closed in time, and no look at them takes long."""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock

from sidecar.transport.wheel import TimerWheel
from sidecar.upstream.idling import CLOSED, LOOKED_AT_ONCE, Idling


@attrs.define(eq=False)
class Connection:
    idle_since: float


@attrs.define(eq=False)
class Pool:
    idle: deque[Connection] = attrs.field(factory=deque)


class World:
    """Endpoints whose connections are idle, with a timeout of 60 seconds."""

    def __init__(self, endpoints: int) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.pools = {Pool(): None for _ in range(endpoints)}
        self.closed: list[Any] = []
        wheel = TimerWheel(self.clock)
        self.idling = Idling(60.0, self.pools, self.closed.append, self.clock.seconds, wheel.timer)

    def keep(self, pool: Pool) -> Connection:
        """A connection of this endpoint is idle from now on."""
        now = self.clock.seconds()
        connection = Connection(now)
        pool.idle.append(connection)
        if not self.idling.is_armed:
            self.idling.arm(now)
        return connection

    def walk(self, seconds: float) -> int:
        """Time goes on in ticks; the most that were closed in one."""
        most = 0
        for _ in range(round(seconds / 0.025)):
            before = len(self.closed)
            self.clock.advance(0.025)
            most = max(most, len(self.closed) - before)
        return most


def test_each_is_closed_when_its_time_is_over() -> None:
    """Not before, and hardly later; then nothing looks any more."""
    world = World(2)
    first, second = world.pools
    old = world.keep(first)
    world.walk(30)
    young = world.keep(second)
    world.walk(29.9)
    assert world.closed == []
    world.walk(0.2)
    assert world.closed == [old] and world.idling.is_armed
    world.walk(30)
    assert world.closed == [old, young] and not world.idling.is_armed and not world.clock.getDelayedCalls()


@pytest.mark.parametrize("endpoints", [LOOKED_AT_ONCE + 1, 5000])
def test_many_are_closed_little_by_little(endpoints: int) -> None:
    """Each turn a part, until all are."""
    world = World(endpoints)
    for pool in world.pools:
        world.keep(pool)
    world.walk(59.9)
    assert world.closed == []
    assert world.walk(endpoints * CLOSED / LOOKED_AT_ONCE * 0.025 + 1.0) <= LOOKED_AT_ONCE // CLOSED + 1
    assert len(world.closed) == endpoints


def test_who_becomes_idle_behind_its_back_is_not_forgotten() -> None:
    """While the others are worked off, at an endpoint that was looked at already; nobody else is left to arm it."""
    world = World(2000)
    for pool in world.pools:
        world.keep(pool)
    world.walk(60.1)
    assert 0 < len(world.closed) < 2000
    done = next(pool for pool in reversed(world.pools) if not pool.idle)
    late = world.keep(done)
    world.walk(30)
    assert len(world.closed) == 2000 and late not in world.closed
    world.walk(31)
    assert world.closed[-1] is late
    world.walk(61)
    assert not world.idling.is_armed


def test_nothing_is_closed_after_stop() -> None:
    """Whatever was still to be looked at."""
    world = World(2000)
    for pool in world.pools:
        world.keep(pool)
    world.walk(60.1)
    count = len(world.closed)
    world.idling.stop()
    world.walk(100)
    assert len(world.closed) == count
