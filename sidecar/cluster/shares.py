"""Endpoints by their share of the weight: the line from 0 to 1, cut into a piece for each."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Any


class Shares:
    """`at(where)` gives the endpoint at a place of the line (0 <= where < 1). Endpoints have `weight` (int > 0)."""

    __slots__ = ("_bounds", "_total", "endpoints")

    def __init__(self, endpoints: list[Any]) -> None:
        self.endpoints = tuple(endpoints)
        weights = [endpoint.weight for endpoint in endpoints]
        # With equal weights the place is found by counting.
        self._bounds = list(accumulate(weights)) if len(set(weights)) > 1 else None
        self._total = sum(weights)

    def at(self, where: float) -> Any:
        """The endpoint there. There must be one."""
        if self._bounds is None:
            return self.endpoints[int(where * len(self.endpoints))]
        return self.endpoints[bisect_right(self._bounds, where * self._total)]

    def without(self, tried: tuple[Any, ...]) -> Shares:
        """The shares of those that were not tried; of all when all were."""
        left = [endpoint for endpoint in self.endpoints if endpoint not in tried]
        return Shares(left) if left else self
