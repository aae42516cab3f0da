"""Kind `discovery`, name `dns`: what is asked when, what is told, and what stays when servers fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from sidecar.address import Address
from sidecar.discovery import dns
from sidecar.discovery.dns import DNS
from sidecar.discovery.resolver import Hosts, LookupFailed, NoSuchName, Records
from sidecar.interfaces import IDiscovery
from sidecar.model import Backoff, DNSName, Locality
from sidecar.testing import STARTED, FakeContext
from tests.discovery.name_server import NameServer, a, srv
from tests.discovery.watching import Told, run, until


class Servers:
    """In the place of `NameServers`: `answers` by name are values or errors; `asked` is what was looked up and when."""

    def __init__(self, clock: Any) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, float]] = []
        self._clock = clock

    async def hosts(self, name: str, family: str) -> Hosts:
        """See `NameServers`."""
        answer = self._answer(name.rstrip("."))
        return await answer if isinstance(answer, Deferred) else answer

    async def records(self, name: str, type: str) -> Records:
        """See `NameServers`."""
        records: Records = self._answer(name)
        return records

    def _answer(self, name: str) -> Any:
        self.asked.append((name, self._clock.seconds() - STARTED))
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer


Make = Callable[..., tuple[DNS, Servers, Told, list[Any]]]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    """`make(answers, **configuration)`: a plugin that watches, its servers, who is told, and the results of the first answer. No dice: the jitter is 0."""
    monkeypatch.setattr("sidecar.discovery.dns.random.random", lambda: 0.0)

    def begin(answers: dict[str, Any], names: Any = "pay:80", **config: Any) -> tuple[DNS, Servers, Told, list[Any]]:
        context = FakeContext("dns")
        plugin = DNS(DNS.Config(names=names, **config), context)
        servers = Servers(context.clock)
        servers.answers = answers
        plugin._servers = servers  # type: ignore[assignment]
        told, first = Told(), []
        plugin.watch(told).addBoth(first.append)
        return plugin, servers, told, first

    return begin


def test_each_name_says_what_holds_for_its_endpoints(make: Make) -> None:
    """Weight, priority, place and metadata; SRV records have weights of their own, and their priorities come on top."""
    there = Locality(region="us")
    names = (
        DNSName(name="pay:80", weight=3, locality=there, metadata={"v": "1"}),
        "plain:81",
        DNSName(name="_http._tcp.pay", priority=2, metadata={"v": "2"}),
    )
    answers = {
        "pay": Hosts(("10.0.0.2", "10.0.0.1"), 60.0),
        "plain": Hosts(("10.0.0.3",), 60.0),
        "_http._tcp.pay": Records((Target(1, 10, 9000, "a"), Target(5, 10, 9001, "b")), 60),
        "a": Hosts(("10.0.1.1",), 60.0),
        "b": Hosts(("10.0.1.2",), 60.0),
    }
    _, _, told, _ = make(answers, names)
    found = [(str(each.address), each.weight, each.priority, each.locality, each.metadata, each.hostname) for each in told.endpoints[-1]]
    assert found == [
        ("10.0.0.1:80", 3, 0, there, {"v": "1"}, "pay"),
        ("10.0.0.2:80", 3, 0, there, {"v": "1"}, "pay"),
        ("10.0.0.3:81", 1, 0, None, {}, "plain"),
        ("10.0.1.1:9000", 1, 2, None, {"v": "2"}, "a"),
        ("10.0.1.2:9001", 1, 3, None, {"v": "2"}, "b"),
    ]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ((DNSName(name="_http._tcp.pay", weight=2),), "the SRV records of _http._tcp.pay have weights of their own"),
        ((DNSName(name="pay:80", priority=129),), "expected a priority up to 128, got 129"),
        ((DNSName(name="pay:80", weight=2), "pay:80"), "a name stands here twice"),
        ((DNSName(name="pay"),), "expected HOST:PORT"),
    ],
)
def test_what_is_said_of_a_name_makes_sense(names: Any, sentence: str) -> None:
    """Or the configuration is refused."""
    assert sentence in next(iter(DNS.validate(DNS.Config(names=names))))


def advance(plugin: DNS, seconds: float) -> None:
    """Turn its clock in small steps."""
    for _ in range(round(seconds * 10)):
        plugin._clock.advance(0.1)


def test_promise() -> None:
    """It is a discovery."""
    assert verifyObject(IDiscovery, DNS(DNS.Config(names="pay:80"), FakeContext()))


def test_asked_again_after_the_ttl(make: Make) -> None:
    """Within the bounds; told only when the set differs, whatever the order."""
    plugin, servers, told, first = make({"pay": Hosts(("10.0.0.5", "10.0.0.6"), 20)})
    assert (told.sets, first) == ([["10.0.0.5:80", "10.0.0.6:80"]], [None])
    assert told.endpoints[0][0].hostname == "pay"
    servers.answers["pay"] = Hosts(("10.0.0.6", "10.0.0.5"), 1000)
    advance(plugin, 19.8)
    assert len(servers.asked) == 1
    advance(plugin, 0.3)
    assert len(servers.asked) == 2
    servers.answers["pay"] = Hosts(("10.0.0.6",), 0)
    advance(plugin, 300)
    assert told.sets == [["10.0.0.5:80", "10.0.0.6:80"], ["10.0.0.6:80"]]
    asked = len(servers.asked)
    advance(plugin, 3)  # a TTL of 0 is a second
    assert len(servers.asked) - asked == 3
    plugin.stop()
    assert plugin._clock.getDelayedCalls() == []


def test_a_failure_changes_nothing(make: Make) -> None:
    """The last good answer stays, the failure is counted and told, and the waits grow."""
    plugin, servers, told, _ = make({"pay": Hosts(("10.0.0.5",), 5)}, max_refresh_rate=5.0)
    servers.answers["pay"] = LookupFailed("pay (A): 10.0.0.1:53 could not find out")
    advance(plugin, 5.1)
    shown = plugin.snapshot()
    assert (shown["failures"], shown["last_error"], shown["last_success"]) == (1, "pay (A): 10.0.0.1:53 could not find out", STARTED)
    advance(plugin, 15)
    assert [round(when) for _, when in servers.asked] == [0, 5, 6, 8, 12, 20]
    assert told.sets == [["10.0.0.5:80"]]
    servers.answers["pay"] = Hosts(("10.0.0.5",), 5)
    advance(plugin, 16)
    assert plugin.snapshot()["last_error"] == ""
    plugin.stop()


@pytest.mark.parametrize(("on_negative", "sets"), [("keep", [["10.0.0.5:80"]]), ("empty", [["10.0.0.5:80"], []])])
def test_no_such_name(make: Make, on_negative: str, sets: list[list[str]]) -> None:
    """Keeps what was known, or empties it, as configured; and is asked again when the answer says."""
    plugin, servers, told, _ = make({"pay": Hosts(("10.0.0.5",), 5)}, on_negative=on_negative)
    servers.answers["pay"] = NoSuchName("pay does not exist", 7)
    advance(plugin, 20)
    assert told.sets == sets
    assert [round(when) for _, when in servers.asked] == [0, 5, 12, 19]
    assert plugin.snapshot()["last_error"] == ("" if on_negative == "empty" else "pay does not exist")
    plugin.stop()


def test_the_first_answer(make: Make) -> None:
    """A failure is waited out; that there is no such name need not be waited for."""
    plugin, servers, told, first = make({"pay": LookupFailed("ill")})
    assert first == []
    servers.answers["pay"] = Hosts(("10.0.0.5",), 5)
    advance(plugin, 1.1)
    assert (first, told.sets) == ([None], [["10.0.0.5:80"]])
    plugin.stop()
    plugin, _, told, first = make({"pay": NoSuchName("pay does not exist", 7)})
    assert (first, told.sets) == ([None], [])
    plugin.stop()


def test_several_names(make: Make) -> None:
    """They are told together, once each was asked for; one that fails keeps its own endpoints."""
    slow: Deferred[Hosts] = Deferred()
    plugin, servers, told, first = make({"pay": Hosts(("10.0.0.5",), 5), "old": slow}, ("pay:80", "old:81"))
    assert (told.sets, first) == ([], [])
    slow.callback(Hosts(("10.0.0.7", "10.0.0.7"), 5))
    assert (told.sets, first) == ([["10.0.0.5:80", "10.0.0.7:81"]], [None])
    servers.answers |= {"pay": Hosts(("10.0.0.6",), 5), "old": LookupFailed("ill")}
    advance(plugin, 5.2)
    assert told.last == ["10.0.0.6:80", "10.0.0.7:81"]
    assert plugin.snapshot()["last_error"] == "ill"
    plugin.stop()


def test_logical(make: Make) -> None:
    """One endpoint at a time, and the same one for as long as it is in the answers."""
    plugin, servers, told, _ = make({"pay": Hosts(("10.0.0.5", "10.0.0.6"), 5)}, mode="logical")
    servers.answers["pay"] = Hosts(("10.0.0.6", "10.0.0.5"), 5)
    advance(plugin, 5.1)
    servers.answers["pay"] = Hosts(("10.0.0.6", "10.0.0.7"), 5)
    advance(plugin, 5.1)
    assert told.sets == [["10.0.0.5:80"], ["10.0.0.6:80"]]
    plugin.stop()


class Target:
    """An SRV record's payload."""

    def __init__(self, priority: int, weight: int, port: int, target: str) -> None:
        self.priority, self.weight, self.port = priority, weight, port
        self.target = type("Name", (), {"name": target.encode()})


