"""What must hold within one struct: the pure judgements here, whole files in tests/data/config (see test_load)."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings, strategies as st

from sidecar.config.checks import CHECKS, host_problem, pattern_problem, prefix_problem, spiffe_problem
from sidecar.config.convert import FAILED, Conversion
from sidecar.config.document import Document
from sidecar.matching import compile_header_match
from sidecar.model import ChainMatch, Listener, RouteTable
from sidecar.routing.rewrite import compile_redirect, compile_rewrite
from sidecar.routing.table import compile_table


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


ODD = st.lists(st.sampled_from([*"/.%aA2eEx?#*; \\ä\n", "(?u)", r"\u0041", r"\1", "//", "/../", "%2F"]), max_size=6).map("".join)


@st.composite
def _routes(draw: st.DrawFn) -> dict[str, object]:
    """A route with odd texts in one or two places."""
    match = {draw(st.sampled_from(["path", "prefix", "segment_prefix", "regex"])): draw(ODD)}
    action = draw(
        st.sampled_from([
            {"cluster": "c"},
            {"cluster": "c", "rewrite": {"prefix": draw(ODD)}},
            {"cluster": "c", "rewrite": {"regex": draw(ODD), "substitution": draw(ODD)}},
            {"cluster": "c", "mirrors": [{"cluster": "c", "headers": [{"name": draw(ODD), "regex": draw(ODD)}]}]},
            {"redirect": {"path": draw(ODD)}},
            {"redirect": {"prefix": draw(ODD)}},
        ])
    )  # fmt: skip
    return {"match": match, **action}


@settings(max_examples=300, deadline=None)
@given(_routes())
@example({"match": {"path": "/a/../b"}, "cluster": "c"})
@example({"match": {"regex": "(?u)a"}, "cluster": "c"})
@example({"match": {"path": "*"}, "cluster": "c", "rewrite": {"prefix": "/b"}})
@example({"match": {"prefix": "/"}, "cluster": "c", "rewrite": {"regex": "a", "substitution": "ä"}})
@example({"match": {"prefix": "/"}, "redirect": {"path": "/a\nb"}})
@example({"match": {"prefix": "/"}, "cluster": "c", "mirrors": [{"cluster": "c", "headers": [{"name": "a b"}]}]})
def test_what_passes_can_be_started(route: dict[str, object]) -> None:
    """A route that the check takes is one that the table, its rewrites, redirects and mirrors take: a start has no place in the file to point at."""
    text = json.dumps({"name": "t", "virtual_hosts": [{"name": "v", "routes": [route]}]})
    conversion = Conversion(Document("f.yaml", text.replace("${", "$${"), {}), None, CHECKS)  # type: ignore[arg-type]
    table = conversion.root(RouteTable)
    assert (table is FAILED) == bool(conversion.problems)
    if table is FAILED:
        return
    for entry in compile_table(table).entries:
        compile_rewrite(entry.route.rewrite, entry.route.match)
        if entry.route.redirect is not None:
            compile_redirect(entry.route.redirect, entry.route.match)
        for mirror in entry.route.mirrors:
            for header in mirror.headers:
                compile_header_match(header)


def test_a_backlog_that_the_system_takes() -> None:
    """listen(2) takes an int; a start would end with a traceback."""
    conversion = Conversion(Document("f.yaml", "{name: a, address: 127.0.0.1:1, direction: inbound, filter_chains: [], backlog: 2147483648}", {}), None, CHECKS)  # type: ignore[arg-type]
    assert conversion.root(Listener) is FAILED
    assert "backlog: expected an integer from 0 to 2147483647, got the number 2147483648" in str([str(each) for each in conversion.problems])


@pytest.mark.parametrize("name", ["*", "www.*"])
def test_server_names_that_no_client_sends(name: str) -> None:
    """A chain would never be taken by them."""
    conversion = Conversion(Document("f.yaml", f"server_names: ['{name}']", {}), None, CHECKS)  # type: ignore[arg-type]
    assert conversion.root(ChainMatch) is FAILED
    assert str(conversion.problems[0]) == (
        f"f.yaml:1:16: server_names[0]: expected a host name or '*.suffix', got '{name}'; a chain without `server_names` takes every name"
    )
