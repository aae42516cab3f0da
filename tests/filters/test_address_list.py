"""Connections by address."""

from __future__ import annotations

import pytest
from zope.interface.verify import verifyObject

from sidecar.filters.address_list import AddressList
from sidecar.interfaces import IConnectionFilter
from sidecar.testing import FakeContext, make_connection
from sidecar.verdicts import ALLOW, Deny


def ask(peer: str, **config: tuple[str, ...]) -> object:
    return AddressList(AddressList.Config(**config), FakeContext()).connection_accepted(make_connection(peer))


@pytest.mark.parametrize(
    ("config", "peer", "rule"),
    [
        ({}, "192.0.2.1:1", None),
        ({"allow": ("192.0.2.0/24",)}, "192.0.2.1:1", None),
        ({"allow": ("192.0.2.0/24",)}, "198.51.100.1:1", "allow"),
        ({"allow": ("192.0.2.0/24",), "deny": ("192.0.2.1",)}, "192.0.2.1:1", "deny"),
        ({"deny": ("192.0.2.1",)}, "192.0.2.2:1", None),
        ({"deny": ("2001:db8::/32",)}, "[2001:db8::9]:1", "deny"),
        ({"allow": ("0.0.0.0/0", "::/0")}, "unix:/run/app", "allow"),
        ({"allow": ("unix",)}, "unix:/run/app", None),
    ],
)
def test_lists(config: dict[str, tuple[str, ...]], peer: str, rule: str | None) -> None:
    """Deny wins; with an allow list, who is not on it is refused; the sentence names the peer."""
    answer = ask(peer, **config)
    if rule is None:
        assert answer is ALLOW
    else:
        assert isinstance(answer, Deny)
        assert answer.rule == rule
        assert peer in answer.reason


def test_provides_its_interface() -> None:
    """It is a connection filter."""
    assert verifyObject(IConnectionFilter, AddressList(AddressList.Config(), FakeContext()))


def test_a_wrong_prefix_stops_the_start() -> None:
    """Not the first connection."""
    with pytest.raises(ValueError, match="host bits"):
        ask("192.0.2.1:1", allow=("10.0.0.1/8",))
