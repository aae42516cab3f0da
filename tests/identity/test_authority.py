"""The certificates that the small authority makes."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from sidecar.identity.authority import Authority
from sidecar.identity.certificate import facts_of
from sidecar.identity.material import Material
from sidecar.identity.spiffe import SpiffeId

NOW = 1_800_000_000.0
ORDERS = SpiffeId.parse("spiffe://example.org/ns/shop/sa/orders")


@pytest.fixture(scope="module")
def here() -> Authority:
    """An authority that is valid from NOW."""
    return Authority.create("example.org", NOW)


def test_a_root_is_an_authority_of_its_trust_domain(here: Authority) -> None:
    """It signs certificates and nothing else, and says which domain it is for."""
    facts = facts_of(here.certificate)
    assert (str(facts.identity), facts.is_authority, facts.subject, facts.issuer) == (
        "spiffe://example.org",
        True,
        facts.issuer,
        "CN=sidecar CA of example.org",
    )
    usage = here.certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical and usage.value.key_cert_sign and not usage.value.digital_signature
    assert here.certificate.extensions.get_extension_for_class(x509.BasicConstraints).critical
    assert facts.not_after == NOW + 365 * 86400


def test_a_leaf_is_an_x509_svid(here: Authority) -> None:
    """X509-SVID sections 2 to 4: one URI, no authority, digital signature, both uses; P-256."""
    chain, key = here.issue(ORDERS, ("orders.local", "10.0.0.5", "::1"), now=NOW)
    certificate = x509.load_pem_x509_certificate(chain)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [str(ORDERS)]
    assert names.get_values_for_type(x509.DNSName) == ["orders.local"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.5", "::1"]
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature and not usage.key_cert_sign and not usage.crl_sign
    assert set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.SERVER_AUTH,
    }
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert load_pem_private_key(key, None).public_key() == certificate.public_key()
    assert certificate.public_key().curve.name == "secp256r1"
    assert certificate.not_valid_before_utc == datetime.fromtimestamp(NOW - 300, UTC)
    assert certificate.not_valid_after_utc == datetime.fromtimestamp(NOW + 30 * 86400, UTC)


def test_every_issue_makes_a_new_key(here: Authority) -> None:
    """A rotation rotates the key too."""
    assert here.issue(ORDERS, now=NOW)[1] != here.issue(ORDERS, now=NOW)[1]


def test_a_leaf_does_not_outlive_its_authority(here: Authority) -> None:
    """It could not be verified any more."""
    chain, _ = here.issue(ORDERS, days=10_000, now=NOW)
    assert x509.load_pem_x509_certificate(chain).not_valid_after_utc == here.certificate.not_valid_after_utc


def test_material_can_be_made_of_what_is_issued(here: Authority) -> None:
    """Days may be less than one."""
    assert Material.parse(*here.issue(ORDERS, days=0.01, now=NOW), here.trust_pem, NOW + 800).identity == ORDERS


@pytest.mark.parametrize(
    ("wanted", "how", "sentence"),
    [
        ("spiffe://other.net/ns/a/sa/b", {}, "this authority is that of the trust domain example.org; it does not issue spiffe://other.net/ns/a/sa/b"),
        ("spiffe://example.org", {}, "spiffe://example.org names a trust domain, not a workload"),
        ("orders", {}, "a SPIFFE ID starts with spiffe://, got 'orders'"),
        (ORDERS, {"dns": ("a b",)}, "not a host name or an IP address: 'a b' (write international names in their xn-- form)"),
        (ORDERS, {"dns": ("",)}, "not a host name or an IP address: '' (write international names in their xn-- form)"),
        (ORDERS, {"dns": ("bücher.example",)}, "not a host name or an IP address: 'bücher.example' (write international names in their xn-- form)"),
        (ORDERS, {"days": 0}, "a certificate is valid for more than 0 days, got 0"),
        (ORDERS, {"days": 1e9}, "1e+09 days lead beyond the year 9999"),
        (
            ORDERS,
            {"now": NOW + 366 * 86400},
            "the authority CN=sidecar CA of example.org is valid from 2027-01-15 07:55:00Z until 2028-01-15 08:00:00Z, "
            "our clock says 2028-01-16 08:00:00Z; `sidecar ca init --force` makes a new one",
        ),
    ],
)
def test_what_cannot_be_issued_is_refused_in_words(here: Authority, wanted: object, how: dict[str, object], sentence: str) -> None:
    """And nothing is made."""
    with pytest.raises(ValueError) as caught:
        here.issue(wanted, **({"now": NOW} | how))  # type: ignore[arg-type]
    assert str(caught.value) == sentence


def test_a_trust_domain_is_checked() -> None:
    """Before an authority is made for it."""
    with pytest.raises(ValueError, match="a trust domain has lower-case letters"):
        Authority.create("Example.org", NOW)


def test_a_long_name_fits(here: Authority) -> None:
    """RFC 5280 allows 64 characters in a common name; the identity is in the URI."""
    chain, _ = here.issue(f"spiffe://example.org/ns/shop/sa/{'a' * 100}", now=NOW)
    assert facts_of(x509.load_pem_x509_certificate(chain)).subject == "CN=" + "a" * 64


def test_an_authority_is_saved_and_loaded(here: Authority, tmp_path: Path) -> None:
    """The key for its owner alone, the directory too."""
    directory = tmp_path / "deep" / "ca"
    here.save(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "ca-key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((directory / "ca.pem").stat().st_mode) == 0o644
    again = Authority.load(directory)
    assert (again.trust_domain, again.certificate, again.trust_pem) == ("example.org", here.certificate, here.trust_pem)
    assert again.key_pem() == here.key_pem()
    Material.parse(*again.issue(ORDERS, now=NOW), here.trust_pem, NOW)


def test_an_authority_is_not_overwritten_by_accident(here: Authority, tmp_path: Path) -> None:
    """Not even half of one."""
    here.save(tmp_path)
    (tmp_path / "ca-key.pem").unlink()
    with pytest.raises(FileExistsError):
        here.save(tmp_path)
    here.save(tmp_path, replace=True)
    assert Authority.load(tmp_path).certificate == here.certificate


def test_what_is_no_authority_is_not_loaded(here: Authority, tmp_path: Path) -> None:
    """Which file, and what is wrong with it."""
    with pytest.raises(FileNotFoundError):
        Authority.load(tmp_path)
    here.save(tmp_path)
    key = (tmp_path / "ca-key.pem").read_bytes()
    (tmp_path / "ca-key.pem").write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"does not hold an authority: ca\.pem and ca-key\.pem must be PEM"):
        Authority.load(tmp_path)
    chain, leaf_key = here.issue(ORDERS, now=NOW)
    (tmp_path / "ca-key.pem").write_bytes(leaf_key)
    with pytest.raises(ValueError, match=r"ca-key\.pem is not the key of"):
        Authority.load(tmp_path)
    (tmp_path / "ca-key.pem").write_bytes(key)
    (tmp_path / "ca.pem").write_bytes(chain)
    with pytest.raises(ValueError, match="is not an authority of a trust domain"):
        Authority.load(tmp_path)


def test_the_key_is_not_in_the_repr(here: Authority) -> None:
    """Authorities turn up in tracebacks."""
    assert repr(here) == "<Authority of example.org, CN=sidecar CA of example.org>"


def test_an_intermediate_signs_leaves_and_no_further_authority(here: Authority) -> None:
    """Its chain carries it, the root stays with the peers."""
    between = here.create_intermediate(NOW)
    chain, key = between.issue(ORDERS, now=NOW)
    leaf, link = x509.load_pem_x509_certificates(chain)
    assert link.public_bytes(Encoding.DER) == between.certificate.public_bytes(Encoding.DER)
    assert link.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert leaf.issuer == between.certificate.subject
    Material.parse(chain, key, here.trust_pem, NOW)
