"""`sidecar/proxy/calls.py`: every hook, every kind of answer, and exactly one end."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from sidecar.errors import Denied, PluginFailed
from sidecar.headers import Headers
from sidecar.interfaces import IExchangeDone, IRequestHeadHook
from sidecar.policy.descriptors import compile_descriptors
from sidecar.proxy.calls import REPICKS_LIMIT
from sidecar.proxy.request_way import REROUTES_LIMIT
from sidecar.proxy.steps import Account, compile_chain
from sidecar.verdicts import OBSERVE, Refuse, Repick, Reply, Reroute, Reset, buffer
from tests.memory import CHUNKED, GET, OK, MemoryTransport, World
from tests.proxy.plugins import EVERY_HOOK, HEAD_HOOKS, RequestBodyPlugin, RequestHeadPlugin, ResponseBodyPlugin, ResponseHeadPlugin, ResponseTrailersPlugin

REQUEST = CHUNKED + b"5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nworld\r\n0\r\nx-sum: 2\r\n\r\n"
LATE = (ResponseBodyPlugin, ResponseTrailersPlugin)  # the head is with the client by then


def run(world: World) -> MemoryTransport:
    """One request with everything in it, answered if it gets there."""
    client, _ = world.send(REQUEST) if world.auto else (world.client(), None)
    if world.attempts and world.app is not None and not world.app.closing:
        world.app.receive(ANSWER)
    return client


@pytest.mark.parametrize("hook", EVERY_HOOK)
def test_hook_is_called_and_passes(hook: Any) -> None:
    """Each hook alone is called, and None lets everything pass."""
    plugin = hook()
    world = World(plugin)
    client = run(world)
    assert plugin.calls
    assert client.take().endswith(b"5\r\nworld\r\n0\r\nx-sum: 2\r\n\r\n")
    assert b"x-sum: 1" in world.app.take()
    world.ended_once(200)
    assert world.accounts[0].calls == len(plugin.calls)


@pytest.mark.parametrize("hook", EVERY_HOOK)
def test_hook_raises(hook: Any) -> None:
    """A plugin that raises costs its exchange alone: 500 with its name, or a cut when the answer has begun."""
    world = World(hook(ValueError("x")))
    client = run(world)
    if hook in LATE:
        assert client.closing
        world.ended_once(200)
    else:
        assert client.take().startswith(b"HTTP/1.1 500 ")
        world.ended_once(500)
    assert world.records[0].code == "plugin-failed" and hook.__name__ in str(world.records[0].notes)
    assert world.accounts[0].failures == 1


@pytest.mark.parametrize("hook", EVERY_HOOK)
def test_hook_raises_and_fails_open(hook: Any) -> None:
    """With fail_open the request goes on as if the plugin were not there."""
    world = World(hook(ValueError("x")), fail_open=True)
    client = run(world)
    assert client.take().endswith(b"5\r\nworld\r\n0\r\nx-sum: 2\r\n\r\n")
    world.ended_once(200)
    assert "fail_open" in str(world.records[0].notes)


VERDICTS = [
    (Reply(418, Headers.of([(b"x-a", b"b")]), b"tea"), 418, b"tea"),
    (Refuse(Denied("not you"), Headers.of([(b"x-a", b"b")])), 403, b"not you"),
]


@pytest.mark.parametrize("hook", EVERY_HOOK)
@pytest.mark.parametrize(("verdict", "status", "text"), VERDICTS, ids=["reply", "refuse"])
def test_verdict_ends_the_exchange(hook: Any, verdict: Any, status: int, text: bytes) -> None:
    """A reply or refusal is the answer; when another one has begun already, that is cut."""
    world = World(hook(verdict))
    client = run(world)
    answer = client.take()
    if hook in LATE:
        assert client.closing and answer.count(b"HTTP/1.1") == 1 and not answer.endswith(b"0\r\n\r\n")
        world.ended_once(200)
    else:
        assert answer.startswith(b"HTTP/1.1 %d " % status) and text in answer and b"x-a: b\r\n" in answer
        assert answer.count(b"HTTP/1.1") == 1
        world.ended_once(status)
    assert world.accounts[0].verdicts == 1


@pytest.mark.parametrize("hook", EVERY_HOOK)
def test_reset(hook: Any) -> None:
    """A reset closes the connection without an end."""
    world = World(hook(Reset(PluginFailed("enough"))))
    client = run(world)
    assert client.closing and not client.take().endswith(b"0\r\n\r\n")
    assert len(world.records) == len(world.dones.records) == 1 and world.http.active == 0


NONSENSE = [42, "yes", Reroute(), Reply(99), Reply(200, body="text"), Reply(200, {"a": "b"}), Refuse("no"), object()]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hook", "nonsense"),
    # A request's head may be sent round again; nothing later may.
    [(hook, value) for hook in EVERY_HOOK for value in NONSENSE if not (hook is RequestHeadPlugin and isinstance(value, Reroute))],
    ids=repr,
)
def test_nonsense_is_a_failure(hook: Any, nonsense: Any) -> None:
    """An answer that is no verdict, or a verdict that cannot be sent, counts as the plugin's failure; the connection's next exchange does not suffer."""
    world = World(hook(nonsense))
    client = run(world)
    assert len(world.records) == 1 and world.records[0].code == "plugin-failed"
    if hook not in LATE:
        assert client.take().startswith(b"HTTP/1.1 500 ")
    assert world.accounts[0].failures == 1


ASYNC = [hook for hook in EVERY_HOOK if "Trailers" not in hook.__name__]


async def coroutine(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value


class Awaitable:
    """Neither a coroutine nor a Deferred."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __await__(self) -> Any:
        return coroutine(self.value).__await__()


