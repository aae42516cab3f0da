"""Budgets: bursts, refilling by time and by use."""

from __future__ import annotations

from sidecar.codec.h2.limits import Budget


def test_a_budget_holds_its_burst_and_refills_with_time() -> None:
    budget = Budget(10.0, 3)
    assert [budget.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert budget.take(101.0)


def test_a_budget_never_holds_more_than_its_burst() -> None:
    budget = Budget(10.0, 3)
    budget.take(0.0)
    assert [budget.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_what_is_earned_counts_once() -> None:
    budget = Budget(0.0, 2)
    assert budget.take(0.0) and budget.take(0.0)
    assert budget.take(0.0, 1)
    assert not budget.take(0.0, 1)
