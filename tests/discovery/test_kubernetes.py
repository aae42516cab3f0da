"""Kind `discovery`, name `kubernetes`, against a server that speaks list and watch."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import deferLater
from zope.interface.verify import verifyObject

from sidecar.discovery import kubernetes
from sidecar.discovery.kubernetes import Kubernetes
from sidecar.interfaces import IDiscovery
from sidecar.model import Backoff, Locality, Node
from sidecar.testing import FakeContext
from tests.discovery.api_server import API, Asked
from tests.discovery.watching import Told, run, until

QUICK = Backoff(base=0.01, max=0.02)


def a_slice(name: str, *hosts: str, version: str = "1", draining: tuple[str, ...] = ()) -> dict[str, Any]:
    """A slice with these pods."""
    endpoints = [{"addresses": [host], "conditions": {"ready": True}} for host in hosts]
    endpoints += [{"addresses": [host], "conditions": {"ready": False, "serving": True, "terminating": True}} for host in draining]
    return {
        "metadata": {"name": name, "resourceVersion": version},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 80}],
    }


def lists(version: str, *slices: dict[str, Any], more: str = "") -> Callable[[Asked], None]:
    """A list, or a piece of one."""
    return lambda request: request.answer(json.dumps({"metadata": {"resourceVersion": version, "continue": more}, "items": slices}).encode())


def event(kind: str, content: dict[str, Any]) -> bytes:
    """A line of a watch."""
    return json.dumps({"type": kind, "object": content}).encode() + b"\n"


def bookmark(version: str) -> bytes:
    """One that only tells how far the watch has come."""
    return event("BOOKMARK", {"metadata": {"resourceVersion": version}, "addressType": ""})


GONE = {"kind": "Status", "metadata": {}, "status": "Failure", "message": "too old resource version: 1 (9)", "reason": "Expired", "code": 410}


def watches(*pieces: bytes, end: str = "") -> Callable[[Asked], None]:
    """A watch with these pieces, which then stays open, or ends: "well" or "cut"."""

    def answer(request: Asked) -> None:
        request.begin()
        for piece in pieces:
            request.send(piece)
        if end:
            request.finish() if end == "well" else request.cut()

    return answer


Scenario = Callable[[Any, API, Kubernetes, Told], Coroutine[Any, Any, Any]]


def watched(scenario: Scenario, *script: Callable[[Asked], Any], **config: Any) -> Any:
    """The result of `scenario(reactor, api, plugin, told)`."""

    async def begin(reactor: Any) -> Any:
        api = API(reactor, *script)
        settings = Kubernetes.Config(
            **{"service": "pay", "namespace": "shop", "server": f"http://127.0.0.1:{api.port}", "failure_refresh_rate": QUICK, **config}
        )
        plugin = Kubernetes(settings, FakeContext("kubernetes", reactor=reactor))
        told = Told()
        plugin.watch(told)
        try:
            return await scenario(reactor, api, plugin, told)
        finally:
            plugin.stop()
            await api.end()

    return run(begin)


def test_promise() -> None:
    """It is a discovery."""
    assert verifyObject(IDiscovery, Kubernetes(Kubernetes.Config(service="pay", server="http://127.0.0.1:1"), FakeContext()))


def test_list_and_watch() -> None:
    """The list is told, then each change; the watch begins where the list ends."""

    async def scenario(reactor: Any, api: API, plugin: Kubernetes, told: Told) -> None:
        await until(reactor, lambda: len(api.asked) == 2)
        listed, watch = api.asked
        assert told.sets == [["10.0.0.1:80", "10.0.0.2:80"]]
        assert listed.path == "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"
        assert listed.query == {"labelSelector": "kubernetes.io/service-name=pay", "limit": "50"}
        assert {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": "100"}.items() <= watch.query.items()
        assert 300 <= int(watch.query["timeoutSeconds"]) <= 600
        watch.send(event("MODIFIED", a_slice("a", "10.0.0.1", version="101", draining=("10.0.0.2",))))
        await until(reactor, lambda: len(told.sets) == 2)
        assert [(str(each.address), each.health) for each in told.endpoints[-1]] == [("10.0.0.1:80", "healthy"), ("10.0.0.2:80", "draining")]
        watch.send(event("ADDED", a_slice("b", "10.0.0.3", version="102")) + event("DELETED", a_slice("a", version="103")))
        await until(reactor, lambda: told.last == ["10.0.0.3:80"])
        assert told.last == ["10.0.0.3:80"]

    watched(scenario, lists("100", a_slice("a", "10.0.0.1", "10.0.0.2")), watches())


def test_a_list_in_pieces() -> None:
    """They are told together; one that is too old to be continued is begun anew."""

    async def scenario(reactor: Any, api: API, plugin: Kubernetes, told: Told) -> None:
        await until(reactor, lambda: len(api.asked) == 5)
        assert [each.query.get("continue", "") for each in api.asked] == ["", "next", "", "next", ""]
        assert told.sets == [["10.0.0.1:80", "10.0.0.2:80"]]
        assert plugin.snapshot()["failures"] == 0

    first, second = lists("100", a_slice("a", "10.0.0.1"), more="next"), lists("100", a_slice("b", "10.0.0.2"))
    watched(scenario, first, lambda request: request.answer(json.dumps(GONE).encode(), 410), first, second)


def test_a_list_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that always has one more piece is not asked for ever, and all pieces together have the size that one may have."""
    monkeypatch.setattr(kubernetes, "MAX_PAGES", 3)

    async def scenario(reactor: Any, api: API, plugin: Kubernetes, told: Told) -> str:
        await until(reactor, lambda: plugin.snapshot()["last_error"])
        assert told.sets == []
        return str(plugin.snapshot()["last_error"])

    piece = lists("1", a_slice("a", "10.0.0.1"), more="next")
    assert watched(scenario, *[piece] * 50) == "the list has more than 3 pieces"
    monkeypatch.setattr(kubernetes, "MAX_LIST_BYTES", 500)
    assert "octets" in watched(scenario, *[piece] * 50)


