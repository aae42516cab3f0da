"""Kind `discovery`, name `consul`, against a server that speaks the health API with its blocking queries."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import deferLater
from zope.interface.verify import verifyObject

from sidecar.address import Address
from sidecar.discovery import consul
from sidecar.discovery.consul import Consul
from sidecar.interfaces import IDiscovery
from sidecar.model import Backoff
from sidecar.testing import FakeContext
from tests.discovery.api_server import API, Asked
from tests.discovery.watching import Told, run, until

QUICK = Backoff(base=0.01, max=0.02)


def instances(*hosts: str) -> bytes:
    """A health answer."""
    return json.dumps([{"Node": {"Node": "n", "Address": host}, "Service": {"ID": host, "Port": 80}, "Checks": []} for host in hosts]).encode()


def says(index: int | None, *hosts: str) -> Callable[[Asked], None]:
    """Answer at once."""
    fields = {} if index is None else {"X_Consul_Index": str(index)}
    return lambda request: request.answer(instances(*hosts), **fields)


def watched(scenario: Callable[[Any, API, Consul, Told], Coroutine[Any, Any, Any]], *script: Callable[[Asked], Any], **config: Any) -> Any:
    """The result of `scenario(reactor, api, plugin, told)`."""

    async def begin(reactor: Any) -> Any:
        api = API(reactor, *script)
        settings = Consul.Config(service="pay", address=Address("127.0.0.1", api.port), failure_refresh_rate=QUICK, **config)
        plugin = Consul(settings, FakeContext("consul", reactor=reactor))
        told = Told()
        first = plugin.watch(told)
        try:
            if script:
                await first
            return await scenario(reactor, api, plugin, told)
        finally:
            plugin.stop()
            await api.end()

    return run(begin)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not wait between two answers."""
    monkeypatch.setattr(consul, "MIN_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(consul, "POLL_SECONDS", 0.01)


def test_promise() -> None:
    """It is a discovery."""
    assert verifyObject(IDiscovery, Consul(Consul.Config(service="pay"), FakeContext()))


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"address": Address(path="/run/consul")}, "UNIX sockets are not supported"),
        ({"failure_refresh_rate": Backoff(base=0.0, max=0.0)}, "a base of at least 0.01 s, got 0 s"),
    ],
)
def test_configurations_that_cannot_work(config: dict[str, Any], problem: str) -> None:
    """They are told of by the check, and by the plugin itself."""
    made = Consul.Config(service="pay", **config)
    assert any(problem in sentence for sentence in Consul.validate(made))
    with pytest.raises(ValueError, match=problem):
        Consul(made, FakeContext())


def test_blocking_queries() -> None:
    """The first does not wait, each next one waits from the index of the last answer, and a change is told at once."""

    async def scenario(reactor: Any, api: API, plugin: Consul, told: Told) -> None:
        assert told.sets == [["10.0.0.1:80"]]
        await until(reactor, lambda: len(api.asked) == 2)
        assert "index" not in api.asked[0].query
        assert (api.asked[1].path, api.asked[1].query) == ("/v1/health/service/pay", {"passing": "1", "index": "7", "wait": "300s"})
        api.asked[1].answer(instances("10.0.0.1", "10.0.0.2"), X_Consul_Index="9")
        await until(reactor, lambda: len(api.asked) == 3)
        assert api.asked[2].query["index"] == "9"
        api.asked[2].answer(instances("10.0.0.3"), X_Consul_Index="9")  # the wait was over: nothing changed, whatever stands there
        await until(reactor, lambda: len(api.asked) == 4)
        assert told.sets == [["10.0.0.1:80"], ["10.0.0.1:80", "10.0.0.2:80"]]
        assert plugin.snapshot()["failures"] == 0

    watched(scenario, says(7, "10.0.0.1"))


def test_an_index_that_goes_back() -> None:
    """Is taken for a new beginning: asked again at once, not waited for."""

    async def scenario(reactor: Any, api: API, plugin: Consul, told: Told) -> None:
        await until(reactor, lambda: len(api.asked) == 4)
        assert [each.query.get("index") for each in api.asked] == [None, "7", "1", "4"]
        assert told.last == ["10.0.0.3:80"]

    watched(scenario, says(7, "10.0.0.1"), says(3, "10.0.0.2"), says(4, "10.0.0.3"))


def test_without_an_index() -> None:
    """It is asked every now and then."""

    async def scenario(reactor: Any, api: API, plugin: Consul, told: Told) -> None:
        await until(reactor, lambda: len(told.sets) == 3)
        assert all("index" not in each.query for each in api.asked)

    watched(scenario, says(None, "10.0.0.1"), says(None, "10.0.0.2"), says(None, "10.0.0.3"))


