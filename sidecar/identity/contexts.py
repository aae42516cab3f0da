"""The one place that makes OpenSSL contexts: versions, ciphers, verification, ALPN, sessions. And the slot that the transport takes them from.

Sessions. A resumed session skips the certificates: OpenSSL takes over what an earlier handshake found, also if the certificate has expired or its authority was
thrown out meanwhile. Our own peers keep their connections in pools and would gain nothing, so where client certificates are asked for there is no resumption:
neither tickets nor a cache. A listener without client certificates has nothing to skip and keeps tickets, which save browsers and tools a signature.
"""

from __future__ import annotations

import socket
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from sidecar.facts import TLSFacts
from sidecar.identity.certificate import UNREADABLE, CertificateFacts, facts_of
from sidecar.identity.failures import explain_handshake_failure, is_refusal_by_peer
from sidecar.identity.material import Material
from sidecar.identity.peers import check_downstream_peer, check_upstream_peer
from sidecar.identity.reasons import VerifyProblem
from sidecar.identity.terms import NoCommonProtocol, Terms, terms_of

# Forward secrecy and authenticated encryption only (RFC 9325 section 4.2). AES-128 first: as safe here as AES-256, and it takes fewer rounds per octet
# forwarded.
CIPHERS_1_2 = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    b"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
CIPHERS_1_3 = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
VERIFY_DEPTH = 10  # certificates between leaf and root; a mesh has 1 or 2, and each more is a signature that a stranger makes us check

# SSL_MODE_NO_AUTO_CHAIN of openssl/ssl.h, which pyOpenSSL has no name for: send the chain as the file has it. Otherwise OpenSSL adds what it finds in the trust
# bundle, which is the root, which no peer needs: half a kilobyte and a parse for nothing in each handshake.
_MODE_NO_AUTO_CHAIN = 0x8

_MINIMUM = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}


class ContextSlot:
    """Where the transport finds the context of the moment, and what it does with a connection made of it.

    `current` is replaced when certificates rotate; take it anew for each connection. The `app_data` of a connection belongs to this package: the verify
    callback notes there what was wrong.
    """

    __slots__ = ("_clock", "current")

    def __init__(self, context: SSL.Context, clock: IReactorTime) -> None:
        self.current = context
        self._clock = clock

    @property
    def server_name(self) -> str:
        """The SNI that a connection of `current` sends, "" for none."""
        terms = self.current.get_app_data()
        assert isinstance(terms, Terms)
        return terms.server_name

    def new_connection(self, transport: socket.socket | None) -> SSL.Connection:
        """A connection over `transport` (None: memory) on the newest context, in accept or connect state, with SNI set; the handshake has not begun."""
        connection = SSL.Connection(self.current, transport)
        terms = terms_of(connection)
        if terms.side == "server":
            connection.set_accept_state()
            return connection
        connection.set_connect_state()
        if terms.server_name:
            connection.set_tlsext_host_name(terms.server_name.encode("idna" if not terms.server_name.isascii() else "ascii"))
        return connection

    def check(self, connection: SSL.Connection, address: object, name: str = "") -> TLSFacts:
        """The facts of a finished handshake whose peer may be there; see `check_downstream_peer` and `check_upstream_peer` for what is raised. `name`: the
        cluster's, upstream.
        """
        if terms_of(connection).side == "server":
            return check_downstream_peer(connection, address, self._clock.seconds())
        return check_upstream_peer(connection, address, name, self._clock.seconds())

    def explain(self, error: BaseException | Failure, connection: SSL.Connection, address: object, name: str = "") -> str:
        """One sentence about what `do_handshake` (or the first read after it) raised; see `explain_handshake_failure`."""
        problem = connection.get_app_data()
        return explain_handshake_failure(
            error, problem if isinstance(problem, VerifyProblem) else None, terms_of(connection), address, name, self._clock.seconds()
        )

    @staticmethod
    def is_refusal(error: BaseException) -> bool:
        """Did the peer refuse the handshake with this? With TLS 1.3 its refusal of our certificate is the error of our first read, and nothing of what we wrote
        was served.
        """
        return is_refusal_by_peer(error)

    def __repr__(self) -> str:
        terms = self.current.get_app_data()
        return f"<ContextSlot {terms.side} {terms.we}>"


