"""`sidecar/proxy/steps.py`: plugins of every kind as steps of a chain."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from sidecar.errors import Denied, Unauthenticated
from sidecar.facts import Principal
from sidecar.interfaces import IAuthenticator, IAuthorizer, IRateLimiter, IRequestHeadHook, IResponseHeadHook
from sidecar.policy.descriptors import compile_descriptors
from sidecar.proxy.steps import EMPTY_CHAIN, Account, compile_chain
from sidecar.verdicts import ALLOW, Allow, Deny, Limited, Refuse, Shadow
from tests.memory import GET, OK, World


class Kind:
    """Answers what the test says, and keeps what it was asked."""

    descriptors = ("method", "principal")

    def __init__(self, answer: Any) -> None:
        self.given = answer
        self.asked: list[Any] = []

    def ask(self, *args: Any) -> Any:
        self.asked.append(args)
        return self.given() if callable(self.given) else self.given


@implementer(IAuthenticator)
class Authenticator(Kind):
    def authenticate(self, exchange: Any) -> Any:
        return self.ask(exchange)


@implementer(IAuthorizer)
class Authorizer(Kind):
    def authorize(self, exchange: Any) -> Any:
        return self.ask(exchange.principal)


@implementer(IRateLimiter)
class Limiter(Kind):
    def take(self, values: Any, now: float) -> Any:
        return self.ask(values, now)


async def soon(value: Any) -> Any:
    return value


BOB = Principal("bob", "test")
ROWS = [
    (Authenticator, BOB, 200),
    (Authenticator, None, 200),
    (Authenticator, Refuse(Unauthenticated("bad key")), 401),
    (Authenticator, "bob", 500),
    (Authenticator, True, 500),
    (Authorizer, ALLOW, 200),
    (Authorizer, Allow("rule 1"), 200),
    (Authorizer, Deny("not you", "rule 2"), 403),
    (Authorizer, Shadow("not you", "rule 3"), 200),
    (Authorizer, Refuse(Denied("no")), 403),
    (Authorizer, None, 500),
    (Authorizer, True, 500),
    (Limiter, ALLOW, 200),
    (Limiter, None, 200),
    (Limiter, Limited(1.2, "per caller"), 429),
    (Limiter, False, 500),
    (Limiter, Deny("no"), 500),
]


@pytest.mark.parametrize(("kind", "answer", "status"), ROWS)
@pytest.mark.parametrize("how", ["now", "coroutine", "fired", "later"])
def test_answers(kind: Any, answer: Any, status: int, how: str) -> None:
    """Each kind's answers mean the same now and later; what is no answer is the plugin's failure, never a pass."""
    later: Deferred[Any] = Deferred()
    plugin = kind({"now": answer, "coroutine": lambda: soon(answer), "fired": lambda: succeed(answer), "later": later}[how])
    world = World(plugin)
    client, app = world.send(GET)
    if how == "later":
        assert client.take() == b"" and app is None
        later.callback(answer)
        world.turn()
        app = world.app
    if app is not None:
        app.receive(OK)
    sent = client.take()
    assert sent.startswith(b"HTTP/1.1 %d " % status)
    world.ended_once(status)
    assert (b"Retry-After: 2\r\n" in sent) is (status == 429)
    assert world.accounts[0].shadowed == isinstance(answer, Shadow)
    assert (app is None) is (status != 200)
    if answer is BOB:
        assert world.records[0].principal == "bob"


def test_first_principal_is_kept() -> None:
    """Later authenticators are not asked; the authorizer and the limiter see it."""
    first, second, third = Authenticator(None), Authenticator(BOB), Authenticator(Principal("eve"))
    authorizer, limiter = Authorizer(ALLOW), Limiter(ALLOW)
    world = World(first, second, third, authorizer, limiter)
    world.send(GET)[1].receive(OK)
    assert (len(first.asked), len(second.asked), third.asked) == (1, 1, [])
    assert authorizer.asked == [(BOB,)] and limiter.asked == [(("GET", "bob"), 1000.0)]
    world.ended_once(200)


def test_no_plugins_cost_nothing() -> None:
    """One chain for all; a hook that nobody provides is an empty tuple."""
    assert compile_chain([], compile_descriptors, lambda: 0.0) is EMPTY_CHAIN

    @implementer(IRequestHeadHook, IResponseHeadHook)
    class Both:
        def __init__(self, name: str) -> None:
            self.name = name

        def request_head(self, exchange: Any) -> None: ...

        def response_head(self, exchange: Any) -> None: ...

    pairs: list[tuple[Any, Account]] = [(Both(name), Account("filter", name)) for name in "ab"]
    chain = compile_chain([pairs[0], (None, Account("filter", "off")), pairs[1]], compile_descriptors, lambda: 0.0)
    assert [(step.account.name, step.position) for step in chain.request_head] == [("a", 0), ("b", 2)]
    assert [step.account.name for step in chain.response_head] == ["b", "a"]
    assert (chain.request_body, chain.response_body, chain.done) == ((), (), ())
