"""What must hold within one struct: the pure judgements here, whole files in tests/data/config (see test_load)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sidecar.config.checks import host_problem, pattern_problem, prefix_problem, spiffe_problem


@pytest.mark.parametrize("text", ["spiffe://example.org", "spiffe://example.org/ns/shop/sa/orders", "spiffe://a-b_c.1/x"])
def test_spiffe_ids(text: str) -> None:
    """A trust domain and a path of plain segments."""
    assert spiffe_problem(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "orders",
        "http://a/b",
        "spiffe://",
        "spiffe:///a",
        "spiffe://A/b",
        "spiffe://a/",
        "spiffe://a//b",
        "spiffe://a/./b",
        "spiffe://a/..",
        "spiffe://a/b?c",
        "spiffe://a:80/b",
        "spiffe://u@a/b",
        "spiffe://a/%41",
        "spiffe://a/" + "b" * 2048,
    ],
)
def test_not_spiffe_ids(text: str) -> None:
    """What another reader could take for another identity is refused."""
    assert spiffe_problem(text)


@pytest.mark.parametrize("text", ["a", "a.example.org", "10.0.0.1", "[::1]", "a_b", "xn--bcher-kva.example"])
def test_hosts(text: str) -> None:
    """Names and addresses; with a port where one may follow."""
    assert host_problem(text) == ""
    assert host_problem(f"{text}:80", port=True) == ""
    assert host_problem(f"{text}:80")


@pytest.mark.parametrize("text", ["", "a b", ".a", "a.", "a..b", "-a", "a/b", "[1]", "::1", "a" * 254])
def test_not_hosts(text: str) -> None:
    """Everything else is refused, with or without a port."""
    assert host_problem(text)
    assert host_problem(text, port=True)


@pytest.mark.parametrize(
    ("text", "is_good"),
    [
        ("*", True),
        ("a.b", True),
        ("*.a.b", True),
        ("a.*", True),
        ("[::1]", True),
        ("*.*", False),
        ("a.*.b", False),
        ("*a", False),
        ("a:80", False),
        ("", False),
    ],
)
def test_domain_patterns(text: str, is_good: bool) -> None:
    """One star, at one end, as a whole label."""
    assert (pattern_problem(text) == "") is is_good


@pytest.mark.parametrize(
    ("text", "is_good"), [("10.0.0.0/8", True), ("10.0.0.1", True), ("::/0", True), ("10.0.0.1/8", False), ("10.0.0.0/33", False), ("a", False)]
)
def test_prefixes(text: str, is_good: bool) -> None:
    """Addresses and prefixes whose bits fit their length."""
    assert (prefix_problem(text) == "") is is_good


ROUTE = "route_tables: [{name: t, virtual_hosts: [{name: v, routes: [%s]}]}]\nclusters: [{name: c, endpoints: []}]"


@pytest.mark.parametrize(
    "route",
    [
        "{match: {prefix: '${A}'}, cluster: c}",
        "{match: {prefix: 5}, cluster: c}",
        "{cluster: 5}",
        "{weighted_clusters: [{cluster: 5}]}",
        "{match: {regex: [a]}, cluster: c, rewrite: {prefix: /a}}",
        "{redirect: {host: 5}}",
    ],
)
def test_a_wrong_value_has_no_consequences(refused: Callable[..., list[str]], route: str) -> None:
    """A value of the wrong type is one problem: that the key is there counts, and what it would have meant is not judged."""
    assert len(refused(ROUTE % route)) == 1


@pytest.mark.parametrize(
    "route", ["{match: {path: '*'}, cluster: c}", "{cluster: c, weighted_clusters: []}", "{cluster: c, redirect: null}", "{redirect: {strip_query: true}}"]
)
def test_what_is_empty_is_not_there(loaded: Callable[..., object], route: str) -> None:
    """Null and an empty list count as nothing; so does what changes nothing else."""
    assert loaded(ROUTE % route)
