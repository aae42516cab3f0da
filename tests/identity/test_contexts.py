"""What the contexts make OpenSSL do: versions, ciphers, ALPN, SNI, who is asked for a certificate, and that no session goes around it."""

from __future__ import annotations

from typing import Any

import pytest
from OpenSSL import SSL, crypto

from sidecar.errors import HandshakeFailed
from sidecar.identity.material import Material
from sidecar.identity.terms import NoCommonProtocol


def test_mutual_tls_gives_both_sides_the_others_identity(mesh: Any) -> None:
    """TLS 1.3, AES-128-GCM, ALPN, and the facts of both ends."""
    client, server = mesh.client(alpn=("http/1.1",)), mesh.server(alpn=("http/1.1",))
    pair = mesh.both(mesh.pair(client, server))
    theirs, ours = server.check(pair.server, "10.0.0.7:41234"), client.check(pair.client, "10.0.0.5:15006", "payments")
    assert (theirs.peer_identity, theirs.own_identity) == ("spiffe://example.org/ns/shop/sa/orders", "spiffe://example.org/ns/shop/sa/payments")
    assert (ours.peer_identity, ours.own_identity) == (theirs.own_identity, theirs.peer_identity)
    assert (theirs.version, theirs.cipher, theirs.alpn, theirs.server_name) == ("TLSv1.3", "TLS_AES_128_GCM_SHA256", "http/1.1", "")
    assert theirs.peer_subject == "CN=orders" and len(theirs.peer_sha256) == 64


@pytest.mark.parametrize("is_old", [False, True])
def test_both_ends_of_one_connection_share_a_secret(mesh: Any, is_old: bool) -> None:
    """Each connection another one, and it does not show itself in a log."""
    marks = set()
    client, server = mesh.client(), mesh.server()
    for _ in range(2):
        pair = mesh.pair(client, server)
        if is_old:
            pair.client.set_options(SSL.OP_NO_TLSv1_3)
        mesh.both(pair)
        theirs, ours = pair.server_slot.check(pair.server, "a"), pair.client_slot.check(pair.client, "a", "payments")
        assert theirs.mark == ours.mark and len(theirs.mark) == 32 and theirs.mark.decode() not in repr(theirs)
        marks.add(theirs.mark)
    assert len(marks) == 2


def test_tls_1_2_is_taken_with_forward_secrecy(mesh: Any) -> None:
    """For peers that know no better."""
    pair = mesh.pair(mesh.client(), mesh.server())
    pair.client.set_options(SSL.OP_NO_TLSv1_3)
    mesh.both(pair)
    facts = pair.server_slot.check(pair.server, "a")
    assert (facts.version, facts.cipher) == ("TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256")
    assert facts.peer_identity == "spiffe://example.org/ns/shop/sa/orders"


def test_minimum_version_1_3_refuses_1_2(mesh: Any) -> None:
    """And says which versions are spoken."""
    pair = mesh.pair(mesh.client(), mesh.server(minimum_version="1.3"))
    pair.client.set_options(SSL.OP_NO_TLSv1_3)
    pair.shake()
    assert pair.server_words(pair.server_error).endswith("refused the client at 10.0.0.7:41234: it speaks none of the TLS versions that we do (1.3)")
    assert pair.client_words(pair.client_error).endswith("it speaks none of the TLS versions that we do (1.2 and 1.3)")


@pytest.mark.parametrize(
    ("ours", "theirs", "chosen"),
    [(("h2", "http/1.1"), ("http/1.1", "h2"), "h2"), (("http/1.1",), ("h2", "http/1.1"), "http/1.1"), ((), ("h2",), ""), (("h2",), (), "")],
)
def test_the_servers_first_choice_of_what_is_offered_is_taken(mesh: Any, ours: tuple[str, ...], theirs: tuple[str, ...], chosen: str) -> None:
    """RFC 7301; who offers nothing, or is asked nothing, goes on without."""
    client, server = mesh.client(alpn=theirs), mesh.server(alpn=ours)
    pair = mesh.both(mesh.pair(client, server))
    assert server.check(pair.server, "a").alpn == client.check(pair.client, "a").alpn == chosen


def test_an_offer_with_nothing_in_common_is_refused(mesh: Any) -> None:
    """An HTTP/2 client does not get to talk to an HTTP/1.1 listener."""
    pair = mesh.pair(mesh.client(alpn=("h2", "grpc")), mesh.server(alpn=("http/1.1",))).shake()
    assert isinstance(pair.server_error, NoCommonProtocol) and isinstance(pair.server_error, HandshakeFailed)
    assert pair.server_words(pair.server_error) == (
        "payments (spiffe://example.org/ns/shop/sa/payments) refused the client at 10.0.0.7:41234: "
        "it offered only h2, grpc by ALPN, this listener speaks http/1.1"
    )
    assert pair.client_words(pair.client_error) == (
        "payments at 10.0.0.5:15006 refused orders (spiffe://example.org/ns/shop/sa/orders): it speaks none of the protocols that we offered by ALPN (h2, grpc)"
    )


