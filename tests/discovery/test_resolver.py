"""Questions to real name servers on loopback."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sidecar.address import Address
from sidecar.discovery.resolver import Hosts, LookupFailed, NameServers, NoSuchName
from tests.discovery.name_server import NameServer, a, cname, srv
from tests.discovery.watching import run

RECORDS = {
    "pay.shop.example": [*a("10.0.0.5", "10.0.0.6"), *a("fd00::5", ttl=9)],
    "six.shop.example": a("fd00::6"),
    "alias.shop.example": [cname("other.shop.example", ttl=3)],
    "other.shop.example": [cname("pay.shop.example", ttl=20)],
    "loop.shop.example": [cname("loop2.shop.example")],
    "loop2.shop.example": [cname("loop.shop.example")],
    "many.shop.example": a(*(f"10.1.{n // 256}.{n % 256}" for n in range(60))),
    "_http._tcp.pay.shop.example": [srv(10, 5, 8080, "pay.shop.example")],
}
Ask = Callable[[NameServers, NameServer], Coroutine[Any, Any, Any]]


def asked(ask: Ask, tmp_path: Path, resolv: str = "search shop.example\n", hosts: str = "", more_servers: tuple[Address, ...] = ()) -> Any:
    """What `ask(name servers, server)` gives; what it raises comes out."""
    (tmp_path / "resolv.conf").write_text(resolv)
    (tmp_path / "hosts").write_text(hosts)

    async def scenario(reactor: Any) -> Any:
        server = NameServer(reactor, RECORDS)
        servers = NameServers(reactor, (*more_servers, server.address), tmp_path / "resolv.conf", tmp_path / "hosts", None, 0.3)
        try:
            return await ask(servers, server)
        finally:
            await server.end()

    return run(scenario)


@pytest.mark.parametrize(
    ("family", "addresses", "ttl"),
    [
        ("v4_preferred", ("10.0.0.5", "10.0.0.6"), 60),
        ("auto", ("fd00::5",), 9),
        ("v6_only", ("fd00::5",), 9),
        ("all", ("10.0.0.5", "10.0.0.6", "fd00::5"), 9),
    ],
)
def test_families(family: Any, addresses: tuple[str, ...], ttl: int, tmp_path: Path) -> None:
    """Which of the addresses count; the TTL is the least of theirs."""
    assert asked(lambda servers, _: servers.hosts("pay.shop.example", family), tmp_path) == Hosts(addresses, ttl)


def test_the_other_family_when_there_is_none_of_the_first(tmp_path: Path) -> None:
    """v4_preferred takes IPv6 where there is nothing else."""
    assert asked(lambda servers, _: servers.hosts("six.shop.example", "v4_preferred"), tmp_path) == Hosts(("fd00::6",), 60)


def test_the_search_list(tmp_path: Path) -> None:
    """A short name is looked up within the domains of resolv.conf, one with a dot at its end is not."""

    async def ask(servers: NameServers, server: NameServer) -> Any:
        with pytest.raises(NoSuchName):
            await servers.hosts("pay.", "v4_only")
        found = await servers.hosts("pay", "v4_only")
        return found.addresses, server.asked

    addresses, questions = asked(ask, tmp_path, "search nowhere.example shop.example\noptions ndots:2\n")
    assert addresses == ("10.0.0.5", "10.0.0.6")
    assert [name for name, _ in questions] == ["pay", "pay.nowhere.example", "pay.shop.example"]


def test_a_server_that_is_ill_ends_the_search(tmp_path: Path) -> None:
    """Otherwise the next candidate could be somebody else, who would get the requests."""

    async def ask(servers: NameServers, server: NameServer) -> Any:
        server.mood = "ill"
        with pytest.raises(LookupFailed, match=r"pay\.nowhere\.example \(A\): 127\.0\.0\.1:\d+ could not find out"):
            await servers.hosts("pay", "v4_only")
        return {name for name, _ in server.asked}

    assert asked(ask, tmp_path, "search nowhere.example shop.example\n") == {"pay.nowhere.example"}


def test_aliases(tmp_path: Path) -> None:
    """They are followed, and the least TTL on the way counts."""
    assert asked(lambda servers, _: servers.hosts("alias.shop.example", "v4_only"), tmp_path) == Hosts(("10.0.0.5", "10.0.0.6"), 3)


def test_aliases_in_a_circle(tmp_path: Path) -> None:
    """They end."""
    with pytest.raises(LookupFailed, match="more than 8 aliases"):
        asked(lambda servers, _: servers.hosts("loop.shop.example", "v4_only"), tmp_path)


def test_a_long_answer_comes_by_tcp(tmp_path: Path) -> None:
    """One that UDP cuts is asked for again."""

    async def ask(servers: NameServers, server: NameServer) -> Any:
        return (await servers.hosts("many.shop.example", "v4_only")).addresses, server.transports

    addresses, transports = asked(ask, tmp_path)
    assert len(addresses) == 60
    assert transports == ["udp", "tcp"]


def test_negative_answers(tmp_path: Path) -> None:
    """They tell for how long: the SOA's minimum for a name without such records."""

    async def ask(servers: NameServers, _: NameServer) -> Any:
        ttls = []
        for name in ("six.shop.example", "nobody.shop.example."):
            with pytest.raises(NoSuchName) as caught:
                await servers.hosts(name, "v4_only")
            ttls.append((str(caught.value), caught.value.ttl))
        return ttls

    nothing, nobody = asked(ask, tmp_path)
    assert nothing == ("six.shop.example has no A records", 5.0)  # of six.shop.example.shop.example nobody says for how long
    assert nobody[0] == "nobody.shop.example does not exist"


