"""A small certificate authority for laptops, demos and tests: makes certificates, touches no file but to load and save itself, knows no clock.

It is not meant for production: nothing is revoked, nothing renewed by itself; there, certificates come from the platform (cert-manager, SPIRE, Istio).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sidecar.identity.certificate import facts_of, when
from sidecar.identity.files import PRIVATE, PUBLIC, replace_file
from sidecar.identity.spiffe import SpiffeId, check_trust_domain

WORKLOAD_DAYS = 30.0  # nothing here renews by itself: long enough for a demo left alone over the holidays, short enough that nobody builds on it
AUTHORITY_DAYS = 365.0  # on a laptop nobody rotates a CA; a forgotten one should not stay good for ten years
BACKDATE_SECONDS = 300.0  # certificates are valid from a little before `now`: clocks of laptops, VMs and containers differ by so much
COMMON_NAME_LENGTH = 64  # RFC 5280 appendix A: ub-common-name

CERTIFICATE_FILE = "ca.pem"
KEY_FILE = "ca-key.pem"

_USES = {"client": ExtendedKeyUsageOID.CLIENT_AUTH, "server": ExtendedKeyUsageOID.SERVER_AUTH}
Use = Literal["client", "server"]


@attrs.frozen(repr=False)
class Authority:
    """One authority: `certificate` and its `key`; `trust_pem` is the root that peers must trust, this very certificate unless it is an intermediate's."""

    trust_domain: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    trust_pem: bytes

    @classmethod
    def create(cls, trust_domain: str, now: float, days: float = AUTHORITY_DAYS, common_name: str = "") -> Authority:
        """A new root for `trust_domain`, valid from `now` (POSIX seconds) for `days`. Raises `ValueError` when that is no name of a trust domain."""
        identity = SpiffeId(check_trust_domain(trust_domain))
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(common_name or f"sidecar CA of {trust_domain}")
        certificate = _authority_builder(identity, name, key, now, _end(now, days), path_length=1).issuer_name(name).sign(key, hashes.SHA256())
        return cls(trust_domain, certificate, key, certificate.public_bytes(Encoding.PEM))

    @classmethod
    def load(cls, directory: str | Path) -> Authority:
        """The authority that `save` wrote into `directory`. Raises `OSError` when a file cannot be read and `ValueError` with a sentence when it is not an
        authority's.
        """
        directory = Path(directory)
        pem = (directory / CERTIFICATE_FILE).read_bytes()
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            key = load_pem_private_key((directory / KEY_FILE).read_bytes(), None)
        except (ValueError, TypeError):
            raise ValueError(f"{directory} does not hold an authority: {CERTIFICATE_FILE} and {KEY_FILE} must be PEM, the key not encrypted") from None
        facts = facts_of(certificate)
        if not facts.is_authority or facts.identity is None:
            raise ValueError(
                f"{directory / CERTIFICATE_FILE} is not an authority of a trust domain (with a URI like spiffe://example.org); `sidecar ca init` makes one"
            )
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ValueError(f"{directory / KEY_FILE} is not the key of {directory / CERTIFICATE_FILE}")
        return cls(facts.identity.trust_domain, certificate, key, pem)

    def save(self, directory: str | Path, replace: bool = False) -> None:
        """Write the certificate and the key into `directory` (made with mode 0700), where `load` finds them. Raises `FileExistsError` when there is an
        authority and `replace` is false.
        """
        directory = Path(directory)
        if not replace and ((directory / KEY_FILE).exists() or (directory / CERTIFICATE_FILE).exists()):
            raise FileExistsError(f"there is an authority in {directory} already")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(directory / KEY_FILE, self.key_pem(), PRIVATE)
        replace_file(directory / CERTIFICATE_FILE, self.certificate.public_bytes(Encoding.PEM), PUBLIC)

    def key_pem(self) -> bytes:
        """The key, PKCS #8, not encrypted. Whoever has it can be anybody in the trust domain."""
        return _key_pem(self.key)

    def create_intermediate(self, now: float, days: float = AUTHORITY_DAYS, common_name: str = "") -> Authority:
        """A new authority under this root, of the same trust domain; the chains that it issues lead to this one's `trust_pem`."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(common_name or f"sidecar intermediate CA of {self.trust_domain}")
        builder = _authority_builder(SpiffeId(self.trust_domain), name, key, now, _end(now, days), path_length=0)
        return Authority(self.trust_domain, self._sign(builder), key, self.trust_pem)

    def issue(
        self,
        spiffe_id: SpiffeId | str,
        dns: Sequence[str] = (),
        days: float = WORKLOAD_DAYS,
        *,
        now: float,
        uses: Sequence[Use] = ("client", "server"),
        uris: Sequence[str] | None = None,
    ) -> tuple[bytes, bytes]:
        """A new key and a certificate for `spiffe_id`: (chain PEM with the leaf first and without the root, key PEM).

        `dns`: host names and IP addresses besides, for clients that check those. `days`: at most as long as the authority itself is valid. `uses`: extended key
        usage. `uris`: for tests of broken peers, what stands in the certificate instead of `spiffe_id`. Raises `ValueError` with a sentence for a malformed ID,
        one of another trust domain, a malformed host name, or when the authority itself is not valid at `now`.
        """
        identity = SpiffeId.parse(spiffe_id) if isinstance(spiffe_id, str) else spiffe_id
        if identity.trust_domain != self.trust_domain:
            raise ValueError(f"this authority is that of the trust domain {self.trust_domain}; it does not issue {identity}")
        if not identity.path:
            raise ValueError(f"{identity} names a trust domain, not a workload")
        own = facts_of(self.certificate)
        if not own.not_before <= now <= own.not_after:
            validity = f"from {when(own.not_before)} until {when(own.not_after)}"
            raise ValueError(f"the authority {own.subject} is valid {validity}, our clock says {when(now)}; `sidecar ca init --force` makes a new one")
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(identity.name), key, now, min(_end(now, days), self.certificate.not_valid_after_utc))
        names = [x509.UniformResourceIdentifier(uri) for uri in ([str(identity)] if uris is None else uris)] + [_host(name) for name in dns]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True).add_extension(
            _key_usage(signs_certificates=False), critical=True
        )
        if uses:
            builder = builder.add_extension(x509.ExtendedKeyUsage([_USES[use] for use in uses]), critical=False)
        leaf = self._sign(builder)
        links = (leaf,) if x509.load_pem_x509_certificate(self.trust_pem) == self.certificate else (leaf, self.certificate)
        return b"".join(each.public_bytes(Encoding.PEM) for each in links), _key_pem(key)

    def _sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return builder.issuer_name(self.certificate.subject).add_extension(identifier, critical=False).sign(self.key, hashes.SHA256())

    def __repr__(self) -> str:
        return f"<Authority of {self.trust_domain}, {facts_of(self.certificate).subject}>"


def _end(now: float, days: float) -> datetime:
    if days <= 0:
        raise ValueError(f"a certificate is valid for more than 0 days, got {days:g}")
    try:
        return _moment(now) + timedelta(days=days)
    except OverflowError:
        raise ValueError(f"{days:g} days lead beyond the year 9999") from None


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)  # certificates have whole seconds


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:COMMON_NAME_LENGTH])])


def _builder(name: x509.Name, key: ec.EllipticCurvePrivateKey, now: float, end: datetime) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(_moment(now - BACKDATE_SECONDS)).not_valid_after(end)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _authority_builder(
    identity: SpiffeId, name: x509.Name, key: ec.EllipticCurvePrivateKey, now: float, end: datetime, path_length: int
) -> x509.CertificateBuilder:
    """The authority carries its trust domain's ID, so that peers can tell which domain it may speak for (X509-SVID section 4.2)."""
    builder = _builder(name, key, now, end).add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))]), critical=False)
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True).add_extension(
        _key_usage(signs_certificates=True), critical=True
    )


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not name or not name.isascii() or not name.replace("-", "").replace(".", "").replace("*", "").replace("_", "").isalnum():
        raise ValueError(f"not a host name or an IP address: {name!r} (write international names in their xn-- form)")
    return x509.DNSName(name)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
