"""The fault filter: what is delayed, aborted and slowed, what is told about it, and what is not touched."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from sidecar.filters.fault import Fault
from sidecar.interfaces import IExchangeDone, IRequestHeadHook, IResponseBodyHook
from sidecar.model import ValueMatch
from sidecar.policy.fault import Abort, Delay, ResponseRateLimit
from sidecar.testing import FakeContext, FakeExchange, make_record, make_request
from sidecar.verdicts import Refuse
from tests.memory import GET, World, body_of


def fault(context: FakeContext | None = None, **config: Any) -> Fault:
    made = Fault(Fault.Config(**config), context or FakeContext("fault"))
    made.dice = lambda: 0.5
    return made


def test_an_abort_says_that_it_is_on_purpose() -> None:
    """Its status, its code, its flag, and a sentence that nobody takes for a failure."""
    context = FakeContext("fault")
    verdict = fault(context, abort=Abort(http_status=418)).request_head(FakeExchange())
    assert isinstance(verdict, Refuse)
    error = verdict.error
    assert (error.status, error.grpc_status, error.code, error.flag, error.side) == (418, 2, "fault-injected", "FI", "policy")
    assert "on purpose" in error.sentence
    assert context.counters["faults_injected"].values == {("abort",): 1}


@pytest.mark.parametrize(("config", "statuses"), [({"http_status": 503}, (503, 14)), ({"grpc_status": 5}, (404, 5))])
def test_each_kind_of_caller_gets_its_status(config: dict[str, int], statuses: tuple[int, int]) -> None:
    """Where one is configured the other follows."""
    verdict = fault(abort=Abort(**config)).request_head(FakeExchange())
    assert (verdict.error.status, verdict.error.grpc_status) == statuses


def test_a_delay_passes_later() -> None:
    """After its time, not before, and with the flag DI."""
    context = FakeContext("fault")
    plugin = fault(context, delay=Delay(fixed_delay=2.0))
    exchange = FakeExchange()
    answer = plugin.request_head(exchange)
    results: list[Any] = []
    answer.addCallback(results.append)
    context.clock.advance(1.9)
    assert results == [] and plugin.active == 1
    context.clock.advance(0.2)
    assert results == [None] and plugin.active == 0
    assert exchange.flags == "DI" and exchange.notes == [("fault", "delayed by 2 s")]


def test_first_the_delay_then_the_abort() -> None:
    """As in Envoy."""
    context = FakeContext("fault")
    answer = fault(context, delay=Delay(fixed_delay=1.0), abort=Abort(grpc_status=5)).request_head(FakeExchange())
    results: list[Any] = []
    answer.addCallback(results.append)
    context.clock.advance(1.0)
    assert isinstance(results[0], Refuse) and results[0].error.grpc_status == 5


def test_a_client_that_leaves_ends_its_delay() -> None:
    """Nothing is left on the clock, and the place under max_active_faults is free."""
    context = FakeContext("fault")
    plugin = fault(context, delay=Delay(fixed_delay=2.0))
    answer = plugin.request_head(FakeExchange())
    answer.addErrback(lambda failure: None)
    answer.cancel()
    assert plugin.active == 0 and context.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("config", "exchange", "is_hit"),
    [
        ({"headers": (ValueMatch(name="x-canary", exact="1"),)}, FakeExchange(make_request(headers={"x-canary": "1"})), True),
        ({"headers": (ValueMatch(name="x-canary", exact="1"),)}, FakeExchange(), False),
        ({"upstream_cluster": "payments"}, FakeExchange(cluster_name="payments"), True),
        ({"upstream_cluster": "payments"}, FakeExchange(cluster_name="orders"), False),
    ],
)
def test_who_is_meant(config: dict[str, Any], exchange: FakeExchange, is_hit: bool) -> None:
    """Headers and cluster have to match."""
    assert (fault(abort=Abort(http_status=503), **config).request_head(exchange) is not None) is is_hit


def test_no_more_than_so_many() -> None:
    """Beyond max_active_faults requests pass, and that is counted."""
    context = FakeContext("fault")
    plugin = fault(context, delay=Delay(fixed_delay=2.0), max_active_faults=1)
    assert plugin.request_head(FakeExchange()) is not None
    assert plugin.request_head(FakeExchange()) is None
    assert context.counters["faults_overflowed"].value == 1
    context.clock.advance(2.0)
    assert plugin.request_head(FakeExchange()) is not None


def test_a_slow_answer() -> None:
    """1 KiB a second: 1 KiB passes at once, the next waits a second, and the end until all is paid for."""
    context = FakeContext("fault")
    plugin = fault(context, response_rate_limit=ResponseRateLimit(limit_kbps=1))
    exchange = FakeExchange()
    assert plugin.request_head(exchange) is None and plugin.active == 1
    passed: list[Any] = []
    assert plugin.response_body(exchange, b"x" * 1024, False) is None
    for end in (False, True):
        waiting = plugin.response_body(exchange, b"x" * 1024, end)
        assert isinstance(waiting, Deferred)
        waiting.addCallback(lambda value: passed.append(value))
        context.clock.advance(0.9)
        assert passed == []
        context.clock.advance(1.2)
        assert passed == [None]
        passed.clear()
    assert verifyObject(IResponseBodyHook, plugin) and verifyObject(IExchangeDone, plugin)
    plugin.exchange_done(exchange, make_record())
    plugin.exchange_done(exchange, make_record())
    assert plugin.active == 0


def test_answers_pass_it_only_when_they_may_be_slowed() -> None:
    """Who configures no limit pays for none."""
    plugin = fault(abort=Abort(http_status=503))
    assert verifyObject(IRequestHeadHook, plugin)
    assert not IResponseBodyHook.providedBy(plugin) and not IExchangeDone.providedBy(plugin)
    slow = fault(response_rate_limit=ResponseRateLimit(limit_kbps=1, percentage=0))
    assert slow.response_body(FakeExchange(), b"x", True) is None


def test_through_the_path() -> None:
    """The client gets problem+json that says so, the record has both flags, and the application sees nothing."""
    context = FakeContext("fault")
    plugin = fault(context, delay=Delay(fixed_delay=1.0), abort=Abort(http_status=503))
    world = World(plugin)
    client = world.client()
    client.receive(GET)
    assert client.take() == b"" and world.attempts == []
    context.clock.advance(1.0)
    written = client.take()
    assert written.startswith(b"HTTP/1.1 503 ") and b'proxy-status: sidecar; error=proxy_internal_response; details="fault-injected"' in written.lower()
    assert b'"code":"fault-injected"' in body_of(written) and world.attempts == []
    assert world.records[0].flags == "FI,DI" and world.records[0].code == "fault-injected"
    world.ended_once(503)


def test_a_client_that_leaves_during_a_delay() -> None:
    """The exchange ends once, and the delay with it."""
    context = FakeContext("fault")
    plugin = fault(context, delay=Delay(fixed_delay=1.0))
    world = World(plugin)
    client = world.client()
    client.receive(GET)
    client.lose()
    assert plugin.active == 0 and context.clock.getDelayedCalls() == []
    world.ended_once(499)
