"""Who is at the other end of a finished handshake, and may it be there?

OpenSSL has verified the chain, the validity and the key usage by now; what is left is identity, and that is decided here, in plain Python, on parsed values.
"""

from __future__ import annotations

from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address

from sidecar.errors import HandshakeFailed, SidecarError, UpstreamHandshakeFailed
from sidecar.facts import TLSFacts
from sidecar.identity.certificate import UNREADABLE, CertificateFacts, facts_of, when
from sidecar.identity.terms import Terms, is_ip, terms_of

# RFC 5705, section 4: a label that is not registered. 16 octets cannot be guessed.
_MARK_LABEL, _MARK_OCTETS = b"EXPERIMENTAL sidecar undelivered", 16


def check_downstream_peer(connection: SSL.Connection, address: object, now: float) -> TLSFacts:
    """The facts of a finished handshake with a client, whose identity the listener accepts.

    `address`: the client's, for sentences. `now`: POSIX seconds. Raises `HandshakeFailed` with a sentence that names both sides; the caller then closes the
    connection.
    """
    terms = terms_of(connection)
    peer = _peer(connection, terms, terms.they(address), HandshakeFailed)
    if peer is None:
        if terms.requires_peer:  # OpenSSL has refused it already; this stands here so that nothing depends on that alone
            raise HandshakeFailed(f"{terms.we} refused {terms.they(address)}: it showed no certificate, and mutual TLS is required here")
        return _facts(connection, terms, None)
    problem = _workload_problem(connection, terms, peer)
    if problem:
        raise HandshakeFailed(_refusal(terms, terms.they(address), problem, peer, now))
    return _facts(connection, terms, peer)


def check_upstream_peer(connection: SSL.Connection, address: object, name: str, now: float) -> TLSFacts:
    """The facts of a finished handshake with an endpoint that is who it should be.

    `name`: the cluster's, `address`: the endpoint's, for sentences. `now`: POSIX seconds. Raises `UpstreamHandshakeFailed` with a sentence that names both
    sides; the caller then closes the connection before any octet of a request is written.
    """
    terms = terms_of(connection)
    peer = _peer(connection, terms, terms.they(address, name), UpstreamHandshakeFailed)
    if peer is None:
        raise UpstreamHandshakeFailed(f"{terms.we} refused {terms.they(address, name)}: it showed no certificate, expected {terms.expected}")
    problem = _hostname_problem(connection, terms.hostname, peer) if terms.hostname else _workload_problem(connection, terms, peer)
    if problem:
        raise UpstreamHandshakeFailed(_refusal(terms, terms.they(address, name), problem, peer, now))
    return _facts(connection, terms, peer)


def _peer(connection: SSL.Connection, terms: Terms, they: str, failed: type[SidecarError]) -> CertificateFacts | None:
    try:
        certificate = connection.get_peer_certificate(as_cryptography=True)
        return None if certificate is None else facts_of(certificate)
    except UNREADABLE as error:
        raise failed(f"{terms.we} refused {they}: its certificate cannot be read ({error})") from None


def _workload_problem(connection: SSL.Connection, terms: Terms, peer: CertificateFacts) -> str:
    """Why this verified peer is not a workload that we accept; "" when it is."""
    identity = peer.identity
    if identity is None:
        return f"its certificate {peer.identity_problem}; expected {terms.expected}"
    if not identity.path:
        return f"it showed {identity}, which names a trust domain and no workload; expected {terms.expected}"
    text = str(identity)
    if terms.identities:
        if text not in terms.identities:
            return f"it showed {text}, expected {terms.expected}"
    elif identity.trust_domain not in terms.trust_domains:
        return f"it showed {text}, expected {terms.expected}"
    # A bundle may hold authorities of several trust domains. One that says which domain it is for must not speak for another (X509-SVID section 4.2).
    try:
        authorities = [facts_of(link) for link in (connection.get_verified_chain(as_cryptography=True) or [])[1:]]
    except UNREADABLE as error:
        return f"it showed {text}, but the certificate of an authority that vouches for it cannot be read ({error})"
    for authority in authorities:
        if authority.identity is not None and authority.identity.trust_domain != identity.trust_domain:
            return f"it showed {text}, but the authority {authority.subject} that vouches for it is that of {authority.identity}"
    return ""


def _hostname_problem(connection: SSL.Connection, hostname: str, peer: CertificateFacts) -> str:
    """Why this verified server is not `hostname` (RFC 9525); "" when it is."""
    try:
        if is_ip(hostname):
            verify_ip_address(connection, hostname)
        else:
            verify_hostname(connection, hostname)
    except (VerificationError, CertificateError):
        return f"its certificate is for {', '.join(peer.dns_names) or peer.name}, expected the host name {hostname}"
    return ""


def _refusal(terms: Terms, they: str, problem: str, peer: CertificateFacts, now: float) -> str:
    return f"{terms.we} refused {they}: {problem} (its certificate: {peer.validity()}; our clock says {when(now)})"


def _facts(connection: SSL.Connection, terms: Terms, peer: CertificateFacts | None) -> TLSFacts:
    own = terms.own_identity
    server_name = connection.get_servername() if terms.side == "server" else None
    identity = "" if peer is None or peer.identity is None else str(peer.identity)
    return TLSFacts(
        version=connection.get_protocol_version_name(),
        cipher=connection.get_cipher_name() or "",
        server_name=server_name.decode("latin-1") if server_name else terms.server_name,
        alpn=connection.get_alpn_proto_negotiated().decode("latin-1"),
        peer_identity=identity,
        peer_subject="" if peer is None else peer.subject,
        peer_dns_names=() if peer is None else peer.dns_names,
        peer_sha256="" if peer is None else peer.sha256,
        own_identity=own,
        mark=connection.export_keying_material(_MARK_LABEL, _MARK_OCTETS).hex().encode() if own and identity and not terms.hostname else b"",
        forwarded_client_cert=b"" if peer is None else b"By=%b;%b" % (own.encode("ascii"), peer.forwarded) if own else peer.forwarded,
    )
