"""What tells callers apart for a rate limit: names of descriptors, compiled to one function from an exchange to their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sidecar.headers import field

Getter = Callable[[Any], str]
Values = Callable[[Any], tuple[str, ...]]

_HEADER = "header:"


def _principal(exchange: Any) -> str:
    principal = exchange.principal
    return "" if principal is None else str(principal.name)


def _peer(exchange: Any) -> str:
    peer = exchange.connection.peer
    return str(peer.host or peer)


def _method(exchange: Any) -> str:
    return str(exchange.request.method, "latin-1")


def _path(exchange: Any) -> str:
    return str(exchange.request.path.partition(b"?")[0], "latin-1")


def _authority(exchange: Any) -> str:
    return str(exchange.request.authority.lower(), "latin-1")


def _route(exchange: Any) -> str:
    return str(exchange.route_name)


def _cluster(exchange: Any) -> str:
    return str(exchange.cluster_name)


DESCRIPTORS: dict[str, Getter] = {
    "principal": _principal,
    "peer": _peer,
    "method": _method,
    "path": _path,
    "authority": _authority,
    "route": _route,
    "cluster": _cluster,
}


def _header(name: bytes) -> Getter:
    def value(exchange: Any) -> str:
        values = exchange.request.headers.get_all(name)
        return str(b",".join(values), "latin-1")

    return value


def compile_descriptor(name: str) -> Getter:
    """The function for one descriptor; "" is its value where there is none. Raises `ValueError` for a name that is none, listing those there are."""
    if name.startswith(_HEADER):
        return _header(field(name[len(_HEADER) :].encode(), b"")[0])
    getter = DESCRIPTORS.get(name)
    if getter is None:
        raise ValueError(f"no descriptor {name!r}; there are {', '.join(DESCRIPTORS)} and header:<name>")
    return getter


def compile_descriptors(names: tuple[str, ...]) -> Values:
    """The function for a tuple of names, which gives a tuple of as many values. Raises `ValueError` as `compile_descriptor` does."""
    getters = tuple(compile_descriptor(name) for name in names)
    if not getters:
        return lambda exchange: ()
    if len(getters) == 1:
        only = getters[0]
        return lambda exchange: (only(exchange),)
    return lambda exchange: tuple([get(exchange) for get in getters])
