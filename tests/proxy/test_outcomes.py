"""What those who watch endpoints are told of each attempt, through the whole path: once, and of an answer when it is over."""

from __future__ import annotations

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from sidecar.errors import DownstreamClosed
from sidecar.model import OutlierDetection
from tests.memory import GET, OK, SWITCH, UPGRADE, World, retry_rules

BEGUN = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"
BAD = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\n"


def watched(world: World) -> list[tuple[int, float]]:
    """(status, seconds) as observers of the cluster are told."""
    told: list[tuple[int, float]] = []
    world.connector.observe = lambda endpoint, status, seconds: told.append((status, seconds))
    return told


def test_an_answer_that_is_whole() -> None:
    """It is told of at its end, with the seconds until its head."""
    world = World()
    told = watched(world)
    _, app = world.send(GET)
    world.clock.advance(0.5)
    app.receive(OK[:-1])
    assert told == []
    world.clock.advance(0.5)
    app.receive(OK[-1:])
    assert told == [(200, 0.5)]
    world.ended_once(200)


def test_an_answer_that_is_cut() -> None:
    """It is a failure, and was no success before."""
    world = World()
    told = watched(world)
    _, app = world.send(GET)
    app.receive(BEGUN)
    app.lose()
    assert [status for status, _ in told] == [503]


def test_an_endpoint_that_cuts_its_answers_is_ejected() -> None:
    """Heads that say 200 do not make up for it."""
    world = World(endpoints=2, cluster={"outlier_detection": OutlierDetection(consecutive_5xx=3)})
    bad = world.connector.pools[0]
    for _ in range(6):
        client, app = world.send(GET)
        if world.exchanges[-1].endpoint == bad.address:
            app.receive(BEGUN)
            app.lose()
        else:
            app.receive(OK)
        client.take()
    assert bad.health.is_ejected and bad.health.reason == "3 failures in a row"


def test_who_resets_and_who_closes() -> None:
    """The sentence tells which: a crash resets, a server that shuts down closes."""
    for how, verb in ((ConnectionLost, "reset"), (ConnectionDone, "closed")):
        world = World()
        client, app = world.send(b"POST /a HTTP/1.1\r\nHost: app\r\nContent-Length: 0\r\n\r\n")
        app.lose(Failure(how()))
        assert f"app at 127.0.0.1:8080 {verb} the connection before its answer was complete" in client.take().decode()


def test_bad_status_is_told_at_once() -> None:
    """Nobody needs its body to know."""
    world = World()
    told = watched(world)
    _, app = world.send(GET)
    app.receive(BAD)
    assert [status for status, _ in told] == [503]
    app.receive(b"bad")
    assert len(told) == 1


def test_a_client_that_leaves() -> None:
    """In the middle of an answer that is no fault of the endpoint; before its head nothing is known."""
    for begun, expected in ((BEGUN, [200]), (b"", [])):
        world = World()
        told = watched(world)
        _, app = world.send(GET)
        app.receive(begun)
        world.exchanges[-1].downstream_lost(DownstreamClosed("gone"))
        assert [status for status, _ in told] == expected


def test_an_answer_that_stops() -> None:
    """`per_try_idle_timeout` in the middle of an answer blames the endpoint."""
    world = World()
    world.route.retry = retry_rules(per_try_idle_timeout=1.0)
    told = watched(world)
    _, app = world.send(GET)
    app.receive(BEGUN)
    world.clock.advance(1.1)
    assert [status for status, _ in told] == [504]


def test_a_tunnel_is_told_of_when_it_opens() -> None:
    """It may last for days."""
    world = World()
    world.http.upgrades = frozenset({b"websocket"})
    told = watched(world)
    _, app = world.send(UPGRADE)
    app.receive(SWITCH)
    assert [status for status, _ in told] == [101]
