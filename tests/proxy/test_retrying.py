"""Further attempts, through the whole path: what is sent twice, where to, when, and what is never."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from sidecar.errors import ConnectFailed, ConnectTimeout, UpstreamClosed
from sidecar.model import PoolLimits, RetryBudget
from sidecar.proxy.attempts import SPARE_TIMERS
from sidecar.proxy.exchange import Exchange
from sidecar.verdicts import GiveUp, TryAgain
from tests.memory import GET, OK, POST, UPGRADE, World, retry_rules

BAD = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nbad"
NOTHING_SAVED: Any = {"budget": RetryBudget(max_saved=0)}
KEYED = b"POST /a HTTP/1.1\r\nHost: app\r\nIdempotency-Key: 7\r\nContent-Length: 5\r\n\r\n"
PUT = b"PUT /a HTTP/1.1\r\nHost: app\r\nContent-Length: 5\r\n\r\n"


class Retried(World):
    """Three endpoints, taken in order, and a route that retries."""

    def __init__(self, endpoints: int = 3, auto: bool = True, plugins: tuple[Any, ...] = (), pool: PoolLimits | None = None, **settings: Any) -> None:
        super().__init__(*plugins, endpoints=endpoints, auto=auto, pool=pool)
        self.route.retry = retry_rules(**settings)

    def wait(self, seconds: float = 0.3) -> Any:
        """The backoff passes and the next connection is there: the application's new end."""
        self.clock.advance(seconds)
        self.clock.advance(0)
        return self.app

    @property
    def ports(self) -> list[int]:
        return [attempt.address.port for attempt in self.attempts]

    def said(self) -> str:
        return "\n".join(what for who, what in self.records[-1].notes if who == "retry")


def test_a_bad_answer_is_not_seen_by_the_client() -> None:
    """503 from the first, 200 from the second: the client gets 200, the record tells both."""
    world = Retried()
    client, app = world.send(GET)
    app.receive(BAD)
    assert client.take() == b""
    world.wait().receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ") and world.ports == [8080, 8081]
    world.ended_once(200)
    record = world.records[0]
    assert record.attempts == 2 and record.flags == "" and record.endpoint.endswith(":8081")
    assert world.said().startswith("gateway-error (status 503) from 127.0.0.1:8080; attempt 2 of 3 in ")
    assert world.connector.retries == 0 and world.connector.counters["retries"] == 1


def test_what_attempts_need_is_made_when_one_fails() -> None:
    """A request with no time for each attempt keeps nothing but its body until it must be sent again, and adds its share of saved retries once."""
    for head in (GET, PUT + b"hello"):
        world = Retried()
        rules = world.route.retry
        rules.saved, rules.save_limit, rules.save_share = 0.0, 9.0, 2.0
        _, app = world.send(head)
        assert world.exchanges[0]._retry is None and rules.saved == 2.0
        app.receive(BAD)
        assert world.exchanges[0]._retry.attempt == 2
        assert rules.saved == 2.0
    world = Retried(per_try_timeout=1.0)
    world.send(GET)
    assert world.exchanges[0]._retry is not None


def test_connections_that_fail_go_elsewhere() -> None:
    """Also a POST, because nothing of it has gone anywhere; its body arrives once, whole."""
    world = Retried(auto=False)
    client = world.client()
    client.receive(POST + b"he")
    world.attempts[0].fail(ConnectFailed("refused"))
    client.receive(b"llo")
    world.clock.advance(0.3)
    up = world.attempts[1].succeed()
    client.pump()
    assert up.take().endswith(b"\r\n\r\nhello") and world.ports == [8080, 8081]
    up.receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ")
    world.ended_once(200)


def test_what_comes_behind_a_failure_is_kept_as_well() -> None:
    """The first attempt fails in the middle of the body, the second behind it: the third has all of it."""
    world = Retried(auto=False)
    client = world.client()
    client.receive(PUT + b"he")
    world.attempts[0].fail(ConnectFailed("refused"))
    client.receive(b"llo")
    world.wait()
    second = world.attempts[1].succeed()
    client.pump()
    assert second.take().endswith(b"\r\n\r\nhello")
    second.lose()
    world.wait()
    up = world.attempts[2].succeed()
    assert up.take().endswith(b"\r\n\r\nhello")
    up.receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ")
    world.ended_once(200)