def cut_short(request: Asked) -> None:
    """Half an answer."""
    request.transport.write(b"HTTP/1.1 200 OK\r\nX-Consul-Index: 9\r\nContent-Length: 900\r\n\r\n" + instances("10.0.0.9")[:40])
    request.cut()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda request: request.answer(b"No cluster leader", 500), "status 500: No cluster leader"),
        (lambda request: request.answer(b"Permission denied", 403), "status 403: Permission denied"),
        (lambda request: request.answer(b"<html>", 200), "not an answer of Consul's health API"),
        (cut_short, "the answer was cut short"),
        (lambda request: request.cut(), "127.0.0.1"),
    ],
)
def test_failures(wrong: Callable[[Asked], Any], words: str) -> None:
    """What was known stays, the reason is told, and the next question does not wait for a change."""

    async def scenario(reactor: Any, api: API, plugin: Consul, told: Told) -> None:
        await until(reactor, lambda: len(api.asked) >= 3 and not api.script and "index" not in api.asked[-1].query)
        assert told.sets == [["10.0.0.1:80"]]
        assert words in plugin.snapshot()["last_error"]
        assert plugin.snapshot()["failures"] >= 1
        assert "index" not in api.asked[-1].query
        api.asked[-1].answer(instances("10.0.0.2"), X_Consul_Index="8")
        await until(reactor, lambda: len(told.sets) == 2)
        assert told.last == ["10.0.0.2:80"]
        assert plugin.snapshot()["last_error"] == ""

    # A pooled connection that dies before the head is tried again by the client itself, so it has to die twice.
    watched(scenario, says(7, "10.0.0.1"), wrong, *([wrong] if words == "127.0.0.1" else []))


def test_slow_pieces() -> None:
    """An answer may take its time."""

    async def scenario(reactor: Any, api: API, plugin: Consul, told: Told) -> None:
        await until(reactor, lambda: bool(api.asked))
        body = instances("10.0.0.1", "10.0.0.2")
        api.asked[0].transport.write(b"HTTP/1.1 200 OK\r\nX-Consul-Index: 9\r\nContent-Length: %d\r\n\r\n" % len(body))
        for start in range(0, len(body), 20):
            api.asked[0].transport.write(body[start : start + 20])
            assert told.sets == []
            await deferLater(reactor, 0.001, lambda: None)
        await until(reactor, lambda: told.sets)
        assert told.sets == [["10.0.0.1:80", "10.0.0.2:80"]]

    watched(scenario)


def test_what_is_asked(tmp_path: Path) -> None:
    """Every setting reaches the query; the token is read each time, stands in a field, and is in no message."""
    token = tmp_path / "token"
    token.write_text("one\n")

    async def scenario(reactor: Any, api: API, plugin: Consul, told: Told) -> None:
        await until(reactor, lambda: len(api.asked) == 2)
        token.write_text("two")
        api.asked[1].answer(b"[]", X_Consul_Index="8")
        await until(reactor, lambda: len(api.asked) == 3)
        assert [each.fields["x-consul-token"] for each in api.asked] == ["one", "one", "two"]
        assert ("tag", "v1") in api.asked[0].pairs
        assert ("tag", "eu") in api.asked[0].pairs
        wanted = {"dc": "dc2", "ns": "team", "partition": "p", "filter": 'Service.Meta.v == "1 2"', "stale": "", "wait": "90s"}
        assert wanted.items() <= api.asked[1].query.items()
        assert "passing" not in api.asked[1].query
        token.write_text("not\na token")
        api.asked[2].answer(b"[]", X_Consul_Index="9")
        await until(reactor, lambda: plugin.snapshot()["last_error"])
        assert plugin.snapshot()["last_error"] == f"{token} holds no token: expected one line of visible ASCII"

    settings = {"tags": ("v1", "eu"), "passing": False, "datacenter": "dc2", "namespace": "team", "partition": "p", "stale": True, "wait": 90.0}
    watched(scenario, says(7, "10.0.0.1"), filter='Service.Meta.v == "1 2"', token_file=token, **settings)


def test_stop_ends_the_query() -> None:
    """The agent is rid of it at once."""

    async def scenario(reactor: Any, api: API, plugin: Consul, told: Told) -> None:
        await until(reactor, lambda: len(api.asked) == 2)
        plugin.stop()
        await until(reactor, lambda: not api.asked[1].transport.connected)
        assert not api.asked[1].transport.connected

    watched(scenario, says(7, "10.0.0.1"))
