"""From the authority of a request to its virtual host: exact name, longest `*.suffix`, longest `prefix.*`, then `*`.

The port of the request is ignored and case does not matter. A trailing dot does matter: `example.org.` is not `example.org`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")

# Authorities come from clients: as many as a busy egress proxy sees are remembered, then the memory starts anew. An entry is at most 261 octets.
CACHED_AUTHORITIES = 1024
# RFC 1035: 253 octets, and a colon and a port.
CACHED_AUTHORITY_BYTES = 261


def host_of(authority: bytes) -> bytes:
    """The host of `host:port` or `[v6]:port` in lower case, brackets kept."""
    if authority.startswith(b"["):
        end = authority.find(b"]")
        return authority[: end + 1].lower() if end > 0 else authority.lower()
    return authority.partition(b":")[0].lower()


class DomainMap(Generic[T]):
    """Values by domain pattern. Made once; `find` is asked for each request."""

    __slots__ = ("_cache", "_default", "_exact", "_prefixes", "_suffixes", "only")

    def __init__(self, domains: Iterable[tuple[str, T]]) -> None:
        """`domains`: (pattern, value) pairs. Raises `ValueError` for a pattern given twice or one that is none of the four forms."""
        self._exact: dict[bytes, T] = {}
        self._default: T | None = None
        self._cache: dict[bytes, T | None] = {}
        suffixes: dict[bytes, T] = {}
        prefixes: dict[bytes, T] = {}
        for text, value in domains:
            pattern = text.lower().encode("idna" if not text.isascii() else "ascii")
            if pattern == b"*":
                if self._default is not None:
                    raise ValueError("the domain '*' is given twice")
                self._default = value
                continue
            if pattern.startswith(b"*"):
                into, key = suffixes, pattern[1:]
            elif pattern.endswith(b"*"):
                into, key = prefixes, pattern[:-1]
            else:
                into, key = self._exact, pattern
            if b"*" in key or not key or (into is suffixes and key[0] not in b".-") or (into is prefixes and key[-1] not in b".-"):
                raise ValueError(f"a domain is a host name, '*.suffix', 'prefix.*' or '*', not {text!r}")
            if into is self._exact and host_of(key) != key:
                raise ValueError(f"the port of a request is ignored, so the domain {text!r} never matches; write {host_of(key).decode()!r}")
            if key in into:
                raise ValueError(f"the domain {text!r} is given twice")
            into[key] = value
        self._suffixes = _longest_first(suffixes)
        self._prefixes = _longest_first(prefixes)
        # When "*" is all there is, the authority need not be looked at.
        self.only: T | None = None if self._exact or suffixes or prefixes else self._default

    def find(self, authority: bytes) -> T | None:
        """The value whose pattern is the most specific for this authority."""
        cache = self._cache
        if authority in cache:
            return cache[authority]
        found = self._find(host_of(authority))
        if len(authority) <= CACHED_AUTHORITY_BYTES:
            if len(cache) >= CACHED_AUTHORITIES:
                cache.clear()
            cache[authority] = found
        return found

    def _find(self, host: bytes) -> T | None:
        found = self._exact.get(host)
        if found is not None:
            return found
        for suffix, value in self._suffixes:
            # The star stands for at least one character: "*.example.org" does not take ".example.org".
            if len(host) > len(suffix) and host.endswith(suffix):
                return value
        for prefix, value in self._prefixes:
            if len(host) > len(prefix) and host.startswith(prefix):
                return value
        return self._default


def _longest_first(values: dict[bytes, T]) -> tuple[tuple[bytes, T], ...]:
    return tuple(sorted(values.items(), key=lambda item: -len(item[0])))
