"""Lists of IP prefixes."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, strategies as st

from sidecar.policy.prefixes import CACHED_HOSTS, PrefixList

LIST = ("10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "fe80::/10", "unix")


@pytest.mark.parametrize("host", ["10.1.2.3", "192.0.2.7", "2001:db8::1", "fe80::1%eth0", "::ffff:10.0.0.1", ""])
def test_covered(host: str) -> None:
    """Addresses in one of the prefixes, whichever way they are written."""
    assert PrefixList(LIST).covers(host)


@pytest.mark.parametrize("host", ["11.0.0.1", "192.0.2.8", "2001:db9::1", "::a00:1", "localhost", "10.1.2"])
def test_not_covered(host: str) -> None:
    """Other addresses, and what is no address."""
    assert not PrefixList(LIST).covers(host)


def test_unix_only_where_written() -> None:
    """A peer on a UNIX socket has no address."""
    assert not PrefixList(("0.0.0.0/0", "::/0")).covers("")


def test_empty() -> None:
    """An empty list is false and covers nobody."""
    assert not PrefixList(())
    assert not PrefixList(()).covers("10.0.0.1")


@given(st.lists(st.ip_addresses(v=4), min_size=1, max_size=5), st.integers(0, 32), st.ip_addresses(v=4))
def test_as_the_standard_library_says(bases: list[ipaddress.IPv4Address], length: int, host: ipaddress.IPv4Address) -> None:
    """The same answers as `ipaddress`."""
    networks = [ipaddress.ip_network((base, length), strict=False) for base in bases]
    assert PrefixList(str(network) for network in networks).covers(str(host)) == any(host in network for network in networks)


def test_answers_are_forgotten() -> None:
    """A client with many addresses does not fill memory."""
    prefixes = PrefixList(("10.0.0.0/8",))
    for number in range(CACHED_HOSTS + 10):
        prefixes.covers(str(ipaddress.ip_address(number)))
    assert len(prefixes._answers) <= CACHED_HOSTS


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "example.org", ""])
def test_not_a_prefix(text: str) -> None:
    """Host bits, impossible lengths and names are refused."""
    with pytest.raises(ValueError, match=r"address|network|host bits|netmask"):
        PrefixList((text,))