def test_services(make: Make) -> None:
    """Priorities, weights and ports of SRV records; a target that cannot be looked up keeps the addresses that it had; "." is no target."""
    records = Records((Target(10, 20, 8080, "a.shop"), Target(10, 10, 8081, "b.shop"), Target(20, 0, 8082, "c.shop."), Target(0, 0, 0, ".")), 60)
    answers = {"_http._tcp.pay": records, "a.shop": Hosts(("10.0.0.1",), 5), "b.shop": Hosts(("10.0.0.2",), 60), "c.shop": Hosts(("10.0.0.3",), 60)}
    plugin, servers, told, _ = make(answers, "_http._tcp.pay")
    assert [(str(each.address), each.priority, each.weight, each.hostname) for each in told.endpoints[0]] == [
        ("10.0.0.1:8080", 0, 2, "a.shop"),
        ("10.0.0.2:8081", 0, 1, "b.shop"),
        ("10.0.0.3:8082", 1, 1, "c.shop"),
    ]
    servers.answers |= {"a.shop": LookupFailed("ill"), "b.shop": NoSuchName("gone", 5)}
    advance(plugin, 5.1)
    assert told.last == ["10.0.0.1:8080", "10.0.0.3:8082"]
    servers.answers["_http._tcp.pay"] = Records((Target(0, 0, 0, "."),), 60)
    advance(plugin, 2)
    assert len(told.sets) == 2
    assert plugin.snapshot()["last_error"] == "_http._tcp.pay is not served"
    plugin.stop()


