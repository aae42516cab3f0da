"""How long to wait, how many may run, and what Retry-After says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from sidecar.model import Backoff, Hedge, Retry, RetryBudget
from sidecar.policy.retry import RetryRules, retry_after_seconds


def rules(**settings: Any) -> RetryRules:
    return RetryRules(Retry(**settings), None, ())


@given(st.integers(1, 100), st.floats(0, 1, exclude_max=True))
def test_backoff(retry: int, dice: float) -> None:
    """Up to a bound that doubles to the limit."""
    bound = min(1.5, 0.1 * 2 ** (retry - 1))
    assert rules(backoff=Backoff(base=0.1, max=1.5)).wait_before(retry, dice) == pytest.approx(dice * bound)


def test_budget() -> None:
    """A share of what runs, a few in any case, and no limit without a budget."""
    some = rules(budget=RetryBudget(budget_percent=20, min_retry_concurrency=3, max_saved=0))
    assert some.is_within_share(2, 0) and not some.is_within_share(3, 0)
    assert some.is_within_share(19, 100) and not some.is_within_share(20, 100)
    assert rules(budget=None).is_within_share(10_000, 0) and not some.take_saved()


def test_what_was_saved_is_there_at_once() -> None:
    """Many requests may be on an endpoint that dies; in the long run retries stay within their share of the requests."""
    some = rules(budget=RetryBudget(budget_percent=50, min_retry_concurrency=0, max_saved=2))
    assert [some.take_saved() for _ in range(3)] == [True, True, False]
    some.saved += some.save_share
    assert not some.take_saved()
    some.saved += some.save_share
    assert some.take_saved() and not some.take_saved()


def test_what_helped_is_given_back() -> None:
    """Never more than may be saved."""
    some = rules(budget=RetryBudget(max_saved=3))
    assert some.take_saved() and some.take_saved()
    some.give_back(1)
    assert some.saved == 2.0
    some.give_back(5)
    assert some.saved == 3.0


def test_searching_leaves_half_to_others() -> None:
    """Where nothing is saved, or can be, no request goes on beyond its attempts."""
    some = rules(budget=RetryBudget(max_saved=4))
    asked = []
    while some.may_search:
        asked.append(some.take_saved())
    assert asked == [True, True, True] and some.saved == 1.0
    assert not rules(budget=None).may_search and not rules(budget=RetryBudget(max_saved=0)).may_search
    assert rules(budget=RetryBudget(max_saved=1)).may_search


def test_timers() -> None:
    """A route without any of the times needs none."""
    assert not rules().needs_timer
    assert rules(per_try_timeout=1).needs_timer and rules(per_try_timeout=1).is_plain
    assert rules(per_try_idle_timeout=1).needs_timer and not rules(per_try_idle_timeout=1).is_plain
    assert RetryRules(Retry(), None, (), Hedge(delay=1)).needs_timer
    assert not RetryRules(Retry(), None, (), Hedge(hedge_on_per_try_timeout=True)).needs_timer


NOW = 1445412480.0  # Wed, 21 Oct 2015 07:28:00 GMT


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        (None, None, None),
        (b"0", None, 0.0),
        (b"12", None, 12.0),
        (b"-1", None, None),
        (b"1.5", None, None),
        (b"9" * 10, None, None),
        (b"Wed, 21 Oct 2015 07:28:30 GMT", None, 30.0),
        (b"Wednesday, 21-Oct-15 07:28:30 GMT", None, 30.0),
        (b"Wed Oct 21 07:28:30 2015", None, 30.0),
        (b"Wed, 21 Oct 2015 07:20:00 GMT", None, 0.0),
        (b"Wed, 21 Oct 2015 07:28:30 GMT", b"Wed, 21 Oct 2015 07:28:29 GMT", 1.0),
        (b"Wed, 21 Oct 2015 07:28:30 GMT", b"nonsense", 30.0),
        (b"Wed, 99 Oct 2015 07:28:30 GMT", None, None),
        (b"soon", None, None),
        (b"\xff\xfe", None, None),
        (b"Wed, 21 Oct 2015 07:28:30 GMT" + b" " * 100, None, None),
    ],
)
def test_retry_after(value: bytes | None, date: bytes | None, seconds: float | None) -> None:
    """Whole seconds, or a date in any of its forms, compared with the answer's own clock when it tells it."""
    assert retry_after_seconds(value, date, NOW) == seconds


@given(st.binary(max_size=80), st.none() | st.binary(max_size=80))
def test_retry_after_takes_anything(value: bytes, date: bytes | None) -> None:
    """An endpoint cannot break it."""
    seconds = retry_after_seconds(value, date, NOW)
    assert seconds is None or seconds >= 0
