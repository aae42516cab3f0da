"""Beyond `attempts`: a request finds the one endpoint that is well, and an overload is not multiplied by the number of endpoints."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import ConnectTimeout
from sidecar.model import Backoff, OutlierDetection, RetryBudget
from tests.memory import GET, OK, POST, World, retry_rules
from tests.proxy.test_retrying import BAD, KEYED, PUT, Retried

CANCELLED, UNAVAILABLE = 1, 14  # gRPC
FIVE = [8080, 8081, 8082, 8083, 8084]


def answered(world: Any, answers: dict[int, bytes], turns: int = 12) -> None:
    """Everybody answers what was sent to it, by port; who is not named answers 503."""
    for _ in range(turns):
        for attempt in world.attempts:
            transport = attempt.transport
            if transport is not None and not transport.lost and not transport.closing and transport.protocol.owner is not None:
                transport.receive(answers.get(attempt.address.port, BAD))
        world.wait()


@pytest.mark.parametrize("head", [GET, GET.replace(b"GET", b"HEAD"), PUT + b"hello", KEYED + b"hello"])
@pytest.mark.parametrize("answer", [BAD, BAD.replace(b"503", b"502"), BAD.replace(b"503", b"504"), b""])
def test_the_one_that_is_well_is_found(head: bytes, answer: bytes) -> None:
    """Four of five fail, however, and three attempts are configured. What may be sent again at all goes on, each endpoint asked once."""
    world = Retried(endpoints=5)
    client, _ = world.send(head)
    for port in FIVE[:4]:
        app = world.app
        assert world.ports[-1] == port
        if answer:
            app.receive(answer)
        else:
            app.lose()
        world.wait()
    world.app.receive(OK if not head.startswith(b"HEAD") else b"HTTP/1.1 200 OK\r\n\r\n")
    assert client.take().startswith(b"HTTP/1.1 200 ") and world.ports == FIVE
    world.ended_once(200)
    assert "3 attempts failed, and an endpoint is left that was not tried (retry.attempts_max)" in world.said()
    assert world.records[0].attempts == 5 and world.records[0].flags == "" and world.connector.retries == 0
    assert world.route.retry.saved == world.route.retry.save_limit, "what helped is given back"


def test_attempts_that_take_too_long_go_on() -> None:
    """As failed ones do, within the route's timeout."""
    world = Retried(endpoints=4, attempts=2, per_try_timeout=1)
    client, _ = world.send(GET)
    for _ in range(3):
        world.clock.pump([0.1] * 12)
        world.wait()
    world.app.receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ") and world.ports == FIVE[:4]


def test_connections_that_take_too_long_go_on() -> None:
    """They count in `attempts`, and beyond them too."""
    world = Retried(endpoints=3, auto=False, attempts=2)
    client = world.client()
    client.receive(POST + b"hello")
    for index in range(2):
        world.attempts[index].fail(ConnectTimeout("late"))
        world.clock.advance(0.3)
    world.attempts[2].succeed().receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ") and world.records[0].attempts == 3


@pytest.mark.parametrize(
    ("settings", "answer", "times"),
    [
        ({"attempts": 1}, BAD, 1),
        ({"attempts_max": 0}, BAD, 3),
        ({"attempts_max": 3}, BAD, 3),
        ({"attempts_max": 4}, BAD, 4),
        ({"budget": None}, BAD, 3),
        ({"budget": RetryBudget(max_saved=0)}, BAD, 3),
        ({"on": ("retriable-4xx",)}, BAD.replace(b"503", b"409"), 3),
        ({}, BAD.replace(b"503", b"500"), 1),
        ({}, BAD.replace(b"\r\n\r\n", b"\r\nRetry-After: 60\r\n\r\n"), 1),
        ({}, BAD, 5),
    ],
)
def test_where_the_limit_is(settings: dict[str, Any], answer: bytes, times: int) -> None:
    """What is no failure, what nothing is saved for, and what is configured ends at `attempts`; else each endpoint is asked once, and no one twice."""
    world = Retried(endpoints=5, **settings)
    client, _ = world.send(GET)
    answered(world, dict.fromkeys(FIVE, answer))
    assert client.take().startswith(answer[:12]) and world.records[0].attempts == times == len(world.attempts)
    assert (world.records[0].flags == "URX") == (times > 1)


