"""What callers ask for in header fields, and what each attempt is told; through the whole path."""

from __future__ import annotations

from typing import Any

import pytest
from zope.interface import implementer

from sidecar.interfaces import IRequestHeadHook
from sidecar.model import Hedge, MaxStreamDuration
from sidecar.proxy.hints import OURS, Hints
from sidecar.verdicts import Reroute
from tests.memory import OK, UPGRADE, World, retry_rules
from tests.proxy.test_retrying import BAD


class Hinted(World):
    """A route whose hints are as given; three endpoints."""

    def __init__(
        self,
        mode: str = "honor",
        duration: MaxStreamDuration | None = None,
        timeout: float | None = None,
        retry: dict[str, Any] | None = None,
        hedge: Hedge | None = None,
        tells: bool = True,
        counts: bool = False,
        plugins: tuple[Any, ...] = (),
    ) -> None:
        super().__init__(*plugins, endpoints=3)
        route = self.route
        if timeout is not None:
            route.timeout = timeout
            route.timeout_ends_with_head = False
        if retry is not None:
            route.retry = retry_rules(hedge, **retry)
        route.hints = Hints(route.timeout, route.timeout_ends_with_head, mode, duration, retry_rules(on=(), attempts=2), tells, counts)

    def ask(self, head: bytes = b"GET", **fields: str) -> tuple[Any, Any]:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        return self.send(head + b" /a HTTP/1.1\r\nHost: app\r\n" + lines.encode() + b"\r\n")

    def call(self, timeout: str) -> tuple[Any, Any]:
        return self.ask(b"POST", content_type="application/grpc", grpc_timeout=timeout)

    def late(self, seconds: float) -> Any:
        self.clock.pump([0.05] * int(seconds / 0.05 + 0.5))
        self.turn()
        return self.app

    def told(self, index: int, name: bytes) -> bytes | None:
        """The field of that attempt as the application got it."""
        head = bytes(self.attempts[index].transport.written).lower()
        lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n\r\n")[0].split(b"\r\n")[1:])
        return lines.get(name)


@pytest.mark.parametrize("timeout", [10.0, None])
def test_the_callers_timeout(timeout: float | None) -> None:
    """It takes the place of the route's, written or not, covers the whole answer, and does not go up."""
    world = Hinted(timeout=timeout)
    client, app = world.ask(x_envoy_upstream_rq_timeout_ms="1000")
    assert world.told(0, b"x-envoy-expected-rq-timeout-ms") == b"1000" and world.told(0, b"x-envoy-upstream-rq-timeout-ms") is None
    app.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
    world.late(1.2)
    assert client.take().endswith(b"he") and client.closing
    world.ended_once(200)
    assert world.records[0].code == "upstream-timeout" and "within 1 s (asked for by the caller)" in world.records[0].detail


def test_zero_is_no_timeout() -> None:
    """As in Envoy."""
    world = Hinted(timeout=1)
    client, app = world.ask(x_envoy_upstream_rq_timeout_ms="0")
    world.late(5)
    app.receive(OK)
    assert client.take().endswith(b"ok")


def test_what_the_hop_before_expects() -> None:
    """Its remaining time is ours, and less goes on."""
    world = Hinted(retry={}, timeout=10)
    _, app = world.ask(x_envoy_expected_rq_timeout_ms="2000")
    assert world.told(0, b"x-envoy-expected-rq-timeout-ms") == b"2000"
    world.late(1)
    app.receive(BAD)
    world.late(0.3)
    assert 500 < int(world.told(1, b"x-envoy-expected-rq-timeout-ms") or b"") < 1000


@pytest.mark.parametrize("mode", ["pass", "drop"])
def test_strangers_are_not_heard(mode: str) -> None:
    """Their fields change nothing here; dropped they go no further, passed they do."""
    world = Hinted(mode, timeout=10)
    fields = {name.decode().replace("-", "_"): "1" for name in OURS}
    client, app = world.ask(**fields)
    for name in OURS:
        told = world.told(0, name)
        assert told == (b"10000" if name == b"x-envoy-expected-rq-timeout-ms" else None if mode == "drop" else b"1"), name
    world.late(1)
    app.receive(BAD)
    assert client.take().startswith(b"HTTP/1.1 503 ") and len(world.attempts) == 1


