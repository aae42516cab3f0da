"""Attempts beside one another: who wins, what happens to the others, and that nothing is left behind."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import ConnectFailed
from sidecar.model import CircuitBreakers, Hedge, OutlierDetection, RetryBudget
from tests.memory import GET, OK, POST, World, retry_rules
from tests.proxy.test_retrying import BAD, KEYED, PUT


class Hedged(World):
    """Three endpoints, taken in order, and a route that hedges after a second."""

    def __init__(self, hedge: Hedge | None = None, cluster: dict[str, Any] | None = None, auto: bool = True, **settings: Any) -> None:
        super().__init__(endpoints=3, cluster=cluster, auto=auto)
        self.route.retry = retry_rules(hedge or Hedge(delay=1), **settings)

    def late(self, seconds: float = 1.05) -> Any:
        """Time passes and the next connection is there: the application's new end."""
        steps = int(seconds / 0.05)
        self.clock.pump([0.05] * steps)
        self.turn()
        return self.app

    def up(self, index: int) -> Any:
        return self.attempts[index].transport

    def nothing_is_left(self) -> None:
        assert all(not pool.active and not pool.waiting for pool in self.connector.pools)
        assert self.connector.retries == 0 and self.connector.pending == 0
        assert self.connector.circuit is None or self.connector.circuit.running == 0


def test_the_second_wins() -> None:
    """It answers, the first one is reset, and the record tells both."""
    world = Hedged()
    client, first = world.send(GET)
    second = world.late()
    assert second is not first and second.take().startswith(b"GET /a ")
    second.receive(OK)
    assert client.take().endswith(b"ok") and first.aborted
    world.ended_once(200)
    world.nothing_is_left()
    record = world.records[0]
    assert record.attempts == 2 and record.endpoint.endswith(":8081")
    assert [(each.endpoint[-5:], each.outcome) for each in record.tries] == [(":8080", "given up"), (":8081", "status 200")]
    assert world.connector.counters["hedges"] == world.connector.counters["hedges_won"] == 1
    assert [len(pool.idle) for pool in world.connector.pools] == [0, 1, 0], "the winner's connection is kept, the other is gone"


def test_the_first_wins() -> None:
    """The one beside it is reset."""
    world = Hedged()
    client, first = world.send(GET)
    second = world.late()
    first.receive(OK)
    assert client.take().endswith(b"ok") and second.aborted and not first.aborted
    world.ended_once(200)
    world.nothing_is_left()
    assert [each.outcome for each in world.records[0].tries] == ["given up", "status 200"]
    assert world.connector.counters["hedges_won"] == 0


def test_a_quick_answer_has_no_company() -> None:
    """Nothing is sent twice, and the timer of one exchange does not reach into the next."""
    world = Hedged()
    client, app = world.send(GET)
    app.receive(OK)
    world.late(3)
    assert len(world.attempts) == 1 and world.records[0].tries == [] and client.take().endswith(b"ok")


@pytest.mark.parametrize("slow_body", [False, True])
def test_the_winners_body_comes_in_pieces(slow_body: bool) -> None:
    """All of it passes, in one batch or many, and what breaks in it breaks the answer."""
    world = Hedged()
    client, _ = world.send(GET)
    second = world.late()
    second.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nab")
    second.receive(b"cd")
    if slow_body:
        second.lose()
        assert client.take().endswith(b"abcd") and client.closing
        world.ended_once(200)
    else:
        second.receive(b"ef")
        assert client.take().endswith(b"abcdef") and not client.closing
        world.ended_once(200)
    world.nothing_is_left()


@pytest.mark.parametrize("bad", ["first", "second"])
@pytest.mark.parametrize("how", ["status", "lost"])
def test_a_bad_answer_waits_for_the_other(bad: str, how: str) -> None:
    """Whichever fails first, the other one answers."""
    world = Hedged(attempts=2)
    client, first = world.send(GET)
    second = world.late()
    loser, winner = (first, second) if bad == "first" else (second, first)
    if how == "status":
        loser.receive(BAD)
    else:
        loser.lose()
    assert client.take() == b""
    winner.receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ") and len(world.attempts) == 2
    world.ended_once(200)
    world.nothing_is_left()


