"""`sidecar/proxy/body.py`: observe, stream and buffer, in both directions."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed

from sidecar.verdicts import OBSERVE, STREAM, buffer
from tests.memory import CHUNKED, GET, OK, POST, World, body_of
from tests.memory_h2 import H2Client, request
from tests.proxy.plugins import BODY_HOOKS, RequestBodyPlugin, ResponseBodyPlugin

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nworld"


def through(world: World) -> tuple[bytes, bytes]:
    """A POST of "hello" answered with "world": what the application and the client got."""
    client, _ = world.send(POST + b"hello")
    if world.app is None:
        return b"", client.take()
    if not world.app.closing:
        world.app.receive(ANSWER)
    return world.app.take(), client.take()


@pytest.mark.parametrize("hook", BODY_HOOKS)
def test_observe_changes_nothing(hook: Any) -> None:
    """Not even when it answers with bytes; the length stays announced."""
    plugin = hook(b"xx", b"yy", mode=OBSERVE)
    up, down = through(World(plugin))
    assert up.endswith(b"\r\n\r\nhello") and down.endswith(b"\r\n\r\nworld")
    assert b"Content-Length: 5" in up and b"Content-Length: 5" in down
    assert plugin.calls[-1][1] is True and b"".join(chunk for chunk, _ in plugin.calls) in (b"hello", b"world")


@pytest.mark.parametrize("hook", BODY_HOOKS)
def test_stream_replaces_chunks(hook: Any) -> None:
    """And the length is not announced any more."""
    up, down = through(World(hook(b"HE", b"!", mode=STREAM)))
    changed, other = (up, down) if hook is RequestBodyPlugin else (down, up)
    assert body_of(changed) == b"2\r\nHE\r\n1\r\n!\r\n0\r\n\r\n" and b"ength" not in changed
    assert b"Content-Length: 5" in other


@pytest.mark.parametrize("hook", BODY_HOOKS)
def test_buffer_sees_the_whole_and_sets_the_length(hook: Any) -> None:
    """One call; an empty answer holds all of it back."""
    for answer, body in ((None, None), (b"longer than before", b"longer than before"), (b"", b"")):
        plugin = hook(answer, mode=buffer(100))
        up, down = through(World(plugin))
        changed = up if hook is RequestBodyPlugin else down
        expected = body if body is not None else b"hello" if changed is up else b"world"
        assert len(plugin.calls) == 1 and plugin.calls[0][1] is True
        assert body_of(changed) == expected and b"Content-Length: %d\r\n" % len(expected) in changed


@pytest.mark.parametrize(("hook", "status"), [(RequestBodyPlugin, 413), (ResponseBodyPlugin, 502)])
@pytest.mark.parametrize("limit", [4, 5])
def test_buffer_limit(hook: Any, status: int, limit: int) -> None:
    """One octet too many is 413 or 502, and says whose limit it was."""
    world = World(hook(mode=buffer(limit)))
    _, down = through(world)
    assert down.startswith(b"HTTP/1.1 %d " % (200 if limit == 5 else status))
    assert limit == 5 or hook.__name__.encode() in down
    world.ended_once(200 if limit == 5 else status)


def test_buffering_a_request_asks_nobody_before_it_is_whole() -> None:
    """A client that expects 100 gets it from here, once."""
    world = World(RequestBodyPlugin(mode=buffer(100)))
    client = world.client()
    client.receive(POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    assert client.take() == b"HTTP/1.1 100 Continue\r\n\r\n" and world.attempts == []
    world.send(b"hello", client)
    assert b"xpect" not in world.app.take()
    world.app.receive(OK)
    world.ended_once(200)
    assert client.reading


def test_bodies_that_are_not_there() -> None:
    """No hook is called for a request or answer without a body, and HEAD keeps its framing."""
    plugins = [hook(mode=mode) for hook in BODY_HOOKS for mode in (OBSERVE, STREAM, buffer(9))]
    world = World(*plugins)
    client, app = world.send(GET.replace(b"GET", b"HEAD"))
    app.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    app.receive(b"")
    world.send(GET, client)
    world.app.receive(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert all(plugin.calls == [] for plugin in plugins)
    world.ended_once(200, 204)


def test_body_hooks_also_see_a_request_that_asks_for_an_upgrade() -> None:
    """An Upgrade field is no way around them."""
    plugin = RequestBodyPlugin()
    World(plugin).send(POST.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n") + b"hello")
    assert b"".join(chunk for chunk, _ in plugin.calls) == b"hello"


def test_hooks_in_order_and_reverse() -> None:
    """Requests pass the chain forwards, responses backwards."""

    def append(mark: bytes) -> Any:
        return lambda exchange, chunk, end: chunk + mark if chunk else None

    world = World(*[hook(*[append(mark)] * 9, mode=STREAM) for mark in (b"1", b"2") for hook in BODY_HOOKS])
    up, down = through(world)
    assert b"hello12" in up and b"world21" in down


@pytest.mark.parametrize("first_waits", [True, False])
def test_thousands_of_chunks_do_not_nest(first_waits: bool) -> None:
    """Answers that are there at once are taken in a loop, however many chunks queued up behind one that was not."""
    first: Deferred[Any] = Deferred()
    count = 5000
    answers = [lambda *args: first] if first_waits else []
    world = World(RequestBodyPlugin(*answers, *[lambda *args: succeed(None)] * (count + 1), mode=OBSERVE))
    client, app = world.send(CHUNKED)
    for _ in range(count):
        client.receive(b"1\r\na\r\n")  # one read each: those of one read come as one piece
    client.receive(b"0\r\n\r\n")
    first.callback(None)
    client.pump()
    app.receive(OK)
    assert app.take().count(b"1\r\na\r\n") == count
    world.ended_once(200)


@pytest.mark.parametrize("mode", [OBSERVE, STREAM, buffer(1000)])
def test_what_the_client_still_sends_is_no_part_of_its_answer(mode: Any) -> None:
    """The application answered without waiting for the request's end, and a hook is still thinking about the answer."""
    later: Deferred[Any] = Deferred()
    world = World(ResponseBodyPlugin(later, mode=mode))
    client = H2Client(world)
    stream = client.send(request(b"POST"), b"one", end=False)
    world.app.receive(OK)
    client.h2.send_data(stream, b"two")
    client.exchange()
    later.callback(None)
    client.exchange()
    assert client.body(stream) == b"ok" and client.ended(stream)
    world.ended_once(200)
