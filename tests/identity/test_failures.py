"""Every way a handshake fails, with the sentence on each side."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.error import TimeoutError as HandshakeTimeout
from twisted.python.failure import Failure

from sidecar.errors import HandshakeFailed
from sidecar.identity.certificate import when

ORDERS = "orders (spiffe://example.org/ns/shop/sa/orders)"
PAYMENTS = "payments (spiffe://example.org/ns/shop/sa/payments)"
CLIENT = "the client at 10.0.0.7:41234"
SERVER = "payments at 10.0.0.5:15006"
DAY = 86400


def client_fails_late(pair: Any) -> str:
    """TLS 1.3: the client's handshake is done before the server has judged its certificate; the first read tells."""
    pair.shake()
    assert pair.client_error is None
    error = pair.client_read()
    assert isinstance(error, SSL.Error) and pair.client_slot.is_refusal(error)
    return str(pair.client_words(error))


def ours(mesh: Any, start: float, end: float, issuer: str = "example.org", valid: str = "") -> str:
    """What is said of our certificate after an alert about it."""
    dates = f"valid from {when(mesh.now + start - 300)} until {when(mesh.now + end)}"
    return f" (ours: issued by CN=sidecar CA of {issuer}, {dates}; our clock says {when(mesh.now)}{valid})"


def test_an_expired_client(mesh: Any) -> None:
    """Both sides say which date and which clock."""
    pair = mesh.pair(mesh.client(mesh.source("orders", at=mesh.now - 3 * DAY)), mesh.server())
    late = client_fails_late(pair)
    assert pair.server_words(pair.server_error) == (
        f"{PAYMENTS} refused {CLIENT}: its certificate (spiffe://example.org/ns/shop/sa/orders) expired on {when(mesh.now - 2 * DAY)}, "
        f"2 days ago (our clock says {when(mesh.now)})"
    )
    assert late == f"{SERVER} refused {ORDERS}: it takes our certificate for expired; compare the two clocks" + ours(
        mesh, -3 * DAY, -2 * DAY, valid=", so by our own clock it is not valid now"
    )


def test_an_expired_server(mesh: Any) -> None:
    """Here the client refuses, in its own handshake."""
    pair = mesh.pair(mesh.client(), mesh.server(mesh.source("payments", at=mesh.now - 3 * DAY))).shake()
    assert pair.client_words(pair.client_error) == (
        f"{ORDERS} refused {SERVER}: its certificate (spiffe://example.org/ns/shop/sa/payments) expired on {when(mesh.now - 2 * DAY)}, "
        f"2 days ago (our clock says {when(mesh.now)})"
    )
    assert pair.server_words(pair.server_error).startswith(f"{CLIENT} refused {PAYMENTS}: it takes our certificate for expired; compare the two clocks (ours: ")


def test_a_client_of_the_future(mesh: Any) -> None:
    """A wrong clock is the usual reason."""
    pair = mesh.pair(mesh.client(mesh.source("orders", at=mesh.now + 3 * DAY)), mesh.server())
    assert client_fails_late(pair).startswith(f"{SERVER} refused {ORDERS}: it did not accept our certificate; its own log says why (ours: ")
    assert pair.server_words(pair.server_error) == (
        f"{PAYMENTS} refused {CLIENT}: its certificate (spiffe://example.org/ns/shop/sa/orders) is not valid before {when(mesh.now + 3 * DAY - 300)}, "
        f"in 2 days (our clock says {when(mesh.now)}: is one of the clocks wrong?)"
    )


def test_a_client_of_an_unknown_authority(mesh: Any) -> None:
    """The issuer is named on both sides."""
    mesh.add_trust("bundle")
    pair = mesh.pair(mesh.client(mesh.source("orders", mesh.foreign), trust="bundle", trust_domains=("example.org",)), mesh.server())
    late = client_fails_late(pair)
    assert late == f"{SERVER} refused orders (spiffe://other.net/ns/shop/sa/orders): it does not trust the authority that issued our certificate" + ours(
        mesh, 0, DAY, "other.net"
    )
    assert pair.server_words(pair.server_error) == (
        f"{PAYMENTS} refused {CLIENT}: its certificate (spiffe://other.net/ns/shop/sa/orders) was issued by CN=sidecar CA of other.net, "
        "which is not in our trust bundle (or an intermediate certificate is missing from the chain)"
    )


