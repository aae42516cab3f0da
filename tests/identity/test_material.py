"""Which material is taken, and the sentence for each that is not."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from sidecar.identity.authority import Authority
from sidecar.identity.certificate import when
from sidecar.identity.material import IncompleteMaterial, Material, NotYetValid, is_key_of

NOW = 1_800_000_000.0  # 2027-01-15 08:00:00Z
ORDERS = "spiffe://example.org/ns/shop/sa/orders"


@pytest.fixture(scope="module")
def here() -> Authority:
    """An authority that is valid around NOW."""
    return Authority.create("example.org", NOW - 86400)


@pytest.fixture(scope="module")
def pair(here: Authority) -> tuple[bytes, bytes]:
    """Chain and key of orders."""
    return here.issue(ORDERS, days=2, now=NOW)


def refusal(chain: bytes, key: bytes, trust: bytes, now: float = NOW) -> str:
    """The sentence with which this is refused."""
    with pytest.raises(ValueError) as caught:
        Material.parse(chain, key, trust, now)
    return str(caught.value)


def test_good_material_names_itself(here: Authority, pair: tuple[bytes, bytes]) -> None:
    """Identity, facts and bundle are parsed."""
    material = Material.parse(*pair, here.trust_pem, NOW)
    assert str(material.identity) == ORDERS
    assert material.certificate is not None and material.certificate.not_after == NOW + 2 * 86400
    assert [each.subject for each in material.authorities] == ["CN=sidecar CA of example.org"]
    assert len(material.chain_certificates()) == len(material.trust_certificates()) == 1


def test_the_key_shows_nowhere(here: Authority, pair: tuple[bytes, bytes]) -> None:
    """repr, str and every refusal are free of key octets."""
    material = Material.parse(*pair, here.trust_pem, NOW)
    secret = pair[1].decode().split("\n")[1]
    assert repr(material) == f"<Material {ORDERS} until 2027-01-17 08:00:00Z, 1 authorities>"
    assert secret not in f"{material} {material!r} {vars(type(material))}"
    damaged = pair[1].replace(b"\nM", b"\n!")
    assert secret[2:10] not in refusal(pair[0], damaged, here.trust_pem)


def test_trust_alone_is_enough_for_verifying(here: Authority) -> None:
    """No certificate, no key: nothing to show, but a bundle."""
    material = Material.parse(b"", b"", here.trust_pem, NOW)
    assert material.identity is None and material.certificate is None
    assert repr(material) == "<Material trust only, 1 authorities>"


def test_a_chain_through_an_intermediate_is_verified(here: Authority) -> None:
    """The intermediate comes with the chain, the root with the bundle."""
    chain, key = here.create_intermediate(NOW).issue(ORDERS, now=NOW)
    assert len(Material.parse(chain, key, here.trust_pem, NOW).chain_certificates()) == 2


def test_a_chain_that_lacks_its_intermediate_is_refused(here: Authority) -> None:
    """What every peer would say is said before."""
    chain, key = here.create_intermediate(NOW).issue(ORDERS, now=NOW)
    alone = x509.load_pem_x509_certificates(chain)[0].public_bytes(Encoding.PEM)
    assert refusal(alone, key, here.trust_pem) == (
        f"the certificate of {ORDERS} was issued by CN=sidecar intermediate CA of example.org, "
        "which is not in our trust bundle (or an intermediate certificate is missing from the chain)"
    )


def test_a_bundle_of_strangers_is_refused(pair: tuple[bytes, bytes]) -> None:
    """The bundle belongs to another authority."""
    stranger = Authority.create("other.net", NOW)
    assert refusal(*pair, stranger.trust_pem).startswith(
        f"the certificate of {ORDERS} was issued by CN=sidecar CA of example.org, which is not in our trust bundle"
    )


def test_an_impostor_of_the_same_name_is_refused(pair: tuple[bytes, bytes]) -> None:
    """A new authority made for the same domain has the same name and another key."""
    again = Authority.create("example.org", NOW)
    assert "which is not in our trust bundle" in refusal(*pair, again.trust_pem)


def test_the_wrong_key_means_a_pair_that_is_not_complete(here: Authority, pair: tuple[bytes, bytes]) -> None:
    """Half a rotation looks like this."""
    _, other = here.issue(ORDERS, now=NOW)
    with pytest.raises(IncompleteMaterial) as caught:
        Material.parse(pair[0], other, here.trust_pem, NOW)
    assert str(caught.value) == f"the key does not match the certificate of {ORDERS} (is one of the two files not replaced yet?)"


def test_an_expired_certificate_is_refused_with_both_clocks(here: Authority, pair: tuple[bytes, bytes]) -> None:
    """Which date, how long ago, by which clock."""
    later = NOW + 5 * 86400
    assert refusal(*pair, here.trust_pem, later) == f"the certificate of {ORDERS} expired on 2027-01-17 08:00:00Z, 3 days ago (our clock says {when(later)})"


def test_a_certificate_of_the_future_names_the_moment(here: Authority, pair: tuple[bytes, bytes]) -> None:
    """So that somebody can ask again then."""
    with pytest.raises(NotYetValid) as caught:
        Material.parse(*pair, here.trust_pem, NOW - 3600)
    assert caught.value.not_before == NOW - 300
    assert str(caught.value) == (
        f"the certificate of {ORDERS} is not valid before 2027-01-15 07:55:00Z, in 55 minutes "
        "(our clock says 2027-01-15 07:00:00Z: is one of the clocks wrong?)"
    )


def test_an_expired_authority_is_named(here: Authority) -> None:
    """The leaf is fresh, its issuer is not."""
    short = Authority.create("example.org", NOW - 86400 * 10, days=9, common_name="old root")
    pems = short.issue(ORDERS, days=1, now=NOW - 86400 * 2)
    longer = here.issue(ORDERS, days=1, now=NOW)
    assert "expired" in refusal(*pems, short.trust_pem)
    assert "which is not in our trust bundle" in refusal(*longer, short.trust_pem)


@pytest.mark.parametrize(
    ("uris", "end"),
    [
        ([], "has no SPIFFE ID (no subject alternative names at all)"),
        (["spiffe://example.org/a", "spiffe://example.org/b"], "'spiffe://example.org/a', 'spiffe://example.org/b'"),
        (["spiffe://example.org"], "names a trust domain, not a workload"),
    ],
)
def test_exactly_one_identity_is_needed(here: Authority, uris: list[str], end: str) -> None:
    """None, two, or one without a path are refused."""
    sentence = refusal(*here.issue(ORDERS, now=NOW, uris=uris), here.trust_pem)
    assert sentence.startswith("the certificate CN=orders ") and sentence.endswith(end)


def test_what_is_not_pem_is_named(here: Authority, pair: tuple[bytes, bytes]) -> None:
    """Which of the three, and what it should have been."""
    chain, key = pair
    block = "(a block from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE----- that can be read)"
    assert refusal(b"garbage", key, here.trust_pem) == f"the certificate is not PEM {block}"
    assert refusal(chain[:100], key, here.trust_pem) == f"the certificate is not PEM {block}"
    assert refusal(chain, key, b"garbage") == f"the trust bundle is not PEM {block}"
    assert (
        refusal(chain, b"garbage", here.trust_pem)
        == "the key is not PEM (a block from -----BEGIN PRIVATE KEY----- to -----END PRIVATE KEY----- that can be read)"
    )
    assert refusal(key, chain, here.trust_pem) == f"the certificate is not PEM {block}"


def test_a_pair_comes_whole(here: Authority, pair: tuple[bytes, bytes]) -> None:
    """Half of it, or nothing at all, is refused."""
    assert refusal(pair[0], b"", here.trust_pem) == "the key is missing: a certificate and its key come together"
    assert refusal(b"", pair[1], here.trust_pem) == "the certificate is missing: a certificate and its key come together"
    assert refusal(b"", b"", b"") == "there is neither a certificate nor a trust bundle"


def test_a_key_with_a_passphrase_is_refused(pair: tuple[bytes, bytes]) -> None:
    """A sidecar has nobody to ask."""
    private = load_pem_private_key(pair[1], None)
    locked = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    assert refusal(pair[0], locked, b"") == "the key is encrypted; give it without a passphrase, readable by the sidecar only"


def test_a_key_of_no_use_for_tls_is_refused(pair: tuple[bytes, bytes]) -> None:
    """DSA went out with TLS 1.2's predecessors."""
    key = dsa.generate_private_key(1024).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert refusal(pair[0], key, b"") == "the key is of a kind that TLS does not use here; make it EC, RSA or Ed25519"


def test_keys_of_different_kinds_do_not_match(pair: tuple[bytes, bytes]) -> None:
    """Compared as public keys, whatever their kind."""
    other = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate = x509.load_pem_x509_certificate(pair[0])
    assert is_key_of(pair[1], certificate)
    assert not is_key_of(other, certificate)
