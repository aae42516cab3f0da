"""What a DNS answer means for a cluster: which addresses count, when to ask again, and SRV's priorities and weights (RFC 2782) as ours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Literal

import attrs

from sidecar.naming.pace import Die, spread

LookupFamily = Literal["v4_preferred", "auto", "v4_only", "v6_only", "all"]
# Sidecars that started together would ask together for ever; up to a tenth of the TTL earlier spreads them.
JITTER = 0.1
# A weight of 0 is "hardly ever" beside others (RFC 2782): a tenth of the smallest.
WEIGHT_SCALE = 10
MAX_WEIGHT = 1_000_000  # of an endpoint


@attrs.frozen
class Service:
    """One SRV record with the addresses of its target. `target` has no dot at its end."""

    priority: int
    weight: int
    port: int
    target: str
    hosts: tuple[str, ...] = ()


@attrs.frozen
class Weighed:
    """An address of a service, with priority and weight as an endpoint has them: priorities from 0 without gaps, 0 first."""

    host: str
    port: int
    priority: int
    weight: int
    target: str


def wanted_types(family: LookupFamily) -> tuple[tuple[str, ...], bool]:
    """The record types to ask for, and whether the first that has any is enough (Envoy: dns_lookup_family)."""
    return {
        "v4_preferred": (("A", "AAAA"), True),
        "auto": (("AAAA", "A"), True),
        "v4_only": (("A",), True),
        "v6_only": (("AAAA",), True),
        "all": (("A", "AAAA"), False),
    }[family]


def refresh_after(ttl: float, least: float, most: float, die: Die) -> float:
    """Seconds until the next look-up: the answer's TTL within bounds, a little earlier by chance, but never below `least`."""
    return max(least, spread(min(ttl, most), JITTER, die))


def weigh(services: Iterable[Service]) -> list[Weighed]:
    """The addresses of SRV records: the lowest priority number becomes 0, the next 1, and so on, because endpoints' priorities have no gaps. A target's
    weight is shared by its addresses; the numbers are as small as they can be without changing their ratio.
    """
    by_priority: dict[int, list[Service]] = {}
    for service in services:
        if service.hosts:
            by_priority.setdefault(service.priority, []).append(service)
    weighed: list[Weighed] = []
    for rank, (_, peers) in enumerate(sorted(by_priority.items())):
        weights = _whole([Fraction(each.weight * WEIGHT_SCALE or 1, len(each.hosts)) for each in peers])
        weighed += [Weighed(host, each.port, rank, weight, each.target) for each, weight in zip(peers, weights, strict=True) for host in each.hosts]
    return weighed


def _whole(shares: Sequence[Fraction]) -> list[int]:
    """Whole numbers in the ratio of these, from 1 to `MAX_WEIGHT` (then rounded)."""
    scale = math.lcm(*(each.denominator for each in shares))
    whole = [int(each * scale) for each in shares]
    divisor = max(math.gcd(*whole), -(-max(whole) // MAX_WEIGHT))
    return [max(1, each // divisor) for each in whole]
