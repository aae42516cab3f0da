"""`sidecar/upstream/health.py`: endpoints under watch, through the whole path."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.logger import capturedLogs, formatEvent

from sidecar.errors import ConnectFailed
from sidecar.model import OutlierDetection
from sidecar.upstream.health import LOGGED_AT_ONCE
from tests.memory import GET, OK, World

BAD = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


class Watched(World):
    """Three endpoints of which one may be ejected; the first is always taken while it may be."""

    def __init__(self, panic: int = 50, endpoints: int = 3, **settings: Any) -> None:
        super().__init__(endpoints=endpoints, cluster={"outlier_detection": OutlierDetection(consecutive_5xx=2, **settings), "healthy_panic_threshold": panic})

    def ask(self, answer: bytes) -> str:
        """One request and the application's answer: the endpoint that got it."""
        client, _ = self.send(GET)
        self.exchanges[-1].upstream.transport.receive(answer)
        assert client.take()
        return self.exchanges[-1].endpoint_text


def test_ejected_and_back() -> None:
    """Two bad answers and the next request goes elsewhere; after the ejection time it is the first's turn again."""
    world = Watched()
    first, second = (pool.text for pool in world.connector.pools[:2])
    assert [world.ask(BAD), world.ask(BAD), world.ask(OK)] == [first, first, second]
    shown = world.connector.snapshot()
    assert shown["ejections"] == 1 and shown["panicking"] is False
    assert [each["healthy"] for each in shown["endpoints"]] == [False, True, True]
    assert shown["endpoints"][0]["last_ejection"] == "2 failures in a row" and shown["endpoints"][0]["ejected_for_seconds"] == 30.0
    world.clock.pump([1.0] * 32)
    assert world.ask(OK) == first
    assert world.connector.snapshot()["endpoints"][0]["healthy"] is True


def test_connections_that_fail_count() -> None:
    """Refused twice is as bad as two 503."""
    world = Watched()
    world.auto = False
    for _ in range(2):
        client = world.client()
        client.receive(GET)
        world.attempts[-1].fail(ConnectFailed("refused"))
    assert world.connector.pools[0].health.is_ejected


def test_broken_answers_and_timeouts_count() -> None:
    """A connection lost before the answer, and an answer that does not come."""
    world = Watched()
    _, app = world.send(GET)
    app.lose()
    assert world.connector.pools[0].health.in_row == 1
    world.send(GET)
    world.clock.pump([1.0] * 16)
    assert world.connector.pools[0].health.is_ejected


@pytest.mark.parametrize(("panic", "status"), [(50, b"200"), (0, b"503")])
def test_panic(panic: int, status: bytes) -> None:
    """With nobody well all are used; without panic the caller gets UH."""
    world = Watched(panic, endpoints=1)
    world.ask(BAD)
    world.ask(BAD)
    assert world.connector.snapshot()["panicking"] is (panic == 50)
    client, app = world.send(GET)
    if panic:
        app.receive(OK)
    assert client.take().startswith(b"HTTP/1.1 " + status)
    assert world.records[-1].flags == ("" if panic else "UH")


def test_stop_ends_the_watch() -> None:
    """No timer is left behind."""
    world = Watched()
    world.connector.stop()
    assert not world.connector.watch._timer.is_set


def test_many_that_go_and_come_back_are_counted() -> None:
    """The log names some: thousands of lines at once would stop everybody's requests."""
    settings = {"failure_percentage_threshold": 50, "enforcing_failure_percentage": 100, "failure_percentage_request_volume": 1}
    world = Watched(endpoints=5 * LOGGED_AT_ONCE, max_ejection_percent=100, **settings)
    with capturedLogs() as events:
        for pool in world.connector.pools:
            world.connector.watch.observe(pool, 503, 0.0)
        world.clock.pump([1.0] * 60)
    told = [formatEvent(event) for event in events if event["log_namespace"] == "sidecar.upstream"]
    out = [each for each in told if "gets no requests" in each]
    back = [each for each in told if "gets requests again" in each]
    assert len(out) == len(back) == LOGGED_AT_ONCE
    assert told.count(f"app: likewise {4 * LOGGED_AT_ONCE} more, see /clusters") == 2
    assert not world.connector.watch._judge.out


def test_who_is_spared_is_told_of() -> None:
    """In `/clusters` at once, in the log with the next look, and counted each time."""
    world = Watched()
    for _ in range(6):
        world.ask(BAD)
    shown = world.connector.snapshot()
    assert shown["ejections"] == 1 and shown["ejections_overflow"] == 2
    spared = "2 failures in a row, but 1 of 3 endpoints are out already (max_ejection_percent)"
    assert [each["spared"] for each in shown["endpoints"]] == ["", spared, ""]
    with capturedLogs() as events:
        world.clock.pump([1.0] * 12)
    assert [formatEvent(each) for each in events].count(f"app: {world.connector.pools[1].text} goes on getting requests: {spared}") == 1
