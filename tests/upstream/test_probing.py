"""Active health checks on a fake clock: who is asked when, by whom, over what, and what the cluster is told."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from sidecar.address import Address
from sidecar.codec.h2.connection import H2Connection
from sidecar.codec.h2.frames import REFUSED_STREAM
from sidecar.codec.h2.limits import H2Limits
from sidecar.errors import ConnectFailed, UpstreamHandshakeFailed
from sidecar.filters.grpc_check import GRPCCheck
from sidecar.filters.http_check import HTTPCheck
from sidecar.filters.tcp_check import TCPCheck
from sidecar.headers import Headers
from sidecar.interfaces import IHealthCheck, IProbe, IProbeConnection
from sidecar.message import ResponseHead
from sidecar.model import Cluster, Endpoint, HealthCheck, HTTP2Options, OutlierDetection, PluginRef
from sidecar.proxy.steps import Account
from sidecar.testing import FakeContext
from sidecar.transport.wheel import TimerWheel
from sidecar.upstream.multiplex import Multiplexer
from sidecar.upstream.pool import Connector
from sidecar.upstream.probe import Probe, ProbeConnection, ProbeConnector, for_probes
from sidecar.upstream.probing import RESULTS_PER_TURN, Checker, ClusterChecks
from sidecar.verdicts import DEGRADED, Unwell
from tests.memory import Attempt, FirstUntried

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


@implementer(IHealthCheck)
class Asked:
    """A check that answers when the test says so. `probes`: those under way, by port."""

    def __init__(self) -> None:
        self.probes: dict[int, tuple[Any, Deferred[Any]]] = {}
        self.order: list[int] = []

    def check(self, probe: Any) -> Deferred[Any]:
        deferred: Deferred[Any] = Deferred()
        assert probe.address.port not in self.probes, "the same endpoint was asked twice at once"
        self.probes[probe.address.port] = (probe, deferred)
        self.order.append(probe.address.port)
        deferred.addBoth(lambda result: self.probes.pop(probe.address.port) and result)
        return deferred

    def answer(self, port: int, value: Any = None) -> None:
        deferred = self.probes[port][1]
        if isinstance(value, BaseException):
            deferred.errback(value)
        else:
            deferred.callback(value)


class World:
    """A cluster with endpoints at ports 1, 2, ... under checks. `attempts`: connections that probes asked for."""

    def __init__(
        self, *plugins: Any, endpoints: int = 1, protocol: str = "h1", fail_open: bool = False, warmed: bool = True, kept: int = 100,
        begin: bool = True, cluster: dict[str, Any] | None = None, **settings: Any,
    ) -> None:  # fmt: skip
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.wheel = TimerWheel(self.clock)
        self.plugins = plugins or (Asked(),)
        self.attempts: list[Attempt] = []
        self.events: list[dict[str, Any]] = []
        self.dice = 1.0
        self.kept = kept
        self.balancer = FirstUntried()
        check = {"interval": 10.0, "interval_jitter_percent": 0, "no_traffic_interval": 10.0, **settings}
        checks = tuple(HealthCheck(check=PluginRef(kind="health-check", name=f"check{number}"), **check) for number, _ in enumerate(self.plugins))
        more = {"healthy_panic_threshold": 0, **(cluster or {})}
        self.cluster = Cluster(
            name="app", endpoints=self.made(*range(1, endpoints + 1)), protocol=protocol, health_checks=checks, **more
        )  # type: ignore[arg-type]
        seconds, timer = self.clock.seconds, self.wheel.timer
        self.connector = Connector(self.cluster, self.balancer, self._connect, seconds, timer, None, None, FirstUntried)
        self.accounts = [Account("health-check", check.check.name, fail_open) for check in checks]
        self.checkers = [self._checker(*each) for each in zip(checks, self.plugins, self.accounts, strict=True)]
        self.connector.checks = self.checks = ClusterChecks(self.connector, self.checkers)
        self.done: list[Any] = []
        if begin:
            self.checks.start().addCallback(self.done.append)
        if warmed:
            self.checks.warmed()

    def _checker(self, check: HealthCheck, plugin: Any, account: Account) -> Checker:
        probed = for_probes(self.cluster, check, self.kept)
        seconds, timer = self.clock.seconds, self.wheel.timer
        probes = ProbeConnector(probed, check.port, self.kept, self._connect, seconds, timer, None)
        if probed.protocol == "h2":
            probes.multiplexer = Multiplexer(probes, HTTP2Options(), H2Limits(), seconds, timer, self._later, False)
        counters = self.connector.counters
        return Checker(
            check, plugin, account, probes, lambda: counters["requests"] > 0, seconds, timer, self._later, lambda: self.dice, self.events.append
        )  # fmt: skip

    def _later(self, call: Callable[[], None]) -> Any:
        return self.clock.callLater(0.0001, call)  # a `Clock` would call it in this turn with 0

    def turn(self) -> None:
        """The next turn of the reactor."""
        self.clock.advance(0.0001)

    def _connect(self, address: Address, protocol: Any, tls: Any) -> Attempt:
        self.attempts.append(Attempt(address, protocol))
        return self.attempts[-1]

    @staticmethod
    def made(*ports: int) -> tuple[Endpoint, ...]:
        return tuple(Endpoint(address=Address("127.0.0.1", port)) for port in ports)

    @property
    def asked(self) -> Asked:
        plugin = self.plugins[0]
        assert isinstance(plugin, Asked)
        return plugin

    @property
    def used(self) -> list[int]:
        """The ports of the endpoints that the balancer may use."""
        return [pool.address.port for pool in self.balancer.endpoints]

    @property
    def grouped(self) -> tuple[list[int], list[int]]:
        """The ports of those that are well, and of the degraded ones."""
        [group] = self.connector.members.usage.levels[0].groups.values()
        return [pool.address.port for pool in group.well], [pool.address.port for pool in group.degraded]

    def pool(self, port: int = 1) -> Any:
        return next(pool for pool in self.connector.pools if pool.address.port == port)

    def why(self, port: int = 1) -> Any:
        return self.pool(port).check_failure

    def state(self, port: int = 1) -> Any:
        return self.checkers[0].turns[self.pool(port)].state

    def walk(self, seconds: float) -> None:
        """Time goes on in steps of the wheel."""
        for _ in range(round(seconds / 0.025)):
            self.clock.advance(0.025)

    def round(self, *values: Any) -> None:
        """One probe of the endpoint at port 1 after the other, with these answers."""
        for value in values:
            while 1 not in self.asked.probes:
                self.walk(0.5)
            self.asked.answer(1, value)


ILL = Unwell("it is ill")


def test_interfaces() -> None:
    """What checks are handed, and the built-in checks, are what is promised."""
    world = World()
    verifyObject(IProbe, world.asked.probes[1][0])
    verifyObject(IProbeConnection, ProbeConnection("app"))
    for kind in (HTTPCheck, TCPCheck, GRPCCheck):
        verifyObject(IHealthCheck, kind(kind.Config(), FakeContext("check")))


def test_the_first_probe_decides_alone() -> None:
    """An endpoint that fails is out at once, and the start waits for all first probes."""
    world = World(endpoints=3, warmed=False)
    assert world.used == [1, 2, 3] and not world.done
    world.asked.answer(1)
    world.asked.answer(2, ILL)
    assert world.used == [1, 3] and world.why(2) == "check0 check: it is ill" and not world.done
    world.asked.answer(3)
    assert world.used == [1, 3] and len(world.done) == 1


def test_who_is_late_is_out_until_it_is_checked() -> None:
    """When listeners open, what was never looked at is not used."""
    world = World(endpoints=2, warmed=False)
    world.asked.answer(1)
    world.checks.warmed()
    assert world.used == [1] and world.why(2) == "not checked yet"
    world.asked.answer(2)
    assert world.used == [1, 2]


def test_thresholds_through_time() -> None:
    """Three failures take it out, two successes bring it back, each an interval apart."""
    world = World()
    world.round(None, ILL, ILL)
    assert world.used == [1]
    world.round(ILL)
    assert world.used == [] and world.why() == "check0 check: it is ill"
    world.round(None)
    assert world.used == [] and world.why() == "check0 check: it is ill"
    world.round(None)
    assert world.used == [1] and world.why() is None
    assert world.checkers[0].counters == {"attempts": 6, "success": 3, "failure": 3, "timeouts": 0}


def test_at_once() -> None:
    """An endpoint that says itself that it is not well needs no threshold."""
    world = World()
    world.round(None, Unwell("closing", at_once=True))
    assert world.used == []


def test_intervals_are_kept() -> None:
    """From the end of a probe to the next, no earlier."""
    world = World()
    world.walk(0.5)
    world.asked.answer(1)
    world.walk(9.9)
    assert world.asked.order == [1]
    world.walk(0.2)
    assert world.asked.order == [1, 1]


def test_no_answer_in_time() -> None:
    """The probe is given up after the timeout, whatever the plugin waits for, and the next one comes as usual."""
    world = World(timeout=2.0)
    world.asked.answer(1)
    for _ in range(3):
        world.walk(10.1)
        assert 1 in world.asked.probes
        world.walk(2.1)
        assert 1 not in world.asked.probes
    assert world.used == [] and world.why() == "check0 check: no answer within 2 s"
    assert world.checkers[0].counters["timeouts"] == 3 and world.checkers[0].running == 0


@pytest.mark.parametrize("fail_open", [False, True])
def test_a_plugin_that_raises(fail_open: bool) -> None:
    """Its failure is the endpoint's, by name, unless the entry says that it is not."""

    @implementer(IHealthCheck)
    class Broken:
        def check(self, probe: Any) -> None:
            raise ZeroDivisionError("oh")

    world = World(Broken(), fail_open=fail_open)
    assert world.used == ([1] if fail_open else [])
    assert world.why() == (None if fail_open else "check0 check: the plugin check0 raised ZeroDivisionError: oh")
    assert world.accounts[0].failures == 1


