"""`sidecar/context.py`: what a plugin is handed, and its HTTP client."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from sidecar.context import ANSWER_BYTES, PluginContext
from sidecar.errors import ConnectFailed, UpstreamBodyTooLarge, UpstreamClosed, UpstreamProtocolError, UpstreamTimeout
from sidecar.interfaces import IPluginContext
from sidecar.model import Node
from sidecar.telemetry.metrics import Registry
from tests.memory import OK, SWITCH, World


class Asking(World):
    """A plugin's client to the world's cluster."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.registry = Registry()
        self.context = PluginContext("p", self.clock, Node(), self.registry, lambda name: self.connector)
        self.results: list[Any] = []

    def ask(self, method: bytes = b"GET", body: bytes = b"") -> Deferred[Any]:
        asked = self.context.http_client("app").request(method, b"/in", body=body, timeout_seconds=5.0)
        asked.addBoth(self.results.append)
        self.turn()
        return asked


def error(result: Any) -> type[BaseException]:
    assert isinstance(result, Failure)
    assert result.value is not None
    return type(result.value)


def test_provides_the_context() -> None:
    """It is what plugins are promised."""
    world = Asking()
    verifyObject(IPluginContext, world.context)
    counter = world.context.counter("seen", "Seen.", ("kind",))
    counter.inc("a", by=2)
    assert 'sidecar_plugin_seen_total{plugin="p",kind="a"} 2' in world.registry.text().decode()


def test_question_and_answer() -> None:
    """Whole body, status, fields; the connection is kept."""
    world = Asking()
    for method, body in ((b"GET", b""), (b"POST", b"who")):
        world.ask(method, body)
        sent = world.app.take()
        assert sent.startswith(method + b" /in HTTP/1.1\r\n") and b"Host: app\r\n" in sent and sent.endswith(body)
        world.app.receive(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)
    assert [(each.status, each.body) for each in world.results] == [(200, b"ok")] * 2
    assert len(world.attempts) == 1


def test_a_cluster_may_be_called_anything() -> None:
    """Host is then localhost."""
    world = Asking()
    world.context.http_client("key server").request(b"GET", b"/")
    world.turn()
    assert b"Host: localhost\r\n" in world.app.take()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (ANSWER_BYTES + 1) + b"x" * (ANSWER_BYTES + 1), UpstreamBodyTooLarge),
        (b"nonsense\r\n\r\n", UpstreamProtocolError),
        (SWITCH, UpstreamProtocolError),
        (None, UpstreamClosed),
    ],
    ids=["large", "malformed", "switched", "closed"],
)
def test_failures(answer: bytes | None, kind: type) -> None:
    """Each is an UpstreamError, given once."""
    world = Asking()
    world.ask()
    if answer is None:
        world.app.end()
    else:
        world.app.receive(answer)
    assert error(world.results[0]) is kind and world.app.closing
    world.clock.advance(10)
    assert len(world.results) == 1 and world.connector.connections == 0


def test_no_connection_no_answer_and_cancel() -> None:
    """Refused, late, given up: the connection is not left behind."""
    world = Asking(auto=False)
    world.ask()
    world.attempts[0].fail(ConnectFailed("no"))
    assert error(world.results.pop()) is ConnectFailed
    world.ask()
    world.clock.advance(5.1)
    assert error(world.results.pop()) is UpstreamTimeout and world.connector.pending == 0
    asked = world.ask()
    app = world.attempts[1].succeed()
    app.receive(OK[:-1])
    asked.cancel()
    assert app.aborted


@pytest.mark.parametrize(("method", "again"), [(b"GET", True), (b"POST", False)])
def test_stale_connection(method: bytes, again: bool) -> None:
    """A question that changes nothing is asked once more on a new connection."""
    world = Asking()
    world.ask()
    world.app.receive(OK)
    world.ask(method)
    stale = world.app
    stale.end()
    world.turn()
    assert (world.app is not stale) is again
    if again:
        world.app.end()
    assert error(world.results[1]) is UpstreamClosed