def test_time_for_one_attempt() -> None:
    """With a policy of the route another attempt follows; without any the caller gets 504."""
    world = Hinted(retry={"per_try_timeout": 5.0})
    client, _ = world.ask(x_envoy_upstream_rq_per_try_timeout_ms="500")
    assert world.told(0, b"x-envoy-expected-rq-timeout-ms") == b"500"
    world.late(0.9).receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ") and len(world.attempts) == 2
    world = Hinted()
    client, _ = world.ask(x_envoy_upstream_rq_per_try_timeout_ms="500")
    world.late(0.9)
    assert client.take().startswith(b"HTTP/1.1 504 ") and len(world.attempts) == 1
    world = Hinted(timeout=10, retry={})
    world.ask(x_envoy_upstream_rq_per_try_timeout_ms="2000", x_envoy_upstream_rq_timeout_ms="1000")
    assert world.told(0, b"x-envoy-expected-rq-timeout-ms") == b"1000"


ASKED = [
    ({"x_envoy_retry_on": "5xx"}, "503", True),
    ({"x_envoy_retry_on": "gateway-error,reset"}, "503", True),
    ({"x_envoy_retry_on": "reset"}, "503", False),
    ({"x_envoy_retry_on": "retriable-status-codes", "x_envoy_retriable_status_codes": "418"}, "418", True),
    ({"x_envoy_retry_on": "5xx", "x_envoy_retriable_status_codes": "418"}, "418", False),
    ({"x_envoy_retry_on": "retriable-headers", "x_envoy_retriable_header_names": "x-a, x-again"}, "200", True),
    ({"x_envoy_retry_grpc_on": "unavailable"}, "200", True),
    ({"x_envoy_retry_grpc_on": "cancelled"}, "200", False),
    ({"x_envoy_retriable_status_codes": "503"}, "503", False),
    ({"x_envoy_max_retries": "3"}, "503", False),
]


@pytest.mark.parametrize(("fields", "status", "again"), ASKED)
def test_retries_that_only_the_caller_asked_for(fields: dict[str, str], status: str, again: bool) -> None:
    """On a route without a policy; once, unless the caller says how often."""
    world = Hinted()
    client, app = world.ask(**fields)
    app.receive(f"HTTP/1.1 {status} x\r\nX-Again: 1\r\nGrpc-Status: 14\r\nContent-Length: 0\r\n\r\n".encode())
    world.late(0.3)
    assert len(world.attempts) == (2 if again else 1)
    assert (client.take() == b"") is again
    assert all(world.told(0, name) is None for name in OURS if b"expected" not in name)


def test_how_often() -> None:
    """The caller's number counts instead of the route's, up to the limit."""
    for number, attempts in (("0", 1), ("1", 2), ("5", 6), ("999", 20)):
        world = Hinted(retry={"attempts": 3})
        client, _ = world.ask(x_envoy_max_retries=number)
        for _ in range(25):
            if world.app.lost or client.written:
                break
            world.app.receive(BAD)
            world.late(0.3)
        assert world.records[0].attempts == attempts and client.take().startswith(b"HTTP/1.1 503 ")
        world.ended_once(503)


def test_a_post_stays_what_it_is() -> None:
    """No caller's word makes an unsafe replay safe."""
    world = Hinted()
    client, app = world.ask(b"POST", x_envoy_retry_on="5xx,reset", x_envoy_max_retries="5", content_length="0")
    app.receive(BAD)
    world.late(0.5)
    assert len(world.attempts) == 1 and client.take().startswith(b"HTTP/1.1 503 ")


def test_which_attempt_it_is() -> None:
    """Counted from 1 where that is configured."""
    world = Hinted("pass", retry={}, counts=True, tells=False)
    _, app = world.ask()
    app.receive(BAD)
    world.late(0.3)
    assert [world.told(index, b"x-envoy-attempt-count") for index in (0, 1)] == [b"1", b"2"]
    assert world.told(0, b"x-envoy-expected-rq-timeout-ms") is None