def test_a_watch_goes_on_where_it_ended() -> None:
    """After its last event or bookmark; half an event, where the stream was cut, is sent again by then."""

    async def scenario(reactor: Any, api: API, plugin: Kubernetes, told: Told) -> None:
        await until(reactor, lambda: len(api.asked) == 5)
        assert [each.query.get("resourceVersion") for each in api.asked] == [None, "100", "101", "105", "107"]
        assert told.last == ["10.0.0.3:80"]
        assert plugin.snapshot()["failures"] == 0

    changed = event("MODIFIED", a_slice("a", "10.0.0.2", version="101"))
    later = event("MODIFIED", a_slice("a", "10.0.0.3", version="107"))
    watched(
        scenario,
        lists("100", a_slice("a", "10.0.0.1")),
        watches(changed, later[:50], end="cut"),
        watches(bookmark("105"), later[:90], end="well"),
        watches(*(later[start : start + 7] for start in range(0, len(later), 7)), end="well"),
    )


@pytest.mark.parametrize(
    "gone",
    [
        watches(event("ERROR", GONE), end="well"),
        watches(event("ERROR", GONE)),
        lambda request: request.answer(json.dumps(GONE).encode(), 410),
    ],
)
def test_gone(gone: Callable[[Asked], Any]) -> None:
    """What was known stays until the new list is there, which then counts: what is not in it is gone. No failure."""

    async def scenario(reactor: Any, api: API, plugin: Kubernetes, told: Told) -> None:
        await until(reactor, lambda: len(api.asked) == 4)
        assert [each.query.get("resourceVersion") for each in api.asked] == [None, "1", None, "9"]
        assert told.sets == [["10.0.0.1:80", "10.0.0.2:80"], ["10.0.0.2:80"]]
        assert plugin.snapshot()["failures"] == 0

    watched(scenario, lists("1", a_slice("a", "10.0.0.1"), a_slice("b", "10.0.0.2")), gone, lists("9", a_slice("b", "10.0.0.2")))