def test_when_attempts_are_used_up() -> None:
    """The last answer goes to the client, with URX; an error keeps its own flag beside it."""
    world = Retried(attempts=2, attempts_max=2)
    client, app = world.send(GET)
    app.receive(BAD)
    world.wait().receive(BAD)
    assert client.take().startswith(b"HTTP/1.1 503 ") and world.records[0].flags == "URX"
    world = Retried(endpoints=2, attempts=2, auto=False)
    client = world.client()
    client.receive(GET)
    world.attempts[0].fail(ConnectTimeout("late"))
    world.clock.advance(0.3)
    world.attempts[1].fail(ConnectTimeout("late"))
    assert client.take().startswith(b"HTTP/1.1 503 ") and world.records[0].flags == "UF,URX"
    world.ended_once(503)


def refuse_all(world: Retried, count: int) -> None:
    for index in range(count):
        world.attempts[index].fail(ConnectFailed("refused"))
        world.clock.advance(0.3)


def test_refused_connections_do_not_use_up_attempts() -> None:
    """Four of five are down and three attempts are allowed, with no budget at all: the fifth serves, also a POST. Nothing was given to anybody else."""
    world = Retried(endpoints=5, auto=False, attempts=3, budget=RetryBudget(budget_percent=0, min_retry_concurrency=0, max_saved=0))
    client = world.client()
    client.receive(POST + b"hello")
    refuse_all(world, 4)
    world.attempts[4].succeed().receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ") and world.ports == [8080, 8081, 8082, 8083, 8084]
    world.ended_once(200)
    assert world.records[0].attempts == 5 and world.connector.retries == 0 and world.connector.counters["retries"] == 4


def test_when_every_connection_was_refused() -> None:
    """Then attempts and budget count as always; nobody goes round in circles."""
    world = Retried(endpoints=3, auto=False, attempts=2)
    client = world.client()
    client.receive(GET)
    refuse_all(world, 4)
    assert client.take().startswith(b"HTTP/1.1 503 ") and world.records[0].flags == "UF,URX" and len(world.attempts) == 4


def test_refused_connections_where_nothing_is_retried() -> None:
    """One attempt is one attempt, `attempts_max` a limit for all of them, a timeout of the connection counts, and so does a bad answer after a refusal."""
    refused, late = ConnectFailed("refused"), ConnectTimeout("late")
    for settings, error in (({"attempts": 1}, refused), ({"attempts": 2, "attempts_max": 0}, refused), ({"attempts": 2, **NOTHING_SAVED}, late)):
        world = Retried(endpoints=5, auto=False, **settings)
        client = world.client()
        client.receive(GET)
        for index in range(settings["attempts"]):
            world.attempts[index].fail(error)
            world.clock.advance(0.3)
        assert client.take().startswith(b"HTTP/1.1 503 ") and len(world.attempts) == settings["attempts"]
    world = Retried(endpoints=5, auto=False, attempts=2, **NOTHING_SAVED)
    client = world.client()
    client.receive(GET)
    refuse_all(world, 1)
    world.attempts[1].succeed().receive(BAD)
    world.clock.advance(0.3)
    world.attempts[2].succeed().receive(BAD)
    assert client.take().startswith(b"HTTP/1.1 503 ") and len(world.attempts) == 3 and world.records[0].flags == "URX"


@pytest.mark.parametrize("how", ["status", "reset"])
def test_a_post_is_not_sent_twice(how: str) -> None:
    """Once it may have reached the application only a declared key lets it go again."""
    for head, times in ((POST, 1), (KEYED, 2), (PUT, 2)):
        world = Retried()
        client, app = world.send(head + b"hello")
        assert app.take().endswith(b"hello")
        if how == "status":
            app.receive(BAD)
        else:
            app.lose()
        second = world.wait()
        assert len(world.attempts) == times
        if times == 1:
            assert client.take().startswith(b"HTTP/1.1 503 ") and "POST may have been carried out" in world.said()
        else:
            assert second.take().endswith(b"\r\n\r\nhello")
            second.receive(OK)
            assert client.take().startswith(b"HTTP/1.1 200 ")
        world.ended_once(200 if times == 2 else 503)


def test_a_body_that_is_still_coming() -> None:
    """What came before, during and after the failure arrives at the second endpoint, in order and once."""
    world = Retried()
    client, app = world.send(PUT + b"h")
    app.lose()
    client.receive(b"e")
    second = world.wait()
    client.pump()
    client.receive(b"llo")
    assert second.take().endswith(b"\r\n\r\nhello")
    second.receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ")
    world.ended_once(200)


