"""Maglev: a table in which every endpoint has very nearly its share of the places, so a key costs one look, and most keys stay when an endpoint leaves.

Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4: each endpoint has its own order of all places, and they
take turns at taking the first free one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from zope.interface import implementer

from sidecar.cluster.hashing import Keyed, by_name, hash64
from sidecar.cluster.slices import Slices
from sidecar.interfaces import IBalancer, IGradualBalancer

FREE = -1  # nobody's place yet
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

    __slots__ = ("_entries", "_owners", "_size", "_table")

    def __init__(self, config: Config, context: object) -> None:
        super().__init__()
        self._size = config.table_size
        # Whose each place is (an index of `_entries`): numbers in a row, which the collector need not look at.
        self._table = array("i")
        self._entries: list[Any] = []
        self._owners = 0  # how many have a place

    def building(self, endpoints: list[Any], slices: Slices) -> Iterator[None]:
        """Take turns, the lighter ones less often, until every place is taken."""
        size = self._size
        names, order = yield from by_name(endpoints, slices)
        # Nobody beyond the table's size could get a place.
        del order[size:]
        entries = [endpoints[number] for number in order]
        if not entries:
            self._table, self._entries, self._owners = array("i"), [], 0
            return
        # The next place that each tries, and its step.
        places, steps = array("Q"), array("Q")
        for number in order:
            name = names[number].encode()
            places.append(hash64(name + b"/offset") % size)
            steps.append(hash64(name + b"/skip") % (size - 1) + 1)
            if slices.done(2):
                yield
        table = array("i", [FREE]) * size
        yield from self._filled(table, places, steps, array("Q", [endpoint.weight for endpoint in entries]), slices)
        self._table, self._entries, self._owners = table, entries, len(set(table))

    def _filled(self, table: array[int], places: array[int], steps: array[int], weights: array[int], slices: Slices) -> Iterator[None]:
        size = free = self._size
        heaviest = max(weights)
        gathered = array("Q", [0]) * len(weights)  # by each towards its next turn
        while True:
            for owner, weight in enumerate(weights):
                gathered[owner] += weight
                pieces = 1
                if gathered[owner] >= heaviest:
                    gathered[owner] -= heaviest
                    place, step = places[owner], steps[owner]
                    while table[place] != FREE:
                        place = (place + step) % size
                        pieces += 1
                    table[place] = owner
                    places[owner] = place
                    free -= 1
                    if not free:
                        return
                # The last free places take a long search: it counts, at about ten probes to a piece.
                if slices.done(1 + pieces // 10):
                    yield

    def by_key(self, key: int, tried: tuple[Any, ...]) -> Any:
        """The owner of the key's place, or of the next place whose owner was not tried."""
        table, entries = self._table, self._entries
        index = key % self._size
        if tried:
            if len(tried) >= self._owners and all(entries[owner] in tried for owner in set(table)):
                # Somebody without a place is left.
                return self.shares.without(tried).at(0.0)
            while entries[table[index]] in tried:
                index = (index + 1) % self._size
        return entries[table[index]]
