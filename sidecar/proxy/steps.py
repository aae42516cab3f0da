"""Plugins as the exchange calls them: every kind of plugin that takes part in a request becomes a tuple of steps for each hook, compiled when configuration
loads.

An absent hook is an empty tuple and costs one comparison. A step is a hook bound to its plugin's account (time, calls, failures).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import providedBy

from sidecar import interfaces as promises
from sidecar.errors import Denied, RateLimited
from sidecar.facts import Principal
from sidecar.headers import Headers
from sidecar.verdicts import Allow, BodyMode, Deny, Limited, Refuse, Shadow

Hook = Callable[..., Any]


class Account:
    """What one plugin entry cost and did: wall seconds in its hooks, calls, exceptions raised; read by the metrics page."""

    __slots__ = ("calls", "fail_open", "failures", "kind", "name", "seconds", "shadowed", "verdicts")

    def __init__(self, kind: str, name: str, fail_open: bool = False) -> None:
        self.kind = kind
        self.name = name
        self.fail_open = fail_open
        self.seconds = 0.0
        self.calls = 0
        self.failures = 0
        self.shadowed = 0
        # Exchanges that this plugin ended (replies and refusals).
        self.verdicts = 0

    def __repr__(self) -> str:
        return f"<Account {self.kind} {self.name} calls={self.calls} failures={self.failures}>"


class Step:
    """One hook of one plugin. `position`: the plugin's place in the listener's filter list, so that a reroute can go on after it."""

    __slots__ = ("account", "hook", "limit_bytes", "mode", "position")

    def __init__(self, hook: Hook, account: Account, position: int, mode: BodyMode | None = None) -> None:
        self.hook = hook
        self.account = account
        self.position = position
        self.mode = "" if mode is None else mode.name
        self.limit_bytes = 0 if mode is None else mode.limit_bytes

    def __repr__(self) -> str:
        return f"<Step {self.account.kind} {self.account.name} {self.mode}>"


class Chain:
    """The compiled hooks of one route, requests in order, responses in reverse."""

    __slots__ = (
        "buffers_request",
        "buffers_response",
        "choosy",
        "done",
        "edits_request",
        "narrowed",
        "request_body",
        "request_head",
        "request_trailers",
        "rerouted",
        "response_body",
        "response_head",
        "response_trailers",
        "streams_request",
        "streams_response",
        "touches_response",
    )

    def __init__(self) -> None:
        self.request_head: tuple[Step, ...] = ()
        self.request_body: tuple[Step, ...] = ()
        self.request_trailers: tuple[Step, ...] = ()
        self.response_head: tuple[Step, ...] = ()
        self.response_body: tuple[Step, ...] = ()
        self.response_trailers: tuple[Step, ...] = ()
        self.done: tuple[Step, ...] = ()
        self.buffers_request = self.buffers_response = False
        self.streams_request = self.streams_response = False
        # Any filter that may change a request's head?
        self.edits_request = False
        # Any hook on the response at all?
        self.touches_response = False
        # (takes_part, position) of plugins that look at the bodies of some exchanges only; and the chains without some of them, by their positions.
        self.choosy: tuple[tuple[Hook, int], ...] = ()
        self.narrowed: dict[frozenset[int], Chain] = {}
        # The chains for exchanges that entered another chain before this one, by that.
        self.rerouted: dict[Chain, Chain] = {}

    def without_bodies(self, positions: frozenset[int]) -> Chain:
        """This chain without the body and trailer hooks of these plugins. Made once for each set of them."""
        chain = self.narrowed.get(positions)
        if chain is None:
            chain = self.narrowed[positions] = Chain()
            chain.request_head, chain.response_head, chain.done = self.request_head, self.response_head, self.done
            chain.edits_request = self.edits_request
            for name in ("request_body", "request_trailers", "response_body", "response_trailers"):
                setattr(chain, name, tuple(step for step in getattr(self, name) if step.position not in positions))
            chain.settle()
        return chain

    def after(self, before: Chain) -> Chain:
        """This chain, for an exchange that entered `before` first: who is told of ends there hears of this one's, too. Made once for each."""
        chain = self.rerouted.get(before)
        if chain is None:
            told = [step.hook for step in self.done]
            missing = tuple(step for step in before.done if step.hook not in told)
            chain = copy(self) if missing else self
            if missing:
                chain.done = (*self.done, *missing)
                chain.narrowed, chain.rerouted = {}, {}
            self.rerouted[before] = chain
        return chain

    def settle(self) -> None:
        """All hooks are there: note what the exchange asks of them."""
        self.buffers_request = any(step.mode == "buffer" for step in self.request_body)
        self.buffers_response = any(step.mode == "buffer" for step in self.response_body)
        self.streams_request = any(step.mode == "stream" for step in self.request_body)
        self.streams_response = any(step.mode == "stream" for step in self.response_body)
        self.touches_response = bool(self.response_head or self.response_body or self.response_trailers)


EMPTY_CHAIN = Chain()
# The usual answers, which need not be asked whether they are awaitable.
_AT_ONCE = frozenset({type(None), Allow, Deny, Limited, Principal, Refuse, Shadow})