def test_a_plugin_that_answers_nonsense() -> None:
    """No verdict is a failure."""
    world = World()
    world.round(True)
    assert world.why() == "check0 check: the plugin check0 answered bool, which is no verdict" and world.accounts[0].failures == 1


def test_what_the_path_raises_is_the_reason() -> None:
    """An upstream error is the endpoint's failure, in its words, and not the plugin's."""
    world = World()
    world.round(ConnectFailed("cannot connect to 127.0.0.1:1"))
    assert world.why() == "check0 check: cannot connect to 127.0.0.1:1" and world.accounts[0].failures == 0


def test_all_checks_must_pass() -> None:
    """One check that fails is enough, and its reason is told."""
    first, second = Asked(), Asked()
    world = World(first, second, warmed=False)
    first.answer(1)
    assert not world.done
    second.answer(1, ILL)
    assert world.done and world.used == [] and world.why() == "check1 check: it is ill"


def test_checks_that_answer_at_once() -> None:
    """Also when the second one has not begun."""

    @implementer(IHealthCheck)
    class Quick:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def check(self, probe: Any) -> Any:
            return self.answer

    assert World(Quick(None), Quick(None)).used == [1]
    assert World(Quick(ILL), Quick(None)).why() == World(Quick(ILL), Asked(), warmed=False).why() == "check0 check: it is ill"
    world = World(Quick(None), Quick(ILL))
    assert world.why() == "check1 check: it is ill" and world.done


