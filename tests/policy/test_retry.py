"""What is worth another attempt, how long to wait, and how many may run."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sidecar.errors import (
    ConnectFailed,
    ConnectTimeout,
    NoHealthyEndpoint,
    StreamIdleTimeout,
    UpstreamClosed,
    UpstreamHandshakeFailed,
    UpstreamOverflow,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from sidecar.model import Backoff, Retry, RetryBudget
from sidecar.policy.retry import RetryRules, retry_after_seconds


def refused() -> UpstreamClosed:
    error = UpstreamClosed("refused")
    error.retry_safe = True
    return error


ERRORS = [
    (ConnectFailed("x"), "connect-failure"),
    (ConnectTimeout("x"), "connect-failure"),
    (UpstreamHandshakeFailed("x"), "connect-failure"),
    (UpstreamTimeout("x"), "timeout"),
    (UpstreamClosed("x"), "reset"),
    (UpstreamProtocolError("x"), "reset"),
    (refused(), "refused-stream"),
    (StreamIdleTimeout("x"), ""),
    (NoHealthyEndpoint("x"), ""),
    (UpstreamOverflow("x"), ""),
]


@pytest.mark.parametrize(("error", "condition"), ERRORS, ids=lambda value: value if isinstance(value, str) else type(value).__name__)
def test_conditions(error: UpstreamClosed, condition: str) -> None:
    """Each error meets one condition or none, and only a configured one counts."""
    assert RetryRules(Retry()).condition_of(error) == condition
    others = tuple({"connect-failure", "refused-stream", "reset", "timeout"} - {condition})
    assert RetryRules(Retry(on=others)).condition_of(error) == ""  # type: ignore[arg-type]


def test_statuses() -> None:
    """Those of the conditions and those written."""
    assert RetryRules(Retry()).statuses == {502, 503, 504}
    assert RetryRules(Retry(on=("reset",), retriable_statuses=(409, 429))).statuses == {409, 429}
    assert RetryRules(Retry(on=("5xx",))).statuses == set(range(500, 600))


@given(st.integers(1, 100), st.floats(0, 1, exclude_max=True))
def test_backoff(retry: int, dice: float) -> None:
    """Up to a bound that doubles to the limit."""
    rules = RetryRules(Retry(backoff=Backoff(base=0.1, max=1.5)))
    bound = min(1.5, 0.1 * 2 ** (retry - 1))
    assert rules.wait_before(retry, dice) == pytest.approx(dice * bound)


def test_budget() -> None:
    """A share of what runs, a few in any case, and no limit without a budget."""
    rules = RetryRules(Retry(budget=RetryBudget(budget_percent=20, min_retry_concurrency=3)))
    assert rules.is_within_budget(2, 0) and not rules.is_within_budget(3, 0)
    assert rules.is_within_budget(19, 100) and not rules.is_within_budget(20, 100)
    assert RetryRules(Retry(budget=None)).is_within_budget(10_000, 0)


@pytest.mark.parametrize(
    ("value", "seconds"), [(None, None), (b"0", 0.0), (b"12", 12.0), (b"-1", None), (b"1.5", None), (b"9" * 10, None), (b"Wed, 21 Oct 2015 07:28:00 GMT", None)]
)
def test_retry_after(value: bytes | None, seconds: float | None) -> None:
    """Whole seconds; a date is left alone."""
    assert retry_after_seconds(value) == seconds