@pytest.mark.parametrize(("mood", "words"), [("silent", "did not answer within 0.3 s"), ("ill", "could not find out"), ("refuses", "refused")])
def test_servers_that_cannot_say(mood: str, words: str, tmp_path: Path) -> None:
    """That is a failure and no negative answer; the sentence tells which server and why."""

    async def ask(servers: NameServers, server: NameServer) -> Any:
        server.mood = mood
        await servers.hosts("pay.shop.example.", "v4_only")

    with pytest.raises(LookupFailed, match=words):
        asked(ask, tmp_path)


def test_the_next_server_is_asked(tmp_path: Path) -> None:
    """When the first is ill or silent."""

    async def scenario(reactor: Any) -> Any:
        first, second = NameServer(reactor, {}), NameServer(reactor, RECORDS)
        servers = NameServers(reactor, (first.address, second.address), tmp_path / "none", tmp_path / "none", (), 0.2)
        found = []
        for mood in ("ill", "silent", "refuses"):
            first.mood = mood
            found.append((await servers.hosts("pay.shop.example", "v4_only")).addresses)
        await first.end()
        await second.end()
        return found

    assert run(scenario) == [("10.0.0.5", "10.0.0.6")] * 3


def test_hosts_file_and_loopback(tmp_path: Path) -> None:
    """They come before any server, and a changed hosts file is read again."""

    async def ask(servers: NameServers, server: NameServer) -> Any:
        found = [(await servers.hosts(name, "v4_preferred")).addresses for name in ("Pay", "localhost", "a.localhost", "10.0.0.9", "fd00::1")]
        (tmp_path / "hosts").write_text("10.9.9.10 pay\n# longer\n")
        return [*found, (await servers.hosts("pay", "v4_preferred")).addresses, (await servers.hosts("localhost", "v6_only")).addresses], server.asked

    found, questions = asked(ask, tmp_path, hosts="10.9.9.9 pay pay.example\n")
    assert found == [("10.9.9.9",), ("127.0.0.1",), ("127.0.0.1",), ("10.0.0.9",), ("fd00::1",), ("10.9.9.10",), ("::1",)]
    assert questions == []


def test_servers_of_resolv_conf(tmp_path: Path) -> None:
    """Those are asked when none are configured, on port 53; a changed file counts from the next question."""
    servers = NameServers(None, (), tmp_path / "resolv.conf", tmp_path / "hosts", None, 1.0)
    for text, expected in (("", [("127.0.0.1", 53)]), ("nameserver 10.0.0.1\nnameserver ::1\n", [("10.0.0.1", 53), ("::1", 53)])):
        (tmp_path / "resolv.conf").write_text(text)
        servers._refresh()
        assert [each.servers[0] for each in servers._resolvers] == expected
