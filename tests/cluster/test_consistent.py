"""`sidecar/cluster/hashing.py`, `ring_hash.py` and `maglev.py`: fair, steady, and nearly still when endpoints come and go."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from zope.interface.verify import verifyObject

from sidecar.cluster.hashing import hash64
from sidecar.cluster.maglev import Maglev
from sidecar.cluster.ring_hash import PLACES, RingHash
from sidecar.interfaces import IBalancer
from tests.cluster.peers import Endpoint, Exchange, make, places, shares

BOTH = pytest.mark.parametrize("cls", [RingHash, Maglev])
KEYS = 5000


def named(count: int, weight: int = 1) -> list[Endpoint]:
    return [Endpoint(str(number), weight) for number in range(count)]


def test_the_hash_is_the_same_everywhere() -> None:
    """A number that must never change: sidecars of two versions agree."""
    assert hash64(b"sidecar") == 0xF3823734DDE022E3


@BOTH
def test_one_key_one_endpoint(cls: Any) -> None:
    """Whoever asks, and in whatever order the endpoints came."""
    endpoints = named(7)
    balancer = make(cls, *endpoints)
    verifyObject(IBalancer, balancer)
    before = places(balancer, 200)
    balancer.update(endpoints[::-1])
    assert places(balancer, 200) == before == places(make(cls, *named(7)), 200)


@BOTH
def test_shares_of_the_keys(cls: Any) -> None:
    """Within 5 % of the weights, as it comes."""
    balancer = make(cls, Endpoint("a", 6), Endpoint("b", 3), Endpoint("c", 3))
    assert shares(balancer, 20_000, keyed=True) == pytest.approx({"a": 0.5, "b": 0.25, "c": 0.25}, rel=0.05)


@BOTH
@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 5), (1, 2, 5, 1), (1, 1, 1, 1, 1)])
def test_shares_of_all_keys(cls: Any, weights: tuple[int, ...]) -> None:
    """Of keys that lie evenly, so that nothing is left to chance but where the endpoints are: within 5 % of the weights."""
    step = (1 << 64) // 40_000
    for net in range(3):
        endpoints = [Endpoint(f"10.0.{net}.{host}:8080", weight) for host, weight in enumerate(weights, 1)]
        balancer = make(cls, *endpoints)
        found = Counter(balancer.by_key(number * step, ()).name for number in range(40_000))
        wanted = {each.name: 40_000 * each.weight / sum(weights) for each in endpoints}
        assert found == pytest.approx(wanted, rel=0.05)


@BOTH
@settings(max_examples=12, deadline=None)
@given(st.integers(3, 12), st.data())
def test_little_moves_when_one_leaves(cls: Any, count: int, data: st.DataObject) -> None:
    """On the ring its keys and no others; in Maglev's table few others. When it comes back everything is as before."""
    endpoints = named(count)
    gone = data.draw(st.sampled_from(endpoints))
    balancer = make(cls, *endpoints)
    before = places(balancer, 500)
    balancer.update([endpoint for endpoint in endpoints if endpoint is not gone])
    after = places(balancer, 500)
    moved = [old for old, new in zip(before, after, strict=True) if old != new and old != gone.name]
    assert gone.name not in after and len(moved) <= (0 if cls is RingHash else 125)
    balancer.update(endpoints)
    assert places(balancer, 500) == before


@BOTH
def test_without_a_key_by_chance(cls: Any) -> None:
    """No policy found anything, or the request is our own: random by weight."""
    balancer = make(cls, Endpoint("a", 3), Endpoint("b", 1))
    assert shares(balancer, 8000) == pytest.approx({"a": 0.75, "b": 0.25}, rel=0.08)
    assert balancer.pick(None, ()) is not None


@BOTH
def test_tried_and_none(cls: Any) -> None:
    """An untried one while there is one, always the same; none without endpoints."""
    endpoints = named(4)
    balancer = make(cls, *endpoints)
    for number in range(50):
        exchange = Exchange(hash64(b"%d" % number))
        first = balancer.pick(exchange, ())
        second = balancer.pick(exchange, (first,))
        assert second is not first and balancer.pick(exchange, (first,)) is second
        assert balancer.pick(exchange, tuple(endpoints)) is first
    balancer.update([])
    assert balancer.pick(Exchange(5), ()) is None


def test_more_endpoints_than_places() -> None:
    """Those without a place get keys only when the others were tried."""
    endpoints = named(9)
    balancer = make(Maglev, *endpoints, table_size=3)
    placed = {balancer.pick(Exchange(number), ()) for number in range(3)}
    assert len(placed) == 3
    assert balancer.pick(Exchange(0), tuple(placed)) not in placed


def test_configuration_that_makes_no_sense() -> None:
    """A table that is not prime."""
    with pytest.raises(ValueError, match="prime"):
        Maglev.Config(table_size=100)


def test_the_ring_is_limited() -> None:
    """However heavy or many the endpoints, and the shares stay."""
    balancer = make(RingHash, Endpoint("a", 300_000), Endpoint("b", 100_000), maximum_ring_size=400)
    assert len(balancer._places) == 400
    assert len(make(RingHash, *named(3))._places) == 3 * PLACES
