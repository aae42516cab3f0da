"""Why OpenSSL did not accept a certificate chain, in words. The codes are those of `X509_STORE_CTX_get_error(3)`."""

from __future__ import annotations

import attrs
from OpenSSL.SSL import X509VerificationCodes as Code

from sidecar.identity.certificate import CertificateFacts, span, when


@attrs.frozen
class VerifyProblem:
    """What was wrong with a chain: OpenSSL's `code`, and at which certificate. `depth` counts from the leaf (0) towards the root."""

    code: int
    depth: int
    certificate: CertificateFacts

    def words(self, whose: str, now: float) -> str:
        """The reason as a clause. `whose`: how to call the leaf, "its certificate" say. `now`: POSIX seconds of the clock that the reader should compare
        with.
        """
        facts = self.certificate
        subject = whose if self.depth == 0 else f"the certificate of the authority {facts.name} in its chain"
        if self.code == Code.ERR_CERT_HAS_EXPIRED:
            return f"{subject} expired on {when(facts.not_after)}, {span(now - facts.not_after)} ago ({_clock(now)})"
        if self.code == Code.ERR_CERT_NOT_YET_VALID:
            return f"{subject} is not valid before {when(facts.not_before)}, in {span(facts.not_before - now)} ({_clock(now)}: is one of the clocks wrong?)"
        if self.code in _UNKNOWN_ISSUER:
            return f"{subject} was issued by {facts.issuer_name}, which is not in our trust bundle (or an intermediate certificate is missing from the chain)"
        sentence = _WORDS.get(self.code)
        if sentence is None:
            return f"{subject} was not accepted (OpenSSL verify code {self.code}{_symbol(self.code)})"
        return sentence.format(subject=subject, whose=whose, name=facts.name, issuer=facts.issuer_name)


def _clock(now: float) -> str:
    return f"our clock says {when(now)}"


def _symbol(code: int) -> str:
    names = [name for name, value in vars(Code).items() if name.startswith("ERR_") and value == code]
    return f", {names[0]}" if names else ""


_UNKNOWN_ISSUER = frozenset({Code.ERR_UNABLE_TO_GET_ISSUER_CERT, Code.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, Code.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE})

# `.format` fields: whose (the leaf), subject (the certificate at which it went wrong), name (that one's own), issuer (that one's).
_WORDS: dict[int, str] = {
    Code.ERR_DEPTH_ZERO_SELF_SIGNED_CERT: "{subject} is signed by itself, not by an authority of our trust bundle",
    Code.ERR_SELF_SIGNED_CERT_IN_CHAIN: "{whose} leads to the authority {name}, which is not in our trust bundle",
    Code.ERR_CERT_SIGNATURE_FAILURE: "the signature of {issuer} on {subject} is wrong: another authority of the same name issued it",
    Code.ERR_CERT_REVOKED: "{subject} was revoked by {issuer}",
    Code.ERR_INVALID_CA: "{name} is not an authority but signed {subject}",
    Code.ERR_PATH_LENGTH_EXCEEDED: "the chain has more intermediate authorities than {name} allows",
    Code.ERR_INVALID_PURPOSE: "{subject} was not issued for this use (its key usage does not allow it)",
    Code.ERR_CERT_CHAIN_TOO_LONG: "the chain of {whose} is too long",
    Code.ERR_CERT_UNTRUSTED: "{subject} is marked as not trusted",
    Code.ERR_CERT_REJECTED: "{subject} is marked as rejected",
    66: "the key of {subject} is too short",  # X509_V_ERR_EE_KEY_TOO_SMALL and the two after it have no name in pyOpenSSL
    67: "the key of an authority in the chain of {whose} is too short",
    68: "{subject} is signed with a hash that is too weak",
}
