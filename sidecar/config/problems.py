"""What is wrong with names, addresses and identities as texts, in sentences for a person."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from sidecar.config.convert import Record

TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
SPIFFE_SEGMENT = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]+")
_HOST = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)*")


def spiffe_problem(text: str) -> str:
    """What is wrong with `text` as a SPIFFE ID (SPIFFE-ID, section 2), or ""."""
    trust_domain, slash, path = text.removeprefix("spiffe://").partition("/")
    if not text.startswith("spiffe://") or len(text) > 2048:
        return f"expected a SPIFFE ID such as spiffe://example.org/ns/shop/sa/orders, got {text!r}"
    if TRUST_DOMAIN.fullmatch(trust_domain) is None:
        return f"the trust domain {trust_domain!r} of a SPIFFE ID holds lower-case letters, digits, '.', '-' and '_' only"
    if slash and any(SPIFFE_SEGMENT.fullmatch(segment) is None for segment in path.split("/")):
        return f"the path of the SPIFFE ID {text!r} has an empty segment, '.', '..' or a character other than letters, digits, '.', '-' and '_'"
    return ""


def host_problem(text: str, port: bool = False) -> str:
    """What is wrong with `text` as a host name or IP address (with `port`: a port may follow), or ""."""
    host = text
    if port and (match := re.fullmatch(r"(.+):([0-9]{1,5})", text)) and (match[1].endswith("]") or ":" not in match[1]):
        host = match[1]
    if host.startswith("[") and host.endswith("]"):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return f"not an IPv6 address in brackets: {text!r}"
        return ""
    return "" if _HOST.fullmatch(host) and len(host) <= 253 else f"expected a host name, got {text!r}"


def pattern_problem(text: str) -> str:
    """What is wrong with `text` as a domain pattern: exact, "*.suffix", "prefix.*" or "*"; or ""."""
    if text == "*":
        return ""
    bare = text[2:] if text.startswith("*.") else text[:-2] if text.endswith(".*") else text
    if re.search(r":[0-9]+$", bare) and host_problem(bare):
        return f"the port of the request is ignored; write {text.rpartition(':')[0]!r}"
    return f"expected a host name, '*.suffix', 'prefix.*' or '*', got {text!r}" if host_problem(bare) else ""


def prefix_problem(text: str) -> str:
    """What is wrong with `text` as an IP address or prefix ("10.0.0.0/8"), or ""."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        try:
            return f"the prefix {text!r} has bits beyond its length; write {str(ipaddress.ip_network(text, strict=False))!r}"
        except ValueError:
            return f"expected an IP address or prefix such as 10.0.0.0/8, got {text!r}"
    return ""


def each(record: Record, key: str, problem: Callable[[str], str]) -> None:
    """Report what `problem` finds wrong with any of the texts beneath `key`."""
    for text, report in record.texts(key):
        if sentence := problem(text):
            report(sentence)
