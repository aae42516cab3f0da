"""Waits grow and spread."""

from __future__ import annotations

from sidecar.naming.pace import Backoff, spread


def test_waits_double_up_to_the_most() -> None:
    """Each failure in a row waits twice as long, and a success ends the row."""
    backoff = Backoff(1.0, 5.0, lambda: 0.0)
    assert [backoff.failed() for _ in range(5)] == [1, 2, 4, 5, 5]
    backoff.succeeded()
    assert backoff.failed() == 1


def test_waits_are_shortened_by_chance() -> None:
    """By up to half: never none at all, so a dead server is not asked in a loop."""
    assert Backoff(2.0, 60.0, lambda: 1.0).failed() == 1
    assert Backoff(2.0, 60.0, lambda: 0.5).failed() == 1.5


def test_a_thousand_failures_are_no_overflow() -> None:
    """The wait stays at the most for ever."""
    backoff = Backoff(1.0, 30.0, lambda: 0.0)
    assert {backoff.failed() for _ in range(2000)} == {1, 2, 4, 8, 16, 30}


def test_spread_is_earlier_only() -> None:
    """An upper bound stays one."""
    assert spread(100, 0.1, lambda: 0.0) == 100
    assert spread(100, 0.1, lambda: 1.0) == 90
