"""What must hold between the parts of a file; whole files stand in tests/data/config/broken_semantic (see test_load)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

LISTENERS = "admin: %s\nlisteners:\n- {name: a, address: '%s', direction: inbound, filter_chains: [{tcp: {cluster: c}}]}\n"
LISTENERS += "- {name: b, address: '%s', direction: inbound, filter_chains: [{tcp: {cluster: c}}]}\nclusters: [{name: c, endpoints: []}]\n"


@pytest.mark.parametrize(
    "addresses",
    [
        ("null", "127.0.0.1:0", "127.0.0.1:0"),
        ("null", "127.0.0.1:80", "127.0.0.2:80"),
        ("null", "127.0.0.1:80", "127.0.0.1:81"),
        ("null", "0.0.0.0:80", "[::]:80"),
        ("null", "unix:/a", "unix:/b"),
        ("127.0.0.1:1", "127.0.0.1:15000", "127.0.0.1:2"),
    ],
)
def test_addresses_that_go_together(loaded: Callable[..., object], addresses: tuple[str, str, str]) -> None:
    """Other ports, other addresses, other families, and ports that the kernel chooses."""
    assert loaded(LISTENERS % addresses)


@pytest.mark.parametrize(
    "addresses",
    [
        ("null", "127.0.0.1:80", "127.0.0.1:80"),
        ("null", "0.0.0.0:80", "127.0.0.1:80"),
        ("null", "localhost:80", "127.0.0.1:80"),
        ("null", "[::1]:80", "[::]:80"),
        ("null", "unix:/a", "unix:/a"),
        ("127.0.0.1:80", "127.0.0.1:80", "127.0.0.1:81"),
        ("{}", "127.0.0.1:81", "127.0.0.1:15000"),
    ],
)
def test_addresses_that_collide(refused: Callable[..., list[str]], addresses: tuple[str, str, str]) -> None:
    """The second of two that cannot both be bound is told of the first."""
    if addresses[0] == "{}":
        text = (LISTENERS % addresses).removeprefix("admin: {}\n")
    else:
        text = LISTENERS % addresses
    [problem] = refused(text)
    assert "is already taken by" in problem


def test_a_broken_cluster_still_has_its_name(refused: Callable[..., list[str]]) -> None:
    """Who refers to something that is wrong in itself is not told that it is missing."""
    text = "listeners: [{name: a, address: 127.0.0.1:0, direction: inbound, filter_chains: [{tcp: {cluster: c}}]}]\nclusters: [{name: c, endpoints: 5}]"
    assert [each.split(" ")[0] for each in refused(text)] == ["2:33:"]


def test_inline_tables_are_nobody_elses(loaded: Callable[..., object], refused: Callable[..., list[str]]) -> None:
    """Two listeners may each have an inline table of the same name; nobody can refer to one."""
    listener = "{name: %s, address: 127.0.0.1:0, direction: inbound, filter_chains: [{http: {routes: %s}}]}"
    inline = "{name: t, virtual_hosts: []}"
    assert loaded(f"listeners: [{listener % ('a', inline)}, {listener % ('b', inline)}]")
    assert "there is no route table named 't'" in refused(f"listeners: [{listener % ('a', inline)}, {listener % ('b', 't')}]")[0]


def test_overrides_of_a_shared_table(loaded: Callable[..., object]) -> None:
    """An override counts when one of the listeners that use the table has the filter, or when none uses it yet."""
    route = "{cluster: c, filters: [{kind: filter, name: headers, disabled: true}]}"
    table = f"route_tables: [{{name: t, virtual_hosts: [{{name: v, routes: [{route}]}}]}}]\nclusters: [{{name: c, endpoints: []}}]\n"
    listener = "{name: %s, address: 127.0.0.1:0, direction: inbound, filter_chains: [{http: {routes: t, http_filters: [%s]}}]}"
    assert loaded(table)
    assert loaded(table + f"listeners: [{listener % ('a', '')}, {listener % ('b', '{kind: filter, name: headers}')}]")


def test_routes_of_a_shared_table_can_be_asked_for_at_every_listener(loaded: Callable[..., object], refused: Callable[..., list[str]]) -> None:
    """A path with a run of slashes is refused as soon as one of the listeners that use the table merges them; the message names that one."""
    table = "route_tables: [{name: t, virtual_hosts: [{name: v, routes: [{cluster: c, match: {%s}}]}]}]\nclusters: [{name: c, endpoints: []}]\n"
    listener = "{name: %s, address: 127.0.0.1:0, direction: inbound, filter_chains: [{http: {routes: t, merge_slashes: %s}}]}"
    for match in ("path: /a//b", "prefix: //", "segment_prefix: /a//b"):
        text = table % match
        assert loaded(text)
        assert loaded(text + f"listeners: [{listener % ('a', 'false')}, {listener % ('b', 'false')}]")
        [problem] = refused(text + f"listeners: [{listener % ('a', 'false')}, {listener % ('b', 'true')}]")
        assert problem.startswith("1:")
        assert "the listener 'b', which merges slashes" in problem


RULES = "{kind: authorizer, name: rules, config: {rules: [{name: no, action: deny, %s}]}}"


def test_a_rule_that_no_request_can_meet_is_refused(loaded: Callable[..., object], refused: Callable[..., list[str]]) -> None:
    """A deny rule for a path with a run of slashes would be a hole where the listener merges them: exactly, as a prefix, as a suffix, and inverted."""
    listener = "listeners: [{name: in, address: 127.0.0.1:0, direction: inbound, filter_chains: [{http: {merge_slashes: %s, http_filters: [%s], %s}}]}]\n"
    routes = "routes: {name: t, virtual_hosts: [{name: v, routes: [{cluster: c%s}]}]}"
    end = "clusters: [{name: c, endpoints: []}]"
    for paths in ("paths: [/a//b]", "paths: ['/a//*']", "paths: ['*//b']", "not_paths: [//]"):
        rules = RULES % paths
        assert loaded(listener % ("false", rules, routes % "") + end)
        [problem] = refused(listener % ("true", rules, routes % "") + end)
        assert problem.startswith("1:")
        assert f"rules[0].{paths.split(':')[0]}[0]: no request has" in problem
        # The same rules as a route's own.
        used = listener % ("true", RULES % "paths: [/c]", routes % f", filters: [{rules}]")
        [problem] = refused(used + end)
        assert "the listener 'in', which merges slashes; write" in problem
    assert loaded(listener % ("true", RULES % "paths: [/a/b, '/a/*', '*/b']", routes % "") + end)