def test_few_at_a_time() -> None:
    """Never more probes than `max_concurrent`, few begin in one turn of the reactor, and everybody gets one."""
    world = World(endpoints=200, max_concurrent=30)
    for running in (5, 10, 15, 20, 25, 30, 30):
        assert len(world.asked.probes) == running
        world.turn()
    while len(world.asked.order) < 200:
        assert len(world.asked.probes) <= 30
        world.asked.answer(next(iter(world.asked.probes)))
        world.turn()
    assert sorted(world.asked.order) == list(range(1, 201))


def test_second_probes_are_spread() -> None:
    """Of many endpoints found together, no more than a fair share is asked in any second of the interval."""
    world = World(endpoints=100, max_concurrent=100)
    while len(world.asked.order) < 100:
        world.turn()
    for port in range(1, 101):
        world.dice = port / 100
        world.asked.answer(port)
        world.turn()
    for second in range(1, 11):
        world.walk(1.0)
        assert abs(len(world.asked.order) - 100 - second * 10) <= 2


def test_answers_that_come_together_share_out_turns() -> None:
    """After a stall all come in one turn. None is late for waiting to be taken in, one whose endpoint has left is not, and those that raise count as well."""
    world = World(endpoints=40, max_concurrent=40, timeout=1.0, unhealthy_threshold=1)
    while len(world.asked.order) < 40:
        world.turn()
    world.clock.rightNow += 0.9
    for port in range(1, 41):
        world.asked.answer(port, ILL if port % 4 == 1 else ConnectFailed("refused") if port % 4 == 2 else None)
    counted = lambda: world.checks.counts()["unchecked"]  # noqa: E731
    assert counted() == 40 - RESULTS_PER_TURN
    world.connector.set_endpoints(world.made(*range(1, 40)))
    world.clock.rightNow += 5.0
    turns = 0
    while counted():
        before = counted()
        world.turn()
        turns += 1
        assert before - counted() <= RESULTS_PER_TURN
    assert turns == 3
    assert world.checks.counts() == {"healthy": 19, "degraded": 0, "unhealthy": 20, "unchecked": 0}
    assert world.checkers[0].counters["timeouts"] == 0 and world.checkers[0].running == 0


def test_initial_jitter() -> None:
    """The first probe waits a part of it."""
    world = World(initial_jitter=4.0)
    world.walk(3.9)
    assert world.asked.order == []
    world.walk(0.2)
    assert world.asked.order == [1]


def test_seldom_without_traffic_and_soon_with_it() -> None:
    """A cluster that nobody uses is asked seldom; when the first request came, nobody waits that long any more."""
    world = World(no_traffic_interval=100.0, interval=10.0)
    world.asked.answer(1)
    world.walk(50)
    assert world.asked.order == [1]
    world.connector.counters["requests"] += 1
    while len(world.asked.order) < 2:
        world.walk(0.5)
    assert world.clock.seconds() <= 1071
    world.asked.answer(1)
    world.walk(10.5)
    assert world.asked.order == [1, 1, 1]