def test_a_route_that_has_no_time_left() -> None:
    """The route's timeout is over everything."""
    world = Retried(endpoints=5, backoff=Backoff(base=2.0, max=2.0))
    world.route.timeout = 1.0
    client, _ = world.send(GET)
    answered(world, {})
    assert client.take().startswith(b"HTTP/1.1 50") and len(world.attempts) < 5


def test_when_all_fail_nothing_is_multiplied() -> None:
    """What was saved is used up once, half of it at most, and from then on a request has its attempts, however many endpoints there are."""
    world = Retried(endpoints=10, budget=RetryBudget(budget_percent=0, min_retry_concurrency=3, max_saved=20))
    counts = []
    for _ in range(12):
        client, _ = world.send(GET)
        answered(world, {})
        assert client.take().startswith(b"HTTP/1.1 503 ")
        counts.append(world.records[-1].attempts)
    assert counts[0] == 10 and counts[2:] == [3] * 10 and sum(counts) == 12 * 3 + 11


def test_who_fails_is_known_to_the_next() -> None:
    """After the first request the second one goes from where the balancer sent it straight to the one that is well; who answers well again is used again."""
    world = Retried(endpoints=5)
    client, _ = world.send(GET)
    answered(world, {8084: OK})
    assert client.take().startswith(b"HTTP/1.1 200 ") and [pool.is_failing for pool in world.connector.pools] == [True] * 4 + [False]
    for _ in range(3):
        client, _ = world.send(GET)
        answered(world, {8084: OK})
        assert client.take().startswith(b"HTTP/1.1 200 ")
        assert world.records[-1].attempts == 2
    for _ in range(2):
        world.send(GET)
        answered(world, {8080: OK}, 1)
    assert [each["failing"] for each in world.connector.snapshot()["endpoints"]] == [False, True, True, True, False]


def test_one_that_was_ejected_is_asked_too() -> None:
    """Nobody else is well, and it may be again."""
    world = World(endpoints=4, cluster={"outlier_detection": OutlierDetection(consecutive_5xx=1, max_ejection_percent=25)})
    world.route.retry = retry_rules(attempts=2)
    gone = world.connector.pools[0]
    world.connector.observe(gone, 503, 0.0)
    assert gone.health.is_ejected
    client, _ = world.send(GET)
    for _ in range(8):
        for attempt in world.attempts:
            if attempt.transport is not None and attempt.transport.protocol.owner is not None:
                attempt.transport.receive(OK if attempt.address.port == 8080 else BAD)
        world.clock.advance(0.3)
        world.clock.advance(0)
    assert client.take().startswith(b"HTTP/1.1 200 ") and world.records[0].attempts == 4


def test_a_failure_is_forgotten_when_others_went_well() -> None:
    """With several requests at a time it takes no more than two good answers."""
    world = Retried(endpoints=1, attempts=1)
    apps = []
    for _ in range(4):
        apps.append(world.send(GET)[1])
    pool = world.connector.pools[0]
    assert not pool.is_failing
    apps[0].receive(BAD)
    apps[1].receive(BAD)
    assert pool.is_failing and pool.active == 2
    apps[2].receive(OK)
    apps[3].receive(OK)
    assert not pool.is_failing and pool.successes == 2
    pool.found_nobody()
    assert pool.is_failing and pool.failures == 1
    world.send(GET)[1].receive(OK)
    assert not pool.is_failing


def test_calls_of_grpc_that_may_be_sent_twice() -> None:
    """UNAVAILABLE stands for 503: a call with an idempotency key goes on."""
    call = b"POST /s/m HTTP/1.1\r\nHost: app\r\nContent-Type: application/grpc\r\nTE: trailers\r\nIdempotency-Key: 1\r\nContent-Length: 0\r\n\r\n"
    bad = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\ngrpc-status: %d\r\nContent-Length: 0\r\n\r\n"
    for status, times in ((UNAVAILABLE, 4), (CANCELLED, 2)):
        world = Retried(endpoints=4, attempts=2, on=("unavailable", "cancelled"))
        world.send(call)
        answered(world, dict.fromkeys(FIVE, bad % status))
        assert len(world.attempts) == times
