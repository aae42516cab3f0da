"""How near an endpoint is, and what its locality weighs."""

from __future__ import annotations

from collections.abc import Mapping

from sidecar.model import Locality

NOWHERE = Locality()


def distance(own: Locality, other: Locality | None) -> int:
    """How many of the parts that we know of ourselves differ, from the narrowest that is not the same as ours to the widest: 0 for the same place."""
    known = [own.region, own.zone, own.sub_zone]
    while known and not known[-1]:
        known.pop()
    there = other or NOWHERE
    for depth, (ours, theirs) in enumerate(zip(known, (there.region, there.zone, there.sub_zone), strict=False)):
        if ours != theirs:
            return len(known) - depth
    return 0


def weight_of(locality: Locality, weights: Mapping[str, int]) -> int:
    """The weight written for this locality ("region/zone/sub_zone"), or for the narrowest one around it; 1 when none is."""
    parts = [locality.region, locality.zone, locality.sub_zone]
    while parts:
        found = weights.get("/".join(parts).rstrip("/"))
        if found is not None:
            return found
        parts.pop()
    return 1
