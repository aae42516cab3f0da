"""Random: fair by weight, any endpoint not tried."""

from __future__ import annotations

import pytest
from zope.interface.verify import verifyObject

from sidecar.cluster.random_choice import RandomChoice
from sidecar.interfaces import IBalancer
from tests.cluster.peers import Endpoint, make, shares


def test_fair_by_weight() -> None:
    """Each gets its share within 5 %."""
    balancer = make(RandomChoice, Endpoint("a", 6), Endpoint("b", 3), Endpoint("c", 3))
    verifyObject(IBalancer, balancer)
    assert shares(balancer, 20_000) == pytest.approx({"a": 0.5, "b": 0.25, "c": 0.25}, rel=0.05)


def test_tried_and_none() -> None:
    """An untried one while there is one; none without endpoints."""
    a, b, c = Endpoint("a", 5), Endpoint("b"), Endpoint("c")
    balancer = make(RandomChoice, a, b, c)
    assert set(shares(balancer, 100, (a,))) == {"b", "c"}
    assert set(shares(balancer, 200, (a, b, c))) == {"a", "b", "c"}
    balancer.update([])
    assert balancer.pick(None, ()) is None
