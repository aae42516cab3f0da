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
