"""Which share of the requests each priority gets, and which of them panic (Envoy: priority levels, overprovisioning factor, panic threshold)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Share(NamedTuple):
    """What one priority gets: its healthy endpoints, its degraded ones, and does it panic?"""

    share: float
    degraded: float
    panics: bool


def spread(counts: Sequence[tuple[int, int, int]], overprovisioning_percent: int, panic_percent: int) -> list[Share]:
    """The shares of each priority, the first one first. `counts`: (healthy endpoints, degraded ones, all endpoints) of each.

    A priority is as good as whole while at least 1 / `overprovisioning_percent` of it is healthy (with 140: 71 %); what it lacks goes to the next ones, and
    what all of them lack to degraded endpoints by the same rule. While all together are whole nobody panics. When they are not, a priority with fewer than
    `panic_percent` healthy or degraded uses all its endpoints; when all of them panic the requests are spread by numbers of endpoints. The shares sum to 1
    unless there is no priority at all.
    """
    health = [min(100.0, overprovisioning_percent * well / total) if total else 0.0 for well, _, total in counts]
    spare = [min(100.0, overprovisioning_percent * degraded / total) if total else 0.0 for _, degraded, total in counts]
    available = min(100.0, sum(health) + sum(spare))
    panics = [available < 100.0 and total > 0 and 100.0 * (well + degraded) < panic_percent * total for well, degraded, total in counts]
    everybody = sum(total for _, _, total in counts)
    if everybody and all(panic or not total for panic, (_, _, total) in zip(panics, counts, strict=True)):
        return [Share(total / everybody, 0.0, panic) for panic, (_, _, total) in zip(panics, counts, strict=True)]
    left = 1.0
    shares = []
    for each in (*health, *spare):
        share = min(left, each / available) if available else 0.0
        shares.append(share)
        left -= share
    if not available and counts:
        # Nobody is well and nobody may panic: the first priority that has endpoints answers for it.
        shares[next((index for index, (_, _, total) in enumerate(counts) if total), 0)] = 1.0
    return [Share(*each) for each in zip(shares, shares[len(counts) :], panics, strict=False)]


def locality_share(weight: float, well: int, total: int, overprovisioning_percent: int) -> float:
    """What a locality of this weight counts for in its priority while so many of its endpoints are well (Envoy: locality weighted load balancing)."""
    return weight * min(1.0, overprovisioning_percent * well / (100.0 * total)) if total else 0.0
