"""Random, by weight: no state, so many sidecars together are as fair as one."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
from zope.interface import implementer

from sidecar.cluster.shares import Shares
from sidecar.interfaces import IBalancer


@implementer(IBalancer)
class RandomChoice:
    """Balancer `random`. `random()` gives a number from 0 up to 1; tests replace it."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Nothing to configure."""

    __slots__ = ("random", "shares")

    def __init__(self, config: Config, context: object) -> None:
        self.random = Random().random
        self.shares = Shares([])

    def update(self, endpoints: list[object]) -> None:
        """Use these from now on."""
        self.shares = Shares(endpoints)

    def pick(self, exchange: object, tried: tuple[object, ...]) -> Any:
        """See `IBalancer.pick`."""
        shares = self.shares
        if not shares.endpoints:
            return None
        return shares.untried(self.random, tried)
