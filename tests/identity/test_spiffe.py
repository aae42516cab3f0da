"""What `SpiffeId` accepts, refuses and gives back."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, strategies as st

from sidecar.identity.spiffe import SpiffeId, check_trust_domain

SEGMENTS = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=20).filter(lambda s: s not in (".", ".."))
TRUST_DOMAINS = st.text(string.ascii_lowercase + string.digits + "._-", min_size=1, max_size=60)


@given(TRUST_DOMAINS, st.lists(SEGMENTS, max_size=5))
def test_every_id_of_the_grammar_comes_back_as_written(trust_domain: str, segments: list[str]) -> None:
    """parse and str are each other's inverse, and the parts are where they belong."""
    text = "spiffe://" + "/".join([trust_domain, *segments])
    parsed = SpiffeId.parse(text)
    assert str(parsed) == text
    assert parsed.trust_domain == trust_domain
    assert parsed.path == ("/" + "/".join(segments) if segments else "")
    assert parsed == SpiffeId.parse(text) and hash(parsed) == hash(SpiffeId.parse(text))


@given(st.text(max_size=40) | st.text("spife:/.a-?#@%A0", max_size=30).map(lambda s: "spiffe://" + s))
def test_any_other_text_is_refused_with_a_sentence_or_has_one_spelling(text: str) -> None:
    """Whatever is accepted is exactly its own spelling: no two texts are the same identity."""
    try:
        parsed = SpiffeId.parse(text)
    except ValueError as error:
        assert str(error)
    else:
        assert str(parsed) == text
        assert not set(text) & set("?#@%")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("https://example.org/a", "a SPIFFE ID starts with spiffe://, got 'https://example.org/a'"),
        ("SPIFFE://example.org/a", "a SPIFFE ID starts with spiffe://, got 'SPIFFE://example.org/a'"),
        ("spiffe://", "the trust domain is missing in 'spiffe://'"),
        ("spiffe:///a", "the trust domain is missing in 'spiffe:///a'"),
        ("spiffe://Example.org/a", "a trust domain has lower-case letters, digits, '.', '-' and '_' only, got 'Example.org'"),
        ("spiffe://example.org:80/a", "a SPIFFE ID has no port: 'spiffe://example.org:80/a'"),
        ("spiffe://me@example.org/a", "a SPIFFE ID has no user before its trust domain: 'spiffe://me@example.org/a'"),
        ("spiffe://example.org?x", "a SPIFFE ID has no query: 'spiffe://example.org?x'"),
        ("spiffe://example.org/a?x", "a SPIFFE ID has no query: 'spiffe://example.org/a?x'"),
        ("spiffe://example.org/a#x", "a SPIFFE ID has no fragment: 'spiffe://example.org/a#x'"),
        ("spiffe://example.org/", "a SPIFFE ID has no empty path segment and no slash at its end: 'spiffe://example.org/'"),
        ("spiffe://example.org/a//b", "a SPIFFE ID has no empty path segment and no slash at its end: 'spiffe://example.org/a//b'"),
        ("spiffe://example.org/a/../b", "a SPIFFE ID has no segment '..': 'spiffe://example.org/a/../b'"),
        ("spiffe://example.org/%61", "a path segment of a SPIFFE ID has letters, digits, '.', '-' and '_' only, got '%61'"),
        ("spiffe://example.org/a\n", "a path segment of a SPIFFE ID has letters, digits, '.', '-' and '_' only, got 'a\\n'"),
        ("spiffe://" + "a" * 256, "a trust domain has at most 255 octets, this one has 256"),
        ("spiffe://e/" + "a" * 2048, "a SPIFFE ID has at most 2048 octets, this one has 2059"),
    ],
)
def test_a_malformed_id_is_refused_in_words(text: str, sentence: str) -> None:
    """Each breach of the grammar has its own sentence."""
    with pytest.raises(ValueError) as caught:
        SpiffeId.parse(text)
    assert str(caught.value) == sentence


def test_the_longest_id_is_accepted() -> None:
    """2048 octets, section 2.3 of the standard."""
    text = "spiffe://e/" + "a" * (2048 - 11)
    assert str(SpiffeId.parse(text)) == text


def test_a_workload_has_namespace_and_service_in_its_path() -> None:
    """The form that Istio uses too."""
    made = SpiffeId.of_workload("example.org", "shop", "orders")
    assert str(made) == "spiffe://example.org/ns/shop/sa/orders"
    assert made.name == "orders"
    assert SpiffeId.parse("spiffe://example.org").name == "example.org"


@pytest.mark.parametrize(
    ("namespace", "service", "what"), [("a/b", "s", "namespace 'a/b'"), ("n", "", "service ''"), ("n", "..", "service '..'"), ("n", "a b", "service 'a b'")]
)
def test_a_name_cannot_smuggle_another_segment_in(namespace: str, service: str, what: str) -> None:
    """`shop/sa/admin` as a namespace would be somebody else's identity."""
    with pytest.raises(ValueError, match="does not fit into a SPIFFE ID") as caught:
        SpiffeId.of_workload("example.org", namespace, service)
    assert what in str(caught.value)


def test_a_trust_domain_is_checked_alone_too() -> None:
    """For configuration that names only the domain."""
    assert check_trust_domain("example.org") == "example.org"
    with pytest.raises(ValueError, match="lower-case"):
        check_trust_domain("example/org")