def test_more_targets_than_are_taken(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most preferred are used, the same ones in whatever order they come, and it is told of."""
    monkeypatch.setattr(dns, "MAX_TARGETS", 2)
    made = [Target(1, 1, 80, "a.shop"), Target(0, 1, 80, "c.shop"), Target(0, 1, 80, "b.shop"), Target(0, 1, 81, "b.shop")]
    hosts = {f"{letter}.shop": Hosts((f"10.0.0.{number}",), 60) for number, letter in enumerate("abc")}
    plugin, servers, told, _ = make({"_http._tcp.pay": Records(tuple(made), 1), **hosts}, "_http._tcp.pay")
    expected = ["10.0.0.1:80", "10.0.0.1:81", "10.0.0.2:80"]
    assert told.last == expected
    assert plugin.snapshot()["last_error"] == "_http._tcp.pay has 3 targets, of which 2 are used"
    servers.answers["_http._tcp.pay"] = Records(tuple(reversed(made)), 1)
    advance(plugin, 1.1)
    assert told.last == expected
    plugin.stop()


def test_many_targets_without_a_ttl(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are asked for no faster than the name servers are to be asked on average."""
    monkeypatch.setattr(dns, "TARGETS_A_SECOND", 0.1)
    records = Records((Target(0, 1, 80, "a.shop"), Target(0, 1, 80, "b.shop")), 0)
    plugin, servers, told, _ = make({"_http._tcp.pay": records, "a.shop": Hosts(("10.0.0.1",), 0), "b.shop": Hosts(("10.0.0.2",), 0)}, "_http._tcp.pay")
    servers.answers["_http._tcp.pay"] = Records((Target(0, 1, 80, "b.shop"),), 0)
    advance(plugin, 17.9)
    assert len(told.sets) == 1
    advance(plugin, 2.2)
    assert told.last == ["10.0.0.2:80"]
    plugin.stop()


def test_a_record_with_port_0(make: Make) -> None:
    """Takes nothing from the others, and is told of; alone it is no service."""
    records = Records((Target(0, 1, 0, "a.shop"), Target(0, 1, 8081, "b.shop")), 1)
    plugin, servers, told, _ = make({"_http._tcp.pay": records, "a.shop": Hosts(("10.0.0.1",), 60), "b.shop": Hosts(("10.0.0.2",), 60)}, "_http._tcp.pay")
    assert told.sets == [["10.0.0.2:8081"]]
    sentence = "_http._tcp.pay has a record with port 0, to which nobody can connect"
    assert plugin.snapshot()["last_error"] == sentence
    assert plugin.snapshot()["failures"] == 0
    servers.answers["_http._tcp.pay"] = Records((Target(0, 1, 8081, "b.shop"),), 1)
    advance(plugin, 1.1)
    assert plugin.snapshot()["last_error"] == ""
    servers.answers["_http._tcp.pay"] = Records((Target(0, 1, 0, "a.shop"),), 1)
    advance(plugin, 1.1)
    assert plugin.snapshot()["last_error"] == sentence
    assert told.sets == [["10.0.0.2:8081"]]
    plugin.stop()


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"names": ()}, "at least one name"),
        ({"names": "pay"}, "expected HOST:PORT, or a name such as"),
        ({"names": "pay:0"}, "expected HOST:PORT"),
        ({"names": "p y:80"}, "expected HOST:PORT"),
        ({"names": ("pay:80", "pay:80")}, "stands here twice"),
        ({"names": "pay:80", "min_refresh_rate": 0.0}, "min_refresh_rate of at least 0.01 s"),
        ({"names": "pay:80", "min_refresh_rate": 9.0, "max_refresh_rate": 5.0}, "at most max_refresh_rate"),
        ({"names": "pay:80", "timeout": 0.0}, "timeout above 0"),
        ({"names": "pay:80", "failure_refresh_rate": Backoff(base=0.0, max=0.0)}, "a base of at least 0.01 s, got 0 s"),
        ({"names": "pay:80", "servers": (Address("dns.example", 53),)}, "IP address and port of a name server"),
    ],
)
def test_configurations_that_cannot_work(config: dict[str, Any], problem: str) -> None:
    """They are told of by the check, and by the plugin itself."""
    made = DNS.Config(**config)
    assert any(problem in sentence for sentence in DNS.validate(made))
    with pytest.raises(ValueError, match=r"."):
        DNS(made, FakeContext())


