"""Mirrors, through the whole path: what a copy is made of, and that the original never notices one."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.address import Address
from sidecar.errors import ConnectFailed
from sidecar.message import RequestHead
from sidecar.model import CircuitBreakers, Cluster, Endpoint, Mirror, ValueMatch
from sidecar.proxy.mirroring import MirrorRuntime, MirrorStats, shadow_host
from sidecar.testing import make_request
from sidecar.upstream.pool import Connector
from tests.memory import CHUNKED, GET, OK, POST, SWITCH, UPGRADE, Attempt, FirstUntried, World, body_of, retry_rules

NEXT = Address("127.0.0.1", 9090)


class Mirrored(World):
    """A route with a mirror, whose connections are `copies`; those of the original connect by themselves."""

    def __init__(self, *plugins: Any, cluster: dict[str, Any] | None = None, breakers: CircuitBreakers | None = None, **settings: Any) -> None:
        super().__init__(*plugins, cluster=cluster)
        self.copies: list[Attempt] = []
        configured = Cluster(name="next", endpoints=(Endpoint(address=NEXT),), watermark_bytes=100, circuit_breakers=breakers)
        self.mirror_connector = Connector(configured, FirstUntried(), self._copy, self.clock.seconds, self.wheel.timer, None)
        self.stats = MirrorStats()
        self.mirror = MirrorRuntime(Mirror(**{"cluster": "next", **settings}), self.mirror_connector, self.stats, self.clock.seconds, self.wheel)
        self.mirror.dice = lambda: 0.5
        self.route.mirrors = (self.mirror,)

    def _copy(self, address: Address, protocol: Any, tls: Any) -> Attempt:
        self.copies.append(attempt := Attempt(address, protocol))
        return attempt

    def counted(self, **expected: int) -> None:
        """These counters, all others zero, and nothing is left."""
        assert {name: count for name, count in self.stats.counters.items() if count} == expected
        assert self.stats.active == 0 and self.mirror_connector.pending == 0
        assert sum(pool.active for pool in self.mirror_connector.pools) == 0


def test_a_copy_of_a_get() -> None:
    """The same request, to the host with -shadow; the client sees the original's answer alone, and the record tells."""
    world = Mirrored()
    client, app = world.send(GET)
    copy = world.copies[0].succeed()
    assert copy.take().startswith(b"GET /a HTTP/1.1\r\nHost: app-shadow\r\n") and b"Host: app\r\n" in app.take()
    copy.receive(b"HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\nbad")
    assert client.take() == b""
    app.receive(OK)
    assert body_of(client.take()) == b"ok"
    world.ended_once(200)
    assert world.records[0].notes == [("mirror", "copied to next")] and world.records[0].attempts == 1
    world.counted(requests=1, responses=1, error_responses=1)