STATUS = {"kind": "Status", "message": 'endpointslices.discovery.k8s.io is forbidden: User "x" cannot list', "code": 403}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda request: request.answer(b"oops", 500), "status 500: status 500"),
        (lambda request: request.answer(json.dumps(STATUS).encode(), 403), "cannot list; may this service account get, list and watch endpointslices?"),
        (lambda request: request.answer(b"<html>"), "not a list of EndpointSlices"),
        (lambda request: request.answer(b'{"metadata": {}, "items": []}'), "no resourceVersion"),
        (lambda request: request.cut(), "127.0.0.1"),
    ],
)
def test_a_list_that_fails(wrong: Callable[[Asked], Any], words: str) -> None:
    """Is asked for again, and the reason told; the first answer is waited for."""

    async def scenario(reactor: Any, api: API, plugin: Kubernetes, told: Told) -> None:
        await until(reactor, lambda: told.sets)
        assert told.sets == [["10.0.0.1:80"]]
        assert plugin.snapshot()["failures"] >= 1

    seen: list[str] = []

    def then(request: Asked) -> None:
        lists("1", a_slice("a", "10.0.0.1"))(request)

    async def wrapped(reactor: Any, api: API, plugin: Kubernetes, told: Told) -> None:
        await until(reactor, lambda: plugin.snapshot()["last_error"])
        seen.append(plugin.snapshot()["last_error"])
        await scenario(reactor, api, plugin, told)

    watched(wrapped, wrong, then)
    assert words in seen[0]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda request: request.answer(b"oops", 503),
        lambda request: request.cut(),
        watches(event("ERROR", {"code": 500, "message": "etcd is away"}), end="well"),
        watches(end="well"),
    ],
)
def test_a_watch_that_fails(wrong: Callable[[Asked], Any]) -> None:
    """What was known stays, it is counted, and the watch begins again from where it was, not in a loop without waiting."""

    async def scenario(reactor: Any, api: API, plugin: Kubernetes, told: Told) -> None:
        await until(reactor, lambda: len(api.asked) >= 4)
        assert {each.query.get("resourceVersion") for each in api.asked[1:]} == {"1"}
        assert told.sets == [["10.0.0.1:80"]]
        assert plugin.snapshot()["failures"] >= 1

    watched(scenario, lists("1", a_slice("a", "10.0.0.1")), wrong, wrong)


def test_a_server_that_never_goes_on_from_what_we_know() -> None:
    """As after a restore from a backup, with an error that is not 410: after a few refusals the list is asked for anew."""
    refused = watches(event("ERROR", {"code": 504, "message": "Too large resource version: 900, current: 7"}), end="well")

    async def scenario(reactor: Any, api: API, plugin: Kubernetes, told: Told) -> None:
        await until(reactor, lambda: len(api.asked) >= 6 and len(told.sets) == 2)
        assert [each.query.get("resourceVersion", "") for each in api.asked[:6]] == ["", "900", "900", "900", "", "7"]
        assert told.sets == [["10.0.0.1:80"], ["10.0.0.2:80"]]
        await until(reactor, lambda: not plugin.snapshot()["last_error"])

    watched(scenario, lists("900", a_slice("a", "10.0.0.1")), refused, refused, refused, lists("7", a_slice("a", "10.0.0.2")), watches())


def test_an_event_that_is_not_understood() -> None:
    """What it would have told is not known, so the list is asked for anew."""

    async def scenario(reactor: Any, api: API, plugin: Kubernetes, told: Told) -> None:
        await until(reactor, lambda: len(api.asked) == 4)
        assert "watch" not in api.asked[2].query
        assert told.sets == [["10.0.0.1:80"], ["10.0.0.2:80"]]

    watched(scenario, lists("1", a_slice("a", "10.0.0.1")), watches(b'{"type": 5}\n'), lists("5", a_slice("a", "10.0.0.2")))