def test_a_server_of_an_unknown_authority(mesh: Any) -> None:
    """The same, the other way round."""
    pair = mesh.pair(mesh.client(), mesh.server(mesh.source("payments", mesh.foreign))).shake()
    assert pair.client_words(pair.client_error) == (
        f"{ORDERS} refused {SERVER}: its certificate (spiffe://other.net/ns/shop/sa/payments) was issued by CN=sidecar CA of other.net, "
        "which is not in our trust bundle (or an intermediate certificate is missing from the chain)"
    )
    assert pair.server_words(pair.server_error) == (
        f"{CLIENT} refused payments (spiffe://other.net/ns/shop/sa/payments): it does not trust the authority that issued our certificate"
        + ours(mesh, 0, DAY, "other.net")
    )


def test_an_unknown_root_sent_along(mesh: Any) -> None:
    """Sending one's root does not make it trusted; it is named."""
    chain, key = mesh.foreign.issue("spiffe://other.net/ns/shop/sa/payments", now=mesh.now)
    pair = mesh.pair(mesh.client(), mesh.server(mesh.unchecked(chain + mesh.foreign.trust_pem, key))).shake()
    assert pair.client_words(pair.client_error) == (
        f"{ORDERS} refused {SERVER}: its certificate leads to the authority CN=sidecar CA of other.net, which is not in our trust bundle"
    )


def test_an_impostor_authority_of_the_same_name(mesh: Any) -> None:
    """Made again for the same domain, as by `sidecar ca init --force`, with the certificates of before."""
    again = type(mesh.authority).create("example.org", mesh.now)
    pair = mesh.pair(mesh.client(), mesh.server(mesh.source("payments", again))).shake()
    assert "was issued by CN=sidecar CA of example.org, which is not in our trust bundle" in pair.client_words(pair.client_error)


def test_a_client_without_a_certificate(mesh: Any) -> None:
    """What is missing, and on which side."""
    pair = mesh.pair(mesh.client_without_certificate(), mesh.server())
    assert client_fails_late(pair) == f"{SERVER} refused orders (without a certificate): it requires a client certificate (mutual TLS) and we showed none"
    assert pair.server_words(pair.server_error) == f"{PAYMENTS} refused {CLIENT}: it showed no certificate, and mutual TLS is required here"


def test_a_client_without_a_certificate_in_tls_1_2(mesh: Any) -> None:
    """The alert is vaguer there, and comes within the handshake."""
    pair = mesh.pair(mesh.client_without_certificate(), mesh.server())
    pair.client.set_options(SSL.OP_NO_TLSv1_3)
    pair.shake()
    assert pair.client_words(pair.client_error) == (
        f"{SERVER} refused orders (without a certificate): "
        "the two have no cipher, key or signature kind in common, or it requires a client certificate and we showed none"
    )


@pytest.mark.parametrize(("use", "side"), [("server", "client"), ("client", "server")])
def test_a_certificate_for_the_other_use(mesh: Any, use: str, side: str) -> None:
    """Extended key usage: a server's certificate is none for a client, and the other way round."""
    if side == "client":
        pair = mesh.pair(mesh.client(mesh.source("orders", uses=(use,))), mesh.server()).shake()
        words, name, they = pair.server_words(pair.server_error), "orders", f"{PAYMENTS} refused {CLIENT}"
    else:
        pair = mesh.pair(mesh.client(), mesh.server(mesh.source("payments", uses=(use,)))).shake()
        words, name, they = pair.client_words(pair.client_error), "payments", f"{ORDERS} refused {SERVER}"
    assert words == f"{they}: its certificate (spiffe://example.org/ns/shop/sa/{name}) was not issued for this use (its key usage does not allow it)"


def test_a_certificate_without_key_usage_serves_both(mesh: Any) -> None:
    """Only one that says what it is for is held to it."""
    mesh.both(mesh.pair(mesh.client(mesh.source("orders", uses=())), mesh.server(mesh.source("payments", uses=()))))