def test_endpoints_come_and_go() -> None:
    """A new one is out until its first probe; one that left is asked no more, even in the middle of a probe."""
    world = World()
    world.asked.answer(1)
    world.connector.set_endpoints(world.made(1, 2))
    assert world.used == [1] and world.why(2) == "not checked yet"
    world.asked.answer(2, ILL)
    assert world.used == [1]
    world.connector.set_endpoints(world.made(1, 3))
    assert world.used == [1] and 3 in world.asked.probes
    world.connector.set_endpoints(world.made(1))
    assert world.asked.probes == {} and world.checkers[0].running == 0
    world.walk(30)
    assert world.asked.order[:3] == [1, 2, 3] and set(world.asked.order[3:]) == {1}
    assert world.checks.counts() == {"healthy": 1, "degraded": 0, "unhealthy": 0, "unchecked": 0}


def test_a_cluster_that_grows_does_not_panic() -> None:
    """New endpoints count when they have been asked, and all are used when nobody else is there."""
    world = World(cluster={"healthy_panic_threshold": 50})
    assert world.used == [1]
    world.asked.answer(1)
    world.connector.set_endpoints(world.made(*range(1, 9)))
    assert world.used == [1]
    for port in range(2, 9):
        world.turn()
        world.asked.answer(port, None if port < 5 else ILL)
    assert world.used == [1, 2, 3, 4]
    world.connector.set_endpoints(world.made(20, 21))
    assert world.used == [20, 21]


def test_a_success_ends_an_ejection() -> None:
    """Envoy's successful_active_health_check_uneject_host."""
    world = World(cluster={"outlier_detection": OutlierDetection(consecutive_5xx=1, max_ejection_percent=100)})
    world.asked.answer(1)
    observe = world.connector.observe
    assert observe is not None
    observe(world.pool(), 500, 0.0)
    assert world.used == []
    world.round(None)
    assert world.used == [1]


def test_a_failure_ends_no_ejection() -> None:
    """Also one that is too few to make the endpoint unhealthy."""
    world = World(cluster={"outlier_detection": OutlierDetection(consecutive_5xx=1, max_ejection_percent=100)}, unhealthy_threshold=3)
    world.asked.answer(1)
    observe = world.connector.observe
    assert observe is not None
    observe(world.pool(), 500, 0.0)
    world.round(ILL)
    assert world.used == []
    world.round(None)
    assert world.used == [1]


def test_events() -> None:
    """A line for each change, with the reason; the first check says that it is one."""
    world = World(always_log_health_check_failures=True, unhealthy_threshold=2, healthy_threshold=1)
    world.round(None, ILL, ILL, None)
    assert [(event["event"], event["first_check"], event["reason"]) for event in world.events] == [
        ("add_healthy", True, ""),
        ("health_check_failure", False, "it is ill"),
        ("eject_unhealthy", False, "it is ill"),
        ("add_healthy", False, ""),
    ]
    assert world.events[0] == {
        "health_checker_type": "check0", "cluster_name": "app", "host": "127.0.0.1:1", "event": "add_healthy", "first_check": True, "reason": "",
    }  # fmt: skip


def test_degraded_endpoints() -> None:
    """A success may say so; the endpoint is used where others do not suffice, until a success says nothing. It is not ill for it, in no check."""
    world = World(Asked(), Asked(), endpoints=2)
    for plugin, verdict in ((world.plugins[0], DEGRADED), (world.plugins[1], None)):
        plugin.answer(1, verdict)
        plugin.answer(2)
    assert world.grouped == ([2], [1]) and world.why(1) is None and world.pool(1).is_degraded
    assert world.checks.counts() == {"healthy": 1, "degraded": 1, "unhealthy": 0, "unchecked": 0}
    shown = world.connector.snapshot()
    assert [(each["healthy"], each["degraded"]) for each in shown["endpoints"]] == [(True, True), (True, False)]
    assert shown["endpoints"][0]["health_checks"][0]["degraded"] and not shown["endpoints"][0]["health_checks"][1]["degraded"]
    assert (shown["priorities"][0]["share"], shown["priorities"][0]["degraded_share"], shown["priorities"][0]["degraded"]) == (0.7, 0.3, 1)
    world.walk(10.1)
    for plugin in world.plugins:
        for port in (1, 2):
            plugin.answer(port)
    assert world.grouped == ([1, 2], []) and not world.pool(1).is_degraded
    events = [each["event"] for each in world.events if each["host"] == "127.0.0.1:1" and each["health_checker_type"] == "check0"]
    assert events == ["degraded_healthy_host", "add_healthy", "no_longer_degraded_host"]


def test_a_degraded_endpoint_that_fails_is_ill() -> None:
    """And no more than that, whatever its last success said."""
    world = World(unhealthy_threshold=1)
    world.round(DEGRADED)
    assert world.used == [1] and world.pool(1).is_degraded
    world.round(ILL)
    assert world.used == [] and not world.pool(1).is_degraded
    assert world.checks.counts()["unhealthy"] == 1


