"""Which group is asked: by shares, by key, by metadata, and who helps out."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, strategies as st

from sidecar.cluster.choice import Choice, SubsetChoice, nobody
from sidecar.cluster.hashing import hash64
from tests.cluster.peers import Exchange


def always(endpoint: Any) -> Any:
    return lambda exchange, tried: endpoint


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(any), st.booleans())
def test_shares_are_kept(weights: list[int], is_keyed: bool) -> None:
    """Within 5 % of all requests, by chance and by key; nobody without a share is asked."""
    choice = Choice([(always(number), share / sum(weights)) for number, share in enumerate(weights)], random.Random(3).random)
    picked = Counter(choice.pick(Exchange(hash64(b"%d" % number)) if is_keyed else None, ()) for number in range(4000))
    for number, share in enumerate(weights):
        assert picked[number] / 4000 == pytest.approx(share / sum(weights), abs=0.05)
        assert share or not picked[number]


def test_keys_below_a_choice_spread_over_all_endpoints() -> None:
    """The same key decides twice; the group that gets half of the keys must not see only half of their range."""

    def cuts(name: str) -> Any:
        return lambda exchange, tried: f"{name}{exchange.key * 4 >> 64}"

    choice = Choice([(cuts("a"), 0.5), (cuts("b"), 0.5)], random.Random(1).random)
    picked = Counter(choice.pick(Exchange(hash64(b"%d" % number)), ()) for number in range(20_000))
    assert len(picked) == 8 and all(count / 20_000 == pytest.approx(1 / 8, rel=0.1) for count in picked.values())


def test_a_key_stays_with_its_group() -> None:
    """As long as the shares stay."""
    choice = Choice([(always("a"), 0.5), (always("b"), 0.5)], random.Random(1).random)
    assert len({choice.pick(Exchange(7), ()) for _ in range(100)}) == 1


def test_others_help_out() -> None:
    """Where everybody was tried, or nobody is there, the others are asked in their order, also those without a share; at last the one that was tried."""
    choice = Choice([(always("a"), 1.0), (nobody, 0.0), (always("b"), 0.0), (always("c"), 0.0)], lambda: 0.0)
    assert [choice.pick(None, tried) for tried in ((), ("a",), ("a", "b"), ("a", "b", "c"))] == ["a", "b", "c", "a"]
    assert Choice([(nobody, 1.0), (always("b"), 0.0)], lambda: 0.0).pick(None, ()) == "b"
    assert Choice([(nobody, 0.0), (nobody, 0.0)], lambda: 0.9).pick(None, ()) is None


class Asking:
    """Asks for metadata."""

    def __init__(self, **metadata: str) -> None:
        self.metadata_match = tuple(sorted(metadata.items())) or None


def test_subsets() -> None:
    """By the match; the fallback for the others, and for who asks for nothing."""
    choice = SubsetChoice({(("version", "v1"),): always("one")}, always("any"))
    assert [choice.pick(asks, ()) for asks in (Asking(version="v1"), Asking(version="v2"), Asking(), None)] == ["one", "any", "any", "any"]
    assert SubsetChoice({}, None).pick(Asking(version="v1"), ()) is None