@pytest.mark.parametrize(("settings", "name"), [({"server_name": "pay.example.org"}, "pay.example.org"), ({"server_name": "10.0.0.5"}, ""), ({}, "")])
def test_sni_is_sent_for_names_and_never_for_addresses(mesh: Any, settings: dict[str, str], name: str) -> None:
    """RFC 6066 section 3."""
    client, server = mesh.client(**settings), mesh.server()
    pair = mesh.both(mesh.pair(client, server))
    assert server.check(pair.server, "a").server_name == client.server_name == name


def test_optional_takes_a_client_without_a_certificate(mesh: Any) -> None:
    """It has no identity then, and forwards none."""
    pair = mesh.both(mesh.pair(mesh.client_without_certificate(), mesh.server(client_certificate="optional")))
    facts = pair.server_slot.check(pair.server, "a")
    assert (facts.peer_identity, facts.peer_sha256, facts.forwarded_client_cert) == ("", "", b"")
    assert facts.own_identity == "spiffe://example.org/ns/shop/sa/payments" and facts.mark == b""


def test_optional_still_refuses_a_bad_certificate(mesh: Any) -> None:
    """Optional is whether, not how good."""
    mesh.add_trust("bundle")
    pair = mesh.pair(mesh.client(mesh.source("orders", mesh.foreign), trust="bundle"), mesh.server(client_certificate="optional")).shake()
    assert "was issued by CN=sidecar CA of other.net, which is not in our trust bundle" in pair.server_words(pair.server_error)


def test_none_asks_for_no_certificate(mesh: Any) -> None:
    """A client that has one does not even send it."""
    pair = mesh.both(mesh.pair(mesh.client(), mesh.server(client_certificate="none")))
    assert pair.server_slot.check(pair.server, "a").peer_identity == ""


def test_a_chain_through_an_intermediate_is_sent_whole(mesh: Any) -> None:
    """The peer knows the root only."""
    between = mesh.authority.create_intermediate(mesh.now)
    server = mesh.server(mesh.source("payments", between))
    pair = mesh.both(mesh.pair(mesh.client(mesh.source("orders", between)), server))
    assert server.check(pair.server, "a").peer_identity == "spiffe://example.org/ns/shop/sa/orders"


def test_the_root_is_not_sent(mesh: Any) -> None:
    """Whoever does not have it does not believe it either."""
    pair = mesh.both(mesh.pair(mesh.client(), mesh.server()))
    assert len(pair.client.get_peer_cert_chain()) == 1


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_no_session_goes_around_the_client_certificate(mesh: Any, version: str) -> None:
    """A client that offers its old session shows its certificate all the same: the chain is verified anew."""
    client, server = mesh.client(), mesh.server()
    session = first_session(mesh, client, server, version)
    again = resumed(mesh, client, server, version, session)
    assert again.server_error is None
    assert again.server.get_verified_chain() is not None
    assert server.check(again.server, "a").peer_identity == "spiffe://example.org/ns/shop/sa/orders"


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_an_authority_thrown_out_is_out_for_old_sessions_too(mesh: Any, version: str) -> None:
    """Rotation of the bundle is not bypassed by a session of before."""
    bundle = mesh.trust_source(mesh.authority)
    mesh.keyring.add("clients", bundle)
    client, server = mesh.client(), mesh.server(trust="clients")
    session = first_session(mesh, client, server, version)
    bundle.material = mesh.trust_source(mesh.foreign).material
    assert mesh.keyring.reload("clients")
    again = resumed(mesh, client, server, version, session)
    assert "was issued by CN=sidecar CA of example.org, which is not in our trust bundle" in again.server_words(again.server_error)


def test_without_client_certificates_sessions_are_resumed(mesh: Any) -> None:
    """There is nothing to go around, and a signature to save."""
    client, server = mesh.client(), mesh.server(client_certificate="none")
    session = first_session(mesh, client, server, "1.2")
    again = resumed(mesh, client, server, "1.2", session)
    assert again.server_error is None
    assert again.client.master_key() == session_key(mesh.pairs[0])


def first_session(mesh: Any, client: Any, server: Any, version: str) -> SSL.Session:
    """The session of a handshake that ended well, tickets read."""
    pair = mesh.pair(client, server)
    if version == "1.2":
        pair.client.set_options(SSL.OP_NO_TLSv1_3)
    mesh.both(pair)
    session = pair.client.get_session()
    assert session is not None
    return session


