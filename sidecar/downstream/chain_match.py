"""Which filter chain takes a connection: the most specific match wins at each step, without backtracking (Envoy: FilterChainMatch)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any

from sidecar.facts import ConnectionFacts
from sidecar.model import ChainMatch

_Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]


class Candidate:
    """A chain and its match with prefixes parsed. `chain` is whatever the caller wants back."""

    __slots__ = ("chain", "destinations", "match", "sources")

    def __init__(self, match: ChainMatch, chain: Any) -> None:
        self.match = match
        self.chain = chain
        self.destinations: _Networks = tuple(ipaddress.ip_network(prefix, strict=False) for prefix in match.destination_prefixes)
        self.sources: _Networks = tuple(ipaddress.ip_network(prefix, strict=False) for prefix in match.source_prefixes)


def needs_sniffing(candidates: Sequence[Candidate]) -> bool:
    """Must the first bytes be looked at before a chain can be chosen?"""
    return any(each.match.transport_protocol or each.match.server_names or each.match.application_protocols for each in candidates)


def choose(candidates: Sequence[Candidate], facts: ConnectionFacts, transport_protocol: str) -> Any:
    """The chain for this connection, or None. `transport_protocol`: "tls" or "raw", as sniffed."""
    destination = facts.original_destination or facts.local
    left = _best(candidates, lambda each: _score_port(each.match.destination_port, destination.port))
    left = _best(left, lambda each: _score_networks(each.destinations, destination.host))
    left = _best(left, lambda each: _score_names(each.match.server_names, facts.server_name))
    left = _best(left, lambda each: _score_exact(each.match.transport_protocol, transport_protocol))
    left = _best(left, lambda each: _score_protocols(each.match.application_protocols, facts.application_protocols))
    left = _best(left, lambda each: _score_networks(each.sources, facts.peer.host))
    return left[0].chain if left else None


def _best(candidates: Sequence[Candidate], score: Callable[[Candidate], int]) -> list[Candidate]:
    """Those with the highest score; a negative score is no match, zero is "any"."""
    scored = [(score(each), each) for each in candidates]
    top = max((value for value, _ in scored), default=-1)
    return [each for value, each in scored if value == top] if top >= 0 else []


def _score_port(wanted: int | None, port: int) -> int:
    return 0 if wanted is None else 1 if wanted == port else -1


def _score_exact(wanted: str | None, value: str) -> int:
    return 0 if wanted is None else 1 if wanted == value else -1


def _score_networks(networks: _Networks, host: str) -> int:
    if not networks:
        return 0
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return -1
    return max((1 + network.prefixlen for network in networks if network.version == address.version and address in network), default=-1)


def _score_names(patterns: tuple[str, ...], name: str) -> int:
    """An exact name beats the longest "*.suffix"."""
    if not patterns:
        return 0
    name = name.lower()
    best = -1
    for pattern in patterns:
        pattern = pattern.lower()
        if name and pattern == name:
            return 10_000
        if pattern.startswith("*.") and name.endswith(pattern[1:]) and len(name) > len(pattern) - 1:
            best = max(best, len(pattern))
    return best


def _score_protocols(wanted: tuple[str, ...], offered: tuple[str, ...]) -> int:
    return 0 if not wanted else 1 if set(wanted) & set(offered) else -1
