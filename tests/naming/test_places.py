"""Hosts and ports of others become addresses, or errors."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sidecar.address import Address
from sidecar.naming.places import Steps, at_once, make_address, sliced


@pytest.mark.parametrize(
    ("host", "made"),
    [
        ("10.0.0.5", "10.0.0.5:80"),
        ("fd00::0:1", "[fd00::1]:80"),
        ("p-1.shop.svc", "p-1.shop.svc:80"),
        ("_a.b", "_a.b:80"),
        ("255.255.255.255", "255.255.255.255:80"),
    ],
)
def test_addresses(host: str, made: str) -> None:
    """IP addresses of both families and host names; each reads back as itself."""
    assert str(make_address(host, 80)) == made
    assert make_address(host, 80) == Address.parse(made)


@pytest.mark.parametrize(
    "host", ["", "10.0.0.256", "10.0.0", "1.2.3.4.5", "a b", "a/b", "-a", "x" * 64, ".".join(["x" * 60] * 5), "fd00::x", "::1%eth0\n", "a..b", "a\n"]
)
def test_what_is_no_host(host: str) -> None:
    """An answer cannot smuggle anything else into an address."""
    with pytest.raises(ValueError, match=r"."):
        make_address(host, 80)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_what_is_no_port(port: int) -> None:
    """Nothing can be connected to there."""
    with pytest.raises(ValueError, match="expected a port from 1 to 65535"):
        make_address("10.0.0.5", port)


@given(st.lists(st.integers()), st.integers(min_value=1, max_value=5))
def test_slices_lose_nothing(items: list[int], size: int) -> None:
    """In order, at most `size` at a time."""
    pieces = list(sliced(items, size))
    assert [item for piece in pieces for item in piece] == items
    assert all(0 < len(piece) <= size for piece in pieces)


def test_steps_at_once() -> None:
    """The result is what the generator returns."""

    def steps() -> Steps[int]:
        yield
        yield
        return 7

    assert at_once(steps()) == 7
