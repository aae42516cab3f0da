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
from sidecar.cluster.zones import Callers, mixed, why_not, zone_of, zone_shares
from sidecar.model import Cluster, Locality, LocalityLB

Match = tuple[tuple[str, str], ...]

# What discovery may say of an endpoint that gets new requests.
USED = frozenset({"healthy", "degraded"})


@attrs.define
class Group:
    """Endpoints of one locality in one level, those with weight 0 left out. `uncounted`: those that drain anyway, or are new and not checked yet;
    `staying`: the others; `well` and `degraded`: of them; `present`: those of them to be used in panic."""

    staying: list[Any] = attrs.field(factory=list)
    well: list[Any] = attrs.field(factory=list)
    degraded: list[Any] = attrs.field(factory=list)
    uncounted: list[Any] = attrs.field(factory=list)

    @property
    def present(self) -> list[Any]:
        """Nobody can be served where nothing listens: a health check that finds that is not mistaken, and to send requests there spares nobody."""
        return [endpoint for endpoint in self.staying if not endpoint.is_absent]


@attrs.define
class Level:
    """Endpoints that are as good as each other: of one priority and, where near ones are preferred, equally far away. `groups`: by locality where those have
    weights, by zone where zones count, else one for all. `zone_shares`: what each zone gets, None where they are all used alike; `zone_routing`: a
    word on that."""

    priority: int
    distance: int
    groups: dict[Locality | None, Group] = attrs.field(factory=dict)
    zone_shares: dict[Locality, float] | None = None
    zone_routing: str = ""
    share: float = 0.0
    degraded_share: float = 0.0
    is_panicking: bool = False

    @property
    def counts(self) -> tuple[int, int]:
        """(well, all that count)."""
        return sum(len(group.well) for group in self.groups.values()), sum(len(group.staying) for group in self.groups.values())

    @property
    def degraded(self) -> int:
        """How many of these are degraded."""
        return sum(len(group.degraded) for group in self.groups.values())


@attrs.define
class Leaf:
    """`key`: the same for the same group of endpoints before and after a change (priority, distance, place, is it of degraded ones). `share`: of the requests;
    0 for those that are only asked when others were tried.
    """

    key: tuple[int, int, Locality | None, bool]
    share: float
    endpoints: list[Any]


def is_well(endpoint: Any) -> bool:
    """Does nobody say anything against it: discovery, active checks, its own answers? It may be degraded."""
    health = endpoint.health
    return endpoint.configured.health in USED and endpoint.check_failure is None and (health is None or not health.is_ejected)


def is_degraded(endpoint: Any) -> bool:
    """Is it to be used only where the healthy ones do not suffice, as discovery or a check says (Envoy: degraded)?"""
    return bool(endpoint.is_degraded or endpoint.configured.health == "degraded")


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


def levelled(
    endpoints: Iterable[Any], cluster: Cluster, own: Locality | None, slices: Slices, callers: Callers | None = None
) -> Generator[None, None, list[Level]]:
    """The levels that these endpoints make, those used first in front, each with its share. `own`: where this sidecar runs; `callers`: and others like it."""
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
        place = None if mode in ("", "prefer") else zone_of(configured.locality) if mode == "zone_aware" else configured.locality or NOWHERE
        group = level.groups.get(place)
        if group is None:
            group = level.groups[place] = Group()
        if configured.health == "draining" or endpoint.check_failure == NOT_YET:
            # Nobody knows of the new ones whether they are well: a cluster that grows must not panic and send requests to them.
            group.uncounted.append(endpoint)
            continue
        group.staying.append(endpoint)
        if is_well(endpoint):
            (group.degraded if is_degraded(endpoint) else group.well).append(endpoint)
    ordered = [levels[key] for key in sorted(levels)]
    for level in ordered:
        if not level.counts[1]:
            # They are missed by nobody, unless nobody else is there.
            for group in level.groups.values():
                group.staying = group.uncounted
    counts = [(level.counts[0], level.degraded, level.counts[1]) for level in ordered]
    shares = spread(counts, cluster.overprovisioning_factor, cluster.healthy_panic_threshold)
    for level, (share, degraded, panics) in zip(ordered, shares, strict=True):
        # One that panics uses all of its endpoints alike.
        level.share, level.degraded_share, level.is_panicking = (share + degraded, 0.0, True) if panics else (share, degraded, False)
    if all(level.is_panicking or not level.counts[1] for level in ordered):
        _share_by_presence(ordered)
    if mode == "zone_aware" and ordered:
        # As in Envoy, those of later priorities are too few for it.
        _share_by_zone(ordered[0], cluster.locality_lb, own, callers)
    return ordered


