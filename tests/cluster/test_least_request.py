"""Least request: the less busy of two, by weight."""

from __future__ import annotations

import pytest
from zope.interface.verify import verifyObject

from sidecar.cluster.least_request import LeastRequest
from sidecar.interfaces import IBalancer
from tests.cluster.peers import Endpoint, make, shares


def test_idle_endpoints_get_their_shares() -> None:
    """With nothing running weights decide, within 5 %."""
    balancer = make(LeastRequest, Endpoint("a", 6), Endpoint("b", 3), Endpoint("c", 3))
    verifyObject(IBalancer, balancer)
    assert shares(balancer, 20_000) == pytest.approx({"a": 0.5, "b": 0.25, "c": 0.25}, rel=0.05)


def test_the_busy_one_gets_less() -> None:
    """Of two, one much busier: it is taken only when both choices fall on it."""
    assert shares(make(LeastRequest, Endpoint("a", 1, 50), Endpoint("b")), 10_000) == pytest.approx({"a": 0.25, "b": 0.75}, rel=0.05)
    assert shares(make(LeastRequest, Endpoint("a", 1, 50), Endpoint("b"), choice_count=4), 10_000)["a"] == pytest.approx(1 / 16, rel=0.2)


@pytest.mark.parametrize("weights", [(1, 1, 1), (4, 2, 2)])
def test_running_requests_follow_the_weights(weights: tuple[int, ...]) -> None:
    """Requests that never end: what runs on each is its share, within 5 %."""
    endpoints = [Endpoint(str(number), weight) for number, weight in enumerate(weights)]
    balancer = make(LeastRequest, *endpoints)
    for _ in range(4000):
        balancer.pick(None, ()).active += 1
    for endpoint in endpoints:
        assert endpoint.active == pytest.approx(4000 * endpoint.weight / sum(weights), rel=0.05)


def test_tried_and_none() -> None:
    """An untried one while there is one; none without endpoints."""
    a, b = Endpoint("a"), Endpoint("b", 1, 99)
    balancer = make(LeastRequest, a, b)
    assert set(shares(balancer, 50, (a,))) == {"b"}
    assert balancer.pick(None, (a, b)) in (a, b)
    balancer.update([])
    assert balancer.pick(None, ()) is None
