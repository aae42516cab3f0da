"""The model's part about where a cluster's requests go: endpoints, where they stand, and how requests are spread over them."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from sidecar.address import Address
from sidecar.model.scalars import Count, Weight


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
    requests. `hostname`: its own name, for health checks and TLS.
    """

    address: Address
    weight: Weight = 1
    priority: Count = 0
    locality: Locality | None = None
    metadata: dict[str, str] = {}
    health: Literal["healthy", "draining", "unhealthy"] = "healthy"
    hostname: str = ""