def test_a_call_says_how_long() -> None:
    """grpc-timeout ends the exchange where it is honoured, and each attempt has what is left of it."""
    world = Hinted("pass", MaxStreamDuration(grpc_timeout_header_max=10.0), retry={"on": ("unavailable",), "idempotency_headers": ("content-type",)})
    client, app = world.call("3S")
    assert world.told(0, b"grpc-timeout") == b"3000m"
    world.late(1)
    app.receive(b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nGrpc-Status: 14\r\nContent-Length: 0\r\n\r\n")
    world.late(0.3)
    told = world.told(1, b"grpc-timeout")
    assert told is not None and told.endswith(b"m") and 1600 < int(told[:-1]) <= 2000
    world.late(2)
    assert b"grpc-status: 4" in client.take().lower()
    assert world.records[0].flags == "DT" and world.records[0].code == "stream-duration-exceeded"
    world.ended_once(200)


def test_a_call_is_told_the_routes_time() -> None:
    """When that is shorter than its own."""
    world = Hinted("pass", timeout=2)
    world.call("60S")
    assert world.told(0, b"grpc-timeout") == b"2000m"


def test_a_call_may_take_longer_than_the_timeout_that_nobody_wrote() -> None:
    """15 s are no answer to somebody who is ready to wait for 60."""
    world = Hinted("pass", MaxStreamDuration(grpc_timeout_header_max=0.0))
    client, _ = world.call("60S")
    world.clock.pump([1.0] * 20)
    assert client.take() == b""
    world.clock.pump([1.0] * 45)
    assert b"grpc-status: 4" in client.take().lower()


def test_the_whole_exchange() -> None:
    """max_stream_duration ends it whatever moves, also while the answer comes."""
    world = Hinted("pass", MaxStreamDuration(max_stream_duration=3.0))
    client, app = world.ask()
    app.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    for _ in range(8):
        world.late(0.5)
        app.receive(b"x")
    assert client.closing and world.records[0].flags == "DT"
    world.ended_once(200)
    world = Hinted("pass", MaxStreamDuration(max_stream_duration=3.0))
    client, _ = world.send(b"POST /a HTTP/1.1\r\nHost: app\r\nContent-Length: 100\r\n\r\nx")
    world.late(4)
    assert client.take().startswith(b"HTTP/1.1 504 ")
    world.ended_once(504)


def test_an_exchange_keeps_to_all_of_them() -> None:
    """The route's timeout counts beside a longer duration, once the request is complete."""
    world = Hinted("pass", MaxStreamDuration(max_stream_duration=30.0), timeout=2)
    client, _ = world.send(b"POST /a HTTP/1.1\r\nHost: app\r\nContent-Length: 2\r\n\r\nx")
    world.late(4)
    assert client.take() == b""
    client.receive(b"y")
    world.late(2.2)
    assert client.take().startswith(b"HTTP/1.1 504 ") and world.records[0].flags == "UT"


def test_a_tunnel_has_no_such_time() -> None:
    """The timeout is over with its head, so the application is told nothing that would end it."""
    world = Hinted(timeout=10)
    world.send(UPGRADE)
    assert world.told(0, b"x-envoy-expected-rq-timeout-ms") is None


def test_another_route_has_its_own_time() -> None:
    """A request that a plugin sends to another route leaves the first one's behind."""
    filter = Rerouting()
    world = Hinted(timeout=10, plugins=(filter,))
    other = world.make_route("other")
    other.timeout, other.timeout_ends_with_head = 2.0, False
    filter.world = world

    class Entry:
        compiled = other

    filter.entry = Entry()
    client, _ = world.ask(x_envoy_upstream_rq_timeout_ms="9000")
    world.late(2.3)
    assert client.take().startswith(b"HTTP/1.1 504 ") and "within 2 s (route other)" in world.records[0].detail


def test_a_field_that_is_too_long_is_not_heard() -> None:
    """What is compiled of it is kept, so it is bounded."""
    world = Hinted()
    client, app = world.ask(x_envoy_retry_on="5xx," * 300)
    app.receive(BAD)
    world.late(0.3)
    assert client.take().startswith(b"HTTP/1.1 503 ") and len(world.attempts) == 1


@implementer(IRequestHeadHook)
class Rerouting:
    """Sends the request to `entry`, once."""

    world: Any = None
    entry: Any = None

    def request_head(self, exchange: Any) -> object:
        if self.world.routes(exchange.request) is self.entry:
            return None
        self.world.routes = lambda head: self.entry
        return Reroute("elsewhere")
