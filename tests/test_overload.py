"""The watch over the process: what it measures, what it does, and what the path makes of it."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from twisted.internet.task import Clock

from sidecar import overload
from sidecar.model import HTTPLimits, Overload, OverloadActions
from sidecar.overload import LAG_TICK_SECONDS, REFUSED_CONNECTIONS, OverloadWatch, open_descriptors, refused_limits, resident_bytes
from sidecar.telemetry.metrics import Registry
from tests.memory import GET, OK, World, body_of


class Port:
    def __init__(self) -> None:
        self.accepting = True

    def set_accepting(self, accepts: bool) -> None:
        self.accepting = accepts


class Door:
    """A listener as the watch sees it."""

    def __init__(self) -> None:
        self.active = 0
        self.port = Port()
        self.gate: Any = None


class Watched:
    """A watch over one filter chain and one listener, with as much memory as the test says."""

    def __init__(self, world: World | None = None, **settings: Any) -> None:
        self.clock = Clock() if world is None else world.clock
        self.http: Any = world.http if world is not None else type("Chain", (), {"active": 0, "draining": False, "gate": None})()
        self.door = Door()
        self.memory = 10
        self.is_draining = False
        self.registry = Registry()
        self.late = 0.0
        self.watch = OverloadWatch(
            Overload(**{"max_memory": 100, **settings}),
            self.clock,
            [self.http],
            [self.door],
            self.registry,
            lambda: self.is_draining,
            lambda: self.clock.seconds() + self.late,
            lambda: self.memory,
        )
        self.watch.start([self.door])

    def look(self, memory: int | None = None) -> None:
        self.memory = self.memory if memory is None else memory
        for _ in range(4):
            self.clock.advance(LAG_TICK_SECONDS)


def test_memory_that_a_burst_left_is_given_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the burst is over, whether or not there is a limit on memory; not while nothing ran since, and at most once a minute."""
    returned: list[float] = []
    watched = Watched(max_memory=0)
    monkeypatch.setattr(overload, "return_memory", lambda: returned.append(watched.clock.seconds()))
    watched.look(50 << 20)
    for running, memory in ((1000, 400), (1000, 400), (200, 390)):
        watched.http.active = running
        watched.look(memory << 20)
    assert not returned
    watched.http.active = 3
    watched.look(390 << 20)
    assert len(returned) == 1
    for _ in range(70):
        watched.look(300 << 20)
    watched.http.active = 0
    for _ in range(2):
        watched.look()
    assert len(returned) == 2, "three requests ran since"
    for _ in range(70):
        watched.look()
    assert len(returned) == 2
    watched.http.active = 1
    watched.look(70 << 20)
    watched.http.active = 0
    watched.look()
    assert len(returned) == 2, "that is hardly more than at first"


def test_nothing_is_asked_while_all_is_well() -> None:
    """No gate, so a request costs one look at None."""
    watched = Watched()
    watched.look()
    assert watched.http.gate is None and watched.door.gate is None


def test_memory_runs_short_and_comes_back() -> None:
    """Stage by stage, and back; connections wait while it lasts."""
    watched = Watched()
    watched.look(91)
    assert watched.http.draining and watched.http.gate is None
    watched.look(96)
    assert watched.http.gate is not None and watched.door.port.accepting
    watched.look(99)
    assert not watched.door.port.accepting
    watched.look(50)
    assert watched.door.port.accepting and watched.http.gate is None and not watched.http.draining


def test_what_drains_stays_draining() -> None:
    """The end of an overload is not the end of a shutdown."""
    watched = Watched()
    watched.look(91)
    watched.is_draining = True
    watched.look(10)
    assert watched.http.draining


def test_requests_are_refused_in_words() -> None:
    """503 with the reason, OM in the record, and no connection to the application; afterwards all is as before."""
    world = World()
    watched = Watched(world)
    watched.look(99)
    client, app = world.send(GET)
    written = client.take()
    assert written.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 1\r\n" in written and b"connection: close" in written.lower()
    assert b'"code":"overloaded"' in body_of(written) and b"memory is short" in body_of(written) and app is None
    assert (world.records[0].flags, world.records[0].code) == ("OM", "overloaded")
    watched.look(10)
    client, app = world.send(GET)
    app.receive(OK)
    assert body_of(client.take()) == b"ok"
    assert watched.watch.gate.refused["memory"] == 1


def test_running_requests_are_counted() -> None:
    """The limit is exact, and a place comes free with an answer."""
    world = World()
    watched = Watched(world, max_requests=1)
    _, app = world.send(GET)
    second, _ = world.send(GET)
    assert b"1 requests run already (overload.max_requests)" in body_of(second.take())
    app.receive(OK)
    third, _ = world.send(GET)
    assert third.take() == b"" and watched.watch.gate.refused["requests"] == 1


def test_connections_are_counted() -> None:
    """Within the limit there are places; some beyond it may be told so, the others not even that."""
    watched = Watched(max_connections=2)
    gate = watched.watch.gate
    assert watched.door.gate is gate and gate.places() == 2
    watched.door.active = 2
    assert gate.places() == 0
    watched.door.active = 2 + REFUSED_CONNECTIONS
    assert gate.places() < 0 and gate.connections_refused == 2
    watched.look()
    assert watched.http.draining
    watched.door.active = 1
    watched.look()
    assert not watched.http.draining


def test_lag_is_measured() -> None:
    """A loop that was blocked shows in the histogram, and as the greatest of the interval."""
    watched = Watched(max_event_loop_lag=1.0)
    watched.late = 3.0
    watched.clock.advance(LAG_TICK_SECONDS)
    assert watched.watch.lag == pytest.approx(3.0) and watched.http.gate.reason == "event_loop_lag"
    watched.look()
    watched.look()
    assert watched.watch.lag == pytest.approx(0.0) and watched.http.gate is None
    text = watched.registry.text().decode()
    assert 'sidecar_event_loop_lag_seconds_bucket{le="2"}' in text and "sidecar_event_loop_lag_seconds_sum 3" in text


def test_the_heap_is_shrunk_from_time_to_time() -> None:
    """And not all the time."""
    watched = Watched(actions=OverloadActions(shrink_heap=0.0))
    before = gc.get_stats()[2]["collections"]
    for _ in range(9):
        watched.look()
    after = gc.get_stats()[2]["collections"]
    assert after - before >= 1 and watched.watch._shrunk_at < watched.clock.seconds() - 5


def test_it_ends() -> None:
    """Nothing is left on the clock or with the collector."""
    watched = Watched()
    watched.watch.stop()
    watched.watch.stop()
    assert watched.clock.getDelayedCalls() == [] and watched.watch._collected not in gc.callbacks


def test_the_cgroup_is_asked() -> None:
    """Without max_memory there is its limit or none; 0 is none whatever it says."""
    assert Watched(max_memory=0).watch.memory_limit == 0
    assert isinstance(Watched(max_memory=None).watch.memory_limit, int)


def test_what_is_shown() -> None:
    """Every number of the process is there."""
    shown = Watched(max_connections=3).watch.snapshot()
    assert shown["memory_limit_bytes"] == 100 and shown["connections"] == 0 and set(shown["pressures"]) == {"memory", "event_loop_lag", "connections"}
    assert resident_bytes() > 1 << 20 and open_descriptors() > 2


def test_a_refused_connection_has_little_time() -> None:
    """One request, soon."""
    limits = refused_limits(HTTPLimits())
    assert limits.requests_per_connection == 1 and limits.head_timeout == limits.idle_timeout == 5.0
