"""Ring hash (ketama): each endpoint stands at many places of a ring, a key goes to the next place clockwise. When an endpoint leaves, only its keys move."""

from __future__ import annotations

from bisect import bisect_left
from typing import Annotated, Any

import msgspec
from zope.interface import implementer

from sidecar.cluster.hashing import Keyed, hash64
from sidecar.interfaces import IBalancer

PLACES = 256  # of the lightest endpoint: shares right to about 6 %. Envoy divides one number among all, so one that leaves changes all places
MAXIMUM_RING_SIZE = 65_536  # Envoy's 8 Mi would take seconds to build here


@implementer(IBalancer)
class RingHash(Keyed):
    """Balancer `ring-hash`."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`places_per_endpoint`: of the lightest one, the others by weight, as far as `maximum_ring_size` allows. More are fairer; fewer are built faster."""

        places_per_endpoint: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = PLACES
        maximum_ring_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = MAXIMUM_RING_SIZE

    __slots__ = ("_config", "_owners", "_places", "_places_of")

    def __init__(self, config: Config, context: object) -> None:
        super().__init__()
        self._config = config
        self._places: list[int] = []
        self._owners: list[Any] = []
        # address -> its places so far, so that an update hashes only what is new
        self._places_of: dict[str, list[int]] = {}

    def build(self, endpoints: list[Any]) -> None:
        """Each endpoint gets places by weight."""
        known, self._places_of = self._places_of, {}
        ring = []
        for endpoint, count in zip(endpoints, self._counts([endpoint.weight for endpoint in endpoints]), strict=True):
            name = str(endpoint.address)
            places = known.get(name, [])
            places += [hash64(b"%b_%d" % (name.encode(), number)) for number in range(len(places), count)]
            self._places_of[name] = places
            ring += [(place, name, endpoint) for place in places[:count]]
        # The name decides between two at the same place, so that the order of the endpoints does not.
        ring.sort(key=lambda entry: entry[:2])
        self._places = [entry[0] for entry in ring]
        self._owners = [entry[2] for entry in ring]

    def _counts(self, weights: list[int]) -> list[int]:
        """Places for each weight."""
        if not weights:
            return []
        scale = min(self._config.places_per_endpoint / min(weights), self._config.maximum_ring_size / sum(weights))
        return [max(1, round(scale * weight)) for weight in weights]

    def by_key(self, key: int, tried: tuple[Any, ...]) -> Any:
        """The next place clockwise whose owner was not tried."""
        owners = self._owners
        index = bisect_left(self._places, key) % len(owners)
        while owners[index] in tried:
            index = (index + 1) % len(owners)
        return owners[index]