def _share_by_zone(level: Level, settings: LocalityLB | None, own: Locality | None, callers: Callers | None) -> None:
    assert settings is not None
    well = {zone: len(group.well) for zone, group in level.groups.items() if zone is not None and group.well}
    level.zone_routing = "no: it panics" if level.is_panicking else why_not(settings, well, callers)
    if level.zone_routing or callers is None:
        return
    ours = zone_of(own)
    shares = zone_shares(ours, well, callers.by_zone)
    level.zone_routing = "all stay in our zone" if shares.get(ours) == 1.0 else f"{shares.get(ours, 0.0):.0%} stay in our zone, which cannot bear more"
    level.zone_shares = mixed(shares, well, settings.routing_enabled)


def _share_by_presence(levels: Sequence[Level]) -> None:
    """When all levels panic they go by numbers of endpoints, and those where nobody is do not count unless they all are like that."""
    counts = [sum(len(group.present) for group in level.groups.values()) for level in levels]
    total = sum(counts)
    for level, count in zip(levels, counts, strict=True):
        if total:
            level.share = count / total


def leaves(levels: Sequence[Level], cluster: Cluster) -> list[Leaf]:
    """Who is chosen among, in the order in which they are asked when those before were tried: degraded ones after all others."""
    settings = cluster.locality_lb
    is_anybody_there = any(group.present for level in levels for group in level.groups.values())
    found, degraded = [], []
    for level in levels:
        if not level.is_panicking:
            well = [(place, group, group.well) for place, group in level.groups.items()]
            found += _of_level(level, level.share, well, False, cluster)
            worse = [(place, group, group.degraded) for place, group in level.groups.items()]
            degraded += _of_level(level, level.degraded_share, worse, True, cluster)
        elif settings is None or not settings.fail_traffic_on_panic:
            everybody = [(place, group, group.present if is_anybody_there else group.staying) for place, group in level.groups.items()]
            found += _of_level(level, level.share, everybody, False, cluster)
    return found + degraded


def _of_level(level: Level, share: float, groups: Sequence[tuple[Locality | None, Group, list[Any]]], are_degraded: bool, cluster: Cluster) -> list[Leaf]:
    """The leaves of one level, or of its degraded endpoints. `groups`: (place, group, those of it that are used)."""
    settings = cluster.locality_lb
    zones = None if are_degraded else level.zone_shares
    parts: list[tuple[Locality | None, float, list[Any]]] = []
    for place, group, used in groups:
        if not used:
            continue
        if zones is not None and place is not None:
            weight = zones.get(place, 0.0)
        else:
            weight = 1.0 if place is None or settings is None else float(weight_of(place, settings.weights))
            if not level.is_panicking:
                weight = locality_share(weight, len(used), len(group.staying), cluster.overprovisioning_factor)
        parts.append((place, weight, used))
    if settings is not None and settings.mode == "zone_aware" and zones is None and parts:
        parts = [(None, 1.0, [endpoint for _, _, used in parts for endpoint in used])]
    total = sum(weight for _, weight, _ in parts) or 1.0
    return [Leaf((level.priority, level.distance, place, are_degraded), share * weight / total, used) for place, weight, used in parts]
