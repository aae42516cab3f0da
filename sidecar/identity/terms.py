"""On which terms a connection is made: who we are, whom we accept, in one immutable value that every OpenSSL context carries as its application data.

A connection so keeps the terms that it began with, also when certificates rotate between its first byte and its last.
"""

from __future__ import annotations

import ipaddress

import attrs
from OpenSSL import SSL

from sidecar.errors import HandshakeFailed
from sidecar.identity.material import Material


class NoCommonProtocol(HandshakeFailed):
    """The client's ALPN offer has nothing of ours; the sentence is a clause about it ("it offered only h2 ...")."""


@attrs.frozen
class Terms:
    """`side`: "server" towards clients, "client" towards endpoints. `own`: our material, None for a client without a certificate. `own_name`: the service's
    name. Whom we accept: `identities` (SPIFFE IDs as text), else any of `trust_domains`; or `hostname` when the peer is an ordinary TLS server. `server_name`:
    the SNI that we send, "" for none. `requires_peer`: the peer must show a certificate. `alpn`: in our order of preference. `minimum_version`: of TLS, "1.2"
    or "1.3".
    """

    side: str
    own: Material | None
    own_name: str
    identities: frozenset[str] = frozenset()
    trust_domains: frozenset[str] = frozenset()
    hostname: str = ""
    server_name: str = ""
    requires_peer: bool = True
    alpn: tuple[str, ...] = ()
    minimum_version: str = "1.2"

    @property
    def own_identity(self) -> str:
        """Our SPIFFE ID, "" without a certificate."""
        return "" if self.own is None or self.own.identity is None else str(self.own.identity)

    @property
    def versions(self) -> str:
        """The TLS versions that we speak, for sentences."""
        return "1.2 and 1.3" if self.minimum_version == "1.2" else "1.3"

    @property
    def we(self) -> str:
        """Our side in a sentence: "orders (spiffe://...)"."""
        identity = self.own_identity
        return f"{self.own_name} ({identity})" if identity else f"{self.own_name} (without a certificate)"

    def they(self, address: object, name: str = "") -> str:
        """The other side in a sentence: "payments at 10.0.0.5:15006", "the client at 10.0.0.7:41234". `name`: of the cluster."""
        return f"{name or ('the client' if self.side == 'server' else 'the server')} at {address}"

    @property
    def expected(self) -> str:
        """Whom we accept, as a sentence ends: "expected spiffe://..."."""
        if self.hostname:
            return f"the host name {self.hostname}"
        if self.identities:
            return " or ".join(sorted(self.identities))
        domains = sorted(self.trust_domains)
        return f"an identity of the trust domain {domains[0]}" if len(domains) == 1 else f"an identity of one of the trust domains {', '.join(domains)}"


def terms_of(connection: SSL.Connection) -> Terms:
    """The terms that `connection` was made on. Only for connections of contexts made by this package."""
    terms = connection.get_context().get_app_data()
    assert isinstance(terms, Terms)
    return terms


def is_ip(host: str) -> bool:
    """A literal IPv4 or IPv6 address, and no name?"""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