def resumed(mesh: Any, client: Any, server: Any, version: str, session: SSL.Session) -> Any:
    """A handshake in which the client offers `session`."""
    pair = mesh.pair(client, server)
    if version == "1.2":
        pair.client.set_options(SSL.OP_NO_TLSv1_3)
    pair.client.set_session(session)
    return pair.shake()


def session_key(pair: Any) -> bytes:
    """What two connections of one TLS 1.2 session have in common."""
    key = pair.client.master_key()
    assert key
    return key


def test_renegotiation_is_refused(mesh: Any) -> None:
    """TLS 1.2's renegotiation costs a server a signature for a few octets (RFC 9325 section 3.5)."""
    pair = mesh.pair(mesh.client(), mesh.server())
    pair.client.set_options(SSL.OP_NO_TLSv1_3)
    mesh.both(pair)
    with pytest.raises(SSL.Error, match="no renegotiation"):
        pair.client.renegotiate()
        pair.client.do_handshake()


def test_partial_writes_work(mesh: Any) -> None:
    """A write that does not fit takes what does, and a retry may come from another buffer."""
    pair = mesh.both(mesh.pair(mesh.client(), mesh.server()))
    sent = 0
    with pytest.raises(SSL.WantWriteError):
        while True:
            sent += pair.client.send(b"x" * 100_000)
    got = len(pair.server.recv(200_000))
    while got < sent:
        got += len(pair.server.recv(200_000))
    assert pair.client.send(bytearray(b"x" * 100_000)) > 0


def test_a_key_that_openssl_does_not_take_is_said(mesh: Any) -> None:
    """Not as a list of tuples."""
    good = mesh.source("payments").material
    other = mesh.source("payments").material
    assert isinstance(good, Material) and isinstance(other, Material)
    broken = Material(good.chain, other.key, good.trust, good.certificate, good.authorities)
    with pytest.raises(ValueError) as caught:
        mesh.server(mesh.fixed(broken))
    assert str(caught.value) == "OpenSSL does not take the certificate of spiffe://example.org/ns/shop/sa/payments: key values mismatch"


def test_a_slot_shows_whose_it_is(mesh: Any) -> None:
    """For logs and debuggers; no key."""
    assert repr(mesh.server()) == "<ContextSlot server payments (spiffe://example.org/ns/shop/sa/payments)>"


def test_what_went_wrong_is_noted_per_connection(mesh: Any) -> None:
    """Two failing handshakes on one context, step by step between each other, have each their own reason."""
    server = mesh.server()
    mesh.add_trust("bundle")
    foreign = mesh.pair(mesh.client(mesh.source("orders", mesh.foreign), trust="bundle"), server)
    expired = mesh.pair(mesh.client(mesh.source("orders", at=mesh.now - 3 * 86400), name="late"), server)
    for pair in (foreign, expired):
        pair.step(pair.client)
        pair.step(pair.server)
        pair.step(pair.client)
    errors = [pair.step(pair.server)[1] for pair in (foreign, expired)]
    assert all(isinstance(error, SSL.Error) for error in errors)
    assert "not in our trust bundle" in foreign.server_words(errors[0])
    assert "expired on" in expired.server_words(errors[1])


@pytest.mark.parametrize("der", [(b"", b""), (bytes.fromhex("a003020102"), bytes.fromhex("a003020101"))], ids=["extensions", "version"])
def test_a_strangers_odd_certificate_is_refused_for_openssls_reason(mesh: Any, der: tuple[bytes, bytes]) -> None:
    """Anybody may send it: it must not come out of the handshake as an error of another library."""
    odd = mesh.odd(("2.5.29.17", bytes.fromhex("3004a3023000")), issuer=mesh.foreign, der=der)
    pair = mesh.pair(odd, mesh.server())
    pair.shake()
    assert isinstance(pair.server_error, SSL.Error)
    assert "not in our trust bundle" in pair.server_words(pair.server_error)


def test_an_unreadable_certificate_in_a_chain_is_no_crash(mesh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL reads things that the other library refuses; the handshake then fails for OpenSSL's reason."""

    def unreadable(self: crypto.X509) -> None:
        raise ValueError("no")

    mesh.add_trust("bundle")
    pair = mesh.pair(mesh.client(mesh.source("orders", mesh.foreign), trust="bundle"), mesh.server())
    monkeypatch.setattr(crypto.X509, "to_cryptography", unreadable)
    pair.shake()
    assert isinstance(pair.server_error, SSL.Error)
    assert "not in our trust bundle" in pair.server_words(pair.server_error)
