"""Endpoints by their share of the weight: the line from 0 to 1, cut into a piece for each."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import Any

# So often chance is asked for an endpoint that was not tried.
DRAWS = 8


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

    def untried(self, random: Callable[[], float], tried: tuple[Any, ...]) -> Any:
        """One by chance (`random()`: from 0 up to 1) that was not tried, as long as there is one. There must be an endpoint."""
        endpoint = self.at(random())
        if not tried:
            return endpoint
        # Nearly always somebody else comes soon; to look at ten thousand for each retry would make an outage worse.
        for _ in range(DRAWS):
            if endpoint not in tried:
                return endpoint
            endpoint = self.at(random())
        return self.without(tried).at(random())

    def without(self, tried: tuple[Any, ...]) -> Shares:
        """The shares of those that were not tried; of all when all were."""
        left = [endpoint for endpoint in self.endpoints if endpoint not in tried]
        return Shares(left) if left else self
