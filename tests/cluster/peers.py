"""What balancers are tested with."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import attrs

from sidecar import model
from sidecar.address import Address
from sidecar.cluster.hashing import hash64
from sidecar.testing import FakeContext


@attrs.define(eq=False)
class Endpoint:
    """An endpoint as balancers see it."""

    name: str
    weight: int = 1
    active: int = 0
    health: Any = None
    check_failure: str | None = None
    told: str = "healthy"

    @property
    def configured(self) -> Any:
        """What discovery tells."""
        return model.Endpoint(address=self.address, weight=self.weight, health=self.told)  # type: ignore[arg-type]

    @property
    def address(self) -> Address:
        """One for each name."""
        return Address(f"host-{self.name}", 80)


class Exchange:
    """Has a key."""

    def __init__(self, key: int | None) -> None:
        self.key = key

    def hash_key(self) -> int | None:
        """See `IExchange.hash_key`."""
        return self.key


def make(cls: Any, *endpoints: Endpoint, **config: Any) -> Any:
    """A balancer with seeded dice."""
    balancer = cls(cls.Config(**config), FakeContext())
    balancer.random = random.Random(7).random
    balancer.update(list(endpoints))
    return balancer


def shares(balancer: Any, count: int, tried: tuple[Any, ...] = (), keyed: bool = False) -> dict[str, float]:
    """What share of `count` picks each endpoint gets."""
    picked = Counter(balancer.pick(Exchange(hash64(b"%d" % number) if keyed else None), tried).name for number in range(count))
    return {name: times / count for name, times in picked.items()}


def places(balancer: Any, count: int) -> list[str]:
    """Where each of `count` keys goes."""
    return [balancer.pick(Exchange(hash64(b"key-%d" % number)), ()).name for number in range(count)]
