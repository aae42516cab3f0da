"""Endpoints sorted by who is used before whom: priorities, within them distances and localities, and of each those that are well.

Pure: what comes in are objects with `configured` (`model.Endpoint`), `check_failure`, `is_absent`, `health` and `weight`; what comes out are leaves,
groups of endpoints among which one balancer chooses, each with its share of the requests.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any

import attrs

from sidecar.cluster.checking import NOT_YET
from sidecar.cluster.levels import locality_share, spread
from sidecar.cluster.localities import NOWHERE, distance, weight_of
from sidecar.cluster.slices import Slices
from sidecar.model import Cluster, Locality

Match = tuple[tuple[str, str], ...]


@attrs.define
class Group:
    """Endpoints of one locality in one level, those with weight 0 left out. `uncounted`: those that drain anyway, or are new and not checked yet;
    `staying`: the others; `well`: of them; `present`: those of them to be used in panic."""

    staying: list[Any] = attrs.field(factory=list)
    well: list[Any] = attrs.field(factory=list)
    uncounted: list[Any] = attrs.field(factory=list)

    @property
    def present(self) -> list[Any]:
        """Nobody can be served where nothing listens: a health check that finds that is not mistaken, and to send requests there spares nobody."""
        return [endpoint for endpoint in self.staying if not endpoint.is_absent]


@attrs.define
class Level:
    """Endpoints that are as good as each other: of one priority and, where near ones are preferred, equally far away. `groups`: by locality where those have
    weights, else one for all."""

    priority: int
    distance: int
    groups: dict[Locality | None, Group] = attrs.field(factory=dict)
    share: float = 0.0
    is_panicking: bool = False

    @property
    def counts(self) -> tuple[int, int]:
        """(well, all that count)."""
        return sum(len(group.well) for group in self.groups.values()), sum(len(group.staying) for group in self.groups.values())


@attrs.define
class Leaf:
    """`key`: the same for the same group of endpoints before and after a change. `share`: of the requests; 0 for those that are only asked when others were
    tried.
    """

    key: tuple[int, int, Locality | None]
    share: float
    endpoints: list[Any]


def is_well(endpoint: Any) -> bool:
    """Does nobody say anything against it: discovery, active checks, its own answers?"""
    health = endpoint.health
    return endpoint.configured.health == "healthy" and endpoint.check_failure is None and (health is None or not health.is_ejected)


def matching(endpoints: Iterable[Any], match: Match, slices: Slices) -> Generator[None, None, list[Any]]:
    """Those whose metadata has all of `match`."""
    found = []
    for endpoint in endpoints:
        metadata = endpoint.configured.metadata
        if all(metadata.get(name) == value for name, value in match):
            found.append(endpoint)
        if slices.done():
            yield
    return found


def levelled(endpoints: Iterable[Any], cluster: Cluster, own: Locality | None, slices: Slices) -> Generator[None, None, list[Level]]:
    """The levels that these endpoints make, those used first in front, each with its share. `own`: where this sidecar runs."""
    mode = "" if cluster.locality_lb is None else cluster.locality_lb.mode
    levels: dict[tuple[int, int], Level] = {}
    for endpoint in endpoints:
        if slices.done():
            yield
        configured = endpoint.configured
        if not configured.weight:
            continue
        key = configured.priority, distance(own or NOWHERE, configured.locality) if mode == "prefer" else 0
        level = levels.get(key)
        if level is None:
            level = levels[key] = Level(*key)
        place = (configured.locality or NOWHERE) if mode == "weighted" else None
        group = level.groups.get(place)
        if group is None:
            group = level.groups[place] = Group()
        if configured.health == "draining" or endpoint.check_failure == NOT_YET:
            # Nobody knows of the new ones whether they are well: a cluster that grows must not panic and send requests to them.
            group.uncounted.append(endpoint)
            continue
        group.staying.append(endpoint)
        if is_well(endpoint):
            group.well.append(endpoint)
    ordered = [levels[key] for key in sorted(levels)]
    for level in ordered:
        if not level.counts[1]:
            # They are missed by nobody, unless nobody else is there.
            for group in level.groups.values():
                group.staying = group.uncounted
    shares = spread([level.counts for level in ordered], cluster.overprovisioning_factor, cluster.healthy_panic_threshold)
    for level, (share, panics) in zip(ordered, shares, strict=True):
        level.share, level.is_panicking = share, panics
    if all(level.is_panicking or not level.counts[1] for level in ordered):
        _share_by_presence(ordered)
    return ordered


def _share_by_presence(levels: Sequence[Level]) -> None:
    """When all levels panic they go by numbers of endpoints, and those where nobody is do not count unless they all are like that."""
    counts = [sum(len(group.present) for group in level.groups.values()) for level in levels]
    total = sum(counts)
    for level, count in zip(levels, counts, strict=True):
        if total:
            level.share = count / total


def leaves(levels: Sequence[Level], cluster: Cluster) -> list[Leaf]:
    """Who is chosen among, in the order in which they are asked when those before were tried."""
    weights = {} if cluster.locality_lb is None else cluster.locality_lb.weights
    is_anybody_there = any(group.present for level in levels for group in level.groups.values())
    found = []
    for level in levels:
        parts: list[tuple[Locality | None, float, list[Any]]] = []
        for place, group in level.groups.items():
            weight = 1.0 if place is None else float(weight_of(place, weights))
            if not level.is_panicking:
                weight = locality_share(weight, len(group.well), len(group.staying), cluster.overprovisioning_factor)
            used = group.well if not level.is_panicking else group.present if is_anybody_there else group.staying
            if used:
                parts.append((place, weight, used))
        total = sum(weight for _, weight, _ in parts) or 1.0
        found += [Leaf((level.priority, level.distance, place), level.share * weight / total, used) for place, weight, used in parts]
    return found
