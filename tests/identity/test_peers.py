"""Who may be at the other end: identities, trust domains, host names; and what is told onward about them."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import HandshakeFailed, UpstreamHandshakeFailed
from sidecar.identity.certificate import facts_of, when

ORDERS = "spiffe://example.org/ns/shop/sa/orders"
PAYMENTS = "spiffe://example.org/ns/shop/sa/payments"
SERVER_REFUSED = f"payments ({PAYMENTS}) refused the client at 10.0.0.7:41234: "
CLIENT_REFUSED = f"orders ({ORDERS}) refused payments at 10.0.0.5:15006: "


def dates(mesh: Any, issuer: str = "example.org", days: float = 1) -> str:
    """How every refusal ends: issuer, validity, our clock."""
    valid = f"valid from {when(mesh.now - 300)} until {when(mesh.now + days * 86400)}"
    return f" (its certificate: issued by CN=sidecar CA of {issuer}, {valid}; our clock says {when(mesh.now)})"


def server_refusal(pair: Any) -> str:
    """What the listener says of a client that OpenSSL has accepted."""
    pair.shake()
    assert (pair.client_error, pair.server_error) == (None, None)
    with pytest.raises(HandshakeFailed) as caught:
        pair.server_slot.check(pair.server, "10.0.0.7:41234")
    return str(caught.value)


def client_refusal(pair: Any) -> str:
    """What the caller says of an endpoint that OpenSSL has accepted."""
    pair.shake()
    assert (pair.client_error, pair.server_error) == (None, None)
    with pytest.raises(UpstreamHandshakeFailed) as caught:
        pair.client_slot.check(pair.client, "10.0.0.5:15006", "payments")
    assert caught.value.retry_safe
    return str(caught.value)


def test_the_caller_is_forwarded_in_envoys_format(mesh: Any) -> None:
    """By, Hash, Subject in quotes, URI; one element."""
    pair = mesh.both(mesh.pair(mesh.client(), mesh.server()))
    facts = pair.server_slot.check(pair.server, "a")
    assert facts.forwarded_client_cert == f'By={PAYMENTS};Hash={facts.peer_sha256};Subject="CN=orders";URI={ORDERS}'.encode()


def test_the_expected_endpoint_is_taken(mesh: Any) -> None:
    """One of several identities."""
    pair = mesh.both(mesh.pair(mesh.client(identities=("spiffe://example.org/ns/shop/sa/ledger", PAYMENTS)), mesh.server()))
    assert pair.client_slot.check(pair.client, "a").peer_identity == PAYMENTS


def test_another_endpoint_than_expected_is_refused(mesh: Any) -> None:
    """A valid certificate of the same authority is not enough."""
    pair = mesh.pair(mesh.client(identities=(PAYMENTS,)), mesh.server(mesh.source("evil")))
    assert client_refusal(pair) == CLIENT_REFUSED + f"it showed spiffe://example.org/ns/shop/sa/evil, expected {PAYMENTS}" + dates(mesh)


@pytest.mark.parametrize(
    "expected", ["spiffe://example.org/ns/shop/sa/payment", "spiffe://example.org/ns/shop/sa/payments2", "spiffe://example.org/ns/shop/sa/Payments"]
)
def test_identities_are_compared_exactly(mesh: Any, expected: str) -> None:
    """No prefix, no suffix, no folding of case."""
    pair = mesh.pair(mesh.client(identities=(expected,)), mesh.server())
    assert client_refusal(pair) == CLIENT_REFUSED + f"it showed {PAYMENTS}, expected {expected}" + dates(mesh)


def test_another_trust_domain_is_refused_by_the_caller(mesh: Any) -> None:
    """Also when the bundle knows its authority: trusted to vouch for its own people is not expected here."""
    mesh.keyring.add("all", mesh.fixed(mesh.bundle(mesh.authority, mesh.foreign)))
    server = mesh.server(mesh.source("payments", mesh.foreign), client_certificate="none")
    pair = mesh.pair(mesh.client(trust="all"), server)
    sentence = "it showed spiffe://other.net/ns/shop/sa/payments, expected an identity of the trust domain example.org"
    assert client_refusal(pair) == CLIENT_REFUSED + sentence + dates(mesh, "other.net")


def test_another_trust_domain_is_refused_by_the_listener(mesh: Any) -> None:
    """Until it is named."""
    mesh.keyring.add("all", mesh.fixed(mesh.bundle(mesh.authority, mesh.foreign)))
    client = mesh.client(mesh.source("orders", mesh.foreign), trust="all", trust_domains=("example.org",))
    pair = mesh.pair(client, mesh.server(trust="all"))
    sentence = "it showed spiffe://other.net/ns/shop/sa/orders, expected an identity of the trust domain example.org"
    assert server_refusal(pair) == SERVER_REFUSED + sentence + dates(mesh, "other.net")
    named = mesh.server(mesh.source("payments"), name="second", trust="all", trust_domains=("example.org", "other.net"))
    pair = mesh.both(mesh.pair(client, named))
    assert named.check(pair.server, "a").peer_identity == "spiffe://other.net/ns/shop/sa/orders"


def test_several_expected_trust_domains_are_all_named(mesh: Any) -> None:
    """In order."""
    pair = mesh.pair(mesh.client(trust_domains=("b.net", "a.net")), mesh.server())
    assert client_refusal(pair) == CLIENT_REFUSED + f"it showed {PAYMENTS}, expected an identity of one of the trust domains a.net, b.net" + dates(mesh)


def test_an_authority_does_not_vouch_for_another_domain(mesh: Any) -> None:
    """With two authorities in the bundle, each speaks for its own trust domain alone."""
    mesh.keyring.add("all", mesh.fixed(mesh.bundle(mesh.authority, mesh.foreign)))
    chain, key = mesh.foreign.issue("spiffe://other.net/ns/shop/sa/orders", days=1, now=mesh.now, uris=[ORDERS])
    pair = mesh.pair(mesh.client(mesh.unchecked(chain, key), trust="all"), mesh.server(trust="all"))
    sentence = f"it showed {ORDERS}, but the authority CN=sidecar CA of other.net that vouches for it is that of spiffe://other.net"
    assert server_refusal(pair) == SERVER_REFUSED + sentence + dates(mesh, "other.net")


@pytest.mark.parametrize(
    ("uris", "problem"),
    [
        ([], "its certificate has no SPIFFE ID (no subject alternative names at all); expected an identity of the trust domain example.org"),
        (["https://example.org/a"], "its certificate has a malformed SPIFFE ID: a SPIFFE ID starts with spiffe://, got 'https://example.org/a'; expected"),
        ([PAYMENTS, ORDERS], "its certificate has 2 URIs among its subject alternative names where exactly one SPIFFE ID must be"),
        (["spiffe://example.org"], "it showed spiffe://example.org, which names a trust domain and no workload; expected"),
    ],
)
@pytest.mark.parametrize("mode", ["require", "optional"])
def test_a_client_without_exactly_one_workload_id_is_refused(mesh: Any, uris: list[str], problem: str, mode: str) -> None:
    """Whether certificates are required or optional: one that is shown must be good."""
    pair = mesh.pair(mesh.client(mesh.broken(uris=uris)), mesh.server(client_certificate=mode))
    assert server_refusal(pair).startswith(SERVER_REFUSED + problem)


def test_an_ordinary_server_is_checked_by_its_name(mesh: Any) -> None:
    """RFC 9525: DNS names and addresses, wildcards in the leftmost label; the identity does not matter."""
    server = mesh.server(mesh.source("web", dns=("*.example.org", "10.0.0.5")), client_certificate="none")
    for number, hostname in enumerate(("pay.example.org", "10.0.0.5")):
        pair = mesh.both(mesh.pair(mesh.client(mesh.source("orders"), name=f"c{number}", hostname=hostname), server))
        facts = pair.client_slot.check(pair.client, "10.0.0.5:443", "web")
        assert facts.peer_dns_names == ("*.example.org",) and facts.mark == b""
        assert facts.server_name == ("" if number else "pay.example.org")


@pytest.mark.parametrize("hostname", ["example.org", "pay.example.com", "10.0.0.6"])
def test_a_server_of_another_name_is_refused(mesh: Any, hostname: str) -> None:
    """Which names it has, and which one was expected."""
    server = mesh.server(mesh.source("web", dns=("*.example.org", "10.0.0.5")), client_certificate="none")
    pair = mesh.pair(mesh.client(hostname=hostname), server)
    assert client_refusal(pair) == CLIENT_REFUSED + f"its certificate is for *.example.org, expected the host name {hostname}" + dates(mesh)


def test_a_workload_is_no_ordinary_server(mesh: Any) -> None:
    """No host name in it: the common name does not count."""
    pair = mesh.pair(mesh.client(hostname="payments"), mesh.server(client_certificate="none"))
    assert client_refusal(pair) == CLIENT_REFUSED + f"its certificate is for {PAYMENTS}, expected the host name payments" + dates(mesh)


def test_a_required_certificate_is_missed_even_if_openssl_was_not(mesh: Any) -> None:
    """The check does not rely on the handshake having refused it."""
    from sidecar.identity.contexts import make_context
    from sidecar.identity.terms import Terms

    server = mesh.server(client_certificate="none")
    terms = server.current.get_app_data()
    assert not terms.requires_peer
    import attrs

    server.current = make_context(attrs.evolve(terms, requires_peer=True), None)
    assert isinstance(server.current.get_app_data(), Terms)
    pair = mesh.pair(mesh.client(), server)
    assert server_refusal(pair) == SERVER_REFUSED + "it showed no certificate, and mutual TLS is required here"


def test_the_terms_are_those_the_connection_began_with(mesh: Any) -> None:
    """A rotation between handshake and check changes nothing for this connection."""
    source = mesh.source("payments")
    server = mesh.server(source)
    pair = mesh.both(mesh.pair(mesh.client(), server))
    source.material = mesh.source("renamed").material
    assert mesh.keyring.reload("server")
    assert server.check(pair.server, "a").own_identity == PAYMENTS


def test_a_certificate_that_cannot_be_read_is_refused(mesh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer's octets are not ours to crash on."""
    pair = mesh.both(mesh.pair(mesh.client(), mesh.server()))

    def unreadable(**_: object) -> None:
        raise ValueError("invalid version")

    monkeypatch.setattr(pair.server, "get_peer_certificate", unreadable)
    with pytest.raises(HandshakeFailed) as caught:
        pair.server_slot.check(pair.server, "10.0.0.7:41234")
    assert str(caught.value) == SERVER_REFUSED + "its certificate cannot be read (invalid version)"


