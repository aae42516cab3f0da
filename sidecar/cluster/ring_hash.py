"""Ring hash (ketama): each endpoint stands at many places of a ring, a key goes to the next place clockwise. When an endpoint leaves, only its keys move."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from zope.interface import implementer

from sidecar.cluster.hashing import Keyed, by_name, hash64
from sidecar.cluster.slices import Slices
from sidecar.interfaces import IBalancer, IGradualBalancer

# Of the lightest endpoint. A share is wrong by about one part in the square root of that: 1.6 %, so hardly ever by 5 % (256 places: 6 %, and often by 10).
# Envoy divides one number among all, so one that leaves changes all places.
PLACES = 4096
MAXIMUM_RING_SIZE = 131_072  # 32 endpoints with all their places; Envoy's 8 Mi would take seconds to build here

ARC_BITS = 9  # a ring of 128 Ki places is sorted in 512 arcs of about 256 places
# A place and whose it is, in one number of 64 bits: places are told apart by the upper 44, which leaves room for a million endpoints.
RANK_BITS = 20


@implementer(IBalancer, IGradualBalancer)
class RingHash(Keyed):
    """Balancer `ring-hash`."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`places_per_endpoint`: of the lightest one, the others by weight, as far as `maximum_ring_size` allows. More are fairer; fewer are built faster."""

        places_per_endpoint: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = PLACES
        maximum_ring_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = MAXIMUM_RING_SIZE

    __slots__ = ("_config", "_owners", "_places", "_places_of", "_ranked")

    def __init__(self, config: Config, context: object) -> None:
        super().__init__()
        self._config = config
        # Numbers in a row, which the collector need not look at: where each place is on the ring, and whose it is (an index of `_ranked`).
        self._places = array("Q")
        self._owners = array("I")
        self._ranked: list[Any] = []
        # address -> its places so far (as bytes, which the collector does not look at either), so that an update hashes only what is new
        self._places_of: dict[str, bytes] = {}

    def building(self, endpoints: list[Any], slices: Slices) -> Iterator[None]:
        """Each endpoint gets places by weight. To sort a large ring would take too long at once, so it is sorted arc by arc."""
        known, hashed = self._places_of, dict[str, bytes]()
        names, order = yield from by_name(endpoints, slices)
        counts = self._counts([endpoint.weight for endpoint in endpoints])
        arcs = [array("Q") for _ in range(1 << ARC_BITS)]
        for rank, number in enumerate(order):
            name, count = names[number], counts[number]
            places = array("Q", known.get(name, b""))
            if len(places) < count:
                places.extend([hash64(b"%b_%d" % (name.encode(), place)) for place in range(len(places), count)])
            hashed[name] = places.tobytes()
            for place in places[:count]:
                arcs[place >> 64 - ARC_BITS].append(place >> RANK_BITS << RANK_BITS | rank)
            if slices.done(count + 2):
                yield
        ring_places, owners = array("Q"), array("I")
        arcs.reverse()
        while arcs:
            # Taken out, so that it is freed now and not with all the others.
            arc = sorted(arcs.pop())
            ring_places.extend([entry >> RANK_BITS << RANK_BITS for entry in arc])
            owners.extend([entry & (1 << RANK_BITS) - 1 for entry in arc])
            if slices.done(len(arc)):
                yield
        self._places_of = hashed
        self._places, self._owners, self._ranked = ring_places, owners, [endpoints[number] for number in order]

    def _counts(self, weights: list[int]) -> array[int]:
        """Places for each weight."""
        if not weights:
            return array("I")
        scale = min(self._config.places_per_endpoint / min(weights), self._config.maximum_ring_size / sum(weights))
        return array("I", [max(1, round(scale * weight)) for weight in weights])

    def by_key(self, key: int, tried: tuple[Any, ...]) -> Any:
        """The next place clockwise whose owner was not tried."""
        owners, ranked = self._owners, self._ranked
        index = bisect_left(self._places, key) % len(owners)
        while ranked[owners[index]] in tried:
            index = (index + 1) % len(owners)
        return ranked[owners[index]]
