"""Connections have a maximum age: both sides, both protocols, drained and not cut; on a fake clock."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from sidecar.codec.h2.events import GoAwayReceived
from sidecar.model import HTTPLimits, PoolLimits
from sidecar.transport.lifetime import end_of_life
from tests.memory import GET, OK, POST, World
from tests.memory_h2 import H2App, H2Client, multiplexed, request


def limited(world: World) -> World:
    """Clients' connections live ten seconds."""
    world.limits = HTTPLimits(watermark_bytes=1000, max_connection_duration=10.0, max_connection_duration_jitter=0)
    return world


def pooled(**pool: Any) -> World:
    """Endpoints' connections live ten seconds."""
    return World(pool=PoolLimits(max_connection_duration=10.0, max_connection_duration_jitter=0, **pool))


def pass_seconds(world: World, seconds: float) -> None:
    world.clock.pump([0.25] * int(seconds * 4))


def test_the_age() -> None:
    """Between the configured time and so many percent more; never without one."""
    ages = [end_of_life(HTTPLimits(max_connection_duration=100.0), 5.0) for _ in range(100)]
    assert all(105.0 <= age <= 115.0 for age in ages) and len(set(ages)) > 50
    assert end_of_life(PoolLimits(), 5.0) == inf


def test_an_idle_client_is_closed() -> None:
    """At its age, though it was busy a moment ago."""
    world = limited(World())
    client, app = world.send(GET)
    app.receive(OK)
    pass_seconds(world, 9)
    client.receive(GET)
    app.receive(OK)
    assert client.take().count(b"HTTP/1.1 200") == 2 and not client.closing
    pass_seconds(world, 1.5)
    assert client.closing and not client.aborted


def test_a_busy_client_is_told() -> None:
    """With its next answer, whose request it sent before or after."""
    world = limited(World())
    client, app = world.send(GET)
    pass_seconds(world, 11)
    assert not client.closing
    app.receive(OK)
    assert b"connection: close" in client.take().lower() and client.closing
    world.ended_once(200)


def test_a_long_answer_is_not_cut() -> None:
    """Its head left before: the connection closes behind it."""
    world = limited(World())
    client, app = world.send(GET)
    app.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    pass_seconds(world, 12)
    app.receive(b"cd")
    assert client.take().endswith(b"abcd") and not client.aborted
    pass_seconds(world, 1)
    assert client.closing
    world.ended_once(200)


def test_a_head_that_is_begun_is_finished() -> None:
    """The age does not cut a request in the middle."""
    world = limited(World())
    client = world.client()
    pass_seconds(world, 9.5)
    client.receive(GET[:10])
    pass_seconds(world, 2)
    client.receive(GET[10:])
    world.turn()
    world.app.receive(OK)
    assert b"connection: close" in client.take().lower() and client.closing


@pytest.mark.parametrize("is_busy", [False, True])
def test_http2_clients_get_goaway(is_busy: bool) -> None:
    """First for no stream in particular, then for the last one; what runs is served."""
    world = limited(World())
    client = H2Client(world)
    stream = client.send(request())
    if not is_busy:
        world.app.receive(OK)
        client.exchange()
    pass_seconds(world, 11)
    client.exchange()
    assert GoAwayReceived in [type(event) for event in client.of(0)]
    if is_busy:
        assert not client.transport.closing
        world.app.receive(OK)
        client.exchange()
    pass_seconds(world, 2)
    client.exchange()
    assert client.body(stream) == b"ok" and client.transport.closing and not client.transport.aborted
    world.ended_once(200)


def test_an_idle_connection_to_an_endpoint_closes() -> None:
    """At its age; the next request gets another one."""
    world = pooled()
    client, app = world.send(GET)
    app.receive(OK)
    pass_seconds(world, 11)
    assert app.closing and not app.aborted and world.connector.connections == 0
    client.receive(GET)
    world.turn()
    assert len(world.attempts) == 2
    world.app.receive(OK)
    world.ended_once(200, 200)


def test_a_busy_one_ends_with_its_request() -> None:
    """It is not given out again."""
    world = pooled()
    client, app = world.send(POST)
    pass_seconds(world, 11)
    assert not app.closing
    client.receive(b"hello")
    app.receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ") and app.closing and world.connector.connections == 0
    world.ended_once(200)


def test_no_timer_is_left() -> None:
    """A connection that ends before its age takes its timer along."""
    world = pooled()
    before = len(world.wheel)
    _, app = world.send(GET)
    assert world.connector.age_timer(lambda: None).is_set
    app.receive(OK)
    app.lose()
    assert world.connector.connections == 0
    world.clock.pump([1.0] * 400)
    assert len(world.wheel) <= before + 1


@pytest.mark.parametrize("is_busy", [False, True])
def test_http2_to_an_endpoint(is_busy: bool) -> None:
    """It takes no new stream, and closes with the last one."""
    world = multiplexed(pooled())
    client, _ = world.send(GET)
    app = H2App(world)
    if not is_busy:
        app.answer(1)
    pass_seconds(world, 12)
    app.exchange()
    assert app.transport.closing is not is_busy
    other = world.client()
    other.receive(GET)
    world.turn()
    assert len(world.attempts) == 2
    H2App(world).answer(1)
    if is_busy:
        app.answer(1)
    assert client.take().startswith(b"HTTP/1.1 200 ") and other.take().startswith(b"HTTP/1.1 200 ")
    assert app.transport.closing
    world.ended_once(200, 200)
