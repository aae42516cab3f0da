"""`sidecar/upstream/by_version.py`: endpoints are spoken to in the version that each client came with."""

from __future__ import annotations

from sidecar.address import Address
from sidecar.model import CircuitBreakers, Cluster, Endpoint
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


def test_endpoints_and_their_health_are_known_to_both() -> None:
    world = World()
    first, twin = both(world)
    first.set_endpoints([Endpoint(address=Address("127.0.0.1", port)) for port in (8080, 8081)])
    world.turn()
    assert [str(each.address) for each in twin.pools] == ["127.0.0.1:8080", "127.0.0.1:8081"]
    first.set_checked(first.pools[0], False, "it says 500")
    world.turn()
    assert [each.pick(None, ()).address.port for each in (first, twin)] == [8081, 8081]