@pytest.mark.parametrize("hook", ASYNC)
@pytest.mark.parametrize("make", [succeed, coroutine, Awaitable])
def test_answer_that_is_there_at_once(hook: Any, make: Any) -> None:
    """Awaitables that need no waiting are as good as plain answers."""
    world = World(hook(lambda *args: make(None)), hook(lambda *args: make(None)))
    client = run(world)
    assert client.take().endswith(b"5\r\nworld\r\n0\r\nx-sum: 2\r\n\r\n")
    world.ended_once(200)


@pytest.mark.parametrize("hook", ASYNC)
@pytest.mark.parametrize("make", [fail, coroutine, Awaitable])
@pytest.mark.parametrize("fail_open", [False, True])
def test_answer_that_fails(hook: Any, make: Any, fail_open: bool) -> None:
    """An awaitable that fails is as a hook that raises."""
    world = World(hook(lambda *args: make(ValueError("x"))), fail_open=fail_open)
    client = run(world)
    assert world.accounts[0].failures == 1
    if fail_open:
        assert client.take().endswith(b"5\r\nworld\r\n0\r\nx-sum: 2\r\n\r\n")
    else:
        assert client.take().startswith(b"HTTP/1.1 500 ") or hook in LATE
        assert world.records[0].code == "plugin-failed"
    assert len(world.records) == 1


