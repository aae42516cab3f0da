"""Round robin is fair, by weight, and passes over what was tried."""

from __future__ import annotations

from collections import Counter

import attrs
import pytest
from hypothesis import given, strategies as st
from zope.interface.verify import verifyObject

from sidecar.cluster.round_robin import CREDITS, RoundRobin
from sidecar.interfaces import IBalancer
from sidecar.testing import FakeContext


@attrs.define(eq=False)
class Endpoint:
    name: str
    weight: int = 1
    active: int = 0


def balancer(*endpoints: Endpoint) -> RoundRobin:
    robin = RoundRobin(RoundRobin.Config(), FakeContext())
    robin.update(list(endpoints))
    return robin


def picks(robin: RoundRobin, count: int) -> str:
    return "".join(robin.pick(None, ()).name for _ in range(count))


def test_provides_its_interface() -> None:
    """It is a balancer."""
    assert verifyObject(IBalancer, balancer())


def test_in_turn() -> None:
    """Equal weights: one after the other."""
    assert picks(balancer(Endpoint("a"), Endpoint("b"), Endpoint("c")), 7) == "abcabca"


def test_by_weight() -> None:
    """Unequal weights: in proportion, spread evenly."""
    assert picks(balancer(Endpoint("a", 3), Endpoint("b"), Endpoint("c")), 10) == "abacaabaca"


def test_none_and_one() -> None:
    """Without endpoints there is none; one is picked even when it was tried."""
    assert balancer().pick(None, ()) is None
    only = Endpoint("a", 7)
    assert balancer(only).pick(None, (only,)) is only


def test_tried_endpoints_are_the_last_choice() -> None:
    """What was tried is passed over while there is another, also by weight."""
    for weight in (1, 5):
        a, b, c = Endpoint("a", weight), Endpoint("b"), Endpoint("c")
        robin = balancer(a, b, c)
        assert robin.pick(None, (a, b)) is c
        assert robin.pick(None, (b, c)) is a
        assert robin.pick(None, (a, b, c)) in (a, b, c)


def test_an_update_keeps_the_turn() -> None:
    """An endpoint more does not send everything to the first one again."""
    a, b, c = Endpoint("a"), Endpoint("b"), Endpoint("c")
    robin = balancer(a, b)
    assert picks(robin, 1) == "a"
    robin.update([a, b, c])
    assert picks(robin, 3) == "bca"
    robin.update([a])
    assert picks(robin, 2) == "aa"
    robin.update([])
    assert robin.pick(None, ()) is None


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 3))
def test_fairness(weights: list[int], rounds: int) -> None:
    """After as many picks as the sum of weights, or a multiple of it, everyone had exactly its share."""
    endpoints = [Endpoint(str(number), weight) for number, weight in enumerate(weights)]
    robin = balancer(*endpoints)
    total = sum(weights) if len(set(weights)) > 1 else len(weights)
    counted: Counter[str] = Counter(robin.pick(None, ()).name for _ in range(total * rounds))
    shares = weights if len(set(weights)) > 1 else [1] * len(weights)
    assert [counted[each.name] for each in endpoints] == [share * rounds for share in shares]


NUMBERS = st.lists(st.integers(0, 3), unique=True)


@given(st.lists(st.integers(1, 3), min_size=4, max_size=4), st.lists(st.tuples(NUMBERS, NUMBERS), max_size=8))
def test_every_pick_is_an_endpoint_not_tried(weights: list[int], steps: list[tuple[list[int], list[int]]]) -> None:
    """Through updates and picks in any order: a current endpoint, and an untried one while there is one."""
    pool = [Endpoint(str(number), weight) for number, weight in enumerate(weights)]
    robin = balancer()
    for current, tried in steps:
        robin.update([pool[number] for number in current])
        for _ in range(3):
            picked = robin.pick(None, tuple(pool[number] for number in tried))
            left = set(current) - set(tried) or set(current)
            assert picked in [pool[number] for number in left] if left else picked is None


@given(st.lists(st.integers(1, 20), min_size=CREDITS + 1, max_size=150).filter(lambda weights: len(set(weights)) > 1), st.integers(1, 4))
def test_many_get_their_shares(weights: list[int], rounds: int) -> None:
    """Also above the number up to which everyone is looked at: after so many rounds each has its weight, give or take one."""
    balancer_ = balancer(*[Endpoint(str(number), weight) for number, weight in enumerate(weights)])
    picked = Counter(balancer_.pick(None, ()).name for _ in range(rounds * sum(weights)))
    assert all(abs(picked[str(number)] - rounds * weight) <= 1 for number, weight in enumerate(weights))


def test_many_keep_their_turn() -> None:
    """Those that stay go on where they were when others come and weights change, and shares are right within 5 % at once."""
    pool = [Endpoint(str(number), number % 3 + 1) for number in range(300)]
    subject = balancer(*pool[:200])
    for _ in range(77):
        subject.pick(None, ())
    due = sorted(subject._appointments)[:50]
    subject.update(pool)
    assert [each[2] for each in sorted(each for each in subject._appointments if each[2] in pool[:200])[:50]] == [each[2] for each in due]
    pool[7].weight = 30
    subject.update(pool)
    picked = Counter(subject.pick(None, ()).name for _ in range(sum(each.weight for each in pool)))
    assert picked["7"] == pytest.approx(30, abs=2) and picked["8"] == pytest.approx(3, abs=1)


def test_many_pass_over_the_tried() -> None:
    """While there is another one; those passed over lose nothing."""
    pool = [Endpoint(str(number), number % 2 + 1) for number in range(CREDITS + 10)]
    subject = balancer(*pool)
    first = [subject.pick(None, ()) for _ in range(3)]
    assert all(subject.pick(None, tuple(first)) not in first for _ in range(200))
    assert subject.pick(None, tuple(first[:1])) is not first[0]
    assert {subject.pick(None, tuple(pool)) for _ in range(300)} <= set(pool)
    assert len(subject._appointments) == len(pool)
