"""One spelling for each path, and nothing that two readers could understand differently."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sidecar.routing.normalize import KNOWN_PATHS, normalize_path, normalize_path_merging_slashes, normalizer, remembering, wire_form, wire_prefix

SAME = [
    b"/",
    b"/a/b.html",
    b"/a?x=%zz&y=/../#".rstrip(b"#"),
    b"/a//b",
    b"/.well-known/x",
    b"/a..b/...",
    b"*",
    b"",
    b"/a;v=1/b@c:d",
    b"/a%2Fb",
    b"/a%5Cb",
    b"/%25",
    b"/a%2F..b/.c%2F...%2F.d",
    b"/a?b=..%2F..%2F",
]


@pytest.mark.parametrize("path", SAME)
def test_normal_paths_stay(path: bytes) -> None:
    """What is in normal form already comes back as the very same object."""
    assert normalize_path(path) is path


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        (b"/a/./b", b"/a/b"),
        (b"/a/../b", b"/b"),
        (b"/a/%2e%2E/b", b"/b"),
        (b"/a/.%2e/b?c=%2e", b"/b?c=%2e"),
        (b"/a/..", b"/"),
        (b"/a/b/.", b"/a/b/"),
        (b"/a\\..\\b", b"/b"),
        (b"/%61dmin", b"/admin"),
        (b"/a%2fb", b"/a%2Fb"),
        (b"/a//../b", b"/a/b"),
        (b'/a"{b}', b"/a%22%7Bb%7D"),
        (b"/k\xc3\xa4se", b"/k%C3%A4se"),
        (b"/k%c3%a4se", b"/k%C3%A4se"),
    ],
)
def test_one_spelling(path: bytes, normal: bytes) -> None:
    """Different spellings of a path become one."""
    assert normalize_path(path) == normal


@pytest.mark.parametrize(
    "path",
    [
        b"/..",
        b"/../a",
        b"/a/../../b",
        b"/%2e%2e/a",
        b"/a/..%2Fadmin",
        b"/a/%2e%2e%2fadmin",
        b"/a/.%5cadmin",
        b"/a/b%2F..%2F..%2Fadmin",
        b"/a/b%2f../admin",
        b"/a/b%2F..;x/admin",
        b"/a/b%5C.",
        b"/a%00b",
        b"/a\x00b",
        b"/a b",
        b"/a\x7f",
        b"/a%",
        b"/a%2",
        b"/a%zz",
        b"/%2%65",
        b"/a#b",
        b"/a?b#c",
        b"a",
        b"a/b",
        b"?x",
    ],
)
def test_refused(path: bytes) -> None:
    """A path that climbs above the root, or that two readers could understand differently, is refused."""
    assert normalize_path(path) is None


def test_slashes_are_merged_where_asked_for() -> None:
    """Merging happens before dot segments are removed, and never in the query."""
    assert normalize_path_merging_slashes(b"/a//..//b?c=//") == b"/b?c=//"
    assert normalize_path_merging_slashes(b"/a\\\\b") == b"/a/b"
    assert normalize_path_merging_slashes(b"/a/b") == b"/a/b"
    assert normalizer(True)(b"//") == b"/"
    assert normalizer(False)(b"//") == b"//"


PATHS = st.lists(
    st.sampled_from([b"/", b".", b"..", b"a", b"%2e", b"%2F", b"%2f", b"%5c", b"\\", b"%61", b"?", b"%", b"#", b"~", b"\xe4", b"2", b"e", b"%25"])
).map(lambda p: b"/" + b"".join(p))


@given(PATHS, st.booleans())
def test_normalization_is_idempotent(path: bytes, merge: bool) -> None:
    """The normal form of a normal form is itself, and has no dot segment, however it was written."""
    normalize = normalizer(merge)
    normal = normalize(path)
    if normal is None:
        return
    assert normalize(normal) is normal
    segments = normal.partition(b"?")[0].lower().replace(b"%2e", b".").split(b"/")
    assert b"." not in segments
    assert b".." not in segments
    for separator in (b"%2f", b"%5c"):
        segments = [each for segment in segments for each in segment.split(separator)]
    assert len(segments) == 1 or not {b".", b".."} & set(segments), "for who decodes before the dots are taken out"


@given(st.binary(max_size=40))
def test_any_bytes_are_decided(path: bytes) -> None:
    """No input raises; what passes has only characters that a path may have."""
    normal = normalize_path(path)
    assert normal is None or normal in (b"", b"*") or normal.startswith(b"/")


def test_configured_paths_are_written_as_requests_carry_them() -> None:
    """What no request can look like is an error, with what to write instead."""
    assert wire_form("/käse") == b"/k%C3%A4se"
    assert wire_prefix("/a/.") == b"/a/."
    for text in ("/a/../b", "/%61", "/a?b", "a", "/a%", ""):
        with pytest.raises(ValueError, match="path"):
            wire_form(text)
    with pytest.raises(ValueError, match="write /b"):
        wire_form("/a/../b")


def test_dot_segments_with_parameters_are_refused() -> None:
    """Servers that drop path parameters first would climb where we did not."""
    for path in (b"/a/..;/admin", b"/a/..;x=1/admin", b"/.;/admin", b"/a/%2e%2e;/b"):
        assert normalize_path(path) is None, path
    assert normalize_path(b"/a;x/b;..") == b"/a;x/b;.."


def test_what_is_remembered_is_what_was_found_normal() -> None:
    """The memory never answers for a path that has to be changed or refused, and is bounded."""
    asked: list[bytes] = []

    def normalize(path: bytes) -> bytes | None:
        asked.append(path)
        return normalize_path(path)

    normal = remembering(normalize)
    for _ in range(2):
        assert normal(b"/a/b") == b"/a/b"
        assert normal(b"/a/../b") == b"/b"
        assert normal(b"/..") is None
        assert normal(b"/a?q") == b"/a?q"
    assert asked == [b"/a/b", b"/a/../b", b"/..", b"/a?q", b"/a/../b", b"/..", b"/a?q"]
    for number in range(KNOWN_PATHS + 1):
        normal(b"/%d" % number)
    asked.clear()
    normal(b"/a/b")
    assert asked == [b"/a/b"]
