"""Connections by the peer's address."""

from __future__ import annotations

from typing import Any

import msgspec
from zope.interface import implementer

from sidecar.interfaces import IConnectionFilter
from sidecar.policy.prefixes import PrefixList
from sidecar.verdicts import ALLOW, Allow, Deny


@implementer(IConnectionFilter)
class AddressList:
    """Connection filter `address-list`: an address in `deny` is refused; with a list in `allow` every other address must be in it."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`allow`, `deny`: IP prefixes, addresses, or "unix" for peers on a UNIX socket. An empty `allow` takes everybody whom `deny` does not name."""

        allow: tuple[str, ...] = ()
        deny: tuple[str, ...] = ()

        def __post_init__(self) -> None:
            """Raises `ValueError` for what is no prefix, so that `sidecar check` finds it."""
            PrefixList((*self.allow, *self.deny))

    def __init__(self, config: Config, context: object) -> None:
        self.allow = PrefixList(config.allow)
        self.deny = PrefixList(config.deny)

    def connection_accepted(self, connection: Any) -> Allow | Deny:
        """See `IConnectionFilter`."""
        host = connection.peer.host
        if self.deny and self.deny.covers(host):
            return Deny(f"{connection.peer} is on the deny list", "deny")
        if self.allow and not self.allow.covers(host):
            return Deny(f"{connection.peer} is not on the allow list", "allow")
        return ALLOW
