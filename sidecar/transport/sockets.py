"""Sockets' addresses, options and errors in our terms, and what all of this package uses of a reactor."""

from __future__ import annotations

import os
import socket
from errno import errorcode
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from sidecar.address import Address

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall


class Reactor(Protocol):
    """What transports use of a reactor."""

    def addReader(self, reader: Any) -> Any: ...
    def removeReader(self, reader: Any) -> Any: ...
    def addWriter(self, writer: Any) -> Any: ...
    def removeWriter(self, writer: Any) -> Any: ...
    def seconds(self) -> float: ...
    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kwargs: object) -> IDelayedCall: ...


def words(error: OSError) -> str:
    """`error` for a person: "connection refused (ECONNREFUSED)"."""
    if error.errno is None:
        return str(error)
    text = os.strerror(error.errno)
    return f"{text[:1].lower()}{text[1:]} ({errorcode.get(error.errno, error.errno)})"


def address_of(name: Any) -> Address:
    """The `Address` in what the socket module calls one: a tuple for IPv4 and IPv6 (with its scope), str or bytes for UNIX sockets ("" when unnamed)."""
    if isinstance(name, tuple):
        host = name[0]
        if len(name) == 4 and name[3] and "%" not in host:
            host = f"{host}%{name[3]}"
        return Address(host=host, port=name[1])
    if isinstance(name, bytes):
        name = "@" + name[1:].decode("utf-8", "surrogateescape") if name[:1] == b"\0" else name.decode("utf-8", "surrogateescape")
    # A client's UNIX socket is usually unnamed; "@" alone is the abstract namespace's empty name, and keeps such an address telling what it is.
    return Address(path=name or "@")


def sockaddr_of(address: Address) -> Any:
    """What the socket module takes for `address`: a path, an abstract name, or the tuple for a literal IP address. Raises `OSError`."""
    if address.path:
        return f"\0{address.path[1:]}" if address.path.startswith("@") else address.path
    if address.is_ipv6:
        # Knows about scopes ("fe80::1%eth0").
        return socket.getaddrinfo(address.host, address.port, socket.AF_INET6, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)[0][4]
    return address.host, address.port


def twisted_address(address: Address) -> IPv4Address | IPv6Address | UNIXAddress:
    """`address` as Twisted's own transports tell it."""
    if address.path:
        return UNIXAddress(address.path.encode("utf-8", "surrogateescape"))
    if address.is_ipv6:
        return IPv6Address("TCP", address.host, address.port)
    return IPv4Address("TCP", address.host, address.port)


def set_tcp_options(skt: socket.socket) -> None:
    """Small messages leave at once, and a dead peer is found out in the end. Accepted sockets inherit both from the listening one (Linux, BSD)."""
    if skt.family != socket.AF_UNIX:
        skt.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        skt.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
