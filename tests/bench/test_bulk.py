"""What is made of the speeds of large bodies."""

from __future__ import annotations

import pytest

from bench.bulk import _report

MOST = {"HTTP/1.1": 55.0, "HTTP/2": 57.0}


@pytest.mark.parametrize(("down", "up", "status"), [(60.0, 100.0, 0), (59.0, 100.0, 1), (100.0, 59.0, 1)])
def test_the_promise_holds_in_both_directions(down: float, up: float, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Less than 60 % of HTTP/1.1's speed either way is a failure; the medians count."""
    found = {
        ("down", "HTTP/1.1"): [(100.0, 0.5), (1.0, 9.0), (100.0, 0.5)],
        ("up", "HTTP/1.1"): [(100.0, 0.5)],
        ("down", "HTTP/2"): [(down, 1.0), (1000.0, 1.0), (1.0, 1.0)],
        ("up", "HTTP/2"): [(up, 1.0)],
    }
    assert _report(found, MOST) == status
    assert f"HTTP/2 to HTTP/1.1: {down / 100:.2f}" in capsys.readouterr().out
