"""Authorities, materials and handshakes for the tests of identity. Keys are made once for the whole run: the tests never change one."""

from __future__ import annotations

import socket
import time
import warnings
from base64 import encodebytes
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL, crypto
from twisted.internet.task import Clock
from zope.interface import implementer

from sidecar.identity.authority import Authority
from sidecar.identity.contexts import ContextSlot
from sidecar.identity.keyring import Keyring
from sidecar.identity.material import Material
from sidecar.interfaces import ICertificateSource
from sidecar.model import DownstreamTLS, Node, UpstreamTLS

# OpenSSL verifies by the machine's own clock, so the certificates of handshakes are made around it.
NOW = float(int(time.time()))


@implementer(ICertificateSource)
class FixedSource:
    """A certificate source that gives whatever `material` is, or raises it."""

    def __init__(self, material: Material | Exception) -> None:
        self.material = material
        self.changed: Callable[[], None] | None = None
        self.is_stopped = False

    def load(self) -> Material:
        if isinstance(self.material, Exception):
            raise self.material
        return self.material

    def watch(self, changed: Any) -> None:
        self.changed = changed

    def stop(self) -> None:
        self.is_stopped = True


class Stranger:
    """A client that shows whatever OpenSSL can read, and takes any server. In the place of a `ContextSlot`."""

    def __init__(self, certificate: bytes, key: bytes) -> None:
        self.context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the other library cannot hold them, which is why they are here
            self.context.use_certificate(crypto.load_certificate(crypto.FILETYPE_PEM, certificate))
            self.context.use_privatekey(crypto.load_privatekey(crypto.FILETYPE_PEM, key))

    def new_connection(self, transport: socket.socket) -> SSL.Connection:
        connection = SSL.Connection(self.context, transport)
        connection.set_connect_state()
        return connection


class Pair:
    """A client and a server over a pair of sockets, stepped by turns in this thread. `client_error`, `server_error`: what their handshakes raised."""

    def __init__(self, client: ContextSlot | Stranger | None, server: ContextSlot | None) -> None:
        self.client_socket, self.server_socket = socket.socketpair()
        self.client_socket.setblocking(False)
        self.server_socket.setblocking(False)
        self.client_slot, self.server_slot = client, server
        self.client = client.new_connection(self.client_socket) if client is not None else None
        self.server = server.new_connection(self.server_socket) if server is not None else None
        self.client_error: Exception | None = None
        self.server_error: Exception | None = None

    def step(self, connection: SSL.Connection | None) -> tuple[bool, Exception | None]:
        if connection is None:
            return True, None
        try:
            connection.do_handshake()
        except (SSL.WantReadError, SSL.WantWriteError):
            return False, None
        except Exception as error:
            return True, error
        return True, None

    def shake(self) -> Pair:
        """Both handshakes have ended, well or not."""
        client_done = server_done = False
        for _ in range(20):
            if not client_done:
                client_done, self.client_error = self.step(self.client)
                if self.client_error is not None:
                    self.client_socket.shutdown(socket.SHUT_WR)
            if not server_done:
                server_done, self.server_error = self.step(self.server)
                if self.server_error is not None:
                    self.server_socket.shutdown(socket.SHUT_WR)
            if client_done and server_done:
                return self
        raise AssertionError("the handshake does not end")

    def client_read(self) -> Exception | bytes:
        """What the client's first read after its handshake gives."""
        assert self.client is not None
        try:
            return self.client.recv(100)
        except Exception as error:
            return error

    def client_words(self, error: Exception) -> str:
        assert self.client_slot is not None and self.client is not None
        return self.client_slot.explain(error, self.client, "10.0.0.5:15006", "payments")

    def server_words(self, error: Exception) -> str:
        assert self.server_slot is not None and self.server is not None
        return self.server_slot.explain(error, self.server, "10.0.0.7:41234")

    def close(self) -> None:
        self.client_socket.close()
        self.server_socket.close()


