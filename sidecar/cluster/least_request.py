"""Least request: of a few endpoints taken at random, by weight, the one with the fewest requests for its weight ("the power of two choices").

To ask all of them would send everybody's next request to the same, least busy one; two at random are almost as even, and no herd.
"""

from __future__ import annotations

from random import Random
from typing import Annotated, Any

import msgspec
from zope.interface import implementer

from sidecar.cluster.shares import Shares
from sidecar.interfaces import IBalancer

CHOICES = 2  # Envoy: choice_count; more gain little and herd


@implementer(IBalancer)
class LeastRequest:
    """Balancer `least-request`. `random()` gives a number from 0 up to 1; tests replace it."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`choice_count`: how many endpoints are compared."""

        choice_count: Annotated[int, msgspec.Meta(ge=2, le=100)] = CHOICES

    __slots__ = ("_more", "random", "shares")

    def __init__(self, config: Config, context: object) -> None:
        self.random = Random().random
        self.shares = Shares([])
        self._more = range(config.choice_count - 1)

    def update(self, endpoints: list[object]) -> None:
        """Use these from now on."""
        self.shares = Shares(endpoints)

    def pick(self, exchange: object, tried: tuple[object, ...]) -> Any:
        """See `IBalancer.pick`. Weights decide who is compared and what counts as busy; between equals the first taken wins, so that idle endpoints get their
        shares.
        """
        shares = self.shares
        if not shares.endpoints:
            return None
        random = self.random
        best = shares.untried(random, tried)
        for _ in self._more:
            other = shares.untried(random, tried) if tried else shares.at(random())
            if other.active * best.weight < best.active * other.weight:
                best = other
        return best
