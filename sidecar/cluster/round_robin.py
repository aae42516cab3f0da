"""Round robin, by weight: of endpoints with weights 3, 1 and 1 the first gets three of five requests, spread evenly ("a b a c a", not "a a a b c").

The smooth variant known from nginx: at each pick every endpoint gains its weight, the one with the most is picked and loses the sum of all weights.
"""

from __future__ import annotations

from typing import Any

import msgspec
from zope.interface import implementer

from sidecar.interfaces import IBalancer


@implementer(IBalancer)
class RoundRobin:
    """Balancer `round-robin`."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Nothing to configure."""

    __slots__ = ("_credit", "_even", "_next", "_total", "endpoints")

    def __init__(self, config: Config, context: object) -> None:
        self.endpoints: tuple[Any, ...] = ()
        self._next = 0
        self._even = True
        self._total = 0
        self._credit: list[int] = []

    def update(self, endpoints: list[object]) -> None:
        """Use these from now on; endpoints that stay keep their turn."""
        before = {id(endpoint): credit for endpoint, credit in zip(self.endpoints, self._credit, strict=True)}
        self.endpoints = tuple(endpoints)
        self._credit = [before.get(id(endpoint), 0) for endpoint in self.endpoints]
        weights = [endpoint.weight for endpoint in self.endpoints]
        self._total = sum(weights)
        self._even = len(set(weights)) <= 1

    def pick(self, exchange: object, tried: tuple[object, ...]) -> Any:
        """See `IBalancer.pick`. With equal weights in turn, else by credit."""
        endpoints = self.endpoints
        if len(endpoints) == 1:
            return endpoints[0]
        if self._even:
            return self._pick_in_turn(endpoints, tried)
        return self._pick_by_credit(endpoints, tried)

    def _pick_in_turn(self, endpoints: tuple[Any, ...], tried: tuple[object, ...]) -> Any:
        if not endpoints:
            return None
        count = len(endpoints)
        start = self._next % count
        self._next = start + 1
        if tried:
            for offset in range(count):
                if endpoints[(start + offset) % count] not in tried:
                    self._next = start + offset + 1
                    return endpoints[(start + offset) % count]
        return endpoints[start]

    def _pick_by_credit(self, endpoints: tuple[Any, ...], tried: tuple[object, ...]) -> Any:
        credit = self._credit
        best = -1
        for index, endpoint in enumerate(endpoints):
            credit[index] += endpoint.weight
            if (best < 0 or credit[index] > credit[best]) and not (tried and endpoint in tried):
                best = index
        if best < 0:
            # Every one was tried: the best of all.
            best = max(range(len(endpoints)), key=credit.__getitem__)
        credit[best] -= self._total
        return endpoints[best]
