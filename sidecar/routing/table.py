"""A route table, compiled: `find` is asked once for each request, and once more after a reroute.

The most specific domain decides the virtual host, then the first of its routes that takes the request wins. No route in it means no route at all: other virtual
hosts are not looked at (as in Envoy).
"""

from __future__ import annotations

from typing import Any

from sidecar.message import RequestHead
from sidecar.model import Route, RouteTable, VirtualHost
from sidecar.routing.domains import DomainMap
from sidecar.routing.match import HeadTest, PathTest, compile_path, compile_tests
from sidecar.routing.normalize import wire_prefix

_QUESTION_MARK = ord("?")  # looking for b"?" in octets makes an error first, because it is no number


class RouteEntry:
    """One route with its compiled tests. `compiled` belongs to whoever assembles the runtime; it is not looked at here.

    `name`: the route's own, or "virtual-host[index]".
    """

    __slots__ = ("compiled", "name", "prefix", "route", "takes_path", "tests", "virtual_host")

    def __init__(self, route: Route, virtual_host: VirtualHost, name: str) -> None:
        self.route = route
        self.virtual_host = virtual_host
        self.name = name
        self.takes_path: PathTest | None = compile_path(route.match)
        # The usual test, without a call of ours.
        self.prefix: bytes | None = None
        if route.match.prefix is not None and self.takes_path is not None:
            self.prefix = wire_prefix(route.match.prefix)
        self.tests: tuple[HeadTest, ...] = compile_tests(route.match)
        self.compiled: Any = None

    @property
    def takes_everything(self) -> bool:
        """No test at all?"""
        return self.takes_path is None and not self.tests

    def __repr__(self) -> str:
        return f"<RouteEntry {self.name}>"


class _Routes:
    """The routes of one virtual host. `always`: the first route when it takes everything."""

    __slots__ = ("always", "entries")

    def __init__(self, entries: tuple[RouteEntry, ...]) -> None:
        self.entries = entries
        self.always = entries[0] if entries and entries[0].takes_everything else None


class Table:
    """See `compile_table`. `entries` are all routes, in the order of the configuration."""

    __slots__ = ("_domains", "_only", "entries", "name")

    def __init__(self, name: str, domains: DomainMap[_Routes], entries: tuple[RouteEntry, ...]) -> None:
        self.name = name
        self.entries = entries
        self._domains = domains
        self._only = domains.only

    def find(self, head: RequestHead) -> RouteEntry | None:
        """The route that takes this request, or None. `head.path` must be normalized already (`sidecar.routing.normalize`)."""
        routes = self._only or self._domains.find(head.authority)
        if routes is None:
            return None
        if routes.always is not None:
            return routes.always
        path = head.path
        if _QUESTION_MARK in path:
            path = path[: path.index(b"?")]
        for entry in routes.entries:
            prefix = entry.prefix
            if prefix is not None:
                if not path.startswith(prefix):
                    continue
            else:
                takes_path = entry.takes_path
                if takes_path is not None and not takes_path(path):
                    continue
            if not entry.tests or _all(entry.tests, head):
                return entry
        return None


def _all(tests: tuple[HeadTest, ...], head: RequestHead) -> bool:
    for test in tests:  # noqa: SIM110 - a generator costs more than the tests
        if not test(head):
            return False
    return True


def compile_table(table: RouteTable) -> Table:
    """The table, ready to be asked. Raises `ValueError` with the place of the first route or domain that makes no sense."""
    pairs: list[tuple[str, _Routes]] = []
    every: list[RouteEntry] = []
    for host in table.virtual_hosts:
        entries = tuple(_entry(route, host, index) for index, route in enumerate(host.routes))
        every.extend(entries)
        routes = _Routes(entries)
        pairs.extend((domain, routes) for domain in host.domains)
    try:
        domains = DomainMap(pairs)
    except ValueError as error:
        raise ValueError(f"route table {table.name}: {error}") from None
    return Table(table.name, domains, tuple(every))


def _entry(route: Route, host: VirtualHost, index: int) -> RouteEntry:
    name = route.name or f"{host.name}[{index}]"
    try:
        return RouteEntry(route, host, name)
    except ValueError as error:
        raise ValueError(f"route {name}: {error}") from None
