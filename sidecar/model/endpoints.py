"""The model's part about where a cluster's requests go: endpoints, where they stand, and how requests are spread over them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from sidecar.address import Address
from sidecar.model.scalars import Count, Percent, Weight

OVERPROVISIONING_PERCENT = 140  # Envoy: overprovisioning_factor; a priority with 5 of 7 endpoints healthy still takes all of its requests
ZONE_CLUSTER_SIZE = 6  # Envoy: min_cluster_size; of fewer endpoints each that fails moves too much from zone to zone
ENDPOINT_METRICS = 100  # endpoints of a cluster with metrics of their own, eight series each: what a scraper takes without a thought


# What is known of an endpoint from outside.
Health = Literal["healthy", "degraded", "draining", "unhealthy"]


class Locality(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where something runs, from wide to narrow (Envoy: Locality). Unknown parts are empty."""

    region: str = ""
    zone: str = ""
    sub_zone: str = ""

    def __str__(self) -> str:
        return "/".join((self.region, self.zone, self.sub_zone)).rstrip("/")


class Endpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One address of a cluster; in YAML also just the address as a string. `priority`: 0 is used first, higher ones when too few of those before are
    healthy. `metadata`: names and values that subsets are chosen by. `health`: what is known of it from outside: "draining" and "unhealthy" get no new
    requests, "degraded" those that the healthy ones cannot take. `hostname`: its own name, which health checks ask for.
    """

    address: Address
    weight: Weight = 1
    priority: Count = 0
    locality: Locality | None = None
    metadata: dict[str, str] = {}
    health: Health = "healthy"
    hostname: str = ""


class DNSName(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A name and what is known of all endpoints behind it (Envoy: an lb_endpoint of a strict DNS cluster). `weight`: of each of its addresses; SRV records have
    their own. `priority`: of its endpoints, or added to those of SRV records. `locality`, `metadata`: as of an `Endpoint`."""

    name: str
    weight: Weight = 1
    priority: Count = 0
    locality: Locality | None = None
    metadata: dict[str, str] = {}


class SlowStart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint that is new, or well again, gets its share of requests little by little over `slow_start_window` (Envoy: slow_start_config). Its weight
    grows with (time / window) ^ (1 / `aggression`): 1 is linear, more is faster at first. `min_weight_percent`: what it begins with.
    """

    slow_start_window: Annotated[float, Meta(ge=0.1, extra={"syntax": "duration"})]
    aggression: Annotated[float, Meta(gt=0, le=100)] = 1.0
    min_weight_percent: Annotated[int, Meta(ge=1, le=100)] = 10


class LocalityLB(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How localities count. "prefer": those nearest to this sidecar's own locality are used first, farther ones when too few of those before are healthy
    (Istio: locality failover). "weighted": each locality of a priority gets the share that its weight says, less while too few of its endpoints are healthy
    (Envoy: locality_weighted_lb_config); `weights`: of "region", "region/zone" or "region/zone/sub_zone", 1 where none is written. "zone_aware": requests stay in
    this sidecar's zone as far as its endpoints bear those of all callers there (Envoy: zone_aware_lb_config); who these are says `local_cluster_name`. Of so many
    requests (`routing_enabled`), and not while fewer than `min_cluster_size` endpoints are healthy. `fail_traffic_on_panic`: with too few healthy ones nobody is used.
    """

    mode: Literal["prefer", "weighted", "zone_aware"]
    weights: dict[str, Weight] = {}
    routing_enabled: Percent = 100
    min_cluster_size: Count = ZONE_CLUSTER_SIZE
    fail_traffic_on_panic: bool = False


class SubsetSelector(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For requests that ask for just these `keys`: who serves when no endpoint has what they ask for (Envoy: LbSubsetSelector). "keys_subset": those that have it
    in so far as it is about `fallback_keys_subset`, by whose own selector it goes on; the rest as of `SubsetLB`.
    """

    keys: tuple[str, ...]
    fallback_policy: Literal["no_fallback", "any_endpoint", "default_subset", "keys_subset"]
    fallback_keys_subset: tuple[str, ...] = ()


class SubsetLB(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Routes with `metadata_match` use only the endpoints whose metadata has all of it (Envoy: lb_subset_config). `fallback_policy`: who serves when there is no such
    endpoint, and requests without a match: nobody, any endpoint, or those that `default_subset` matches. `subset_selectors`: another policy by what is asked for.
    """

    fallback_policy: Literal["no_fallback", "any_endpoint", "default_subset"] = "any_endpoint"
    default_subset: dict[str, str] = {}
    subset_selectors: tuple[SubsetSelector, ...] = ()
