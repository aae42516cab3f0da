"""`sidecar/downstream/tcp.py`: opaque bytes both ways."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from sidecar.address import Address
from sidecar.downstream.tcp import STALL_SECONDS, Target, TCPServerConnection
from sidecar.errors import ConnectFailed
from tests.memory import MemoryTransport, World, facts


class Tunnel:
    """A client whose connection to the application is being made."""

    def __init__(self, idle: float = 100.0, endpoints: int = 1, attempts: int = 3, age: float = inf) -> None:
        self.world = World(auto=False, endpoints=endpoints)
        self.closed: list[Any] = []
        target = Target(lambda: (self.world.connector, None), attempts, idle, lambda now: now + age)
        side = TCPServerConnection(target, self.world.wheel, self.world.clock.seconds, facts(), self.closed.append)
        self.client = MemoryTransport(side, Address("192.0.2.1", 5))
        side.makeConnection(self.client)

    def connect(self) -> MemoryTransport:
        return self.world.attempts[0].succeed()


def test_bytes_pass_both_ways() -> None:
    """Nothing is read of the client before there is an application; then all of it passes."""
    tunnel = Tunnel()
    tunnel.client.receive(b"early")
    app = tunnel.connect()
    tunnel.client.pump()
    app.receive(b"hello")
    assert app.take() == b"early" and tunnel.client.take() == b"hello"


def test_no_connection() -> None:
    """The client is reset, and told of once."""
    for tunnel in (Tunnel(), Tunnel(endpoints=0)):
        if tunnel.world.attempts:
            tunnel.world.attempts[0].fail(ConnectFailed("no"))
        assert tunnel.client.aborted
        tunnel.client.settle()
        assert len(tunnel.closed) == 1


def test_another_endpoint_when_one_cannot_be_reached() -> None:
    """Nothing was read by then, so nothing is lost; the endpoints that failed are told of, each once."""
    tunnel = Tunnel(endpoints=5)
    tunnel.client.receive(b"hello")
    tunnel.world.attempts[0].fail(ConnectFailed("no"))
    tunnel.world.attempts[1].fail(ConnectFailed("no"))
    assert not tunnel.client.closing
    app = tunnel.world.attempts[2].succeed()
    tunnel.client.pump()
    assert app.take() == b"hello" and [each.address.port for each in tunnel.world.attempts] == [8080, 8081, 8082]
    assert tunnel.world.connector.counters["retries"] == 2 and tunnel.world.connector.counters["connect_failures"] == 2


def test_a_connection_makes_up_for_those_that_failed() -> None:
    """Whoever watches endpoints is told of both, with the seconds that it took."""
    tunnel = Tunnel(endpoints=2)
    told: list[tuple[int, float]] = []
    tunnel.world.connector.observe = lambda endpoint, status, seconds: told.append((status, seconds))
    tunnel.world.attempts[0].fail(ConnectFailed("no"))
    tunnel.world.clock.advance(0.5)
    tunnel.world.attempts[1].succeed()
    assert told == [(503, 0.0), (200, 0.5)]


@pytest.mark.parametrize("ends", ["client", "application", "idle"])
def test_a_connection_counts_for_balancers_as_long_as_it_is_open(ends: str) -> None:
    """Least request knows who has many; one that could be made has gone well, however long it stays, and whoever ends it, it is over once."""
    tunnel = Tunnel(endpoints=2)
    failed, used = tunnel.world.connector.pools
    tunnel.world.attempts[0].fail(ConnectFailed("no"))
    assert (failed.active, used.active, used.successes) == (0, 0, 0)
    app = tunnel.world.attempts[1].succeed()
    assert (used.active, used.requests, used.successes) == (1, 1, 1) and failed.is_failing and not used.is_failing
    if ends == "client":
        tunnel.client.end()
        app.end()
    elif ends == "application":
        app.end()
        tunnel.client.end()
    else:
        tunnel.world.clock.pump([1.0] * 102)
    for transport in (tunnel.client, app):
        transport.settle()
    assert tunnel.closed and (used.active, used.requests, used.successes) == (0, 1, 1)


def test_a_client_that_went_away_counts_no_longer() -> None:
    """Also when it does so before there is a connection."""
    tunnel = Tunnel()
    tunnel.client.abortConnection()
    tunnel.client.settle()
    app = tunnel.connect()
    app.settle()
    assert app.aborted and tunnel.world.connector.pools[0].active == 0


@pytest.mark.parametrize(("endpoints", "attempts", "made"), [(5, 3, 3), (2, 3, 2), (5, 1, 1)])
def test_when_no_endpoint_can_be_reached(endpoints: int, attempts: int, made: int) -> None:
    """As many as are allowed, none of them twice; then the client is reset, once."""
    tunnel = Tunnel(endpoints=endpoints, attempts=attempts)
    for index in range(made):
        tunnel.world.attempts[index].fail(ConnectFailed("no"))
    assert tunnel.client.aborted and len(tunnel.world.attempts) == made
    tunnel.client.settle()
    assert len(tunnel.closed) == 1


def test_half_close_passes() -> None:
    """Each side's end is passed on; both ends close both."""
    tunnel = Tunnel()
    app = tunnel.connect()
    tunnel.client.end()
    assert app.write_ended and not app.closing
    app.receive(b"late")
    assert tunnel.client.take() == b"late"
    app.end()
    assert tunnel.client.closing and app.closing and not app.aborted