@pytest.mark.parametrize("order", ["first", "second"])
def test_when_both_fail(order: str) -> None:
    """A third attempt is made when there may be one; else the last failure is the client's."""
    for attempts, status in ((3, 200), (2, 503)):
        world = Hedged(attempts=attempts, attempts_max=attempts)
        client, first = world.send(GET)
        second = world.late()
        for each in (first, second) if order == "first" else (second, first):
            each.receive(BAD)
        if attempts == 3:
            world.late(0.5).receive(OK)
        assert client.take().startswith(b"HTTP/1.1 %d " % status)
        world.ended_once(status)
        world.nothing_is_left()
        assert len(world.records[0].tries) == attempts
        assert world.records[0].flags == ("" if status == 200 else "URX")


def test_what_may_not_be_sent_twice_has_no_company() -> None:
    """A POST without a key; with one, or a PUT, the body goes along whole."""
    for head, times in ((POST, 1), (KEYED, 2), (PUT, 2)):
        world = Hedged()
        client, _ = world.send(head + b"hello")
        second = world.late()
        assert len(world.attempts) == times
        if times == 2:
            assert second.take().endswith(b"\r\n\r\nhello")
        second.receive(OK)
        assert client.take().startswith(b"HTTP/1.1 200 ")
        world.ended_once(200)
        world.nothing_is_left()


def test_a_body_that_is_not_kept_or_not_here() -> None:
    """There is nothing to send to another one."""
    world = Hedged(body_bytes=4)
    world.send(PUT + b"hello")
    world.late()
    assert len(world.attempts) == 1 and any("not kept whole" in what for who, what in world.exchanges[0].notes)
    world = Hedged()
    world.send(PUT + b"he")
    world.late(3)
    assert len(world.attempts) == 1


def test_on_per_try_timeout() -> None:
    """The slow attempt goes on, and both may win; each further time brings another one, up to the limit."""
    for winner in (0, 1, 2):
        world = Hedged(Hedge(hedge_on_per_try_timeout=True), per_try_timeout=1, attempts=3)
        client, _ = world.send(GET)
        world.late(1.1)
        assert len(world.attempts) == 2 and not world.up(0).aborted
        world.late(1.1)
        assert not world.up(0).aborted
        world.late(0.1)
        world.up(min(winner, len(world.attempts) - 1)).receive(OK)
        assert client.take().startswith(b"HTTP/1.1 200 ")
        world.ended_once(200)
        world.nothing_is_left()
        assert world.connector.counters["per_try_timeouts"] >= 1


def test_limits() -> None:
    """Attempts, budget and circuit hold for it, and the record says which one did."""
    for settings, cluster, said in (
        ({"attempts": 1}, None, "all 1 attempts were made"),
        ({"budget": RetryBudget(budget_percent=0, min_retry_concurrency=0, max_saved=0)}, None, "retry.budget"),
        ({}, {"circuit_breakers": CircuitBreakers(max_requests=1)}, "circuit_breakers.max_requests"),
    ):
        world = Hedged(cluster=cluster, **settings)  # type: ignore[arg-type]
        client, app = world.send(GET)
        world.late()
        assert len(world.attempts) == 1
        app.receive(OK)
        assert client.take().startswith(b"HTTP/1.1 200 ")
        assert any(who == "hedge" and said in what for who, what in world.records[0].notes), world.records[0].notes
        world.nothing_is_left()


def test_it_counts_in_the_circuit() -> None:
    """While both run, two of the cluster's requests are taken; then none."""
    world = Hedged(cluster={"circuit_breakers": CircuitBreakers(max_requests=2)})
    client, _ = world.send(GET)
    second = world.late()
    assert world.connector.circuit.running == 2
    second.receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ")
    world.nothing_is_left()


def test_a_client_that_goes_away() -> None:
    """Both attempts are reset."""
    world = Hedged()
    client, first = world.send(GET)
    second = world.late()
    client.lose()
    assert first.aborted and second.aborted
    world.ended_once(499)
    world.nothing_is_left()


def test_the_routes_timeout_ends_both() -> None:
    """One 504, and nobody waits any more."""
    world = Hedged()
    client, first = world.send(GET)
    second = world.late()
    world.late(15)
    assert client.take().startswith(b"HTTP/1.1 504 ") and first.aborted and second.aborted
    world.ended_once(504)
    world.nothing_is_left()


def test_one_that_finds_no_connection() -> None:
    """The first goes on alone; when it is gone as well a retry is made."""
    world = Hedged(auto=False)
    client = world.client()
    client.receive(GET)
    first = world.attempts[0].succeed()
    world.late()
    world.attempts[1].fail(ConnectFailed("refused"))
    assert client.take() == b""
    first.receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ")
    world.ended_once(200)
    world.nothing_is_left()


