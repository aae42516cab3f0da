"""Codes of OpenSSL's chain verification as clauses. Those that a handshake can bring about are pinned in test_failures; here stand the others."""

from __future__ import annotations

import attrs
import pytest
from OpenSSL.SSL import X509VerificationCodes as Code

from sidecar.identity.authority import Authority
from sidecar.identity.certificate import facts_of
from sidecar.identity.reasons import VerifyProblem

NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def root() -> Authority:
    """An authority whose year is over at NOW."""
    return Authority.create("example.org", NOW - 367 * 86400)


@pytest.mark.parametrize(
    ("code", "depth", "words"),
    [
        (
            Code.ERR_CERT_HAS_EXPIRED,
            1,
            "the certificate of the authority {name} in its chain expired on 2027-01-13 08:00:00Z, 2 days ago (our clock says 2027-01-15 08:00:00Z)",
        ),
        (Code.ERR_DEPTH_ZERO_SELF_SIGNED_CERT, 0, "its certificate is signed by itself, not by an authority of our trust bundle"),
        (Code.ERR_SELF_SIGNED_CERT_IN_CHAIN, 1, "its certificate leads to the authority {name}, which is not in our trust bundle"),
        (Code.ERR_CERT_SIGNATURE_FAILURE, 0, "the signature of {name} on its certificate is wrong: another authority of the same name issued it"),
        (Code.ERR_INVALID_PURPOSE, 0, "its certificate was not issued for this use (its key usage does not allow it)"),
        (67, 1, "the key of an authority in the chain of its certificate is too short"),
        (Code.ERR_UNABLE_TO_GET_CRL, 0, "its certificate was not accepted (OpenSSL verify code 3, ERR_UNABLE_TO_GET_CRL)"),
        (999, 0, "its certificate was not accepted (OpenSSL verify code 999)"),
    ],
)
def test_each_code_has_its_words(root: Authority, code: int, depth: int, words: str) -> None:
    """Also one that nobody has thought of keeps its number."""
    problem = VerifyProblem(code, depth, facts_of(root.certificate))
    assert problem.words("its certificate", NOW) == words.format(name="CN=sidecar CA of example.org")


def test_a_certificate_without_any_name_is_still_named(root: Authority) -> None:
    """By its fingerprint, and its issuer as one without a name."""
    facts = attrs.evolve(facts_of(root.certificate), identity=None, subject="", issuer="", sha256="ab" * 32)
    assert facts.name == "certificate abababababababab"
    assert (
        VerifyProblem(Code.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, 0, facts)
        .words("its certificate", NOW)
        .startswith("its certificate was issued by an authority without a name, which")
    )
