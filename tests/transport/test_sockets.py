"""Addresses and errors of the socket module in our terms, and back."""

from __future__ import annotations

import errno

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from sidecar.address import Address
from sidecar.transport.sockets import address_of, sockaddr_of, twisted_address, words


def test_address_of() -> None:
    """All forms of the socket module's names are understood."""
    assert address_of(("::1", 80, 0, 0)) == Address(host="::1", port=80)
    assert address_of(("fe80::1", 80, 0, 2)) == Address(host="fe80::1%2", port=80)
    assert address_of("/run/x") == Address(path="/run/x")
    assert address_of(b"\0name") == Address(path="@name")
    assert address_of("") == Address(path="@")


def test_errors_in_words() -> None:
    """Known numbers become words with the name; others stay readable."""
    assert words(OSError(errno.ECONNREFUSED, "")) == "connection refused (ECONNREFUSED)"
    assert words(OSError(99999, "")) == "unknown error 99999 (99999)"
    assert words(OSError("no number")) == "no number"


@pytest.mark.parametrize(
    ("address", "name", "twisted"),
    [
        (Address(host="127.0.0.1", port=80), ("127.0.0.1", 80), IPv4Address("TCP", "127.0.0.1", 80)),
        (Address(host="::1", port=80), ("::1", 80, 0, 0), IPv6Address("TCP", "::1", 80)),
        (Address(path="/run/x"), "/run/x", UNIXAddress(b"/run/x")),
        (Address(path="@x"), "\0x", UNIXAddress(b"@x")),
    ],
)
def test_addresses_for_the_socket_module_and_for_twisted(address: Address, name: object, twisted: object) -> None:
    """Each kind of address has its form for both."""
    assert sockaddr_of(address) == name
    assert twisted_address(address) == twisted
