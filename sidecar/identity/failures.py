"""A failed handshake in one sentence that names both sides and says what is wrong, instead of `[('SSL routines', '', 'tlsv13 alert certificate required')]`.

Three kinds: we did not accept the peer's chain (the verify callback noted why), the peer did not accept us (it sent an alert), or the two do not speak the same
protocol. With TLS 1.3 a server judges our certificate after our own handshake is done, so the second kind arrives as the error of the first read; it reads the
same.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from OpenSSL import SSL
from twisted.python.failure import Failure

from sidecar.errors import SidecarError
from sidecar.identity.certificate import when
from sidecar.identity.reasons import VerifyProblem
from sidecar.identity.terms import NoCommonProtocol, Terms

# What the peer says about us, RFC 8446 section 6.2, by the end of OpenSSL's reason string ("tlsv13 alert certificate required", "tls alert bad certificate").
_ALERTS = {
    "certificate required": "it requires a client certificate (mutual TLS) and we showed none",
    "unknown ca": "it does not trust the authority that issued our certificate",
    "bad certificate": "it did not accept our certificate; its own log says why",
    "certificate unknown": "it did not accept our certificate; its own log says why",
    "unsupported certificate": "our certificate is of a kind that it does not accept; its key usage may not allow this use",
    "certificate expired": "it takes our certificate for expired; compare the two clocks",
    "certificate revoked": "our certificate was revoked",
    "access denied": "our identity may not connect there",
    "protocol version": "it speaks none of the TLS versions that we do ({versions})",
    "handshake failure": "the two have no cipher, key or signature kind in common, or it requires a client certificate and we showed none",
    "insufficient security": "it requires stronger ciphers or keys than ours",
    "no application protocol": "it speaks none of the protocols that we offered by ALPN ({alpn})",
    "unrecognized name": "it does not serve the name that we asked for by SNI ({server_name})",
    "decrypt error": "it could not verify our signature or finished message",
    "internal error": "it failed for a reason of its own; its log says why",
}
# With these, who issued our certificate and when it is valid is what a person looks at next.
_ABOUT_OUR_CERTIFICATE = frozenset(
    {"unknown ca", "bad certificate", "certificate unknown", "unsupported certificate", "certificate expired", "certificate revoked", "access denied"}
)

# What we find out ourselves, by the whole reason string; no TLS came from the peer at all.
_NOT_TLS_FROM_CLIENT = {
    "http request": "it spoke plain HTTP where only TLS is taken",
    "https proxy request": "it spoke plain HTTP (CONNECT) where only TLS is taken",
}
_NOT_TLS = frozenset(
    {
        "wrong version number",
        "packet length too long",
        "record layer failure",
        "unexpected message",
        "bad record type",
        "record too small",
        "not tls or no data",
    }
)
_OURS = {
    "peer did not return a certificate": "it showed no certificate, and mutual TLS is required here",
    "unsupported protocol": "it speaks none of the TLS versions that we do ({versions})",
    "no shared cipher": "it offered no cipher that we accept",
    "no suitable signature algorithm": "the two have no signature kind in common",
    "no suitable key share": "the two have no key exchange group in common",
    "no protocols available": "the two have no TLS version in common",
    "bad extension": "its ClientHello is malformed",
}


def explain_handshake_failure(error: BaseException | Failure, problem: VerifyProblem | None, terms: Terms, address: object, name: str, now: float) -> str:
    """One sentence about a handshake that ended with `error` (what `do_handshake`, or the first read after it, raised; a Failure of it will do; or a timeout's
    own error).

    `problem`: what the verify callback noted for this connection, or None. `address`: the peer's; `name`: the cluster's, "" downstream. `now`: POSIX seconds.
    """
    error = _bare(error)
    we, they = terms.we, terms.they(address, name)
    if isinstance(error, NoCommonProtocol):
        return f"{we} refused {they}: {error.sentence}"
    if isinstance(error, SidecarError):  # an identity check: it has said all of this
        return error.sentence
    reasons = _reasons(error)
    if problem is not None:
        whose = f"its certificate ({problem.certificate.name})" if problem.depth == 0 else "its certificate"
        return f"{we} refused {they}: {problem.words(whose, now)}"
    for reason in reasons:
        alert = reason.rpartition("alert ")[2] if "alert " in reason else ""
        if alert:
            return f"{they} refused {we}: {_alert_words(alert, terms, now)}"
    for reason in reasons:
        words = _OURS.get(reason)
        if words is not None:
            return f"{we} refused {they}: {words.format(versions=terms.versions)}"
        if reason in _NOT_TLS_FROM_CLIENT:
            return f"{we} refused {they}: {_NOT_TLS_FROM_CLIENT[reason]}"
        if reason in _NOT_TLS:
            return _no_tls(terms, we, they)
    return f"the TLS handshake of {we} with {they} failed: {_ended(error, reasons, terms.side)}"


def is_refusal_by_peer(error: BaseException) -> bool:
    """True when `error` is an alert by which the peer ends the handshake, as the first read after a TLS 1.3 handshake may raise it; nothing of a request was
    then served.
    """
    return any("alert " in reason for reason in _reasons(error))


def _bare(error: BaseException | Failure) -> BaseException:
    if isinstance(error, Failure):
        assert error.value is not None  # a Failure is made of an exception
        return error.value
    return error


def _reasons(error: BaseException) -> list[str]:
    """OpenSSL's reason strings, in lower case; empty for errors of other kinds."""
    if not isinstance(error, SSL.Error) or not error.args or not isinstance(error.args[0], list):
        return []
    entries: list[Any] = error.args[0]
    return [str(entry[2]).lower() for entry in entries if isinstance(entry, tuple) and len(entry) == 3]


def _alert_words(alert: str, terms: Terms, now: float) -> str:
    """What the peer said, and what of ours it may have looked at."""
    words = _ALERTS.get(alert, f'it sent the alert "{alert}"').format(
        alpn=", ".join(terms.alpn) or "none", server_name=terms.server_name or "none", versions=terms.versions
    )
    own = terms.own.certificate if terms.own is not None else None
    if alert not in _ABOUT_OUR_CERTIFICATE or own is None:
        return words
    valid = "" if own.not_before <= now <= own.not_after else ", so by our own clock it is not valid now"
    return f"{words} (ours: {own.validity()}; our clock says {when(now)}{valid})"


def _no_tls(terms: Terms, we: str, they: str) -> str:
    if terms.side == "server":
        return f"{we} refused {they}: what it sent is not TLS"
    return (
        f"{they} does not speak TLS: it answered the handshake of {we} with something else; "
        "is this the application's own port, or is mutual TLS switched off at its sidecar?"
    )


def _ended(error: BaseException, reasons: list[str], side: str) -> str:
    if isinstance(error, (SSL.SysCallError, OSError)):
        number = error.args[0] if error.args and isinstance(error.args[0], int) else -1
        if number in (errno.ECONNRESET, errno.EPIPE):
            return "it reset the connection without a word; its own log may say why"
        if number > 0:
            return f"the connection broke ({os.strerror(number)})"
        if side == "server":
            return "it closed the connection before the handshake was done (port scans and bare TCP health checks do)"
        return "it closed the connection without a word; does it speak TLS on this port?"
    if isinstance(error, SSL.ZeroReturnError):
        return "it closed the connection before the handshake was done"
    if reasons:
        return "; ".join(reasons)
    return str(error) or type(error).__name__