@pytest.mark.parametrize("hook", ASYNC)
def test_waiting_keeps_order(hook: Any) -> None:
    """While answers are awaited, everything waits in order, and both sides are read again at the end."""
    waiting: list[Deferred[Any]] = []

    def later(*args: Any) -> Any:
        waiting.append(Deferred())
        return waiting[-1]

    plugin = hook(*[later] * 20)
    world = World(plugin)
    client, _ = world.send(CHUNKED + b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n")
    answered = False
    for _ in range(40):
        if waiting:
            waiting.pop(0).callback(None)
            world.turn()
        elif world.attempts and world.app and not answered:
            answered = True
            world.app.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nd\r\n1\r\ne\r\n0\r\n\r\n")
        client.pump()
    assert world.app.take().endswith(b"\r\n\r\n1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n")
    assert client.take().endswith(b"\r\n\r\n1\r\nd\r\n1\r\ne\r\n0\r\n\r\n")
    world.ended_once(200)
    assert client.reading and world.app.reading


@pytest.mark.parametrize("hook", ASYNC)
def test_client_gone_while_waiting(hook: Any) -> None:
    """The awaited Deferred is cancelled and the exchange ends once, with 499 or what was sent."""
    cancelled: list[Any] = []
    world = World(hook(lambda *args: Deferred(cancelled.append)))
    client = run(world)
    client.lose()
    assert len(cancelled) == 1
    assert len(world.records) == len(world.dones.records) == 1 and world.http.active == 0
    assert world.records[0].status == (200 if hook in LATE else 499)
    assert world.accounts[0].failures == 0


@pytest.mark.parametrize("hook", ASYNC)
def test_timeout_while_waiting(hook: Any) -> None:
    """A plugin that never answers is bounded by the stream's idle timeout."""
    world = World(hook(lambda *args: Deferred()))
    run(world)
    world.clock.advance(301)
    world.clock.advance(1)
    assert len(world.records) == 1 and world.http.active == 0


def test_the_routes_timeout_names_the_plugin_that_everybody_waits_for() -> None:
    """An application that was never asked is not blamed, nor its endpoint."""
    cancelled: list[Any] = []
    world = World(RequestHeadPlugin(lambda *args: Deferred(cancelled.append)))
    client = world.client()
    client.receive(GET)
    world.clock.advance(16)
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 504 ") and b'"code":"plugin-timeout","side":"plugin"' in answer
    assert b"did not answer within 15 s" in answer and b"app did not" not in answer
    assert len(cancelled) == len(world.records) == 1 and world.http.active == 0
    assert world.accounts[0].failures == 1


def test_two_waiting_response_hooks_lose_nothing() -> None:
    """What arrives while a head waits is kept when the next hook answers at once."""
    first: Deferred[Any] = Deferred()
    world = World(ResponseHeadPlugin(lambda exchange: succeed(None)), ResponseHeadPlugin(first))
    client, app = world.send(GET)
    app.receive(ANSWER)
    assert client.take() == b""
    first.callback(None)
    assert client.take().endswith(b"5\r\nworld\r\n0\r\nx-sum: 2\r\n\r\n")
    world.ended_once(200)


@pytest.mark.parametrize("kind", ["refuse", "wait and lose", "wait and refuse", "raise", "repick"])
def test_answer_without_body_leaves_the_connection_to_others(kind: str) -> None:
    """An answer without body frees its connection at once: whatever hooks then do does not touch the exchange that got it."""
    deferred: Deferred[Any] = Deferred()
    verdicts = {"refuse": Refuse(Denied("x")), "raise": ValueError("x"), "repick": Repick()}
    world = World(ResponseHeadPlugin(verdicts.get(kind, deferred)), pool=None)
    world.auto = False
    client = world.client()
    client.receive(GET)
    other = world.client()
    other.receive(GET)
    app = world.attempts[0].succeed()
    app.receive(b"HTTP/1.1 204 No Content\r\n\r\n")  # the second request gets this connection
    assert app.take().count(b"GET /a") == 2
    if kind == "wait and lose":
        client.lose()
    elif kind == "wait and refuse":
        deferred.callback(Refuse(Denied("x")))
    assert not app.closing and app.reading
    app.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    assert other.take().endswith(b"\r\n\r\nhi")


def test_repick_takes_another_endpoint() -> None:
    """The endpoint rejected is not asked again, and the client sees only the second answer."""
    world = World(ResponseHeadPlugin(Repick("503")), endpoints=2)
    client, first = world.send(GET)
    first.receive(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nno!")
    world.turn()
    assert [attempt.address.port for attempt in world.attempts] == [8080, 8081]
    world.app.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert client.take().endswith(b"\r\n\r\nok")
    world.ended_once(200)
    assert world.records[0].attempts == 2


def test_repick_is_limited() -> None:
    """A plugin that rejects everything is stopped."""
    world = World(ResponseHeadPlugin(*[Repick()] * 100), endpoints=9)
    client = world.client()
    client.receive(GET)
    for _ in range(20):
        world.turn()
        if not world.app.closing:
            world.app.receive(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nno!")
    assert client.take().startswith(b"HTTP/1.1 502 ")
    assert len(world.attempts) == REPICKS_LIMIT + 1
    world.ended_once(502)


def test_repick_of_what_may_not_be_sent_twice() -> None:
    """A POST is not sent to another endpoint."""
    world = World(ResponseHeadPlugin(Repick()), endpoints=2)
    client, app = world.send(REQUEST)
    app.receive(ANSWER)
    assert client.take().startswith(b"HTTP/1.1 502 ")
    assert len(world.attempts) == 1
    world.ended_once(502)


def test_reroute_is_limited_and_goes_on_after_the_filter() -> None:
    """A reroute asks the table again and runs the filters behind; going round in circles ends with 500."""
    after = RequestHeadPlugin()
    world = World(RequestHeadPlugin(Reroute("a")), after)
    client, app = world.send(GET)
    app.receive(ANSWER)
    world.ended_once(200)
    assert len(after.calls) == 1
    plugins = [RequestHeadPlugin(Reroute()) for _ in range(REROUTES_LIMIT + 1)]
    world = World(*plugins)
    client = world.client()
    client.receive(GET)
    assert client.take().startswith(b"HTTP/1.1 500 ")
    world.ended_once(500)


def test_reroute_to_nowhere() -> None:
    """No route after the change: 404."""
    world = World(RequestHeadPlugin(Reroute()))
    answers = [world, None]
    world.routes = lambda head: answers.pop(0)
    client = world.client()
    client.receive(GET)
    assert client.take().startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("hook", HEAD_HOOKS)
def test_plugin_cannot_split_a_message(hook: Any) -> None:
    """Edits that a writer refuses end the exchange with a failure and nothing of them goes out."""

    def edit(exchange: Any) -> None:
        if exchange.response is None:
            exchange.request.path = b"/a HTTP/1.1\r\nHost: evil\r\n\r\nGET /b"
        else:
            exchange.response.reason = b"OK\r\nx: y\r\n\r\nHTTP/1.1 200 OK"

    world = World(hook(*[edit] * 9))
    client = run(world)
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 500 ") and b"x: y" not in answer and answer.count(b"HTTP/1.1") == 1
    assert b"evil" not in world.app.take()
    world.ended_once(500)


def test_a_local_reply_that_a_hook_spoils_still_ends() -> None:
    """Also where no reader of messages stands around: in a connect failure."""
    from sidecar.errors import ConnectFailed

    def edit(exchange: Any) -> None:
        exchange.response.reason = b"a\r\nb"

    world = World(ResponseHeadPlugin(*[edit] * 9), auto=False)
    client = world.client()
    client.receive(GET)
    world.attempts[0].fail(ConnectFailed("x"))
    assert client.take().startswith(b"HTTP/1.1 500 ")
    world.ended_once(500)


def test_system_exit_is_a_failure_like_others() -> None:
    """A plugin that wants to end the process only ends the exchange."""

    def leave(exchange: Any) -> None:
        raise SystemExit(3)

    world = World(RequestHeadPlugin(leave))
    client, _ = world.send(GET)
    assert client.take().startswith(b"HTTP/1.1 500 ")
    world.ended_once(500)


def test_a_client_that_leaves_while_a_hook_takes_its_time_is_noticed() -> None:
    """The whole request is here, so reading goes on."""
    world = World(RequestHeadPlugin(lambda exchange: Deferred()))
    client = world.client()
    client.receive(GET)
    assert client.reading
    client.end()
    world.ended_once(499)


def _stubborn(deferred: Deferred[Any]) -> None:
    raise ValueError("will not be cancelled")


@pytest.mark.parametrize("hook", (*HEAD_HOOKS, RequestBodyPlugin, ResponseBodyPlugin))
def test_answer_that_cannot_be_called_off(hook: Any) -> None:
    """The client leaves while a plugin thinks, and what the plugin does about that raises: counted, and the exchange ends all the same."""
    world = World(hook(Deferred(_stubborn)))
    client, app = world.send(REQUEST)
    if hook in (ResponseHeadPlugin, ResponseBodyPlugin):
        app.receive(ANSWER)
    client.lose()
    world.ended_once(200 if hook is ResponseBodyPlugin else 499)
    assert world.accounts[0].failures == 1


def test_local_reply_does_not_wait_for_one_that_cannot_be_called_off() -> None:
    """Nor is it lost for it."""
    world = World(RequestHeadPlugin(Refuse(Denied("no"))), ResponseHeadPlugin(Deferred(_stubborn)))
    assert run(world).take().startswith(b"HTTP/1.1 403 ")
    world.ended_once(403)
    assert world.accounts[1].failures == 1


@pytest.mark.parametrize("hook", EVERY_HOOK)
@pytest.mark.parametrize("verdict", [Reset(None), Refuse(Denied("no"), None), Refuse("no"), Reply(200, None), Reply("200")])  # type: ignore[arg-type]
def test_verdict_of_wrong_parts(hook: Any, verdict: Any) -> None:
    """What looks like a verdict and is none ends the exchange as any other nonsense does."""
    world = World(hook(verdict))
    run(world)
    world.ended_once(200 if hook in LATE else 500)
    assert world.records[0].code == "plugin-failed" and world.accounts[0].failures == 1


@pytest.mark.parametrize("hook", [ResponseBodyPlugin, ResponseTrailersPlugin, RequestBodyPlugin])
@pytest.mark.parametrize("mode", [OBSERVE, buffer(1000)])
def test_only_the_heads_hook_may_reject_an_answer(hook: Any, mode: Any) -> None:
    """What was gathered of the answer would go up as the next attempt's body."""
    world = World(ResponseBodyPlugin(mode=mode), hook(Repick("bad"), mode=mode))
    client, app = world.send(GET if hook is not RequestBodyPlugin else REQUEST)
    if app is not None and not app.closing:
        app.receive(ANSWER)
    world.turn()
    assert len(world.attempts) <= 1 and world.records[0].code == "plugin-failed"
    assert client.take().startswith(b"HTTP/1.1 500 ") or world.records[0].status == 200
    world.ended_once(world.records[0].status)


@implementer(IRequestHeadHook, IExchangeDone)
class Counts:
    """A filter that counts exchanges in and out."""

    def __init__(self) -> None:
        self.inside = 0

    def request_head(self, exchange: Any) -> None:
        self.inside += 1

    def exchange_done(self, exchange: Any, record: Any) -> None:
        self.inside -= 1


def test_filters_of_the_route_before_are_told_of_the_end() -> None:
    """A reroute leads to a route with a filter of its own in the place of the first one's; one that both have is told once."""
    first, second, both = Counts(), Counts(), Counts()
    world = World(both, first, RequestHeadPlugin(Reroute()), second)
    other = world.make_route("other")
    other.chain = compile_chain([world.plugins[0], (Counts(), Account("filter", "x")), *world.plugins[2:]], compile_descriptors, world.clock.seconds)
    routes = [world.route, other, world.route, other]
    world.routes = lambda head: type("Entry", (), {"compiled": routes.pop(0)})
    for number in (1, 2):
        world.plugins[2][0].answers = [Reroute()]
        _, app = world.send(GET)
        assert (both.inside, first.inside, second.inside) == (1, 1, 1)
        app.receive(OK)
        assert (both.inside, first.inside, second.inside) == (0, 0, 0)
        assert len(world.dones.records) == number