SPOKEN_TO_SERVER = [
    (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", f"{PAYMENTS} refused {CLIENT}: it spoke plain HTTP where only TLS is taken"),
    (b"CONNECT a:1 HTTP/1.1\r\n\r\n", f"{PAYMENTS} refused {CLIENT}: it spoke plain HTTP (CONNECT) where only TLS is taken"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", f"{PAYMENTS} refused {CLIENT}: what it sent is not TLS"),
    (b"SSH-2.0-OpenSSH_9.9\r\n", f"{PAYMENTS} refused {CLIENT}: what it sent is not TLS"),
    (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", f"{PAYMENTS} refused {CLIENT}: its ClientHello is malformed"),
    (
        b"",
        f"the TLS handshake of {PAYMENTS} with {CLIENT} failed: "
        "it closed the connection before the handshake was done (port scans and bare TCP health checks do)",
    ),
]


@pytest.mark.parametrize(("octets", "sentence"), SPOKEN_TO_SERVER)
def test_what_comes_instead_of_a_client_hello(mesh: Any, octets: bytes, sentence: str) -> None:
    """Plain HTTP is told apart from noise."""
    pair = mesh.pair(None, mesh.server())
    pair.client_socket.sendall(octets)
    pair.client_socket.shutdown(1)
    _, error = pair.step(pair.server)
    assert pair.server_words(error) == sentence


NO_TLS = (
    f"{SERVER} does not speak TLS: it answered the handshake of {ORDERS} with something else; "
    "is this the application's own port, or is mutual TLS switched off at its sidecar?"
)


@pytest.mark.parametrize(
    ("octets", "sentence"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", NO_TLS),
        (b"220 mail.example.org ESMTP\r\n", NO_TLS),
        (b"", f"the TLS handshake of {ORDERS} with {SERVER} failed: it closed the connection without a word; does it speak TLS on this port?"),
    ],
)
def test_what_comes_instead_of_a_server_hello(mesh: Any, octets: bytes, sentence: str) -> None:
    """The application's own port in place of its sidecar's."""
    pair = mesh.pair(mesh.client(), None)
    pair.step(pair.client)
    pair.server_socket.sendall(octets)
    pair.server_socket.shutdown(1)
    _, error = pair.step(pair.client)
    assert pair.client_words(error) == sentence


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (SSL.SysCallError(errno.ECONNRESET, "ECONNRESET"), "it reset the connection without a word; its own log may say why"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "it reset the connection without a word; its own log may say why"),
        (SSL.SysCallError(errno.ETIMEDOUT, "ETIMEDOUT"), "the connection broke (Connection timed out)"),
        (SSL.ZeroReturnError(), "it closed the connection before the handshake was done"),
        (SSL.Error([("SSL routines", "", "something new")]), "something new"),
        (SSL.Error(), "Error"),
        (HandshakeTimeout(string="no answer within 15 s"), "User timeout caused connection failure: no answer within 15 s."),
    ],
)
def test_other_ends_of_a_handshake(mesh: Any, error: Exception, end: str) -> None:
    """Whatever it is, both sides are named and no tuple is shown; a Failure of it reads the same."""
    pair = mesh.pair(mesh.client(), None)
    sentence = f"the TLS handshake of {ORDERS} with {SERVER} failed: {end}"
    assert pair.client_words(error) == sentence
    assert pair.client_words(Failure(error)) == sentence
    assert not pair.client_slot.is_refusal(error)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("tlsv1 alert protocol version", "it speaks none of the TLS versions that we do (1.2 and 1.3)"),
        ("ssl/tls alert handshake failure", "the two have no cipher, key or signature kind in common, or it requires a client certificate and we showed none"),
        ("tlsv1 unrecognized name", None),
        ("tlsv1 alert unrecognized name", "it does not serve the name that we asked for by SNI (none)"),
        ("tlsv1 alert internal error", "it failed for a reason of its own; its log says why"),
        ("tlsv1 alert user cancelled", 'it sent the alert "user cancelled"'),
        ("sslv3 alert bad certificate", "it did not accept our certificate; its own log says why (ours: "),
        ("tlsv1 alert access denied", "our identity may not connect there (ours: "),
    ],
)
def test_alerts_read_the_same_in_every_spelling_of_openssl(mesh: Any, reason: str, words: str | None) -> None:
    """The prefix changed between its versions, and will again."""
    pair = mesh.pair(mesh.client(), None)
    error = SSL.Error([("SSL routines", "", reason)])
    if words is None:
        assert not pair.client_slot.is_refusal(error)
    else:
        assert pair.client_words(error).startswith(f"{SERVER} refused {ORDERS}: {words}")


def test_a_refusal_of_our_own_speaks_for_itself(mesh: Any) -> None:
    """What the identity check raised is not explained twice."""
    pair = mesh.pair(mesh.client(), None)
    assert pair.client_words(HandshakeFailed("orders refused payments: so it is")) == "orders refused payments: so it is"


def test_no_tls_version_in_common(mesh: Any) -> None:
    """A client of the last century."""
    pair = mesh.pair(None, mesh.server())
    hello = b"\x03\x01" + bytes(32) + b"\x00" + b"\x00\x02\xc0\x2b" + b"\x01\x00"
    message = b"\x01" + len(hello).to_bytes(3, "big") + hello
    pair.client_socket.sendall(b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message)
    _, error = pair.step(pair.server)
    assert pair.server_words(error) == f"{PAYMENTS} refused {CLIENT}: it speaks none of the TLS versions that we do (1.2 and 1.3)"
