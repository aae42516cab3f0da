"""Which balancer is asked, where a cluster has several: by the shares of priorities and localities, and by the metadata that the route asks for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from sidecar.cluster.grouping import Match

Pick = Callable[[Any, tuple[Any, ...]], Any]

_BITS = 64
# An odd number that spreads the bits of a key (2^64 divided by the golden ratio; Knuth, "The Art of Computer Programming", volume 3, section 6.4): the balancer
# below goes by the same key, and must not see only a part of all keys.
_SPREAD = 0x9E3779B97F4A7C15


class Choice:
    """`parts`: (a balancer's `pick`, share) of each leaf, in the order in which they help each other out. `random()` gives a number from 0 up to 1."""

    __slots__ = ("_bounds", "_picks", "_random", "_total")

    def __init__(self, parts: Sequence[tuple[Pick, float]], random: Callable[[], float]) -> None:
        self._picks = [pick for pick, _ in parts]
        self._bounds = list(accumulate(share for _, share in parts))
        self._total = self._bounds[-1] if parts else 0.0
        self._random = random

    def pick(self, exchange: Any, tried: tuple[Any, ...]) -> Any:
        """See `IBalancer.pick`. A key goes to the same leaf as long as the shares stay; when a leaf has nobody who was not tried, the others are asked in
        their order.
        """
        picks = self._picks
        hash_key = getattr(exchange, "hash_key", None)
        key = None if hash_key is None else hash_key()
        where = self._random() if key is None else (key * _SPREAD % (1 << _BITS)) / (1 << _BITS)
        index = bisect_right(self._bounds, where * self._total)
        if index >= len(picks):
            # Rounding; or no leaf has a share, and the first one is as good as any.
            index = len(picks) - 1 if self._total else 0
        endpoint = picks[index](exchange, tried)
        if endpoint is not None and not (tried and endpoint in tried):
            return endpoint
        for number, pick in enumerate(picks):
            if number != index:
                other = pick(exchange, tried)
                if other is not None and other not in tried:
                    return other
        return endpoint


class Wanted:
    """Stands for an exchange where there is none, and asks for endpoints with this metadata: for TCP. Balancers are given None for it."""

    __slots__ = ("metadata_match",)

    def __init__(self, match: Match) -> None:
        self.metadata_match = match


class SubsetChoice:
    """`by_match`: for each match that has endpoints who chooses among them. `fallback`: for the others, and for requests without a match; None: nobody."""

    __slots__ = ("_by_match", "_fallback")

    def __init__(self, by_match: Mapping[Match | None, Pick], fallback: Pick | None) -> None:
        self._by_match = by_match
        self._fallback = fallback

    def pick(self, exchange: Any, tried: tuple[Any, ...]) -> Any:
        """See `IBalancer.pick`."""
        pick = self._by_match.get(getattr(exchange, "metadata_match", None)) or self._fallback
        return None if pick is None else pick(None if exchange.__class__ is Wanted else exchange, tried)


def nobody(exchange: Any, tried: tuple[Any, ...]) -> None:
    """The `pick` of a cluster without usable endpoints."""
