"""Shares of a route's traffic."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate


def compile_weights(weights: Sequence[int]) -> Callable[[float], int]:
    """A function from a random number in [0, 1) to an index, hit in proportion to its weight; a weight of 0 is never hit.

    Raises `ValueError` when no weight is above 0.
    """
    bounds = list(accumulate(weights))
    if not bounds or bounds[-1] <= 0:
        raise ValueError("at least one weighted cluster needs a weight above 0")
    total = bounds[-1]
    last = max(index for index, weight in enumerate(weights) if weight > 0)

    def pick(random: float) -> int:
        return min(bisect_right(bounds, random * total), last)

    return pick
