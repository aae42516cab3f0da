"""Who is calling, by certificate."""

from __future__ import annotations

from typing import Any

import msgspec
from zope.interface import implementer

from sidecar.errors import Unauthenticated
from sidecar.facts import Principal
from sidecar.interfaces import IAuthenticator
from sidecar.verdicts import Refuse

# Identities come from verified certificates, so there are as many as workloads that call this one. An entry is about 500 octets.
CACHED_IDENTITIES = 1024


@implementer(IAuthenticator)
class MTLSPrincipal:
    """Authenticator `mtls`: the SPIFFE ID of the verified client certificate is the principal's name."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`required`: refuse a caller without a SPIFFE ID with 401, instead of leaving it to the next authenticator."""

        required: bool = False

    def __init__(self, config: Config, context: Any) -> None:
        self.method = context.name
        self.refusal = Refuse(Unauthenticated("a client certificate with a SPIFFE ID is needed")) if config.required else None
        self._principals: dict[str, Principal] = {}

    def authenticate(self, exchange: Any) -> Principal | Refuse | None:
        """See `IAuthenticator`."""
        tls = exchange.connection.tls
        if tls is None or not tls.peer_identity:
            return self.refusal
        identity = tls.peer_identity
        principal = self._principals.get(identity)
        if principal is None:
            if len(self._principals) >= CACHED_IDENTITIES:
                self._principals.clear()
            principal = self._principals[identity] = Principal(identity, self.method)
        return principal
