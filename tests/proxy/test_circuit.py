"""A cluster's circuit, through the whole path."""

from __future__ import annotations

import json
from typing import Any

from sidecar.cluster.circuit import HIGH
from sidecar.model import CircuitBreakers, CircuitLimits, FailureRate, RetryBudget
from tests.memory import GET, OK, World, body_of, retry_rules

BAD = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
UNAVAILABLE = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"


def world(endpoints: int = 1, **settings: Any) -> World:
    return World(endpoints=endpoints, cluster={"circuit_breakers": CircuitBreakers(**settings)})


def test_max_requests() -> None:
    """One more than may run gets 503 with UO and a sentence; the next one passes again."""
    it = world(max_requests=1)
    first, app = it.send(GET)
    second = it.client()
    second.receive(GET)
    assert "1 requests run already (circuit_breakers.max_requests)" in json.loads(body_of(second.take()))["detail"]
    assert it.records[0].flags == "UO" and it.records[0].code == "upstream-overflow"
    app.receive(OK)
    first.receive(GET)
    app.receive(OK)
    assert first.take().count(b"HTTP/1.1 200 ") == 2
    shown = it.connector.snapshot()
    assert (shown["running"], shown["refused"], shown["circuit"]) == (0, 1, "closed")


def test_failure_rate() -> None:
    """Failing requests open it, refused ones say so, and a probe closes it."""
    it = world(failure_rate=FailureRate(minimum_requests=2, open_time=1, probes=1))
    for _ in range(2):
        client, _ = it.send(GET)
        it.exchanges[-1].upstream.transport.receive(BAD)
    client = it.client()
    client.receive(GET)
    assert json.loads(body_of(client.take()))["code"] == "circuit-open" and it.records[-1].flags == "UO"
    assert it.connector.snapshot()["circuit"] == "open"
    it.clock.advance(1.1)
    client, _ = it.send(GET)
    it.exchanges[-1].upstream.transport.receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ") and it.connector.snapshot()["circuit"] == "closed"


def test_a_client_that_goes_away_is_no_failure() -> None:
    """It leaves the circuit as it was."""
    it = world(failure_rate=FailureRate(minimum_requests=1))
    client, _ = it.send(GET)
    client.lose()
    assert it.connector.circuit.running == 0 and it.connector.circuit.state == "closed"


def test_max_retries() -> None:
    """A limit on requests that are being retried, whatever the budget says."""
    it = world(2, max_retries=1)
    it.route.retry = retry_rules(budget=RetryBudget(min_retry_concurrency=100))
    _, one = it.send(GET)
    _, two = it.send(GET)
    one.receive(UNAVAILABLE)
    two.receive(UNAVAILABLE)
    assert it.connector.retries == 1 and any("circuit_breakers.max_retries" in what for _, what in it.records[-1].notes)


def test_the_routes_priority() -> None:
    """High ones get through while the others fill their share."""
    it = world(max_requests=1, high=CircuitLimits(max_requests=1))
    it.send(GET)
    assert it.send(GET)[0].take().startswith(b"HTTP/1.1 503 ")
    it.route = it.make_route("checkout")
    it.route.priority = HIGH
    client, app = it.send(GET)
    app.receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ") and it.connector.circuit.running == 1
    client.receive(GET)
    other = it.client()
    other.receive(GET)
    assert "circuit_breakers.high.max_requests" in json.loads(body_of(other.take()))["detail"]


def test_who_waits_for_a_connection() -> None:
    """By priority: 503 with UO and a sentence for one more than may."""
    it = World(auto=False, cluster={"circuit_breakers": CircuitBreakers(max_pending=1, high=CircuitLimits(max_pending=2))})
    for status in (0, 503):
        client = it.client()
        client.receive(GET)
        assert client.take().startswith(b"HTTP/1.1 503 ") is (status == 503)
    assert it.records[0].flags == "UO" and "circuit_breakers.max_pending" in it.records[0].detail
    it.route = it.make_route("checkout")
    it.route.priority = HIGH
    for status in (0, 0, 503):
        client = it.client()
        client.receive(GET)
        assert client.take().startswith(b"HTTP/1.1 503 ") is (status == 503)
    assert "2 requests wait for a connection already (circuit_breakers.high.max_pending)" in it.records[1].detail
    assert it.connector.pending == 3 and it.connector.counters["overflows"] == 2


def test_connections() -> None:
    """No more are made than those who wait may have; high ones may have more."""
    it = world(max_connections=1, high=CircuitLimits(max_connections=2))
    first, _ = it.send(GET)
    second, _ = it.send(GET)
    assert len(it.attempts) == 1
    it.route = it.make_route("checkout")
    it.route.priority = HIGH
    third, _ = it.send(GET)
    assert len(it.attempts) >= 2
    for _ in range(3):
        for attempt in it.attempts:
            if attempt.protocol.owner is not None:
                attempt.transport.receive(OK)
        it.turn()
    for client in (first, second, third):
        assert client.take().startswith(b"HTTP/1.1 200 ")
    assert len(it.attempts) == 2
    it.ended_once(200, 200, 200)


def test_retries_by_priority() -> None:
    """Their limit is counted apart as well, and given back."""
    it = world(2, max_retries=1)
    it.route.retry = retry_rules(budget=RetryBudget(min_retry_concurrency=100))
    clients = []
    for priority in (0, HIGH):
        it.route = it.make_route("r")
        it.route.priority = priority
        it.route.retry = retry_rules(budget=RetryBudget(min_retry_concurrency=100))
        for _ in range(2):
            client, app = it.send(GET)
            clients.append(client)
            app.receive(UNAVAILABLE)
    assert [client.take()[:12] for client in clients] == [b"", b"HTTP/1.1 503", b"", b"HTTP/1.1 503"]
    assert it.connector.circuit.snapshot()["retrying"] == 2
    it.clock.advance(0.3)
    it.turn()
    for attempt in it.attempts[-2:]:
        attempt.transport.receive(OK)
    assert it.connector.circuit.snapshot()["retrying"] == it.connector.circuit.running == 0


def test_calls_of_grpc_count_by_their_status() -> None:
    """200 with UNAVAILABLE is a failure; with NOT_FOUND it is none."""
    for status, state in ((14, "open"), (5, "closed")):
        it = world(failure_rate=FailureRate(minimum_requests=2))
        for _ in range(2):
            _, app = it.send(b"POST /a HTTP/1.1\r\nHost: app\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n")
            app = it.exchanges[-1].upstream.transport
            app.receive(b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nGrpc-Status: %d\r\nContent-Length: 0\r\n\r\n" % status)
        assert it.connector.circuit.state == state
