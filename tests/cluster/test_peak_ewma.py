"""Peak EWMA: slow endpoints are avoided at once and tried again later."""

from __future__ import annotations

import random
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from sidecar.cluster.peak_ewma import PeakEWMA
from sidecar.interfaces import IBalancer, IOutcomeObserver
from sidecar.testing import FakeContext
from tests.cluster.peers import Endpoint, shares


def make(*endpoints: Endpoint, **config: float) -> tuple[Any, FakeContext]:
    context = FakeContext()
    balancer = PeakEWMA(PeakEWMA.Config(**config), context)
    balancer.random = random.Random(7).random
    balancer.update(list(endpoints))
    return balancer, context


def test_shares_when_all_are_alike() -> None:
    """By weight, before anything is known and when all take the same time per weight."""
    a, b = Endpoint("a", 3), Endpoint("b", 1)
    balancer, _ = make(a, b)
    verifyObject(IBalancer, balancer)
    verifyObject(IOutcomeObserver, balancer)
    assert shares(balancer, 10_000) == pytest.approx({"a": 0.75, "b": 0.25}, rel=0.05)


def test_a_slow_answer_counts_at_once_and_fades() -> None:
    """The peak is taken over, later quick answers bring it down with time."""
    a, b = Endpoint("a"), Endpoint("b")
    balancer, context = make(a, b)
    for endpoint in (a, b):
        balancer.observed(endpoint, 200, 0.1)
    balancer.observed(a, 200, 5.0)
    assert shares(balancer, 4000) == pytest.approx({"a": 0.25, "b": 0.75}, rel=0.1)
    for _ in range(60):
        context.clock.advance(1)
        for endpoint in (a, b):
            balancer.observed(endpoint, 200, 0.1)
    assert balancer._load(a, context.clock.seconds()) == pytest.approx(balancer._load(b, context.clock.seconds()), rel=0.2)


def test_running_requests_and_failures_count() -> None:
    """Twice the requests are twice the cost; failing at once is not being quick."""
    a, b = Endpoint("a", 1, 3), Endpoint("b")
    balancer, _ = make(a, b)
    for endpoint in (a, b):
        balancer.observed(endpoint, 200, 0.1)
    assert shares(balancer, 4000)["b"] == pytest.approx(0.75, rel=0.05)
    a.active = 0
    balancer.observed(b, 503, 0.0)
    assert shares(balancer, 4000)["a"] == pytest.approx(0.75, rel=0.05)


def test_tried_none_and_updates() -> None:
    """An untried one while there is one; none without endpoints; who left is forgotten."""
    a, b = Endpoint("a"), Endpoint("b")
    balancer, _ = make(a, b)
    balancer.observed(a, 200, 9.0)
    assert set(shares(balancer, 50, (b,))) == {"a"}
    balancer.update([b])
    assert balancer._costs == {} and balancer.pick(None, ()) is b
    balancer.update([])
    assert balancer.pick(None, ()) is None