@pytest.mark.parametrize("gone", ["client", "app"])
def test_a_lost_side_closes_the_other_after_what_is_queued(gone: str) -> None:
    """And a peer that does not take the rest is given up after a while."""
    tunnel = Tunnel()
    app = tunnel.connect()
    left = app if gone == "client" else tunnel.client
    left.blocked = True
    lost = tunnel.client if gone == "client" else app
    lost.receive(b"x" * 100)
    lost.lose()
    assert left.closing and not left.aborted and left.buffered == 100
    left.drain(10)
    tunnel.world.clock.advance(STALL_SECONDS + 1)
    assert not left.aborted
    tunnel.world.clock.advance(STALL_SECONDS + 1)
    assert left.aborted
    left.settle()
    assert tunnel.closed[0] is tunnel.client.protocol


def test_goodbye_that_does_not_fit() -> None:
    """Nothing of the tunnel is queued, and TLS's own end is stuck: it is not waited for for ever."""
    tunnel = Tunnel()
    tunnel.connect().lose()
    assert tunnel.client.closing and not tunnel.client.buffered and not tunnel.client.aborted
    tunnel.world.clock.advance(STALL_SECONDS + 1)
    assert tunnel.client.aborted


def test_client_gone_before_the_application_came() -> None:
    """The attempt is cancelled; a connection that comes nonetheless is dropped."""
    tunnel = Tunnel()
    tunnel.client.lose()
    assert tunnel.world.attempts[0].cancelled
    assert tunnel.connect().aborted and len(tunnel.closed) == 1


def test_back_pressure() -> None:
    """A slow side pauses the other one."""
    tunnel = Tunnel()
    app = tunnel.connect()
    for slow, fast in ((app, tunnel.client), (tunnel.client, app)):
        slow.blocked = True
        fast.receive(b"x" * 500_000)
        assert not fast.reading
        slow.drain()
        assert fast.reading and len(slow.take()) == 500_000


def test_idle_timeout() -> None:
    """No byte in either direction for that long ends it."""
    tunnel = Tunnel(idle=10.0)
    app = tunnel.connect()
    for _ in range(3):
        tunnel.world.clock.advance(8)
        app.receive(b"x")
    assert not app.closing
    tunnel.world.clock.advance(11)
    tunnel.world.clock.advance(1)
    assert app.aborted and tunnel.client.aborted


@pytest.mark.parametrize("idle", [0.0, 100.0])
def test_a_connection_that_has_reached_its_age_is_closed(idle: float) -> None:
    """However busy; what is queued for either side leaves, and it is counted."""
    tunnel = Tunnel(idle=idle, age=30.0)
    app = tunnel.connect()
    for _ in range(29):
        tunnel.world.clock.advance(1)
        tunnel.client.receive(b"a")
        app.receive(b"b")
    assert not app.closing and not tunnel.client.closing
    app.blocked = True
    tunnel.client.receive(b"last")
    tunnel.world.clock.advance(2)
    assert app.closing and tunnel.client.closing and not app.aborted and not tunnel.client.aborted
    assert tunnel.world.connector.counters["max_duration_reached"] == 1
    app.drain()
    assert app.take().endswith(b"last")
    tunnel.client.settle()
    app.settle()
    assert set(tunnel.closed) == {tunnel.client.protocol}


def test_the_age_counts_while_the_application_is_not_there_yet() -> None:
    """It began when the client connected."""
    tunnel = Tunnel(idle=5.0, age=30.0)
    tunnel.world.clock.advance(20)
    assert not tunnel.client.closing, "nothing can move yet, so the idle timeout has not begun"
    tunnel.world.clock.advance(11)
    assert tunnel.client.closing
