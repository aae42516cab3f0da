"""The line from 0 to 1."""

from __future__ import annotations

import random

from sidecar.cluster.shares import Shares
from tests.cluster.peers import Endpoint


def test_places_on_the_line() -> None:
    """A piece for each, as long as its weight."""
    a, b, c = Endpoint("a", 2), Endpoint("b", 1), Endpoint("c", 1)
    assert [Shares([a, b, c]).at(where).name for where in (0.0, 0.49, 0.5, 0.74, 0.75, 0.999)] == ["a", "a", "b", "b", "c", "c"]
    assert [Shares([b, c]).at(where).name for where in (0.0, 0.49, 0.5, 0.999)] == ["b", "b", "c", "c"]


def test_without() -> None:
    """What was tried is left out, unless that leaves nobody."""
    a, b = Endpoint("a"), Endpoint("b")
    both = Shares([a, b])
    assert both.without((a,)).endpoints == (b,)
    assert both.without((a, b)) is both


def test_untried() -> None:
    """By chance somebody who was not tried; however many were, as long as there is one; else anybody."""
    pool = [Endpoint(str(number), number + 1) for number in range(50)]
    shares, dice = Shares(pool), random.Random(2).random
    assert all(shares.untried(dice, tuple(pool[:49])) is pool[49] for _ in range(100))
    assert all(shares.untried(dice, (pool[49],)) is not pool[49] for _ in range(1000))
    assert shares.untried(dice, tuple(pool)) in pool
