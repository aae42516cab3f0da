"""`sidecar/downstream/unfinished.py`: what is begun and never ended."""

from __future__ import annotations

from math import inf

from sidecar.downstream.unfinished import Unfinished


def test_time_counts_from_the_first_look_that_sees_it() -> None:
    """And ends when it is gone."""
    unfinished = Unfinished(5.0)
    assert not unfinished.is_over(100.0, False, 1) and unfinished.wait(100.0) == inf
    assert not unfinished.is_over(110.0, True, 1) and unfinished.wait(110.0) == 5.0
    assert not unfinished.is_over(114.0, True, 1) and unfinished.wait(114.0) == 1.0
    assert unfinished.is_over(115.0, True, 1) and unfinished.wait(116.0) == 0.0
    assert not unfinished.is_over(116.0, False, 1) and unfinished.wait(116.0) == inf


def test_requests_that_came_make_it_another_one() -> None:
    unfinished = Unfinished(5.0)
    assert [unfinished.is_over(10.0 * look, True, look) for look in range(5)] == [False] * 5
    assert unfinished.is_over(45.0, True, 4)


def test_no_limit() -> None:
    unfinished = Unfinished(0.0)
    assert not unfinished.is_over(0.0, True, 0) and not unfinished.is_over(1e9, True, 0)
