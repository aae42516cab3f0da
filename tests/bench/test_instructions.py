"""What callgrind's files mean."""

from __future__ import annotations

import pytest

from bench import load
from bench.instructions import parse_totals


@pytest.mark.parametrize("word", ["totals", "summary"])
def test_the_total_is_read(word: str) -> None:
    """The sum stands on a line of its own, under one of two names."""
    assert parse_totals(f"events: Ir\nfn=(1) main\n1 17\n{word}: 123456\n") == 123456


@pytest.mark.parametrize("profile", ["", "totals: 0\n", "subtotals: 5\n"])
def test_a_file_without_instructions_is_no_result(profile: str) -> None:
    """Instrumentation that was not on counts nothing: better no number than a wrong one."""
    with pytest.raises(load.InvalidRun):
        parse_totals(profile)