def test_a_port_that_is_not_there() -> None:
    """Is a failure with the ports that there are, and no empty set."""

    async def scenario(reactor: Any, api: API, plugin: Kubernetes, told: Told) -> None:
        await until(reactor, lambda: plugin.snapshot()["last_error"])
        assert plugin.snapshot()["last_error"] == "expected the port 'grpc'; slice a has: http 80"
        assert told.sets == []

    watched(scenario, *[lists("1", a_slice("a", "10.0.0.1"))] * 50, port="grpc")


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"server": "10.0.0.1:443"}, "expected `server` to be http://HOST:PORT or https://HOST:PORT"),
        ({"failure_refresh_rate": Backoff(base=0.0, max=1.0)}, "a base of at least 0.01 s, got 0 s"),
        ({"silence_timeout": 60.0}, "expected a silence_timeout of at least 75 s"),
    ],
)
def test_configurations_that_cannot_work(config: dict[str, Any], problem: str) -> None:
    """They are told of by the check, and by the plugin itself."""
    made = Kubernetes.Config(**{"service": "pay", "server": "http://127.0.0.1:1", **config})
    assert any(problem in sentence for sentence in Kubernetes.validate(made))
    with pytest.raises(ValueError, match=r"."):
        Kubernetes(made, FakeContext())


def test_in_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Server, namespace and token are those that the pod was given; the token is read again for each request, because it is replaced every hour."""
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "namespace").write_text("team\n")

    async def scenario(reactor: Any) -> None:
        api = API(reactor, lists("1", a_slice("a", "10.0.0.1")), watches(bookmark("2")))
        environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.port)}
        made = Kubernetes(Kubernetes.Config(service="pay"), FakeContext("k", reactor=reactor), environ, tmp_path)
        assert made._server.base == f"https://127.0.0.1:{api.port}"
        assert made._server._ca_file == tmp_path / "ca.crt"
        made._server.base, made._server._ca_file = made._server.base.replace("https", "http"), None
        made.watch(Told())
        await until(reactor, lambda: len(api.asked) >= 2)
        (tmp_path / "token").write_text("second")
        api.asked[1].finish()
        await until(reactor, lambda: len(api.asked) >= 3)
        assert api.asked[0].path == "/apis/discovery.k8s.io/v1/namespaces/team/endpointslices"
        assert api.asked[0].fields["authorization"] == "Bearer first"
        assert api.asked[2].fields["authorization"] == "Bearer second"
        made.stop()
        await api.end()

    run(scenario)


def test_outside_of_a_pod(tmp_path: Path) -> None:
    """The namespace is ours, and a server has to be named."""
    context = FakeContext(node=Node(namespace="market", locality=Locality(region="eu")))
    made = Kubernetes(Kubernetes.Config(service="pay", server="https://10.0.0.1:6443"), context, {}, tmp_path)
    assert made.snapshot()["source"] == "kubernetes service pay.market"
    assert made._slices._region == "eu"
    for config, words in (
        (Kubernetes.Config(service="pay"), "KUBERNETES_SERVICE_HOST is not set"),
        (Kubernetes.Config(service="p", server="x:1"), "http://HOST:PORT"),
    ):
        with pytest.raises(ValueError, match=words):
            Kubernetes(config, context, {}, tmp_path)


def test_a_missing_token(tmp_path: Path) -> None:
    """Is a failure with the file's name, and is tried again."""

    async def scenario(reactor: Any, api: API, plugin: Kubernetes, told: Told) -> None:
        await until(reactor, lambda: plugin.snapshot()["last_error"])
        assert plugin.snapshot()["last_error"] == f"{tmp_path / 'token'} cannot be read: No such file or directory"
        (tmp_path / "token").write_text("t")
        await until(reactor, lambda: told.sets)
        assert told.sets == [["10.0.0.1:80"]]

    watched(scenario, lists("1", a_slice("a", "10.0.0.1")), token_file=tmp_path / "token")


