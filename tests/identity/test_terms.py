"""The words that the terms of a connection lend to sentences."""

from __future__ import annotations

import pytest

from sidecar.identity.terms import Terms, is_ip


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (Terms("client", None, "a", hostname="api.example.com"), "the host name api.example.com"),
        (Terms("client", None, "a", identities=frozenset({"spiffe://e/b", "spiffe://e/a"})), "spiffe://e/a or spiffe://e/b"),
        (Terms("client", None, "a", trust_domains=frozenset({"e"})), "an identity of the trust domain e"),
        (Terms("client", None, "a", trust_domains=frozenset({"f", "e"})), "an identity of one of the trust domains e, f"),
    ],
)
def test_whom_we_expect_is_said(terms: Terms, expected: str) -> None:
    """In a fixed order."""
    assert terms.expected == expected


def test_both_sides_have_names() -> None:
    """Also without a certificate and without a cluster."""
    client, server = Terms("client", None, "orders"), Terms("server", None, "payments")
    assert (client.we, client.own_identity) == ("orders (without a certificate)", "")
    assert (client.they("10.0.0.5:1"), client.they("10.0.0.5:1", "payments")) == ("the server at 10.0.0.5:1", "payments at 10.0.0.5:1")
    assert server.they("10.0.0.7:2") == "the client at 10.0.0.7:2"


def test_addresses_are_told_from_names() -> None:
    """Both families."""
    assert is_ip("10.0.0.5") and is_ip("::1")
    assert not is_ip("10.0.0.5.example.org") and not is_ip("")
