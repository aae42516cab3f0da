"""What the two consistent hashes share: the hash itself, and what to do without a key."""

from __future__ import annotations

from array import array
from collections.abc import Generator, Iterator
from hashlib import blake2b
from random import Random
from typing import Any

from sidecar.cluster.shares import Shares
from sidecar.cluster.slices import Slices


def hash64(text: bytes) -> int:
    """64 bits that are the same in every process and on every machine, so that all sidecars send a key to the same endpoint."""
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")


def by_name(endpoints: list[Any], slices: Slices) -> Generator[None, None, tuple[list[str], array[int]]]:
    """(the endpoints' names, their numbers in the order of the names). That order decides between two that want the same place, so that the order in which
    they were told does not. Numbers and texts alone: ten thousand pairs would keep the collector busy for longer than a step.
    """
    names: list[str] = []
    for endpoint in endpoints:
        names.append(str(endpoint.address))
        if slices.done():
            yield
    order = array("I", sorted(range(len(names)), key=names.__getitem__))
    if slices.done(len(names)):
        yield
    return names, order


class Keyed:
    """A balancer whose choice hangs on the exchange's key. Subclasses say `by_key` and `building`. Without a key the choice is random, by weight."""

    __slots__ = ("random", "shares")

    def __init__(self) -> None:
        self.random = Random().random
        self.shares = Shares([])

    def update(self, endpoints: list[Any]) -> None:
        """Use these from now on; most keys stay where they are."""
        for _ in self.updating(endpoints):
            pass

    def updating(self, endpoints: list[Any]) -> Iterator[None]:
        """See `IGradualBalancer.updating`."""
        slices = Slices()
        shares = Shares(endpoints)
        if slices.done(len(endpoints)):
            yield
        yield from self.building(endpoints, slices)
        self.shares = shares

    def building(self, endpoints: list[Any], slices: Slices) -> Iterator[None]:
        """Work out where keys go, and use it at the end."""
        raise NotImplementedError

    def by_key(self, key: int, tried: tuple[Any, ...]) -> Any:
        """Where this key goes. There is an endpoint that was not tried."""
        raise NotImplementedError

    def pick(self, exchange: Any, tried: tuple[Any, ...]) -> Any:
        """See `IBalancer.pick`."""
        shares = self.shares
        if not shares.endpoints:
            return None
        # The sidecar's own requests have no route, and so no key.
        hash_key = getattr(exchange, "hash_key", None)
        key = None if hash_key is None else hash_key()
        if tried and all(endpoint in tried for endpoint in shares.endpoints):
            tried = ()
        if key is not None:
            return self.by_key(key, tried)
        return shares.untried(self.random, tried)
