"""Route tables: which route takes which request."""

from __future__ import annotations

import pytest

from sidecar.model import Route, RouteMatch, RouteTable, ValueMatch, VirtualHost
from sidecar.routing.table import Table, compile_table
from sidecar.testing import make_request


def table(*hosts: VirtualHost) -> Table:
    return compile_table(RouteTable(name="t", virtual_hosts=hosts))


def route(name: str = "", **match: object) -> Route:
    return Route(name=name, match=RouteMatch(**match), cluster="c")  # type: ignore[arg-type]


SHOP = VirtualHost(
    name="shop",
    domains=("shop.example",),
    routes=(
        route("exact", path="/a"),
        route("beta", prefix="/a", headers=(ValueMatch(name="x-beta"),)),
        route("posts", prefix="/a/", methods=("POST",)),
        route("segment", segment_prefix="/b"),
        route("", regex="/c/[0-9]+"),
    ),
)
OTHERS = VirtualHost(name="others", domains=("*",), routes=(route("all"), route("never", path="/a")))


@pytest.mark.parametrize(
    ("authority", "method", "path", "headers", "expected"),
    [
        ("shop.example", "GET", "/a", {}, "exact"),
        ("shop.example:8080", "GET", "/a?b", {}, "exact"),
        ("shop.example", "GET", "/ab", {"x-beta": "1"}, "beta"),
        ("shop.example", "POST", "/a/1", {}, "posts"),
        ("shop.example", "GET", "/a/1", {}, None),
        ("shop.example", "GET", "/b?/x", {}, "segment"),
        ("shop.example", "GET", "/bc", {}, None),
        ("shop.example", "GET", "/c/17?x", {}, "shop[4]"),
        ("other.example", "GET", "/a", {}, "all"),
        ("", "OPTIONS", "*", {}, "all"),
        ("db.example:5432", "CONNECT", "", {}, "all"),
    ],
)
def test_first_match_of_the_most_specific_host(authority: str, method: str, path: str, headers: dict[str, str], expected: str | None) -> None:
    """The domain decides first; a host whose routes do not match has no fallback in another host."""
    entry = table(SHOP, OTHERS).find(make_request(method, path, authority, headers))
    assert (None if entry is None else entry.name) == expected


def test_one_host_for_all_names() -> None:
    """With nothing but a star, the authority is not looked at."""
    entry = table(OTHERS).find(make_request(authority="whoever.example"))
    assert entry is not None
    assert entry.route is OTHERS.routes[0]
    assert entry.virtual_host is OTHERS
    assert entry.compiled is None


def test_entries_are_all_routes_in_order() -> None:
    """Assembly finds every route to fill in its runtime."""
    assert [entry.name for entry in table(SHOP, OTHERS).entries] == ["exact", "beta", "posts", "segment", "shop[4]", "all", "never"]


def test_a_host_without_routes_takes_its_requests() -> None:
    """They have no route, whatever other hosts offer."""
    assert table(VirtualHost(name="empty", domains=("a.example",), routes=()), OTHERS).find(make_request(authority="a.example")) is None


def test_mistakes_name_their_place() -> None:
    """The sentence says which route, or which table."""
    with pytest.raises(ValueError, match="route broken: not a regular expression"):
        table(VirtualHost(name="v", routes=(route("broken", regex="["),)))
    with pytest.raises(ValueError, match="route table t: the domain"):
        table(SHOP, SHOP)
