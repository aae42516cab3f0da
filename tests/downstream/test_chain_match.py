"""`sidecar/downstream/chain_match.py`: a table of chains, connections, and which takes which."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from sidecar.address import Address
from sidecar.downstream.chain_match import Candidate, choose, needs_sniffing
from sidecar.facts import ConnectionFacts
from sidecar.model import ChainMatch

FACTS = ConnectionFacts(1, "l", "inbound", Address("10.1.2.3", 5), Address("10.0.0.9", 443))
CHAINS: dict[str, Any] = {
    "any": {},
    "port": {"destination_port": 443},
    "net8": {"destination_prefixes": ("10.0.0.0/8",)},
    "net24": {"destination_prefixes": ("192.168.0.0/16", "10.0.0.0/24")},
    "exact": {"server_names": ("a.example.org",)},
    "suffix": {"server_names": ("*.example.org",)},
    "longer": {"server_names": ("*.b.example.org",)},
    "tls": {"transport_protocol": "tls"},
    "raw": {"transport_protocol": "raw"},
    "h2": {"application_protocols": ("h2", "http/1.1")},
    "source": {"source_prefixes": ("10.1.0.0/16",)},
    "source6": {"source_prefixes": ("fd00::/8",)},
}


@pytest.mark.parametrize(
    ("chains", "changes", "protocol", "expected"),
    [
        ("any", {}, "raw", "any"),
        ("", {}, "raw", None),
        ("any port", {}, "raw", "port"),
        ("port", {"local": Address("10.0.0.9", 80)}, "raw", None),
        ("port any", {"original_destination": Address("1.1.1.1", 80)}, "raw", "any"),
        ("any net8 net24", {}, "raw", "net24"),
        ("net8 net24", {"local": Address("10.9.9.9", 1)}, "raw", "net8"),
        ("net8 any", {"local": Address("fd00::1", 1)}, "raw", "any"),
        ("net8 any", {"local": Address(path="/run/x")}, "raw", "any"),
        ("suffix exact", {"server_name": "A.example.ORG"}, "tls", "exact"),
        ("suffix longer any", {"server_name": "x.b.example.org"}, "tls", "longer"),
        ("suffix longer", {"server_name": "b.example.org"}, "tls", "suffix"),
        ("suffix any", {"server_name": "example.org"}, "tls", "any"),
        ("exact suffix", {"server_name": ""}, "tls", None),
        ("tls raw", {}, "raw", "raw"),
        ("tls any", {}, "raw", "any"),
        ("h2 any", {"application_protocols": ("h2",)}, "tls", "h2"),
        ("h2 any", {"application_protocols": ("spdy",)}, "tls", "any"),
        ("source any", {}, "raw", "source"),
        ("source6 any", {}, "raw", "any"),
        # The first step decides: port beats everything that comes later.
        ("port exact", {"server_name": "a.example.org"}, "tls", "port"),
        ("net24 exact", {"server_name": "a.example.org"}, "tls", "net24"),
        ("exact tls", {"server_name": "a.example.org"}, "tls", "exact"),
    ],
)
def test_most_specific_wins(chains: str, changes: dict[str, Any], protocol: str, expected: str | None) -> None:
    """At each step, in the order port, destination, name, transport, protocols, source."""
    candidates = [Candidate(ChainMatch(**CHAINS[name]), name) for name in chains.split()]
    assert choose(candidates, attrs.evolve(FACTS, **changes), protocol) == expected


def test_no_backtracking() -> None:
    """A chain that was the most specific at one step and fails at a later one leaves nobody."""
    candidates = [Candidate(ChainMatch(destination_port=443, transport_protocol="tls"), "both"), Candidate(ChainMatch(), "any")]
    assert choose(candidates, FACTS, "tls") == "both"
    assert choose(candidates, FACTS, "raw") is None


@pytest.mark.parametrize(("name", "sniffs"), [("any", False), ("port", False), ("source", False), ("tls", True), ("exact", True), ("h2", True)])
def test_sniffing_only_where_it_decides(name: str, sniffs: bool) -> None:
    """Server-first protocols on plain chains never wait."""
    assert needs_sniffing([Candidate(ChainMatch(**CHAINS[name]), name)]) is sniffs
