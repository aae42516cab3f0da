"""`sidecar/upstream/by_version.py`: endpoints are spoken to in the version that each client came with."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred, ensureDeferred, succeed

from sidecar.address import Address
from sidecar.cluster.checking import NOT_YET
from sidecar.codec.h2.frames import HTTP_1_1_REQUIRED
from sidecar.health_checks import HealthChecks
from sidecar.model import CircuitBreakers, Cluster, Endpoint, HealthCheck, PluginRef
from sidecar.proxy.steps import Account
from sidecar.testing import FakeContext
from sidecar.upstream.by_version import ByVersion
from sidecar.upstream.h1 import H1ClientConnection
from sidecar.upstream.h2 import H2ClientConnection
from sidecar.upstream.pool import Connector
from tests.memory import GET, OK, FirstUntried, World
from tests.memory_h2 import H2App, H2Client, multiplexed, request


def both(world: World) -> tuple[ByVersion, Connector]:
    """The world's cluster, speaking as clients do."""
    cluster = Cluster(
        name="app",
        endpoints=(Endpoint(address=Address("127.0.0.1", 8080)),),
        circuit_breakers=CircuitBreakers(max_requests=1),
        watermark_bytes=1000,
    )
    first = ByVersion(cluster, FirstUntried(), world._connect, world.clock.seconds, world.wheel.timer, None)
    world.connector = twin = Connector(cluster, FirstUntried(), world._connect, world.clock.seconds, world.wheel.timer, None)
    multiplexed(world)
    world.connector = world.route.connector = first
    first.pair_with(twin)
    return first, twin


def checked(world: World, first: ByVersion, check: Callable[[Any], Deferred[Any]]) -> None:
    """The cluster's endpoints are checked by `check`, every five seconds where there is traffic; the checks have begun."""
    ref = PluginRef(kind="health-check", name="check")
    account = Account("health-check", "check", False)
    checks = HealthChecks(world.clock, world.wheel.timer, lambda ref, where: (SimpleNamespace(check=check), account), FakeContext, 1)
    checks.add(replace(first.cluster, health_checks=(HealthCheck(check=ref),)), first, None, lambda cluster: world._connect)
    ensureDeferred(checks.start(0.1))
    world.clock.advance(0.1)


def test_each_request_in_its_own_version() -> None:
    world = World()
    first, twin = both(world)
    client, app = world.send(GET)
    app.receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ") and isinstance(world.attempts[0].protocol, H1ClientConnection)
    modern = H2Client(world)
    stream = modern.send(request())
    other = H2App(world)
    assert isinstance(world.attempts[1].protocol, H2ClientConnection) and other.requests() == [1]
    other.answer(1)
    modern.exchange()
    assert modern.head(stream).status == 200
    assert (first.counters["requests"], twin.counters["requests"]) == (1, 1)
    assert [each.cluster for each in world.records] == ["app", "app"], "records name the cluster, not its part"
    client.receive(GET)
    app.receive(OK)
    assert len(world.attempts) == 2, "each goes on with its own connections"


def test_limits_on_requests_are_for_both() -> None:
    world = World()
    both(world)
    world.send(GET)
    modern = H2Client(world)
    head = modern.head(modern.send(request()))
    assert head.status == 503 and world.records[0].code == "upstream-overflow"


def test_new_endpoints_are_checked_before_either_uses_them() -> None:
    """What the checks say of an endpoint the part for HTTP/2 knows as soon as it knows the endpoint, also of one that comes back."""
    world = World()
    first, twin = both(world)
    checked(world, first, lambda probe: Deferred())
    old, new = (Endpoint(address=Address("127.0.0.1", port)) for port in (8080, 8081))
    first.set_checked(first.pools[0], True, "")
    first.set_endpoints([old, new])
    world.turn()
    assert [each.check_failure for each in twin.pools] == [each.check_failure for each in first.pools] == [None, NOT_YET]
    assert {twin.pick(None, ()).address.port for _ in range(4)} == {8080}
    first.set_checked(first.pools[0], True, "", is_degraded=True)
    assert twin.pools[0].is_degraded
    first.set_checked(first.pools[1], False, "it says 500")
    first.set_endpoints([old])
    world.turn()
    first.set_endpoints([old, new])
    world.turn()
    assert twin.pools[1].check_failure == NOT_YET


def test_requests_over_http_2_are_traffic_as_well() -> None:
    """Endpoints of a cluster that only gRPC clients use are not asked as seldom as those of one that nobody uses."""
    world = World()
    first, twin = both(world)
    probes: list[Any] = []
    checked(world, first, lambda probe: succeed(probes.append(probe)))
    twin.counters["requests"] += 1
    for _ in range(10):
        world.clock.advance(5)
    assert len(probes) >= 5


def test_endpoints_and_their_health_are_known_to_both() -> None:
    world = World()
    first, twin = both(world)
    first.set_endpoints([Endpoint(address=Address("127.0.0.1", port)) for port in (8080, 8081)])
    world.turn()
    assert [str(each.address) for each in twin.pools] == ["127.0.0.1:8080", "127.0.0.1:8081"]
    first.set_checked(first.pools[0], False, "it says 500")
    world.turn()
    assert [each.pick(None, ()).address.port for each in (first, twin)] == [8081, 8081]


def test_a_server_that_wants_http1_for_a_request_gets_it_from_the_other_part() -> None:
    """HTTP_1_1_REQUIRED, with the body, whatever the method."""
    world = World()
    first, twin = both(world)
    modern = H2Client(world)
    stream = modern.send(request(b"POST"), b"hello")
    app = H2App(world)
    app.h2.reset(1, HTTP_1_1_REQUIRED)
    app.exchange()
    plain = world.attempts[1].transport
    assert isinstance(world.attempts[1].protocol, H1ClientConnection)
    up = plain.take()
    assert up.startswith(b"POST /a HTTP/1.1\r\n") and up.endswith(b"5\r\nhello\r\n0\r\n\r\n")
    plain.receive(OK)
    modern.exchange()
    assert modern.head(stream).status == 200
    world.ended_once(200)
    assert first.active == twin.active == 0
