"""SPIFFE IDs: `spiffe://example.org/ns/shop/sa/orders`, parsed once into a checked value and then only compared.

Pure: no Twisted, no OpenSSL. The grammar is that of the SPIFFE-ID standard, sections 2.1 to 2.3: lower-case trust domain, path segments of letters, digits,
dots, dashes and underscores, nothing percent-encoded, and nothing that a URI may have besides (user, port, query, fragment). There is then exactly one spelling
of an ID, so equality of texts is equality of identities.
"""

from __future__ import annotations

import re

import attrs

MAX_OCTETS = 2048  # SPIFFE-ID section 2.3: what every implementation has to take, and the most that one may make
MAX_TRUST_DOMAIN_OCTETS = 255  # section 2.1, as for a host name (RFC 3986 section 3.2.2)

_SCHEME = "spiffe://"
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")


@attrs.frozen(order=True)
class SpiffeId:
    """One checked ID. Make it with `parse` or `of_workload`; `path` is "" for a trust domain's own ID, else it starts with "/"."""

    trust_domain: str
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """The ID written in `text`. Raises `ValueError` with a sentence that says what is wrong with it."""
        if len(text) > MAX_OCTETS:
            raise ValueError(f"a SPIFFE ID has at most {MAX_OCTETS} octets, this one has {len(text)}")
        if not text.startswith(_SCHEME):
            raise ValueError(f"a SPIFFE ID starts with {_SCHEME}, got {text!r}")
        trust_domain, slash, rest = text[len(_SCHEME) :].partition("/")
        _check_trust_domain(trust_domain, text)
        if not slash:
            return cls(trust_domain)
        for segment in rest.split("/"):
            _check_segment(segment, text)
        return cls(trust_domain, "/" + rest)

    @classmethod
    def of_workload(cls, trust_domain: str, namespace: str, service: str) -> SpiffeId:
        """The ID of a service: `spiffe://<trust_domain>/ns/<namespace>/sa/<service>`. Raises `ValueError` when one of the names does not fit into an ID."""
        for what, name in (("namespace", namespace), ("service", service)):
            if _SEGMENT.fullmatch(name) is None or name in (".", ".."):
                raise ValueError(f"the {what} {name!r} does not fit into a SPIFFE ID: letters, digits, '.', '-' and '_' only")
        return cls.parse(f"{_SCHEME}{trust_domain}/ns/{namespace}/sa/{service}")

    @property
    def name(self) -> str:
        """What people call it: the last segment of the path ("orders"), or the trust domain where there is no path."""
        return self.path.rpartition("/")[2] or self.trust_domain

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain}{self.path}"


def check_trust_domain(name: str) -> str:
    """`name` itself, when it is the name of a trust domain. Raises `ValueError` with a sentence otherwise."""
    _check_trust_domain(name, name)
    return name


def _check_trust_domain(name: str, text: str) -> None:
    if not name:
        raise ValueError(f"the trust domain is missing in {text!r}")
    if len(name) > MAX_TRUST_DOMAIN_OCTETS:
        raise ValueError(f"a trust domain has at most {MAX_TRUST_DOMAIN_OCTETS} octets, this one has {len(name)}")
    if _TRUST_DOMAIN.fullmatch(name) is not None:
        return
    if "@" in name:
        raise ValueError(f"a SPIFFE ID has no user before its trust domain: {text!r}")
    if ":" in name:
        raise ValueError(f"a SPIFFE ID has no port: {text!r}")
    _check_no_query(name, text)
    raise ValueError(f"a trust domain has lower-case letters, digits, '.', '-' and '_' only, got {name!r}")


def _check_segment(segment: str, text: str) -> None:
    if not segment:
        raise ValueError(f"a SPIFFE ID has no empty path segment and no slash at its end: {text!r}")
    if segment in (".", ".."):
        raise ValueError(f"a SPIFFE ID has no segment {segment!r}: {text!r}")
    if _SEGMENT.fullmatch(segment) is None:
        _check_no_query(segment, text)
        raise ValueError(f"a path segment of a SPIFFE ID has letters, digits, '.', '-' and '_' only, got {segment!r}")


def _check_no_query(part: str, text: str) -> None:
    if "?" in part:
        raise ValueError(f"a SPIFFE ID has no query: {text!r}")
    if "#" in part:
        raise ValueError(f"a SPIFFE ID has no fragment: {text!r}")
