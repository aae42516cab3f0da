"""Authorities to virtual hosts: the most specific pattern decides."""

from __future__ import annotations

import pytest

from sidecar.routing.domains import CACHED_AUTHORITIES, CACHED_AUTHORITY_BYTES, DomainMap, host_of

ORDER = ["*", "*.example.org", "*.shop.example.org", "shop.*", "shop.example.*", "shop.example.org", "[::1]", "*-internal.example.org"]


@pytest.mark.parametrize(
    ("authority", "pattern"),
    [
        (b"shop.example.org", "shop.example.org"),
        (b"SHOP.Example.ORG:8080", "shop.example.org"),
        (b"a.shop.example.org", "*.shop.example.org"),
        (b"a.b.example.org:1", "*.example.org"),
        (b"a-internal.example.org", "*-internal.example.org"),
        (b"shop.example.net", "shop.example.*"),
        (b"shop.other", "shop.*"),
        (b"example.org", "*"),
        (b".example.org", "*"),
        (b"shop.example.org.", "shop.example.*"),
        (b"[::1]:8080", "[::1]"),
        (b"[::1]", "[::1]"),
        (b"", "*"),
    ],
)
def test_the_most_specific_domain_decides(authority: bytes, pattern: str) -> None:
    """Exact before longest suffix before longest prefix before the star; port and case do not matter."""
    domains = DomainMap((each, each) for each in ORDER)
    for _ in range(2):
        assert domains.find(authority) == pattern


def test_without_a_star_there_may_be_nothing() -> None:
    """An authority that no pattern takes has no virtual host."""
    assert DomainMap([("a.example", 1)]).find(b"b.example") is None


def test_a_star_alone_needs_no_look() -> None:
    """`only` is set when the authority cannot matter."""
    assert DomainMap([("*", "all")]).only == "all"
    assert DomainMap([("*", "all"), ("a.example", "a")]).only is None


@pytest.mark.parametrize("domains", [["*", "*"], ["a.example", "A.example"], ["a.*.b"], ["*a"], ["a*"], ["**"], [""], ["a.example:80"], ["*."[:1] + "*.b"]])
def test_patterns_that_are_none(domains: list[str]) -> None:
    """A pattern given twice, or of no known form, is refused."""
    with pytest.raises(ValueError, match="domain"):
        DomainMap((each, each) for each in domains)


def test_the_memory_of_authorities_is_bounded() -> None:
    """A client that invents authorities does not fill memory."""
    domains = DomainMap([("*", 0), ("a.example", 1)])
    for number in range(3 * CACHED_AUTHORITIES):
        domains.find(b"h%d" % number)
        assert len(domains._cache) <= CACHED_AUTHORITIES
    domains.find(b"x" * (CACHED_AUTHORITY_BYTES + 1))
    assert all(len(each) <= CACHED_AUTHORITY_BYTES for each in domains._cache)


def test_host_of_odd_authorities() -> None:
    """An unfinished bracket stays as it is."""
    assert host_of(b"[::1") == b"[::1"
    assert host_of(b"A:b:c") == b"a"