def make_context(terms: Terms, trust: Material | None) -> SSL.Context:
    """A context on `terms`. `trust`: whose bundle verifies the peer; None means that a server asks for no certificate, and that a client trusts the system's
    authorities.

    Raises `ValueError` with a sentence when OpenSSL does not take the certificate or key.
    """
    is_server = terms.side == "server"
    context = SSL.Context(SSL.TLS_SERVER_METHOD if is_server else SSL.TLS_CLIENT_METHOD)
    context.set_app_data(terms)
    context.set_min_proto_version(_MINIMUM[terms.minimum_version])
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    # OpenSSL gives idle connections' buffers back: 34 KiB each. Partial writes and moving buffers are what pyOpenSSL sets by itself; the transport relies on
    # them.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS | _MODE_NO_AUTO_CHAIN)
    context.set_cipher_list(CIPHERS_1_2)
    context.set_tls13_ciphersuites(CIPHERS_1_3)
    if terms.own is not None:
        _show(context, terms.own)
    _verify(context, terms, trust, is_server)
    if terms.alpn:
        names = [name.encode("ascii") for name in terms.alpn]
        if is_server:
            context.set_alpn_select_callback(_alpn_choice(tuple(names)))
        else:
            context.set_alpn_protos(names)
    return context


def _show(context: SSL.Context, own: Material) -> None:
    leaf, *intermediates = own.chain_certificates()
    try:
        context.use_certificate(leaf)
        for each in intermediates:
            context.add_extra_chain_cert(each)
        context.use_privatekey(own.private_key())
        context.check_privatekey()
    except SSL.Error as error:
        reasons = ", ".join(str(entry[2]) for entry in error.args[0]) if error.args and isinstance(error.args[0], list) else str(error)
        raise ValueError(f"OpenSSL does not take the certificate of {own.identity}: {reasons}") from None


def _verify(context: SSL.Context, terms: Terms, trust: Material | None, is_server: bool) -> None:
    if is_server and trust is None:
        context.set_verify(SSL.VERIFY_NONE, _note_problem)
        return
    # OpenSSL checks the purpose by itself: a server takes leafs for clientAuth, a client those for serverAuth, when they have an extended key usage at all.
    context.set_verify(SSL.VERIFY_PEER | (SSL.VERIFY_FAIL_IF_NO_PEER_CERT if terms.requires_peer else 0), _note_problem)
    context.set_verify_depth(VERIFY_DEPTH)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    if trust is None:
        context.set_default_verify_paths()
        return
    store = context.get_cert_store()
    assert store is not None
    for authority in trust.trust_certificates():
        store.add_cert(crypto.X509.from_cryptography(authority))


def _note_problem(connection: SSL.Connection, certificate: crypto.X509, code: int, depth: int, accepted: int) -> bool:
    """OpenSSL's verdict on each certificate of a chain stands; what was wrong is kept with the connection, for `explain`."""
    if accepted:
        return True
    try:
        facts = facts_of(certificate.to_cryptography())
    except UNREADABLE:  # a stranger's octets
        facts = _NO_FACTS
    connection.set_app_data(VerifyProblem(code, depth, facts))
    return False


_NO_FACTS = CertificateFacts(None, "cannot be read", "", "", "", 0.0, 0.0, (), "", False, b"")


def _alpn_choice(ours: tuple[bytes, ...]) -> Any:
    """RFC 7301 section 3.2: the first of ours that the client offers; none in common ends the handshake, or an HTTP/2 client would talk to an HTTP/1.1
    listener.
    """

    def choose(connection: SSL.Connection, offered: list[bytes]) -> bytes:
        for name in ours:
            if name in offered:
                return name
        theirs, known = (", ".join(name.decode("ascii", "backslashreplace") for name in names) for names in (offered, ours))
        raise NoCommonProtocol(f"it offered only {theirs} by ALPN, this listener speaks {known}")

    return choose