class Mesh:
    """An authority of example.org and a keyring whose clock stands at NOW. Orders calls, payments is called."""

    now = NOW

    def __init__(self, authority: Authority, foreign: Authority) -> None:
        self.authority, self.foreign = authority, foreign
        self.clock = Clock()
        self.clock.advance(NOW)
        self.keyring = Keyring(self.clock)
        self.node = Node(service="orders", namespace="shop", trust_domain="example.org")
        self.pairs: list[Pair] = []

    def source(
        self, service: str, authority: Authority | None = None, trust: bytes | None = None, at: float = NOW, days: float = 1, **how: object
    ) -> FixedSource:
        """A source whose material is parsed as of `at`, so that an expired one can be had."""
        authority = authority or self.authority
        chain, key = authority.issue(f"spiffe://{authority.trust_domain}/ns/shop/sa/{service}", days=days, now=at, **how)  # type: ignore[arg-type]
        return FixedSource(Material.parse(chain, key, trust if trust is not None else authority.trust_pem, at))

    def broken(self, **how: object) -> FixedSource:
        """A peer whose certificate `Material.parse` would refuse, issued as `Authority.issue` is told by `how`."""
        chain, key = self.authority.issue("spiffe://example.org/ns/shop/sa/broken", days=1, now=NOW, **how)  # type: ignore[arg-type]
        return self.unchecked(chain, key)

    def unchecked(self, chain: bytes, key: bytes) -> FixedSource:
        """A peer that shows `chain`, whatever `Material.parse` would say to it."""
        good = self.source("broken").material
        assert isinstance(good, Material)
        return FixedSource(Material(chain, key, self.authority.trust_pem, good.certificate, good.authorities))

    def odd(self, *extensions: tuple[str, bytes], issuer: Authority | None = None, der: tuple[bytes, bytes] = (b"", b"")) -> Stranger:
        """A client with these extensions (OID, value) in its certificate, and with `der[0]` replaced by `der[1]` in what is signed: of another version, say."""
        issuer = issuer or self.authority
        key = ec.generate_private_key(ec.SECP256R1())
        moment = datetime.fromtimestamp(NOW, UTC)
        builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(issuer.certificate.subject).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(moment - timedelta(days=1)).not_valid_after(moment + timedelta(days=1))
        for oid, value in extensions:
            builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False)
        made = builder.sign(issuer.key, hashes.SHA256())
        if der[0]:
            signed = made.tbs_certificate_bytes.replace(der[0], der[1], 1)
            signature = issuer.key.sign(signed, ec.ECDSA(hashes.SHA256()))
            whole = signed + bytes.fromhex("300a06082a8648ce3d040302") + b"\x03" + bytes([len(signature) + 1]) + b"\0" + signature
            pem = b"-----BEGIN CERTIFICATE-----\n%b-----END CERTIFICATE-----\n" % encodebytes(b"\x30\x82" + len(whole).to_bytes(2, "big") + whole)
        else:
            pem = made.public_bytes(Encoding.PEM)
        return Stranger(pem, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def bundle(self, *authorities: Authority) -> Material:
        """One bundle of several authorities."""
        return Material.parse(b"", b"", b"".join(each.trust_pem for each in authorities), NOW)

    def server(self, source: FixedSource | None = None, name: str = "server", **settings: object) -> ContextSlot:
        self.keyring.add(name, source or self.source("payments"))
        return self.keyring.downstream_context(DownstreamTLS(certificate=name, **settings), self.node)  # type: ignore[arg-type]

    def client(self, source: FixedSource | None = None, name: str = "client", **settings: object) -> ContextSlot:
        self.keyring.add(name, source or self.source("orders"))
        return self.keyring.upstream_context(UpstreamTLS(certificate=name, **settings), self.node)  # type: ignore[arg-type]

    def fixed(self, material: Material | Exception) -> FixedSource:
        """A source that gives this."""
        return FixedSource(material)

    def add_trust(self, name: str, authority: Authority | None = None) -> None:
        """A named bundle without a certificate."""
        self.keyring.add(name, self.trust_source(authority or self.authority))

    def trust_source(self, authority: Authority) -> FixedSource:
        """A source of trust alone."""
        return FixedSource(Material.parse(b"", b"", authority.trust_pem, NOW))

    def client_without_certificate(self, **settings: object) -> ContextSlot:
        """A client that verifies the other side and shows nothing."""
        self.add_trust("bundle")
        return self.keyring.upstream_context(UpstreamTLS(trust="bundle", **settings), self.node)  # type: ignore[arg-type]

    def both(self, pair: Pair) -> Pair:
        """The handshake ends well on both sides, and nothing follows by which the server takes it back."""
        pair.shake()
        assert (pair.client_error, pair.server_error) == (None, None)
        assert isinstance(pair.client_read(), SSL.WantReadError)
        return pair

    def pair(self, client: ContextSlot | Stranger | None, server: ContextSlot | None) -> Pair:
        self.pairs.append(Pair(client, server))
        return self.pairs[-1]


@pytest.fixture(scope="session")
def authority() -> Authority:
    """The authority of example.org."""
    return Authority.create("example.org", NOW - 60 * 86400)


@pytest.fixture(scope="session")
def foreign() -> Authority:
    """An authority of another trust domain."""
    return Authority.create("other.net", NOW - 60 * 86400)


@pytest.fixture
def mesh(authority: Authority, foreign: Authority) -> Iterator[Mesh]:
    """A mesh whose sockets are closed at the end."""
    made = Mesh(authority, foreign)
    yield made
    for pair in made.pairs:
        pair.close()
