"""Between identity and the path: what a listener and a cluster ask of a TLS context, in their own words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sidecar.address import Address
from sidecar.errors import UpstreamError, UpstreamHandshakeFailed
from sidecar.facts import TLSFacts
from sidecar.identity.contexts import ContextSlot
from sidecar.transport.tls import ClientTLS


class DownstreamSide:
    """TLS of one filter chain (`downstream.listener.DownstreamSecurity`)."""

    def __init__(self, slot: ContextSlot) -> None:
        self._slot = slot

    def context(self) -> Any:
        """The newest OpenSSL context."""
        return self._slot.current

    def check_peer(self, transport: Any, peer: Address) -> TLSFacts:
        """The facts of a finished handshake. Raises `HandshakeFailed`."""
        return self._slot.check(transport.tls, peer)

    def explain(self, transport: Any, reason: Any, peer: Address) -> str:
        """Why the handshake failed, for a person."""
        problem = transport.tls_error
        return self._slot.explain(reason if problem is None else problem.error, transport.tls, peer)


class UpstreamSide:
    """TLS of one cluster (`upstream.pool.UpstreamSecurity`)."""

    def __init__(self, slot: ContextSlot, cluster: str, server_name: str, h1_slot: Callable[[], ContextSlot] | None = None) -> None:
        """`h1_slot()`: one that offers HTTP/1.1 alone, asked for when an endpoint wants it."""
        self._slot = slot
        self._h1_slot = h1_slot
        self._cluster = cluster
        self._server_name = server_name

    def client_tls(self, address: Address, is_h1_only: bool = False) -> ClientTLS:
        """See `UpstreamSecurity`."""
        slot = self._h1_slot() if is_h1_only and self._h1_slot is not None else self._slot
        return ClientTLS(slot.current, self._server_name, lambda transport: self._sentence(transport, address))

    def check_peer(self, transport: Any, address: Address) -> TLSFacts:
        """The facts of a finished handshake. Raises `UpstreamHandshakeFailed`."""
        return self._slot.check(transport.tls, address, self._cluster)

    def explain(self, transport: Any, reason: Any, address: Address) -> UpstreamError | None:
        """The error for a connection that TLS ended right after the handshake (in TLS 1.3 a refusal of our certificate arrives then); None when TLS had no
        part in it.
        """
        problem = transport.tls_error
        if problem is None or not self._slot.is_refusal(problem.error):
            return None
        return UpstreamHandshakeFailed(self._sentence(transport, address))

    def _sentence(self, transport: Any, address: Address) -> str:
        problem = transport.tls_error
        error = problem.error if problem is not None else ConnectionError("the connection was closed")
        return self._slot.explain(error, transport.tls, address, self._cluster)
