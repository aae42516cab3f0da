"""A cluster's circuit, through the whole path."""

from __future__ import annotations

import json
from typing import Any

from sidecar.model import CircuitBreakers, FailureRate, RetryBudget
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
