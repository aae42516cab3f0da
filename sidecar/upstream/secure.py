"""What a cluster with TLS needs of others."""

from __future__ import annotations

from typing import Any, Protocol

from sidecar.address import Address
from sidecar.errors import UpstreamError
from sidecar.facts import TLSFacts


class UpstreamSecurity(Protocol):
    """What a cluster with TLS needs of the identity layer; `assembly` provides it."""

    def client_tls(self, address: Address, is_h1_only: bool = False) -> Any:
        """What `transport.connect` takes as `tls`. `is_h1_only`: nothing but HTTP/1.1 is offered by ALPN."""

    def check_peer(self, transport: Any, address: Address) -> TLSFacts:
        """The facts of a finished handshake. Raises `UpstreamHandshakeFailed`."""

    def explain(self, transport: Any, reason: Any, address: Address) -> UpstreamError | None:
        """The error for a connection lost in or right after the handshake; None when TLS had no part in it."""
