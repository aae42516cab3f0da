"""The adaptive-concurrency filter: who is let in, who is refused and with what, and what is shown."""

from __future__ import annotations

from zope.interface.verify import verifyObject

from sidecar.filters.adaptive_concurrency import AdaptiveConcurrency
from sidecar.interfaces import IExchangeDone, IRequestHeadHook
from sidecar.policy.gradient import GradientSettings, MinRTTParams
from sidecar.testing import FakeContext, FakeExchange, make_record
from sidecar.verdicts import Refuse
from tests.memory import GET, OK, UPGRADE, World, body_of


def limiter(context: FakeContext | None = None, **params: object) -> AdaptiveConcurrency:
    rtt = MinRTTParams(**{"min_concurrency": 1, "request_count": 1, **params})  # type: ignore[arg-type]
    return AdaptiveConcurrency(AdaptiveConcurrency.Config(gradient_controller=GradientSettings(min_rtt_calc_params=rtt)), context or FakeContext("limit"))


def test_the_second_is_refused() -> None:
    """While the limit is one; when the first is over there is room."""
    context = FakeContext("limit")
    plugin = limiter(context)
    first, second = FakeExchange(), FakeExchange()
    assert plugin.request_head(first) is None
    verdict = plugin.request_head(second)
    assert isinstance(verdict, Refuse) and (verdict.error.status, verdict.error.code, verdict.error.flag) == (503, "concurrency-limited", "UO")
    assert context.counters["adaptive_concurrency_blocked"].value == 1
    # The refused one never entered, so its end changes nothing.
    plugin.exchange_done(second, make_record())
    assert plugin.controller.running == 1
    context.clock.advance(0.02)
    plugin.exchange_done(first, make_record())
    plugin.exchange_done(first, make_record())
    assert plugin.controller.running == 0 and plugin.request_head(second) is None
    assert 0.0195 < context.gauges["adaptive_min_rtt_seconds"]() < 0.0205


def test_clients_that_leave_do_not_count() -> None:
    """How long a client waited before it went away is no latency."""
    plugin = limiter()
    exchange = FakeExchange()
    plugin.request_head(exchange)
    plugin.exchange_done(exchange, make_record(side="downstream"))
    assert plugin.controller.is_measuring and plugin.controller.running == 0


def test_through_the_path() -> None:
    """503 with a code and a sentence, and the place comes free with the answer; tunnels pass beside it."""
    world = World(limiter())
    _, app = world.send(GET)
    other, _ = world.send(GET)
    written = other.take()
    assert written.startswith(b"HTTP/1.1 503 ") and b'"code":"concurrency-limited"' in body_of(written)
    assert world.records[0].flags == "UO"
    world.send(UPGRADE)
    assert len(world.attempts) == 2
    app.receive(OK)
    _, again = world.send(GET)
    assert again is not None and len(world.records) == 2


def test_provides_its_interfaces() -> None:
    """Heads and ends; and every number is exported."""
    context = FakeContext("limit")
    plugin = limiter(context)
    assert verifyObject(IRequestHeadHook, plugin) and verifyObject(IExchangeDone, plugin)
    assert {name: read() for name, read in context.gauges.items()} == {
        "adaptive_concurrency_limit": 1,
        "adaptive_concurrency_running": 0,
        "adaptive_concurrency_gradient": 0.0,
        "adaptive_min_rtt_seconds": 0.0,
        "adaptive_sample_rtt_seconds": 0.0,
        "adaptive_min_rtt_calculation_active": 1,
    }
