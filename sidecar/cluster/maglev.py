"""Maglev: a table in which every endpoint has very nearly its share of the places, so a key costs one look, and most keys stay when an endpoint leaves.

Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4: each endpoint has its own order of all places, and they
take turns at taking the first free one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from zope.interface import implementer

from sidecar.cluster.hashing import Keyed, hash64
from sidecar.cluster.slices import Slices
from sidecar.interfaces import IBalancer, IGradualBalancer

TABLE_SIZE = 16_381  # a prime; Envoy's 65537 would stop the event loop for longer than 20 ms at each update


@implementer(IBalancer, IGradualBalancer)
class Maglev(Keyed):
    """Balancer `maglev`."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`table_size`: a prime, a hundred times the endpoints for shares that are right to 1 %."""

        table_size: Annotated[int, msgspec.Meta(ge=3, le=5_000_011)] = TABLE_SIZE

        def __post_init__(self) -> None:
            size = self.table_size
            if any(size % divisor == 0 for divisor in range(2, int(size**0.5) + 1)):
                raise ValueError(f"table_size must be a prime, got {size}")

    __slots__ = ("_owners", "_size", "_table")

    def __init__(self, config: Config, context: object) -> None:
        super().__init__()
        self._size = config.table_size
        self._table: list[Any] = []
        self._owners: frozenset[Any] = frozenset()

    def building(self, endpoints: list[Any], slices: Slices) -> Iterator[None]:
        """Take turns, the lighter ones less often, until every place is taken."""
        size = self._size
        # Nobody beyond the table's size could get a place.
        entries = sorted(endpoints, key=lambda endpoint: str(endpoint.address))[:size]
        if not entries:
            self._table, self._owners = [], frozenset()
            return
        heaviest = max(endpoint.weight for endpoint in entries)
        # [endpoint, next place to try, step, weight, what it has gathered towards its next turn]
        turns = []
        for endpoint in entries:
            name = str(endpoint.address).encode()
            turns.append([endpoint, hash64(name + b"/offset") % size, hash64(name + b"/skip") % (size - 1) + 1, endpoint.weight, 0])
            if slices.done(2):
                yield
        table: list[Any] = [None] * size
        yield from self._filled(table, turns, heaviest, slices)
        self._table, self._owners = table, frozenset(table)

    def _filled(self, table: list[Any], turns: list[list[Any]], heaviest: int, slices: Slices) -> Iterator[None]:
        size = free = self._size
        while True:
            for turn in turns:
                turn[4] += turn[3]
                pieces = 1
                if turn[4] >= heaviest:
                    turn[4] -= heaviest
                    place, step = turn[1], turn[2]
                    while table[place] is not None:
                        place = (place + step) % size
                        pieces += 1
                    table[place] = turn[0]
                    turn[1] = place
                    free -= 1
                    if not free:
                        return
                # The last free places take a long search: it counts, at about ten probes to a piece.
                if slices.done(1 + pieces // 10):
                    yield

    def by_key(self, key: int, tried: tuple[Any, ...]) -> Any:
        """The owner of the key's place, or of the next place whose owner was not tried."""
        table = self._table
        index = key % self._size
        if tried:
            if self._owners.issubset(tried):
                # Somebody without a place is left.
                return self.shares.without(tried).at(0.0)
            while table[index] in tried:
                index = (index + 1) % self._size
        return table[index]