def compile_chain(
    plugins: list[tuple[Any, Account]], compile_descriptors: Callable[[tuple[str, ...]], Callable[[Any], tuple[str, ...]]], seconds: Callable[[], float]
) -> Chain:
    """The chain of these plugins, in order. `compile_descriptors` turns descriptor names into one getter of values; `seconds` is the clock that rate
    limiters are given.
    """
    if not plugins:
        return EMPTY_CHAIN
    chain = Chain()
    forward: dict[str, list[Step]] = {"request_head": [], "request_body": [], "request_trailers": []}
    backward: dict[str, list[Step]] = {"response_head": [], "response_body": [], "response_trailers": [], "exchange_done": []}
    for position, (plugin, account) in enumerate(plugins):
        provided = providedBy(plugin)
        if promises.IAuthenticator in provided:
            forward["request_head"].append(Step(_authenticate(plugin), account, position))
        if promises.IAuthorizer in provided:
            forward["request_head"].append(Step(_authorize(plugin, account), account, position))
        if promises.IRateLimiter in provided:
            forward["request_head"].append(Step(_limit(plugin, account, compile_descriptors(tuple(plugin.descriptors)), seconds), account, position))
        if promises.IRequestHeadHook in provided:
            forward["request_head"].append(Step(plugin.request_head, account, position))
            chain.edits_request = True
        if promises.IRequestBodyHook in provided:
            forward["request_body"].append(Step(plugin.request_body, account, position, plugin.request_body_mode))
        if promises.IRequestTrailersHook in provided:
            forward["request_trailers"].append(Step(plugin.request_trailers, account, position))
        if promises.IResponseHeadHook in provided:
            backward["response_head"].append(Step(plugin.response_head, account, position))
        if promises.IResponseBodyHook in provided:
            backward["response_body"].append(Step(plugin.response_body, account, position, plugin.response_body_mode))
        if promises.IResponseTrailersHook in provided:
            backward["response_trailers"].append(Step(plugin.response_trailers, account, position))
        if promises.IExchangeDone in provided:
            backward["exchange_done"].append(Step(plugin.exchange_done, account, position))
    chain.request_head = tuple(forward["request_head"])
    chain.request_body = tuple(forward["request_body"])
    chain.request_trailers = tuple(forward["request_trailers"])
    chain.response_head = tuple(reversed(backward["response_head"]))
    chain.response_body = tuple(reversed(backward["response_body"]))
    chain.response_trailers = tuple(reversed(backward["response_trailers"]))
    chain.done = tuple(reversed(backward["exchange_done"]))
    chain.choosy = tuple((plugin.takes_part, position) for position, (plugin, _) in enumerate(plugins) if promises.IBodyInterest in providedBy(plugin))
    chain.settle()
    return chain


def is_awaitable(answer: object) -> bool:
    """Must the exchange wait for this answer?"""
    return isinstance(answer, Deferred) or inspect.isawaitable(answer)


async def _later(answer: Any, understand: Callable[[Any, Any], Any], exchange: Any) -> Any:
    return understand(exchange, await answer)


def _adapted(ask: Hook, understand: Callable[[Any, Any], Any]) -> Hook:
    """A request_head hook from a question and the meaning of its answer; the answer may come later."""

    def step(exchange: Any) -> Any:
        answer = ask(exchange)
        if type(answer) not in _AT_ONCE and is_awaitable(answer):
            return _later(answer, understand, exchange)
        return understand(exchange, answer)

    return step


def _authenticate(plugin: Any) -> Hook:
    def ask(exchange: Any) -> Any:
        return None if exchange.principal is not None else plugin.authenticate(exchange)

    def understand(exchange: Any, answer: Any) -> Any:
        if isinstance(answer, Principal):
            exchange.principal = answer
            return None
        return answer

    return _adapted(ask, understand)


def _authorize(plugin: Any, account: Account) -> Hook:
    name = account.name

    def understand(exchange: Any, answer: Any) -> Any:
        kind = type(answer)
        if kind is Allow:
            exchange.notes.append((name, answer.rule))
            return None
        if kind is Deny:
            exchange.notes.append((name, f"deny {answer.rule}"))
            return Refuse(Denied(answer.reason))
        if kind is Shadow:
            account.shadowed += 1
            exchange.notes.append((name, f"shadow deny {answer.rule}: {answer.reason}"))
            return None
        if isinstance(answer, Refuse):
            return answer
        raise TypeError(f"an authorizer answers Allow, Deny or Shadow, not {answer!r}")

    authorize = plugin.authorize

    def step(exchange: Any) -> Any:
        answer = authorize(exchange)
        if type(answer) is Allow:
            exchange.notes.append((name, answer.rule))
            return None
        if type(answer) not in _AT_ONCE and is_awaitable(answer):
            return _later(answer, understand, exchange)
        return understand(exchange, answer)

    return step


def _limit(plugin: Any, account: Account, values_of: Callable[[Any], tuple[str, ...]], seconds: Callable[[], float]) -> Hook:
    name = account.name

    def ask(exchange: Any) -> Any:
        return plugin.take(values_of(exchange), seconds())

    def understand(exchange: Any, answer: Any) -> Any:
        if type(answer) is Limited:
            wait = max(1, int(-(-answer.retry_after_seconds // 1)))
            exchange.notes.append((name, f"limited {answer.rule}"))
            return Refuse(RateLimited(f"{answer.rule or name} is used up; try again in {wait} s"), Headers.of([(b"Retry-After", b"%d" % wait)]))
        if answer is not None and type(answer) is not Allow:
            raise TypeError(f"a rate limiter answers Allow or Limited, not {answer!r}")
        return None

    return _adapted(ask, understand)
