"""What there is to know of one X.509 certificate, read once: names, validity, its SPIFFE ID or why it has none, and its element of x-forwarded-client-cert.

Peers come back often (pools, retries, restarts), so what was read is kept by the certificate's octets. Nothing here decides whether a certificate is to be
trusted.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from functools import lru_cache

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sidecar.identity.spiffe import SpiffeId

# What reading a certificate raises when it is of a kind that the library does not know: a peer can write anything, and OpenSSL accepts more. None of the three
# has a class in common with the others but `Exception`.
UNREADABLE = (ValueError, x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType)

KNOWN_CERTIFICATES = 512  # kept by `facts_of`, about 4 KiB each, so 2 MiB; with more peers than this they are parsed again, 100 us each

# RFC 4514 section 2.4: any octet may be written as a backslash and two hex digits. These are what could end a quoted string or a line, or is not ASCII.
_ESCAPED_QUOTE_OR_BACKSLASH = re.compile(r'\\(["\\])')
_UNSAFE_IN_QUOTES = re.compile(r'["\x00-\x1f\x7f-\U0010ffff]')


@attrs.frozen
class CertificateFacts:
    """One certificate. `identity`: its SPIFFE ID, else None and `identity_problem` says why, as the end of a sentence that starts with "the certificate" ("has
    no SPIFFE ID ..."). `subject`, `issuer`: RFC 4514 text. `serial`, `sha256`: hex. `not_before`, `not_after`: POSIX seconds. `forwarded`:
    `Hash=...;Subject="...";URI=...`.
    """

    identity: SpiffeId | None
    identity_problem: str
    subject: str
    issuer: str
    serial: str
    not_before: float
    not_after: float
    dns_names: tuple[str, ...]
    sha256: str
    is_authority: bool
    forwarded: bytes = attrs.field(repr=False)

    @property
    def name(self) -> str:
        """What to call it in a sentence: a workload's SPIFFE ID, else the subject, else the first host name, else its fingerprint."""
        identity = "" if self.is_authority or self.identity is None else str(self.identity)
        return identity or self.subject or next(iter(self.dns_names), "") or f"certificate {self.sha256[:16]}"

    @property
    def issuer_name(self) -> str:
        """The issuer as a sentence names it."""
        return self.issuer or "an authority without a name"

    def validity(self) -> str:
        """ "issued by CN=..., valid from ... until ..." """
        return f"issued by {self.issuer_name}, valid from {when(self.not_before)} until {when(self.not_after)}"


def facts_of(certificate: x509.Certificate) -> CertificateFacts:
    """The facts of `certificate`; the same object again for the same octets, as long as it is remembered. Raises one of `UNREADABLE` when it has none."""
    return _facts_of_der(certificate.public_bytes(Encoding.DER))


def when(seconds: float) -> str:
    """POSIX seconds as "2026-03-01 12:00:00Z"."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def span(seconds: float) -> str:
    """A length of time in the largest unit that tells something: "3 days", "1 hour", "20 seconds"."""
    seconds = abs(seconds)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{int(seconds)} second{'' if int(seconds) == 1 else 's'}"


@lru_cache(maxsize=KNOWN_CERTIFICATES)
def _facts_of_der(der: bytes) -> CertificateFacts:
    certificate = x509.load_der_x509_certificate(der)
    sha256 = hashlib.sha256(der).hexdigest()
    identity, problem, dns_names = _names(certificate)
    is_authority = _is_authority(certificate)
    if identity is not None and identity.path and is_authority:
        # X509-SVID section 4.1: a leaf that could sign others must not be taken for a workload.
        identity, problem = None, "is that of an authority (CA:TRUE), not of a workload"
    subject = _rfc4514(certificate.subject)
    return CertificateFacts(
        identity=identity,
        identity_problem=problem,
        subject=subject,
        issuer=_rfc4514(certificate.issuer),
        serial=f"{certificate.serial_number:x}",
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        dns_names=dns_names,
        sha256=sha256,
        is_authority=is_authority,
        forwarded=_forwarded(sha256, subject, identity),
    )


def _names(certificate: x509.Certificate) -> tuple[SpiffeId | None, str, tuple[str, ...]]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None, "has no SPIFFE ID (no subject alternative names at all)", ()
    except UNREADABLE as error:  # other extensions are parsed on the way
        return None, f"has extensions that cannot be read ({error})", ()
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    dns_names = tuple(map(_printable, names.get_values_for_type(x509.DNSName)))
    if not uris:
        return None, "has no SPIFFE ID (no URI among its subject alternative names)", dns_names
    if len(uris) > 1:  # X509-SVID section 2: exactly one, or one could pick the identity one likes
        return None, f"has {len(uris)} URIs among its subject alternative names where exactly one SPIFFE ID must be: {', '.join(map(repr, uris))}", dns_names
    try:
        return SpiffeId.parse(uris[0]), "", dns_names
    except ValueError as error:
        return None, f"has a malformed SPIFFE ID: {error}", dns_names


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, *UNREADABLE):
        return False


def _rfc4514(name: x509.Name) -> str:
    """RFC 4514 text in printable ASCII that may stand between double quotes as it is.

    The issuing authority may have let anything into a subject, line ends and quotes included, and the text goes into a header field and into logs. So these are
    written as hex pairs, which RFC 4514 allows for any octet: readers that know only Envoy's `\\"` and readers that take every backslash for an escape both
    find the same end of the string.
    """
    text = _ESCAPED_QUOTE_OR_BACKSLASH.sub(lambda match: f"\\{ord(match[1]):02X}", name.rfc4514_string())
    return _printable(text)


def _printable(text: str) -> str:
    """`text` with everything as hex pairs that is no printable ASCII, or a double quote: what anybody may have written into a certificate ends up in logs."""
    return _UNSAFE_IN_QUOTES.sub(lambda match: "".join(f"\\{octet:02X}" for octet in match[0].encode("utf-8", "surrogatepass")), text)


def _forwarded(sha256: str, subject: str, identity: SpiffeId | None) -> bytes:
    """The peer's part of an element of x-forwarded-client-cert (Envoy's format). A SPIFFE ID has no character that needs quotes, and `subject` is made to fit
    into them.
    """
    return f'Hash={sha256};Subject="{subject}"{f";URI={identity}" if identity is not None else ""}'.encode("ascii")
