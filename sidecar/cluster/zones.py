"""Zone-aware routing: requests stay in their caller's zone as far as its endpoints can bear that, and no endpoint anywhere gets more than its share
(Envoy: zone_aware_lb_config).

What it takes is known of nobody alone: how many callers there are in each zone. They are the endpoints of the sidecar's own service, a cluster like any other.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from sidecar.model import Locality, LocalityLB

NO_ZONE = Locality()


@attrs.frozen
class Callers:
    """How many well endpoints of the sidecar's own service each zone has. `problem`: why that cannot be gone by, or ""."""

    by_zone: Mapping[Locality, int]
    problem: str = ""


def zone_of(locality: Locality | None) -> Locality:
    """Its zone; what is narrower does not count."""
    return NO_ZONE if locality is None else locality if not locality.sub_zone else Locality(region=locality.region, zone=locality.zone)


def why_not(settings: LocalityLB, well: Mapping[Locality, int], callers: Callers | None) -> str:
    """Why requests are spread over all zones alike, or "". `well`: a cluster's well endpoints by zone."""
    if callers is None or not callers.by_zone:
        return "no: nothing is known of the callers (local_cluster_name)"
    if callers.problem:
        return f"no: {callers.problem}"
    if sum(well.values()) < settings.min_cluster_size:
        return f"no: fewer than {settings.min_cluster_size} endpoints are healthy (min_cluster_size)"
    return "no: there is one zone" if len(well) < 2 else ""


def zone_shares(own: Locality, well: Mapping[Locality, int], callers: Mapping[Locality, int]) -> dict[Locality, float]:
    """What each zone gets of the requests of a caller in zone `own`; they sum to 1. Neither mapping is empty.

    With at least as large a part of the endpoints as of the callers a zone can bear its callers alone. Else they send it what it can bear, and the rest to
    those zones that have endpoints to spare, by how many.
    """
    endpoints, everybody = sum(well.values()), sum(callers.values())
    parts = {zone: count / endpoints for zone, count in well.items()}
    near, mine = parts.get(own, 0.0), callers.get(own, 0) / everybody
    stays = 1.0 if near and near >= mine else near / mine if mine else 0.0
    spare = {zone: max(0.0, part - callers.get(zone, 0) / everybody) for zone, part in parts.items() if zone != own}
    total = sum(spare.values())
    if not total:
        # Rounding, when the zones fit exactly.
        spare, total = parts, 1.0
    shares = {zone: (1.0 - stays) * each / total for zone, each in spare.items()}
    if own in parts:
        shares[own] = shares.get(own, 0.0) + stays
    return shares


def mixed(shares: Mapping[Locality, float], well: Mapping[Locality, int], percent: int) -> dict[Locality, float]:
    """`percent` of the requests by these shares, the others by numbers of endpoints (Envoy: routing_enabled)."""
    endpoints = sum(well.values())
    return {zone: (percent * shares.get(zone, 0.0) + (100 - percent) * count / endpoints) / 100.0 for zone, count in well.items()}