CALL = b"POST /s/m HTTP/1.1\r\nHost: app\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "answer", "told"),
    [
        (GET, OK, [200]),
        (GET, b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno", [503]),
        (GET, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", [503]),
        (CALL, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nGrpc-Status: 14\r\n\r\n", [503]),
        (CALL, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nGrpc-Status: 0\r\n\r\n", [200]),
        (CALL, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nGrpc-Status: 13\r\n\r\n", [500]),
    ],
)
def test_how_a_copy_went(request_: bytes, answer: bytes, told: list[int]) -> None:
    """Told to those who watch the mirror's endpoints when its answer is over, of a gRPC call by its own status; an error is counted."""
    world = Mirrored()
    seen: list[int] = []
    world.mirror_connector.observe = lambda endpoint, status, seconds: seen.append(status)
    world.send(request_)
    copy = world.copies[0].succeed()
    copy.receive(answer)
    if not seen:
        copy.lose()
    assert seen == told
    counters = world.stats.counters
    assert counters["error_responses"] + counters["failures"] == (told[0] >= 500) and world.stats.active == 0


def test_a_body_is_passed_on_as_it_comes() -> None:
    """To both, chunk by chunk; the copy runs on when the original is over, and its connection is used again."""
    world = Mirrored()
    client, app = world.send(CHUNKED + b"2\r\nhe\r\n")
    copy = world.copies[0].succeed()
    assert body_of(copy.take()) == b"2\r\nhe\r\n"
    client.receive(b"3\r\nllo\r\n0\r\n\r\n")
    assert app.take().endswith(b"3\r\nllo\r\n0\r\n\r\n") and copy.take() == b"3\r\nllo\r\n0\r\n\r\n"
    app.receive(OK)
    world.ended_once(200)
    assert world.stats.active == 1
    copy.receive(OK)
    world.counted(requests=1, responses=1)
    world.send(GET)
    assert len(world.copies) == 1 and copy.take().startswith(b"GET ")


def test_what_the_mirror_cannot_take_yet() -> None:
    """Waits for its connection, and while it reads slowly; nothing is lost or twice."""
    world = Mirrored()
    client, app = world.send(CHUNKED + b"2\r\nhe\r\n")
    client.receive(b"2\r\nll\r\n")
    copy = world.copies[0].succeed()
    copy.take()
    copy.blocked = True
    client.receive(b"%x\r\n%b\r\n" % (200, b"x" * 200))
    client.receive(b"1\r\no\r\n0\r\n\r\n")
    assert len(copy.queued) < 220
    copy.blocked = False
    copy.drain()
    assert copy.take().endswith(b"x\r\n1\r\no\r\n0\r\n\r\n")
    app.receive(OK)
    copy.receive(OK)
    world.ended_once(200)
    world.counted(requests=1, responses=1)


@pytest.mark.parametrize("is_connected", [False, True])
def test_a_slow_mirror_is_cut(is_connected: bool) -> None:
    """Beyond its buffer; the original was never paused."""
    world = Mirrored(buffer_bytes=300)
    client, app = world.send(CHUNKED)
    if is_connected:
        world.copies[0].succeed().blocked = True
    for _ in range(8):
        client.receive(b"64\r\n%b\r\n" % (b"x" * 100))
    # One pause is the wait for its own connection.
    assert client.pauses <= 1 and len(body_of(app.take())) == 8 * 106
    world.counted(requests=1, cut=1)
    client.receive(b"0\r\n\r\n")
    app.receive(OK)
    world.ended_once(200)
    if is_connected:
        assert world.copies[0].transport.aborted


def test_a_mirror_that_does_not_answer_is_cut() -> None:
    """Its time begins when the request is whole."""
    world = Mirrored(timeout=2.0)
    client, app = world.send(POST)
    copy = world.copies[0].succeed()
    world.clock.advance(3.0)
    client.receive(b"hello")
    app.receive(OK)
    world.clock.advance(1.9)
    assert world.stats.active == 1
    world.clock.advance(0.3)
    world.counted(requests=1, cut=1)
    assert copy.aborted
    world.ended_once(200)


def test_failures_are_only_counted() -> None:
    """No connection, a broken one, an answer that is none."""
    world = Mirrored()
    for how in ("refuse", "lose", "nonsense"):
        client, app = world.send(GET)
        if how == "refuse":
            world.copies[-1].fail(ConnectFailed("refused"))
        elif how == "lose":
            world.copies[-1].succeed().lose()
        else:
            world.copies[-1].succeed().receive(b"SSH-2.0\r\n\r\n")
        app.receive(OK)
        assert body_of(client.take()) == b"ok"
    world.ended_once(200, 200, 200)
    world.counted(requests=3, failures=3)


def test_a_client_that_leaves_within_its_body() -> None:
    """The copy cannot become whole, so it ends too."""
    world = Mirrored()
    client, _ = world.send(POST + b"he")
    copy = world.copies[0].succeed()
    client.lose()
    world.ended_once(499)
    world.counted(requests=1, incomplete=1)
    assert copy.aborted


def test_a_stale_connection() -> None:
    """Is no failure of the mirror: the copy goes out on a new one."""
    world = Mirrored()
    for _ in range(2):
        client, app = world.send(GET)
        if world.copies[0].transport is None:
            world.copies[0].succeed().receive(OK)
        app.receive(OK)
        client.take()
    world.copies[0].transport.lose()
    world.copies[1].succeed().receive(OK)
    world.counted(requests=2, responses=2)


def test_retries_are_the_originals_alone() -> None:
    """A body that is kept for another attempt is copied once."""
    world = Mirrored()
    world.route.retry = retry_rules(attempts=2)
    _, app = world.send(b"PUT /a HTTP/1.1\r\nHost: app\r\nContent-Length: 5\r\n\r\nhello")
    copy = world.copies[0].succeed()
    app.receive(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    world.clock.advance(1.0)
    world.clock.advance(0)
    assert body_of(world.app.take()) == b"hello" and body_of(copy.take()) == b"hello"
    world.app.receive(OK)
    copy.receive(OK)
    world.ended_once(200)
    world.counted(requests=1, responses=1)


@pytest.mark.parametrize(
    ("settings", "wire", "is_copied"),
    [
        ({"percentage": 50.1}, GET, True),
        ({"percentage": 50.0}, GET, False),
        ({"percentage": 0.0}, GET, False),
        ({"headers": (ValueMatch(name="x-a", exact="1"),)}, GET, False),
        ({"headers": (ValueMatch(name="host", exact="app"),)}, GET, True),
        ({}, UPGRADE, False),
        ({}, b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", False),
    ],
)
def test_which_requests(settings: dict[str, Any], wire: bytes, is_copied: bool) -> None:
    """A share, those with certain fields, and never tunnels."""
    world = Mirrored(**settings)
    world.http.upgrades = frozenset({b"websocket", b"connect"})
    world.send(wire)
    assert bool(world.copies) is is_copied


def test_no_more_than_so_many() -> None:
    """The rest are skipped and counted; so are those that the cluster's circuit refuses."""
    world = Mirrored(max_active=1)
    world.send(GET)
    world.send(GET)
    assert len(world.copies) == 1 and world.stats.counters["skipped"] == 1
    world = Mirrored(breakers=CircuitBreakers(max_requests=1))
    world.send(GET)
    world.send(GET)
    assert len(world.copies) == 1 and world.stats.counters["skipped"] == 1
    world.copies[0].succeed().receive(OK)
    assert world.mirror_connector.circuit is not None and world.mirror_connector.circuit.running == 0


def copied(head: RequestHead, **settings: Any) -> RequestHead:
    return Mirrored(**settings).mirror.copy_of(head)


def test_what_the_copy_says() -> None:
    """Another host, no expectation, and the sampled flag as configured; the original stays as it was."""
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    head = make_request("POST", authority="app:80", headers={"Expect": "100-continue", "traceparent": trace}, has_body=True)
    copy = copied(head, trace_sampled=False)
    assert copy.authority == b"app-shadow:80" and copy.headers.get_all(b"host") == [b"app-shadow:80"]
    assert b"expect" not in copy.headers and copy.headers.get(b"traceparent") == trace.encode()[:-2] + b"00"
    assert head.headers.get(b"host") == b"app:80" and b"expect" in head.headers and head.headers.get(b"traceparent") == trace.encode()
    assert copied(head, trace_sampled=True).headers.get(b"traceparent") == trace.encode()
    assert copied(head, disable_shadow_host_suffix_append=True).authority == b"app:80"


@pytest.mark.parametrize(("host", "shadow"), [(b"a", b"a-shadow"), (b"a:1", b"a-shadow:1"), (b"[::1]:1", b"[::1]:1"), (b"10.0.0.1", b"10.0.0.1-shadow")])
def test_hosts(host: bytes, shadow: bytes) -> None:
    """The port stays behind."""
    assert shadow_host(host) == shadow


def test_a_mirror_that_switches_protocols_is_given_up() -> None:
    """Nobody asked for that; what it sends would be kept for ever."""
    world = Mirrored(timeout=0.0)
    _, app = world.send(GET)
    copy = world.copies[0].succeed()
    copy.receive(SWITCH)
    assert copy.aborted
    app.receive(OK)
    world.ended_once(200)
    world.counted(requests=1, failures=1)