class Asked:
    """A policy that answers what it is told to, and keeps what it was asked."""

    statuses = range(100, 1000)

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.facts: list[Any] = []

    def decide(self, attempt: Any) -> Any:
        self.facts.append(attempt)
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_policy_decides() -> None:
    """It is told how each attempt ended, and how long to wait is its word."""
    policy = Asked(TryAgain("I like it", 0.5), TryAgain("once more"), None)
    world = Retried(policy=policy, attempts=5)
    client, app = world.send(GET)
    app.receive(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\nX-A: b\r\n\r\n")
    world.wait(0.4)
    assert len(world.attempts) == 1
    world.wait(0.15).lose()
    world.wait().receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ") and len(world.attempts) == 3
    first, second, third = policy.facts
    assert (first.number, first.status, first.error, first.was_sent, first.endpoint) == (1, 404, None, True, "127.0.0.1:8080")
    assert first.headers.get(b"x-a") == b"b" and first.trailers is None and first.remaining == pytest.approx(15) and first.elapsed == 0
    assert (second.number, second.status, second.headers) == (2, 0, None) and isinstance(second.error, UpstreamClosed)
    assert (third.number, third.status) == (3, 200) and third.elapsed > 0.5 and third.remaining < 14.5
    assert [(each.outcome, each.why) for each in world.records[0].tries] == [
        ("status 404", "I like it"),
        ("upstream-closed", "once more"),
        ("status 200", ""),
    ]


def test_trailers_only() -> None:
    """A policy sees gRPC's status, and that head and trailers are one."""
    policy = Asked()
    world = Retried(policy=policy)
    _, app = world.send(GET)
    app.receive(b"HTTP/1.1 200 OK\r\nGrpc-Status: 14\r\nContent-Length: 0\r\n\r\n")
    assert policy.facts[0].grpc_status == 14 and policy.facts[0].trailers is policy.facts[0].headers


ODD: list[Any] = [RuntimeError("no"), "yes", True, TryAgain("x", -1.0), TryAgain("x", float("nan")), TryAgain("x", float("inf")), GiveUp("why not")]


@pytest.mark.parametrize("answer", ODD)
def test_a_policy_that_errs_has_said_no(answer: Any) -> None:
    """It raises, or answers what is no verdict: the answer goes to the client, and the record says so."""
    world = Retried(policy=Asked(answer))
    client, app = world.send(GET)
    app.receive(BAD)
    world.wait()
    assert client.take().startswith(b"HTTP/1.1 503 ") and len(world.attempts) == 1
    assert world.records[0].notes and (world.route.retry.decide.account.failures == 1) is (type(answer) is not GiveUp)
    world.ended_once(503)


def test_no_policy_gets_around_safety() -> None:
    """One that always wants more: a POST is sent once, a GET as often as configured, within time and budget."""
    for head, settings, times in (
        (POST + b"hello", {"attempts": 5}, 1),
        (GET, {"attempts": 2, "attempts_max": 0}, 2),
        (GET, {"attempts": 5, "budget": RetryBudget(budget_percent=0, min_retry_concurrency=0, max_saved=0)}, 1),
        (PUT + b"hello", {"attempts": 5, "body_bytes": 4}, 1),
    ):
        world = Retried(policy=Asked(*[TryAgain("more", 0.01)] * 50), **settings)  # type: ignore[arg-type]
        client, _ = world.send(head)
        for _ in range(8):
            if not world.app.lost and world.app.protocol.owner is not None:
                world.app.receive(BAD)
            world.wait()
        assert len(world.attempts) == times and client.take().startswith(b"HTTP/1.1 503 ")
        world.ended_once(503)
    world = Retried(policy=Asked(TryAgain("later", 60.0)))
    client, app = world.send(GET)
    app.receive(BAD)
    assert "leaves no time" in world.said() and client.take().startswith(b"HTTP/1.1 503 ")


def test_what_a_refused_stream_is_worth() -> None:
    """A POST that the other side did not begin with goes elsewhere, as Envoy's refused-stream."""
    world = Retried(on=("refused-stream",))
    client, _ = world.send(POST + b"hello")
    error = UpstreamClosed("refused")
    error.retry_safe = True
    stream = world.exchanges[0].upstream
    world.exchanges[0].response_failed(error)
    stream.owner = None
    second = world.wait()
    assert second is world.attempts[1].transport and second.take().endswith(b"hello")
    second.receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ")


def test_a_date_in_retry_after() -> None:
    """Waited for like seconds, by the application's own clock."""
    world = Retried(retry_after_max=5)
    _, app = world.send(GET)
    app.receive(BAD.replace(b"\r\n\r\n", b"\r\nDate: Wed, 21 Oct 2015 07:28:00 GMT\r\nRetry-After: Wed, 21 Oct 2015 07:28:03 GMT\r\n\r\n"))
    world.wait(2.9)
    assert len(world.attempts) == 1
    world.wait(0.2)
    assert len(world.attempts) == 2


def test_idle_time_for_one_attempt() -> None:
    """Nothing comes: another attempt. An answer that began and stops is broken off."""
    world = Retried(per_try_idle_timeout=1)
    client, _ = world.send(GET)
    world.clock.pump([0.1] * 12)
    second = world.wait(0.1)
    assert second is world.attempts[1].transport and world.connector.counters["per_try_timeouts"] == 1
    second.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na")
    for _ in range(3):
        world.clock.pump([0.1] * 8)
        assert not client.closing
        second.receive(b"b")
    assert client.take().endswith(b"abbb")
    world.ended_once(200)
    world = Retried(per_try_idle_timeout=1)
    client, app = world.send(GET)
    app.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na")
    world.clock.pump([0.1] * 12)
    assert client.closing and world.records[0].code == "upstream-timeout" and "per_try_idle_timeout" in world.records[0].detail
    world.ended_once(200)


def test_a_slow_client_is_no_idle_endpoint() -> None:
    """While nothing can be passed on the endpoint is not blamed for its silence."""
    world = Retried(per_try_idle_timeout=1)
    client, app = world.send(GET)
    app.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n")
    client.blocked = True
    app.receive(b"x" * 2000)
    assert not app.reading
    world.clock.pump([0.5] * 10)
    assert not client.closing
    client.blocked = False
    client.drain()
    app.receive(b"y" * 1000)
    assert client.take().endswith(b"y" * 1000)
    world.ended_once(200)


def test_counters() -> None:
    """What becomes of attempts is counted, for the cluster and for each endpoint."""
    world = Retried(attempts=2, attempts_max=0)
    for last in (OK, BAD):
        client, app = world.send(GET)
        app.receive(BAD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        world.wait().receive(last.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert client.take()
    counters = world.connector.counters
    assert (counters["retries"], counters["retries_succeeded"], counters["retries_exhausted"], counters["retries_denied"]) == (2, 1, 1, 0)
    assert [pool.retries for pool in world.connector.pools] == [2, 0, 0]


def test_a_body_beyond_the_limit() -> None:
    """It is not kept, so there is no second attempt, and the record says so."""
    world = Retried(body_bytes=4)
    client, app = world.send(PUT + b"hello")
    app.lose()
    world.wait()
    assert len(world.attempts) == 1 and "longer than 4 octets" in world.said()
    assert client.take().startswith(b"HTTP/1.1 503 ")
    world.ended_once(503)


def test_retry_after() -> None:
    """Waited for within the bound; passed on beyond it."""
    world = Retried(retry_after_max=5)
    client, app = world.send(GET)
    app.receive(BAD.replace(b"\r\n\r\n", b"\r\nRetry-After: 3\r\n\r\n"))
    world.wait(2.9)
    assert len(world.attempts) == 1
    world.wait(0.2).receive(BAD.replace(b"\r\n\r\n", b"\r\nRetry-After: 6\r\n\r\n"))
    assert client.take().startswith(b"HTTP/1.1 503 ") and "Retry-After asks for 6 s" in world.said()


def test_time_for_one_attempt() -> None:
    """An endpoint that does not answer is left for another one; without more attempts the client gets 504."""
    world = Retried(endpoints=2, per_try_timeout=1, attempts=2)
    client, _ = world.send(GET)
    world.clock.pump([0.1] * 12)
    assert world.attempts[0].transport.aborted
    second = world.wait()
    assert second is world.attempts[1].transport and world.ports == [8080, 8081]
    world.clock.pump([0.1] * 15)
    assert client.take().startswith(b"HTTP/1.1 504 ") and world.records[0].flags == "UT,URX"
    world.ended_once(504)
    assert len(world.route.retry.spare_timers) == 1


def test_no_connection_in_the_time_for_one_attempt() -> None:
    """The endpoint that it waited for is the one that is named, and not tried again."""
    world = Retried(per_try_timeout=1, auto=False)
    client = world.client()
    client.receive(GET)
    world.attempts[0].succeed()
    for _ in range(2):
        world.clock.pump([0.1] * 12)
        world.wait()
    world.attempts[2].succeed().receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ") and world.ports == [8080, 8081, 8082]
    assert [f"from 127.0.0.1:{port};" in line for port, line in zip((8080, 8081), world.said().splitlines(), strict=True)] == [True, True]
    world.ended_once(200)


def test_a_slow_body_is_no_slow_answer() -> None:
    """The time for one attempt ends with the answer's head, and begins with the request's end."""
    world = Retried(per_try_timeout=1)
    client, app = world.send(PUT + b"he")
    world.clock.pump([0.5] * 8)
    client.receive(b"llo")
    app.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
    world.clock.pump([0.5] * 8)
    app.receive(b"k")
    assert client.take().endswith(b"ok")
    world.ended_once(200)


def test_the_budget() -> None:
    """No more retries at a time than it allows; each gives its place back."""
    world = Retried(budget=RetryBudget(budget_percent=0, min_retry_concurrency=1, max_saved=0))
    first, app = world.send(GET)
    second, other = world.send(GET)
    app.receive(BAD)
    other.receive(BAD)
    assert second.take().startswith(b"HTTP/1.1 503 ") and "retries run in the cluster already" in world.said()
    assert world.connector.counters["retries_denied"] == 1 and world.connector.retries == 1
    world.wait().receive(OK)
    assert first.take().startswith(b"HTTP/1.1 200 ") and world.connector.retries == 0


def test_the_routes_timeout_counts() -> None:
    """It runs over all attempts, also while none is running."""
    world = Retried(retry_after_max=60)
    client, app = world.send(GET)
    app.receive(BAD.replace(b"\r\n\r\n", b"\r\nRetry-After: 50\r\n\r\n"))
    assert client.take().startswith(b"HTTP/1.1 503 ") and "leaves no time" in world.said()


def test_a_client_that_goes_away_while_waiting() -> None:
    """Nothing is sent any more, and nothing is left behind."""
    world = Retried()
    client, app = world.send(GET)
    app.receive(BAD)
    client.lose()
    world.wait()
    assert len(world.attempts) == 1 and world.connector.retries == 0
    world.ended_once(499)


def test_tunnels_are_not_tried_again() -> None:
    """Nobody knows what they carried."""
    world = Retried(auto=False)
    client = world.client()
    client.receive(UPGRADE)
    world.attempts[0].fail(ConnectFailed("refused"))
    world.wait()
    assert len(world.attempts) == 1 and client.take().startswith(b"HTTP/1.1 503 ")


def test_an_answer_that_began_is_not_taken_back() -> None:
    """After the head went down a broken body breaks the answer."""
    world = Retried()
    client, app = world.send(GET)
    app.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
    app.lose()
    world.wait()
    assert len(world.attempts) == 1 and client.closing


def test_without_a_policy_nothing_is_kept() -> None:
    """A route without `retry` has no state for it."""
    world = World()
    client, app = world.send(PUT + b"hello")
    assert world.exchanges[0]._retry is None and world.exchanges[0]._flow is None
    app.receive(BAD)
    assert client.take().startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("head", [GET, PUT + b"hello"])
def test_an_exchange_leaves_nothing_to_the_collector(head: bytes) -> None:
    """When it is over nothing holds it: no cycle that only the garbage collector could find, once for every request."""

    def exchanges() -> int:
        return sum(isinstance(each, Exchange) for each in gc.get_objects())

    world = Retried()
    client = world.client()
    gc.collect()
    before = exchanges()
    gc.disable()
    try:
        _, app = world.send(head, client)
        assert exchanges() == before + 1
        app.receive(OK)
        assert client.take().startswith(b"HTTP/1.1 200 ")
        world.exchanges.clear()
        world.observed.clear()
        assert exchanges() == before
    finally:
        gc.enable()


def test_a_client_that_does_not_read_holds_the_next_attempt_up_as_well() -> None:
    """Informational answers that it did not take came from the first one."""
    world = Retried()
    client, app = world.send(GET)
    client.blocked = True
    app.receive(b"HTTP/1.1 103 Early Hints\r\nLink: </" + b"a" * 1500 + b">\r\n\r\n")
    assert not app.reading
    app.lose()
    second = world.wait()
    assert second is not app and not second.reading
    second.receive(OK)
    client.blocked = False
    client.drain()
    second.pump()
    assert client.take().endswith(b"ok")
    world.ended_once(200)


def test_timers_of_a_burst_are_let_go() -> None:
    """As many are kept as a busy route needs."""
    world = Retried(per_try_timeout=1.0, budget=RetryBudget(budget_percent=100))
    clients = [world.client() for _ in range(SPARE_TIMERS + 50)]
    for client in clients:
        client.receive(GET)
    assert not world.route.retry.spare_timers
    for client in clients:
        client.lose()
    assert len(world.route.retry.spare_timers) == SPARE_TIMERS and world.http.active == 0
