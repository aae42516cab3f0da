"""Durations, sizes and environment variables: what is written, what it means, and what is written back."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sidecar.config.syntax import escape_variables, expand_variables, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("5s", 5.0), ("1m", 60.0), ("1h", 3600.0), ("1m30s", 90.0), ("1h1m1s1ms", 3661.001), ("1.5s", 1.5), ("0.1s", 0.1), ("0s", 0.0)],
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is a sum of numbers with units, larger units first."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5 s", "5sec", "-1s", "1s1m", "s", "1.s", ".5s", "1e3s", "١s"])
def test_not_durations(text: str) -> None:
    """Anything else is refused with what was expected."""
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


@pytest.mark.parametrize(("seconds", "text"), [(0.25, "250ms"), (90.0, "90s"), (60.0, "1m"), (7200.0, "2h"), (0.0, "0s"), (0.0001, 0.0001), (1e300, 1e300)])
def test_durations_written(seconds: float, text: str | float) -> None:
    """The largest unit that keeps the number whole is taken; without one the number stays."""
    assert format_duration(seconds) == text


@given(st.floats(min_value=0, allow_infinity=False, allow_nan=False) | st.integers(0, 10**9).map(lambda number: number / 1000))
def test_durations_come_back(seconds: float) -> None:
    """What is written reads as exactly the same number."""
    text = format_duration(seconds)
    assert (parse_duration(text) if isinstance(text, str) else text) == seconds


@pytest.mark.parametrize(
    ("text", "octets"), [("0B", 0), ("64KiB", 65536), ("1MiB", 2**20), ("1.5KiB", 1536), ("10MB", 10**7), ("1 GiB", 2**30), ("2kB", 2000), ("2KB", 2000)]
)
def test_sizes(text: str, octets: int) -> None:
    """Binary units are powers of 1024, the others of 1000."""
    assert parse_size(text) == octets


@pytest.mark.parametrize("text", ["", "64", "64K", "64kib", "-1B", "0.5B", "1.0001KiB"])
def test_not_sizes(text: str) -> None:
    """Ambiguous units and parts of octets are refused."""
    with pytest.raises(ValueError, match="expected"):
        parse_size(text)


@given(st.integers(0, 2**50))
def test_sizes_come_back(octets: int) -> None:
    """What is written reads as exactly the same number."""
    text = format_size(octets)
    assert (parse_size(text) if isinstance(text, str) else text) == octets


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("${A}", "one"),
        ("x${A}y${A}", "xoneyone"),
        ("${B:-two}", "two"),
        ("${EMPTY:-three}", "three"),
        ("${EMPTY}", ""),
        ("${B:-}", ""),
        ("$${A}", "${A}"),
        ("$A $5 $$", "$A $5 $$"),
        ("${NESTED}", "${A}"),
    ],
)
def test_variables(text: str, expanded: str) -> None:
    """Set variables are replaced once, defaults stand in for unset and empty ones, `$${` is literal."""
    assert expand_variables(text, {"A": "one", "EMPTY": "", "NESTED": "${A}"}) == (expanded, [])


@pytest.mark.parametrize(("text", "sentence"), [("${B}", "B is not set"), ("${}", "write $${"), ("${1}", "write $${"), ("${A", "write $${")])
def test_wrong_variables(text: str, sentence: str) -> None:
    """What cannot be expanded is said."""
    _, [wrong] = expand_variables(text, {"A": "one"})
    assert sentence in wrong


@given(st.text(alphabet="$${}Aa:-"))
def test_escaped_text_comes_back(text: str) -> None:
    """Escaping is undone by expanding, whatever the text."""
    assert expand_variables(escape_variables(text), {}) == (text, [])