def test_what_is_shown() -> None:
    """`/clusters` has each check of each endpoint, and when it is asked again."""
    world = World()
    assert world.checks.counts() == {"healthy": 0, "degraded": 0, "unhealthy": 0, "unchecked": 1}
    (shown,) = world.connector.snapshot()["endpoints"]
    assert shown["health_checks"][0]["probing"] is True and shown["health_checks"][0]["next_probe_in_seconds"] is None
    world.asked.answer(1, ILL)
    world.walk(1.0)
    (shown,) = world.connector.snapshot()["endpoints"]
    assert shown["check"] == "check0 check: it is ill"
    assert shown["health_checks"] == [
        {
            "check": "check0", "state": "unhealthy", "degraded": False, "for_seconds": 1.0, "probes": 1, "last_result": "failure",
            "last_failure": "it is ill", "last_probe_seconds_ago": 1.0, "probing": False, "next_probe_in_seconds": 9.0,
        }
    ]  # fmt: skip
    assert "unhealthy" in repr(world.checkers[0].turns[world.pool()]) and "app" in repr(world.checkers[0]) and "app" in repr(world.checks)


def test_stop() -> None:
    """Nothing is asked any more, and who waits for first checks goes on."""
    world = World(endpoints=2)
    world.checks.stop()
    assert world.done and world.asked.probes == {}
    world.walk(30)
    assert len(world.asked.order) == 2 and len(world.clock.getDelayedCalls()) == 0


# -- over HTTP/1.1 -----------------------------------------------------------------------------------------------------------------------------


def http(**config: Any) -> HTTPCheck:
    return HTTPCheck(HTTPCheck.Config(**config), FakeContext("http"))


def answered(world: World, data: bytes | None, number: int = -1) -> bytes:
    """The endpoint takes the connection and answers with these octets; None: it closes. What it was sent."""
    attempt = world.attempts[number]
    transport = attempt.transport or attempt.succeed()
    sent: bytes = transport.take()
    if data is None:
        transport.lose()
    else:
        transport.receive(data)
    return sent


def test_http_request() -> None:
    """What an endpoint is asked."""
    world = World(http(path="/healthz?deep=1", headers={"x-probe": "1"}))
    sent = answered(world, OK)
    assert sent.startswith(b"GET /healthz?deep=1 HTTP/1.1\r\n")
    assert b"Host: app\r\n" in sent and b"User-Agent: sidecar-health-check\r\n" in sent and b"x-probe: 1\r\n" in sent.lower()
    assert world.used == [1]


def test_http_host_is_the_endpoints_name() -> None:
    """Its hostname, or what the check says."""
    for config, host in (({}, b"one.example"), ({"host": "health.example"}, b"health.example")):
        world = World(http(**config), endpoints=0)
        world.connector.set_endpoints([Endpoint(address=Address("127.0.0.1", 1), hostname="one.example")])
        assert b"Host: %b\r\n" % host in answered(world, OK)


@pytest.mark.parametrize("name", ["my node", "a\r\nX-Admin: yes", "päyments"])
def test_names_that_cannot_be_a_host_are_passed_over(name: str) -> None:
    """Discovery may tell anything of an endpoint; and a cluster may be called anything: then its address is asked for. None of it makes the endpoint ill."""
    for cluster, host in (("app", b"app"), (name, b"127.0.0.1")):
        world = World(http(), endpoints=0)
        world.checkers[0].connector.name = cluster
        world.connector.set_endpoints([Endpoint(address=Address("127.0.0.1", 1), hostname=name)])
        assert b"\r\nHost: %b\r\n" % host in answered(world, OK)
        assert world.used == [1]


def test_connections_are_kept() -> None:
    """The next probe goes over the same connection, or over a new one where that is not wanted; one that was closed meanwhile is no failure."""
    world = World(http())
    answered(world, OK)
    world.walk(10.1)
    answered(world, OK)
    assert len(world.attempts) == 1
    world.attempts[0].transport.lose()
    world.walk(10.1)
    assert len(world.attempts) == 2
    answered(world, OK)
    assert world.state().in_row == 0

    world = World(http(), reuse_connection=False)
    answered(world, OK)
    assert world.attempts[0].transport.closing or world.attempts[0].transport.lost
    world.walk(10.1)
    assert len(world.attempts) == 2


@pytest.mark.parametrize("protocol", ["h1", "h2"])
def test_no_more_connections_are_kept_than_there_may_be(protocol: str) -> None:
    """Those that are kept stay; who comes later makes a new one each time."""
    world = World(http(), endpoints=3, kept=2, max_concurrent=1, protocol=protocol)
    transports = []
    for number in range(3):
        attempt = world.attempts[number]
        if protocol == "h1":
            transports.append(attempt.succeed())
            transports[-1].receive(OK)
        else:
            server = H2Server(world)
            server.answer(200, [])
            transports.append(server.transport)
    world.turn()
    assert world.used == [1, 2, 3]
    assert [transport.closing for transport in transports] == [False, False, True]
    assert world.checkers[0].connector.connections == 2


