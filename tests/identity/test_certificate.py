"""What is read out of a certificate, and how it is written for header fields and people."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings, strategies as st

from sidecar.headers import field
from sidecar.identity.authority import Authority
from sidecar.identity.certificate import facts_of, span, when
from sidecar.identity.spiffe import SpiffeId

KEY = ec.generate_private_key(ec.SECP256R1())


def leaf(authority: Authority, now: float, **how: object) -> x509.Certificate:
    """A fresh leaf for orders."""
    chain, _ = authority.issue("spiffe://example.org/ns/shop/sa/orders", now=now, **how)  # type: ignore[arg-type]
    return x509.load_pem_x509_certificate(chain)


def named(name: x509.Name) -> x509.Certificate:
    """A certificate signed by itself with this subject."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key()).serial_number(1)
    return builder.not_valid_before(start).not_valid_after(start + timedelta(days=1)).sign(KEY, hashes.SHA256())


def test_a_workloads_certificate_is_read_whole(authority: Authority) -> None:
    """Every fact is where the docstring says."""
    facts = facts_of(leaf(authority, 1_800_000_000.0, days=2, dns=("orders.local", "10.0.0.5")))
    assert facts.identity == SpiffeId.parse("spiffe://example.org/ns/shop/sa/orders")
    assert (facts.subject, facts.issuer, facts.dns_names, facts.is_authority) == ("CN=orders", "CN=sidecar CA of example.org", ("orders.local",), False)
    assert (facts.not_before, facts.not_after) == (1_800_000_000.0 - 300, 1_800_000_000.0 + 2 * 86400)
    assert re.fullmatch("[0-9a-f]{64}", facts.sha256)
    assert facts.forwarded == b'Hash=%b;Subject="CN=orders";URI=spiffe://example.org/ns/shop/sa/orders' % facts.sha256.encode()
    assert facts.validity() == "issued by CN=sidecar CA of example.org, valid from 2027-01-15 07:55:00Z until 2027-01-17 08:00:00Z"


def test_the_same_certificate_is_parsed_once(authority: Authority) -> None:
    """A peer that comes back costs a lookup."""
    certificate = leaf(authority, 1_800_000_000.0)
    again = x509.load_der_x509_certificate(certificate.public_bytes(Encoding.DER))
    assert facts_of(certificate) is facts_of(again)


@pytest.mark.parametrize(
    ("uris", "problem"),
    [
        ([], "has no SPIFFE ID (no subject alternative names at all)"),
        (["https://example.org/"], "has a malformed SPIFFE ID: a SPIFFE ID starts with spiffe://, got 'https://example.org/'"),
        (
            ["spiffe://example.org/a", "spiffe://example.org/b"],
            "has 2 URIs among its subject alternative names where exactly one SPIFFE ID must be: 'spiffe://example.org/a', 'spiffe://example.org/b'",
        ),
    ],
)
def test_why_there_is_no_identity_is_said(authority: Authority, uris: list[str], problem: str) -> None:
    """No identity is guessed: not the first of two, not the subject."""
    facts = facts_of(leaf(authority, 1_800_000_000.0, uris=uris))
    assert facts.identity is None
    assert facts.identity_problem == problem
    assert b"URI=" not in facts.forwarded


def test_names_without_a_uri_are_no_identity(authority: Authority) -> None:
    """A certificate for a host name is an ordinary server's."""
    facts = facts_of(leaf(authority, 1_800_000_000.0, uris=[], dns=("orders.local",)))
    assert facts.identity is None
    assert facts.identity_problem == "has no SPIFFE ID (no URI among its subject alternative names)"


def test_no_octet_of_a_host_name_does_anything_to_a_log() -> None:
    """Nobody has verified the certificate when a refusal is logged."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    nobody = x509.Name([])
    builder = x509.CertificateBuilder().subject_name(nobody).issuer_name(nobody).public_key(KEY.public_key()).serial_number(1)
    names = x509.SubjectAlternativeName([x509.DNSName("a\x1b[31m\n2026 ready"), x509.DNSName("*.example.org")])
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=1)).add_extension(names, critical=False)
    facts = facts_of(builder.sign(KEY, hashes.SHA256()))
    assert facts.dns_names == ("a\\1B[31m\\0A2026 ready", "*.example.org")
    assert facts.name == facts.dns_names[0]


def test_an_authority_speaks_for_a_trust_domain_only(authority: Authority) -> None:
    """Its own ID has no path; one with a path and CA:TRUE is no workload."""
    facts = facts_of(authority.certificate)
    assert facts.is_authority
    assert str(facts.identity) == "spiffe://example.org"


def test_a_certificate_that_may_sign_is_no_workload() -> None:
    """X509-SVID section 4.1."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key()).serial_number(1)
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://example.org/a")]), critical=False)
    facts = facts_of(builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(KEY, hashes.SHA256()))
    assert facts.identity is None
    assert facts.identity_problem == "is that of an authority (CA:TRUE), not of a workload"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable() or True).map(lambda text: text.encode("utf-8", "replace").decode("utf-8")))
def test_no_subject_breaks_out_of_its_quotes(text: str) -> None:
    """Whatever an authority let into a subject stays inside the quotes and the line, for readers that know every backslash and for those that know only \\"."""
    facts = facts_of(named(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text), x509.NameAttribute(NameOID.ORGANIZATION_NAME, text)])))
    element = facts.forwarded
    field(b"x-forwarded-client-cert", element)  # a value that a header field can have
    assert element.startswith(b'Hash=%b;Subject="' % facts.sha256.encode()) and element.endswith(b'"')
    assert element.count(b'"') == 2
    assert not element.endswith(b'\\"')


def test_a_hostile_subject_is_written_in_hex_pairs() -> None:
    """RFC 4514 section 2.4; the text can be read back."""
    facts = facts_of(named(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, 'a",URI=spiffe://example.org/admin;\r\nX: "\\')])))
    assert facts.subject == r"CN=a\22\,URI=spiffe://example.org/admin\;\0D\0AX: \22\5C"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 seconds"), (1, "1 second"), (59.9, "59 seconds"), (60, "1 minute"), (7200, "2 hours"), (-86400 * 3.5, "3 days")]
)
def test_a_span_is_named_in_its_largest_unit(seconds: float, text: str) -> None:
    """For sentences; the sign is in the words around it."""
    assert span(seconds) == text


def test_times_are_written_in_utc() -> None:
    """Both sides' logs can be compared."""
    assert when(1_800_000_000) == "2027-01-15 08:00:00Z"
