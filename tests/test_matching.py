"""Tests on one value."""

from __future__ import annotations

import pytest

from sidecar.matching import compile_header_match, compile_regex, compile_value_match
from sidecar.model import ValueMatch
from sidecar.testing import make_headers


@pytest.mark.parametrize(
    ("test", "yes", "no"),
    [
        ({"exact": "ab"}, [b"ab"], [b"a", b"abc", b"AB", None]),
        ({"prefix": "ab"}, [b"ab", b"abc"], [b"xab", None]),
        ({"suffix": "ab"}, [b"ab", b"xab"], [b"abx", None]),
        ({"contains": "ab"}, [b"xabx"], [b"axb", None]),
        ({"regex": "a+"}, [b"a", b"aa"], [b"ab", b"", None]),
        ({"present": True}, [b"", b"x"], [None]),
        ({"present": False}, [None], [b""]),
        ({}, [b""], [None]),
    ],
)
def test_values(test: dict[str, object], yes: list[bytes | None], no: list[bytes | None]) -> None:
    """Each test takes what it says, and its inversion everything else."""
    takes = compile_value_match(ValueMatch(name="x", **test))  # type: ignore[arg-type]
    inverted = compile_value_match(ValueMatch(name="x", invert=True, **test))  # type: ignore[arg-type]
    assert [takes(value) for value in (*yes, *no)] == [True] * len(yes) + [False] * len(no)
    assert [inverted(value) for value in (*yes, *no)] == [False] * len(yes) + [True] * len(no)


def test_repeated_fields_are_one_value() -> None:
    """They are joined by commas in their order, as Envoy does."""
    headers = make_headers([("X-A", "1"), ("b", "2"), ("x-a", "3")])
    assert compile_header_match(ValueMatch(name="X-a", exact="1,3"))(headers)
    assert not compile_header_match(ValueMatch(name="x-a", exact="1"))(headers)
    assert compile_header_match(ValueMatch(name="c", present=False))(headers)


def test_matches_that_make_no_sense() -> None:
    """They are found when configuration loads."""
    with pytest.raises(ValueError, match="more than one test: exact, prefix"):
        compile_value_match(ValueMatch(name="x", exact="a", prefix="b"))
    with pytest.raises(ValueError, match="not a regular expression"):
        compile_regex("(")
    with pytest.raises(ValueError, match="not a field name"):
        compile_header_match(ValueMatch(name="a b"))