def test_a_port_of_its_own() -> None:
    """Probes go to the check's port, requests to the endpoint's."""
    world = World(http(), port=9000)
    assert world.attempts[0].address == Address("127.0.0.1", 9000)
    answered(world, OK)
    assert world.used == [1]


@pytest.mark.parametrize(
    ("config", "data", "reason"),
    [
        ({}, OK, None),
        ({}, b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK, None),
        ({}, BUSY, "answered 503"),
        ({}, b"HTTP/1.1 204 No Content\r\n\r\n", "answered 204"),
        ({"expected_statuses": ("200-299",)}, b"HTTP/1.1 204 No Content\r\n\r\n", None),
        ({"expected_statuses": (200, 503)}, BUSY, None),
        ({"receive": "ok"}, OK, None),
        ({"receive": "fine"}, OK, "answered 200 without 'fine' in its body"),
        ({"body_bytes": 1}, OK, "app at 127.0.0.1:1 answered with more than 1 octets"),
        ({}, None, "app at 127.0.0.1:1 closed the connection before its answer was complete"),
        ({}, OK[:-1], "no answer within 1 s"),  # slow
        ({}, b"", "no answer within 1 s"),  # hangs
        ({}, b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "the answer does not begin with a status line of HTTP/1.1"),  # garbage
        ({}, b"\x15\x03\x01\x00\x02\x02\x46", "the answer does not begin with a status line of HTTP/1.1"),  # a TLS alert
    ],
)
def test_http_answers(config: dict[str, Any], data: bytes | None, reason: str | None) -> None:
    """Each answer's verdict, in words."""
    world = World(http(**config))
    answered(world, data)
    world.walk(1.1)
    if reason is None:
        assert world.why() is None
    else:
        assert world.why().startswith("check0 check: ") and reason in world.why()


def test_http_refused_and_wrong_certificate() -> None:
    """Why no connection could be made is the reason."""
    for error in (ConnectFailed("refused"), UpstreamHandshakeFailed("it showed spiffe://x/a, expected spiffe://x/b")):
        world = World(http())
        world.attempts[0].fail(error)
        assert world.why() == f"check0 check: {error}"


def test_failed_probes_are_freed_at_once() -> None:
    """Without the collector: in an outage there are thousands, and what lived long it leaves alone."""
    gc.unfreeze()  # what other tests froze would be new to us when somebody thaws it
    gc.collect()
    before = [id(each) for each in gc.get_objects() if isinstance(each, Probe | ConnectFailed)]
    gc.disable()
    try:
        World(http()).attempts.pop().fail(ConnectFailed("refused a moment ago"))
        left = [each for each in gc.get_objects() if isinstance(each, Probe | ConnectFailed) and id(each) not in before]
        assert not [each for each in left if isinstance(each, Probe) or each.args == ("refused a moment ago",)]
    finally:
        gc.enable()


def test_retriable_statuses_count() -> None:
    """Most statuses take an endpoint out at once; these count towards the threshold."""
    world = World(http(retriable_statuses=(503,)))
    for data in (OK, BUSY, BUSY):
        answered(world, data)
        world.walk(10.1)
    assert world.used == [1]
    answered(world, BUSY)
    assert world.used == []
    world = World(http())
    answered(world, OK)
    world.walk(10.1)
    answered(world, BUSY)
    assert world.used == []


def test_a_connection_without_answer_is_not_used_again() -> None:
    """Who did not answer may be gone without a word."""
    world = World(http())
    answered(world, OK)
    world.walk(10.1)
    world.walk(1.1)
    assert world.attempts[0].transport.closing or world.attempts[0].transport.lost
    world.walk(10.1)
    assert len(world.attempts) == 2


# -- over HTTP/2 -------------------------------------------------------------------------------------------------------------------------------