def test_a_real_server(tmp_path: Path) -> None:
    """Records that change on a server of Twisted Names are told of within their TTL, a server that falls silent changes nothing."""

    async def scenario(reactor: Any) -> Any:
        server = NameServer(reactor, {"pay.shop.example": a("10.0.0.5", ttl=0), "_http._tcp.pay.shop.example": [srv(0, 1, 8080, "pay.shop.example", ttl=0)]})
        config = DNS.Config(
            names=("pay.shop.example:80", "_http._tcp.pay.shop.example"),
            servers=(server.address,),
            min_refresh_rate=0.02,
            timeout=0.2,
            hosts_file=tmp_path / "hosts",
            resolv_conf=tmp_path / "resolv.conf",
        )
        plugin = DNS(config, FakeContext("dns", reactor=reactor))
        told = Told()
        await plugin.watch(told)
        assert told.last == ["10.0.0.5:80", "10.0.0.5:8080"]
        server.set({"pay.shop.example": a("10.0.0.6", ttl=0), "_http._tcp.pay.shop.example": [srv(0, 1, 8081, "pay.shop.example", ttl=0)]})
        await until(reactor, lambda: told.last == ["10.0.0.6:80", "10.0.0.6:8081"])
        server.mood = "silent"
        await until(reactor, lambda: plugin.snapshot()["failures"] > 0)
        assert told.last == ["10.0.0.6:80", "10.0.0.6:8081"]
        assert "did not answer" in plugin.snapshot()["last_error"]
        plugin.stop()
        await server.end()

    run(scenario)
