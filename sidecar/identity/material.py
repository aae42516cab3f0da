"""What a certificate source gives: our certificate chain, its key and the bundle of authorities, checked to fit together before anybody uses them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from OpenSSL import crypto

from sidecar.identity.certificate import UNREADABLE, CertificateFacts, facts_of, span, when
from sidecar.identity.reasons import VerifyProblem
from sidecar.identity.spiffe import SpiffeId

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


class IncompleteMaterial(ValueError):
    """The certificate and the key are not a pair: most likely only one of the two files is replaced yet."""


class NotYetValid(ValueError):
    """The certificate will be valid later: it is worth asking again at `not_before` (POSIX seconds), even if no file changes until then."""

    def __init__(self, sentence: str, not_before: float) -> None:
        super().__init__(sentence)
        self.not_before = not_before


@attrs.frozen(repr=False)
class Material:
    """Our identity. Make it with `parse`. `chain` (leaf first), `key` and `trust` are PEM; `certificate` holds the facts of the leaf and is None for a source
    of trust alone; `authorities` holds those of the bundle. `repr` shows names only.
    """

    chain: bytes
    key: bytes
    trust: bytes
    certificate: CertificateFacts | None
    authorities: tuple[CertificateFacts, ...]

    @classmethod
    def parse(cls, chain: bytes, key: bytes, trust: bytes, now: float) -> Material:
        """Material that may serve at `now` (POSIX seconds). `chain` and `key` may both be empty (trust alone); `trust` may be empty, then the chain is not
        verified here.

        Raises `ValueError` with a sentence when something is not PEM, the key is not the certificate's (`IncompleteMaterial`), the certificate is expired or
        not valid yet (`NotYetValid`), has not exactly one SPIFFE ID, is that of an authority, or does not lead to an authority of `trust`. The sentence never
        has anything of the key in it.
        """
        authorities = _load_certificates(trust, "trust bundle") if trust else []
        if not chain and not key:
            if not authorities:
                raise ValueError("there is neither a certificate nor a trust bundle")
            return cls(b"", b"", trust, None, tuple(facts_of(each) for each in authorities))
        if not chain or not key:
            raise ValueError(f"the {'certificate' if key else 'key'} is missing: a certificate and its key come together")
        certificates = _load_certificates(chain, "certificate")
        if not is_key_of(key, certificates[0]):
            raise IncompleteMaterial(f"the key does not match the certificate of {facts_of(certificates[0]).name} (is one of the two files not replaced yet?)")
        facts = facts_of(certificates[0])
        _check_validity(facts, now)
        if facts.identity is None or not facts.identity.path:
            raise ValueError(f"the certificate {facts.subject or facts.sha256[:16]} {facts.identity_problem or 'names a trust domain, not a workload'}")
        if authorities:
            _verify(certificates, authorities, now)
        return cls(chain, key, trust, facts, tuple(facts_of(each) for each in authorities))

    @property
    def identity(self) -> SpiffeId | None:
        """Our SPIFFE ID; None for a source of trust alone."""
        return None if self.certificate is None else self.certificate.identity

    def chain_certificates(self) -> list[x509.Certificate]:
        """The chain, leaf first; empty for a source of trust alone."""
        return x509.load_pem_x509_certificates(self.chain) if self.chain else []

    def trust_certificates(self) -> list[x509.Certificate]:
        """The authorities of the bundle; empty when there is none."""
        return x509.load_pem_x509_certificates(self.trust) if self.trust else []

    def private_key(self) -> PrivateKey:
        """The key, for OpenSSL alone. Raises `ValueError` for a source of trust alone."""
        return _load_key(self.key)

    def __repr__(self) -> str:
        own = f"{self.identity} until {when(self.certificate.not_after)}" if self.certificate is not None else "trust only"
        return f"<Material {own}, {len(self.authorities)} authorities>"


def is_key_of(key: bytes, certificate: x509.Certificate) -> bool:
    """Is the PEM `key` the one of `certificate`? Raises `ValueError` with a sentence when it is no key that TLS can use."""
    return _public_octets(_load_key(key).public_key()) == _public_octets(certificate.public_key())


def _load_certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except UNREADABLE:
        # The library's own sentence speaks of its parser; what a person can check is whether the file is what it should be.
        raise ValueError(f"the {what} is not PEM (a block from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE----- that can be read)") from None


def _load_key(pem: bytes) -> PrivateKey:
    try:
        key = load_pem_private_key(pem, None)
    except TypeError:
        raise ValueError("the key is encrypted; give it without a passphrase, readable by the sidecar only") from None
    except Exception:  # the library has several kinds of "unsupported"; none of their texts may carry a part of the key into a log
        raise ValueError("the key is not PEM (a block from -----BEGIN PRIVATE KEY----- to -----END PRIVATE KEY----- that can be read)") from None
    if not isinstance(key, PrivateKey):
        raise ValueError("the key is of a kind that TLS does not use here; make it EC, RSA or Ed25519")
    return key


def _public_octets(key: object) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return]  # a union of all kinds of keys


def _check_validity(facts: CertificateFacts, now: float) -> None:
    if now > facts.not_after:
        raise ValueError(f"the certificate of {facts.name} expired on {when(facts.not_after)}, {span(now - facts.not_after)} ago (our clock says {when(now)})")
    if now < facts.not_before:
        ahead = f"{when(facts.not_before)}, in {span(facts.not_before - now)}"
        raise NotYetValid(
            f"the certificate of {facts.name} is not valid before {ahead} (our clock says {when(now)}: is one of the clocks wrong?)", facts.not_before
        )


def _verify(chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate], now: float) -> None:
    """The peers will ask the same: does our chain lead to an authority of the bundle?"""
    store = crypto.X509Store()
    for authority in authorities:
        store.add_cert(crypto.X509.from_cryptography(authority))
    store.set_time(datetime.fromtimestamp(now, UTC))
    leaf, *intermediates = [crypto.X509.from_cryptography(each) for each in chain]
    try:
        crypto.X509StoreContext(store, leaf, intermediates).verify_certificate()
    except crypto.X509StoreContextError as error:
        problem = VerifyProblem(error.errors[0], error.errors[1], facts_of(error.certificate.to_cryptography()))
        raise ValueError(problem.words(f"the certificate of {facts_of(chain[0]).name}", now)) from None