class H2Server:
    """The endpoint, at the newest connection."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.transport = world.attempts[-1].succeed()
        self.h2 = H2Connection(False, H2Limits())
        self.h2.start()
        self.requests: list[tuple[int, Any]] = []
        self.exchange()

    def exchange(self) -> None:
        for _ in range(10):
            self.world.turn()
            data = self.transport.take()
            if data:
                self.requests += [each for each in self.h2.receive(data, 0.0) if each[0]]
            out = b"".join(self.h2.data_to_send())
            if out:
                self.transport.receive(out)

    def answer(self, status: int, fields: list[tuple[bytes, bytes]], body: bytes = b"", trailers: list[tuple[bytes, bytes]] | None = None) -> None:
        stream_id = self.requests[-1][0]
        end = not body and trailers is None
        self.h2.send_head(stream_id, ResponseHead(status, Headers.of(fields), version=20, end_stream=end), end)
        if body:
            self.h2.send_data(stream_id, body)
        if not end:
            self.h2.send_end(stream_id, None if trailers is None else Headers.of(trailers))
        self.exchange()


def grpc(**config: Any) -> GRPCCheck:
    return GRPCCheck(GRPCCheck.Config(**config), FakeContext("grpc"))


def test_http_over_h2() -> None:
    """The check `http` speaks as the cluster does."""
    world = World(http(path="/healthz"), protocol="h2")
    server = H2Server(world)
    head = server.requests[0][1]
    assert (head.method, head.path, head.authority) == (b"GET", b"/healthz", b"app")
    server.answer(200, [])
    assert world.used == [1] and world.why() is None
    world.walk(10.1)
    server.exchange()
    assert len(world.attempts) == 1
    server.answer(500, [])
    assert world.why() == "check0 check: answered 500"


SERVING = b"\x00\x00\x00\x00\x02\x08\x01"
GRPC = [(b"content-type", b"application/grpc")]
FINE = [(b"grpc-status", b"0")]


@pytest.mark.parametrize(
    ("status", "fields", "body", "trailers", "reason"),
    [
        (200, GRPC, SERVING, FINE, None),
        (200, GRPC, b"\x00\x00\x00\x00\x02\x08\x02", FINE, "NOT_SERVING"),
        (200, GRPC, b"\x00\x00\x00\x00\x02\x08\x03", FINE, "SERVICE_UNKNOWN"),
        (200, GRPC, b"\x00\x00\x00\x00\x00", FINE, "UNKNOWN"),
        (200, GRPC, b"\x00\x00\x00\x00\x02\x08\x07", FINE, "serving status 7"),
        (200, [*GRPC, (b"grpc-status", b"12")], b"", None, "gRPC status UNIMPLEMENTED"),
        (200, [*GRPC, (b"grpc-status", b"5"), (b"grpc-message", b"unknown service")], b"", None, "gRPC status NOT_FOUND: unknown service"),
        (200, GRPC, SERVING, [(b"grpc-status", b"99")], "gRPC status 99"),
        (200, GRPC, SERVING, [(b"grpc-status", b"x")], "gRPC status 'x'"),
        (200, GRPC, SERVING, None, "answered without a gRPC status"),
        (503, [], b"", None, "answered 503, not gRPC"),
        (200, GRPC, b"garbage", FINE, "its answer is no HealthCheckResponse: not one uncompressed message"),
        (200, GRPC, b"\x00\x00\x00\x00\x01\x08", FINE, "its answer is no HealthCheckResponse: cut short"),
    ],
)
def test_grpc_answers(status: int, fields: Any, body: bytes, trailers: Any, reason: str | None) -> None:
    """Each answer's verdict, in words."""
    world = World(grpc(service="shop.Orders"), protocol="h2")
    server = H2Server(world)
    head = server.requests[0][1]
    assert (head.method, head.path) == (b"POST", b"/grpc.health.v1.Health/Check")
    assert head.headers.get(b"content-type") == b"application/grpc" and head.headers.get(b"te") == b"trailers"
    assert head.headers.get(b"grpc-timeout") == b"1000m"
    assert server.requests[1][1] == b"\x00\x00\x00\x00\x0d\x0a\x0bshop.Orders"
    server.answer(status, fields, body, trailers)
    assert world.why() == (None if reason is None else f"check0 check: {reason}")


def test_a_stream_that_is_refused_is_sent_again_whole() -> None:
    """Its body as well, and once."""
    world = World(grpc(service="a"), protocol="h2")
    server = H2Server(world)
    refused = server.requests[0][0]
    server.h2.reset(refused, REFUSED_STREAM)
    server.exchange()
    again = server.requests[-1][0]
    assert [event for each, event in server.requests if each == again and isinstance(event, bytes)] == [b"\x00\x00\x00\x00\x03\x0a\x01a"]
    assert again != refused
    server.answer(200, GRPC, SERVING, FINE)
    assert world.used == [1]


def test_an_h2_connection_without_answer_is_not_used_again() -> None:
    """Its peer may be gone without a word, and there is no other probe that would find out."""
    world = World(http(), protocol="h2")
    server = H2Server(world)
    world.walk(1.1)
    server.exchange()
    assert world.why() == "check0 check: no answer within 1 s" and server.transport.closing
    world.walk(10.1)
    assert len(world.attempts) == 2
    H2Server(world).answer(200, [])
    assert world.state().in_row == 1


def test_an_h2_connection_for_each_probe() -> None:
    """Where connections are not kept."""
    world = World(http(), protocol="h2", reuse_connection=False)
    server = H2Server(world)
    server.answer(200, [])
    assert world.used == [1] and server.transport.closing
    world.walk(10.1)
    assert len(world.attempts) == 2