def test_a_waiting_first_attempt() -> None:
    """It never got a connection: the other one answers, and its place in the queue is given back."""
    world = Hedged(auto=False)
    client = world.client()
    client.receive(GET)
    world.late()
    world.attempts[-1].succeed().receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ")
    world.ended_once(200)
    world.nothing_is_left()


def test_a_call_beside_is_judged_by_its_own_status() -> None:
    """UNAVAILABLE from the one that ran beside counts as a failure of that endpoint, though it came with 200."""
    world = Hedged(on=("unavailable",), idempotency_headers=("content-type",))
    seen: list[tuple[str, int]] = []
    world.connector.observe = lambda endpoint, status, seconds: seen.append((endpoint.text, status))
    client, first = world.send(b"POST /a HTTP/1.1\r\nHost: app\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n")
    second = world.late()
    second.receive(b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nGrpc-Status: 14\r\nContent-Length: 0\r\n\r\n")
    assert seen == [("127.0.0.1:8081", 503)] and client.take() == b""
    first.receive(b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nGrpc-Status: 0\r\nContent-Length: 0\r\n\r\n")
    assert client.take().startswith(b"HTTP/1.1 200 ") and seen[-1] == ("127.0.0.1:8080", 200)
    world.ended_once(200)
    world.nothing_is_left()


class Silent(Hedged):
    """A route that retries and says nothing of times: 15 s for three attempts."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cluster=settings.pop("cluster", None))
        self.route.retry = retry_rules(**settings)
        self.route.silent_after = 5.0


def test_a_silent_endpoint_does_not_take_all_the_time() -> None:
    """Another one is asked after a third of it, and the silent one is blamed."""
    world = Silent()
    seen: list[tuple[str, int]] = []
    world.connector.observe = lambda endpoint, status, seconds: seen.append((endpoint.text[-4:], status))
    client, _ = world.send(GET)
    assert world.late(4.9) is world.up(0)
    second = world.late(0.3)
    assert second is not world.up(0) and second.take().startswith(b"GET /a ")
    second.receive(OK)
    assert client.take().endswith(b"ok") and seen == [("8080", 504), ("8081", 200)]
    world.ended_once(200)
    world.nothing_is_left()
    assert "no answer within 5 s (retry.silent_after)" in str(world.records[0].notes)


@pytest.mark.parametrize("ends", [OK, BAD])
def test_company_for_one_that_finds_no_connection(ends: bytes) -> None:
    """Nobody takes the first one's SYN: the second's answer is the client's, and only an endpoint that was asked is blamed for its silence."""
    world = Silent(attempts=2)
    seen: list[tuple[str, int]] = []
    world.connector.observe = lambda endpoint, status, seconds: seen.append((endpoint.text[-4:], status))
    world.auto = False
    client = world.client()
    client.receive(GET)
    assert world.late(5.3) is None and len(world.attempts) == 2
    second = world.attempts[1].succeed()
    second.receive(ends)
    if ends is BAD:
        # It says nothing of the first one, which may still do better.
        assert client.take() == b"" and not world.attempts[0].cancelled and seen == [("8081", 503)]
        world.attempts[0].succeed().receive(OK)
        seen.pop(0)
    assert client.take().endswith(b"ok") and seen == [("8080" if ends is BAD else "8081", 200)]
    world.ended_once(200)
    world.nothing_is_left()


def watched(hedge: Hedge, **settings: Any) -> Hedged:
    return Hedged(hedge, {"outlier_detection": OutlierDetection(consecutive_5xx=2, max_ejection_percent=100), "healthy_panic_threshold": 0}, **settings)


def test_who_always_loses_is_ejected() -> None:
    """An endpoint that hangs is company for every one of its requests; outlier detection hears of it though no time is over, and it gets no more."""
    world = watched(Hedge(delay=1))
    hung = world.connector.pools[0]
    for count in (1, 2):
        world.connector.pick = lambda exchange, tried: next(each for each in world.connector.pools if each not in tried)
        client, _ = world.send(GET)
        world.late()
        world.up(1).receive(OK)  # its connection is kept
        assert client.take().endswith(b"ok") and hung.health.in_row == count % 2
    assert hung.health.is_ejected and hung.health.reason == "2 failures in a row" and hung.health.failures == 0
    assert not any(pool.health.is_ejected for pool in world.connector.pools[1:])


def test_who_began_later_has_not_lost() -> None:
    """It had less time than the one that answered."""
    world = watched(Hedge(delay=1))
    client, first = world.send(GET)
    world.late()
    first.receive(OK)
    assert client.take().endswith(b"ok") and [pool.health.in_row for pool in world.connector.pools] == [0, 0, 0]


def test_of_three_the_last_one_wins() -> None:
    """The two before had more time: both have lost."""
    world = watched(Hedge(delay=1, hedge_on_per_try_timeout=True), per_try_timeout=2)
    client, first = world.send(GET)
    world.late(1.05)
    second = world.up(1)
    world.late(1.0)
    assert len(world.attempts) == 3 and world.connector.pools[0].health.in_row == 1, "its time was over, and that was told"
    world.up(2).receive(OK)
    assert client.take().endswith(b"ok") and first.aborted and second.aborted
    assert [pool.health.in_row for pool in world.connector.pools] == [1, 1, 0], "and not told twice"
    assert [pool.health.failures for pool in world.connector.pools] == [1, 0, 0]


def test_one_after_the_other_may_be_silent() -> None:
    """All attempts are made before the route's time is over; then it is over."""
    world = Silent()
    client, _ = world.send(GET)
    world.late(5.1)
    third = world.late(5.1)
    assert len(world.attempts) == 3
    third.receive(OK)
    assert client.take().endswith(b"ok")
    world.ended_once(200)
    world.nothing_is_left()
    world = Silent()
    client, _ = world.send(GET)
    world.late(15.2)
    assert client.take().startswith(b"HTTP/1.1 504 ") and len(world.attempts) == 3
    world.nothing_is_left()


def test_a_slow_endpoint_is_not_blamed_for_company() -> None:
    """It answers before the other: nothing is said against either."""
    world = Silent()
    seen: list[int] = []
    world.connector.observe = lambda endpoint, status, seconds: seen.append(status)
    client, first = world.send(GET)
    world.late(7)
    first.receive(OK)
    assert client.take().endswith(b"ok") and seen == [200]
    world.ended_once(200)
    world.nothing_is_left()


@pytest.mark.parametrize("what", [POST + b"hello", PUT + b"hello", KEYED + b"hello"])
def test_what_changes_something_gets_no_company(what: bytes) -> None:
    """Two PUTs beside each other could be carried out long after the caller has gone on."""
    world = Silent()
    world.send(what)
    world.late(14)
    assert len(world.attempts) == 1


def test_nobody_else_to_ask() -> None:
    """The others are ill, or there are no further attempts."""
    for settings in ({"attempts": 1}, {}):
        world = Silent(**settings)
        for pool in world.connector.pools[1:] if not settings else ():
            pool.check_failure = "503"
        world.send(GET)
        world.late(14)
        assert len(world.attempts) == 1


def test_an_attempt_that_failed_is_replaced() -> None:
    """The first one is silent and the one beside it fails: the third endpoint answers. None is asked twice."""
    for how in ("refused", "503", "lost"):
        world = Hedged()
        client, _ = world.send(GET)
        world.auto = how != "refused"
        second = world.late()
        if how == "refused":
            world.auto = True
            world.attempts[1].fail(ConnectFailed("refused"))
        elif how == "503":
            second.receive(BAD)
        else:
            second.lose()
        third = world.late(0.1)
        assert [each.address.port for each in world.attempts] == [8080, 8081, 8082], how
        third.receive(OK)
        assert client.take().endswith(b"ok")
        world.ended_once(200)
        world.nothing_is_left()


def test_the_first_one_fails_beside_a_silent_one() -> None:
    """Likewise."""
    world = Hedged()
    client, first = world.send(GET)
    world.late()
    first.lose()
    third = world.late(0.1)
    assert [each.address.port for each in world.attempts] == [8080, 8081, 8082]
    third.receive(OK)
    assert client.take().endswith(b"ok")
    world.ended_once(200)
    world.nothing_is_left()


def test_attempts_that_wait_for_a_connection_are_somewhere() -> None:
    """A third one goes elsewhere, too."""
    world = Hedged(Hedge(delay=1, hedge_on_per_try_timeout=True), per_try_timeout=2.0, auto=False)
    client = world.client()
    client.receive(GET)
    world.late()
    world.late()
    assert [each.address.port for each in world.attempts] == [8080, 8081, 8082]
    world.attempts[2].succeed().receive(OK)
    assert client.take().endswith(b"ok")
    world.ended_once(200)
    world.nothing_is_left()