def test_stop_ends_the_watch() -> None:
    """The server is rid of it at once."""

    async def scenario(reactor: Any, api: API, plugin: Kubernetes, told: Told) -> None:
        await until(reactor, lambda: len(api.asked) == 2)
        await deferLater(reactor, 0.02, lambda: None)
        plugin.stop()
        await until(reactor, lambda: not api.asked[1].transport.connected)
        assert not api.asked[1].transport.connected

    watched(scenario, lists("1", a_slice("a", "10.0.0.1")), watches(bookmark("2")))


def test_a_silent_watch_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not end it when it said it would is not waited for: the connection may be dead."""
    monkeypatch.setattr(kubernetes, "WATCH_SECONDS", 0)
    monkeypatch.setattr(kubernetes, "GRACE_SECONDS", 0.05)

    async def scenario(reactor: Any, api: API, plugin: Kubernetes, told: Told) -> None:
        await until(reactor, lambda: len(api.asked) >= 3)
        assert "did not answer within" in plugin.snapshot()["last_error"]
        assert told.sets == [["10.0.0.1:80"]]

    watched(scenario, lists("1", a_slice("a", "10.0.0.1")), watches(), watches())


def test_a_server_that_hangs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bookmarks came, a watch without any for too long is a failure, and the list is asked for anew: it tells what was missed."""
    monkeypatch.setattr(kubernetes, "MIN_SILENCE_SECONDS", 0.0)

    async def scenario(reactor: Any, api: API, plugin: Kubernetes, told: Told) -> None:
        await until(reactor, lambda: len(api.asked) == 4)
        await until(reactor, lambda: len(told.sets) == 2)
        assert [("watch" in each.query) for each in api.asked] == [False, True, False, True]
        assert plugin.snapshot()["failures"] == 1
        assert told.sets == [["10.0.0.1:80"], ["10.0.0.2:80"]]
        assert not api.asked[1].transport.connected

    first, second = lists("1", a_slice("a", "10.0.0.1")), lists("9", a_slice("a", "10.0.0.2", version="9"))
    watched(scenario, first, watches(bookmark("2")), second, lambda request: None, silence_timeout=0.2)


def test_a_server_without_bookmarks_may_be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is no failure: the next watch goes on; every third time the list is asked for anew."""
    monkeypatch.setattr(kubernetes, "MIN_SILENCE_SECONDS", 0.0)

    async def scenario(reactor: Any, api: API, plugin: Kubernetes, told: Told) -> None:
        await until(reactor, lambda: len(api.asked) == 6)
        assert [each.query.get("resourceVersion") for each in api.asked] == [None, "1", "1", "1", None, "1"]
        assert plugin.snapshot()["failures"] == 0

    listed = lists("1", a_slice("a", "10.0.0.1"))
    watched(scenario, listed, watches(), watches(), watches(), listed, watches(), silence_timeout=0.1)


def test_bookmarks_keep_a_watch() -> None:
    """The time of silence begins anew with each; with 0 there is none."""

    async def scenario(reactor: Any, api: API, plugin: Kubernetes, told: Told) -> None:
        await until(reactor, lambda: len(api.asked) == 2)
        before = plugin._quiet.getTime()
        api.asked[1].send(bookmark("2"))
        assert await until(reactor, lambda: plugin._quiet.getTime() > before)

    async def without(reactor: Any, api: API, plugin: Kubernetes, told: Told) -> None:
        await until(reactor, lambda: len(api.asked) == 2)
        assert plugin._quiet is None

    watched(scenario, lists("1", a_slice("a", "10.0.0.1")), watches())
    watched(without, lists("1", a_slice("a", "10.0.0.1")), watches(), silence_timeout=0.0)