X400_NAME = bytes.fromhex("3004a3023000")  # a SubjectAltName of a kind that nobody has used for decades; OpenSSL reads it


@pytest.mark.parametrize(
    ("extensions", "problem"),
    [
        ([("2.5.29.17", X400_NAME)], "has extensions that cannot be read (x400Address/EDIPartyName are not supported types)"),
        ([("2.5.29.17", bytes.fromhex("30038601ff"))], "has extensions that cannot be read ("),
    ],
)
def test_names_that_cannot_be_read_are_no_identity(mesh: Any, extensions: list[tuple[str, bytes]], problem: str) -> None:
    """Real certificates of our own authority; the library has an error of its own kind for each."""
    client = mesh.odd(*extensions)
    assert problem in server_refusal(mesh.pair(client, mesh.server()))


def test_a_certificate_whose_extension_stands_twice_is_no_identity(mesh: Any) -> None:
    """OpenSSL takes it when it does not know the extension."""
    odd = mesh.odd(("1.2.3.4", b"\x05\x00"), ("1.2.3.5", b"\x05\x00"), der=(bytes.fromhex("06032a0305"), bytes.fromhex("06032a0304")))
    assert "has extensions that cannot be read (Duplicate 1.2.3.4" in server_refusal(mesh.pair(odd, mesh.server()))


def test_a_certificate_of_a_version_that_does_not_exist_is_refused(mesh: Any) -> None:
    """Our authority signed it, and OpenSSL takes it."""
    odd = mesh.odd(der=(bytes.fromhex("a003020102"), bytes.fromhex("a003020101")))
    assert "its certificate cannot be read (1 is not a valid X509 version)" in server_refusal(mesh.pair(odd, mesh.server()))


def test_peers_that_come_back_are_not_parsed_again(mesh: Any) -> None:
    """The facts are remembered by the certificate's octets."""
    client, server = mesh.client(), mesh.server()
    first = mesh.both(mesh.pair(client, server))
    second = mesh.both(mesh.pair(client, server))
    certificates = [pair.server.get_peer_certificate(as_cryptography=True) for pair in (first, second)]
    assert facts_of(certificates[0]) is facts_of(certificates[1])
    assert server.check(first.server, "a") == server.check(second.server, "a")