def test_attempts_end_with_their_probe() -> None:
    """A connection that is not made in time must not be the next probe's as well."""
    cluster = Cluster(name="app", connect_timeout=5.0)
    check = HealthCheck(check=PluginRef(kind="health-check", name="tcp"), timeout=2.0)
    assert for_probes(cluster, check).connect_timeout == 2.0
    assert for_probes(replace(cluster, connect_timeout=0.5), check).connect_timeout == 0.5
    assert for_probes(replace(cluster, connect_timeout=0.0), check).connect_timeout == 2.0


# -- TCP ---------------------------------------------------------------------------------------------------------------------------------------


def tcp(**config: Any) -> TCPCheck:
    return TCPCheck(TCPCheck.Config(**config), FakeContext("tcp"))


def test_tcp_connects() -> None:
    """A connection is enough, and it is closed again."""
    world = World(tcp())
    transport = world.attempts[0].succeed()
    assert world.why() is None and world.used == [1] and (transport.closing or transport.lost) and transport.take() == b""
    world.walk(10.1)
    world.attempts[1].fail(ConnectFailed("refused"))
    world.walk(10.1)
    assert world.used == [1] and world.state().reason == "refused"


@pytest.mark.parametrize(
    ("receive", "chunks", "reason"),
    [
        (("+PONG",), [b"+PO", b"NG\r\n"], None),
        (("a", "b"), [b"xaxxbx"], None),
        (("a", "b"), [b"ba"], "no answer within 1 s"),
        (("+PONG",), [b"-ERR", None], "closed the connection before b'+PONG' came, after b'-ERR'"),
        (("+PONG",), [None], "closed the connection before b'+PONG' came"),
        (("+PONG",), [b"x" * 65537], "sent 65537 octets without b'+PONG'"),
        (("+PONG",), [b""], "no answer within 1 s"),
    ],
)
def test_tcp_answers(receive: tuple[str, ...], chunks: list[bytes | None], reason: str | None) -> None:
    """What must come, in this order, with anything in between."""
    world = World(tcp(send=r"PING\r\n", receive=receive))
    transport = world.attempts[0].succeed()
    assert transport.take() == b"PING\r\n"
    for chunk in chunks:
        if chunk is None:
            transport.end()
        elif chunk:
            transport.receive(chunk)
    world.walk(1.1)
    assert world.why() == (None if reason is None else f"check0 check: {reason}")
    assert transport.closing or transport.lost


def test_a_connection_for_an_endpoint_that_left() -> None:
    """It is not kept when it comes, over either version of HTTP."""
    for protocol in ("h1", "h2"):
        world = World(http(), protocol=protocol)
        world.connector.set_endpoints([])
        transport = world.attempts[0].succeed()
        if protocol == "h2":
            server = H2Connection(False, H2Limits())
            server.start()
            transport.receive(b"".join(server.data_to_send()))
        assert transport.closing and world.checkers[0].connector.connections == 0


def test_a_tcp_probe_is_given_up() -> None:
    """An attempt that is under way when the time is over, is cancelled; a probe that is over begins nothing."""
    world = World(tcp())
    world.walk(1.1)
    assert world.attempts[0].cancelled and world.why() == "check0 check: no answer within 1 s"
    probe = Probe(world.checkers[0].connector, world.checkers[0].turns[world.pool()].asked, "", 1.0)
    probe.close()
    failures: list[Any] = []
    probe.connect().addErrback(failures.append)
    probe.request(b"GET", b"/").addErrback(failures.append)
    assert [str(each.value) for each in failures] == ["the probe is over"] * 2


def test_who_is_absent() -> None:
    """A refused connection says that nobody is there, as long as the check asks at the port that requests go to; no answer in time does not."""
    for settings, error, is_absent in (
        ({}, ConnectFailed("refused"), True),
        ({}, UpstreamHandshakeFailed("who are you?"), False),
        ({"port": 9000}, ConnectFailed("refused"), False),
    ):
        world = World(**settings)
        plugin = world.plugins[0]
        pool = world.connector.pools[0]
        plugin.answer(next(iter(plugin.probes)), error)
        assert pool.check_failure and pool.is_absent is is_absent
        world.clock.pump([0.5] * 20)
        plugin.answer(next(iter(plugin.probes)))
        assert pool.check_failure and not pool.is_absent, "there are two answers needed to bring it back"


def test_endpoints_that_were_found_before_the_start_are_asked_once() -> None:
    """Discovery comes first: what it has told of by then is neither checked twice nor left behind when it goes."""
    world = World(endpoints=0, warmed=False, begin=False)
    world.connector.set_endpoints(world.made(1, 2))
    world.checks.start()
    world.checks.warmed()
    plugin = world.plugins[0]
    assert sorted(plugin.order) == [1, 2] and world.checkers[0].running == 2
    for port in (1, 2):
        plugin.answer(port)
    world.connector.set_endpoints(world.made(1))
    world.clock.pump([0.5] * 21)
    assert sorted(plugin.order) == [1, 1, 2]
