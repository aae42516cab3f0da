"""Token buckets never grant more than they may, and say truly how long to wait."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sidecar.policy.token_bucket import TokenBuckets


def test_burst_then_rate() -> None:
    """A full bucket gives its burst at once, then as many as are gained, in fractions too."""
    buckets = TokenBuckets(rate=2.0, burst=3)
    assert [buckets.take("a", 10.0) for _ in range(3)] == [2.0, 1.0, 0.0]
    assert buckets.take("a", 10.0) == -0.5
    assert buckets.take("a", 10.25) == -0.25
    assert buckets.take("a", 10.5) == 0.0
    assert buckets.take("a", 100.0) == 2.0


def test_keys_do_not_share() -> None:
    """Each key has a bucket of its own."""
    buckets = TokenBuckets(rate=1.0, burst=1)
    assert buckets.take("a", 0.0) == 0.0
    assert buckets.take("b", 0.0) == 0.0
    assert buckets.take("a", 0.0) < 0


def test_a_clock_that_goes_back() -> None:
    """Nothing is gained for the time that never was, and later time counts again at once."""
    buckets = TokenBuckets(rate=1.0, burst=1)
    buckets.take("a", 1000.0)
    assert buckets.take("a", 10.0) == -1.0
    assert buckets.take("a", 11.0) == 0.0


def test_the_longest_unused_key_is_forgotten_first() -> None:
    """The number of buckets is bounded."""
    buckets = TokenBuckets(rate=1.0, burst=1, max_keys=2)
    for key in ("a", "b", "a", "c"):
        buckets.take(key, 0.0)
    assert len(buckets) == 2
    assert buckets.evicted == 1
    assert buckets.take("a", 0.0) < 0
    assert buckets.take("b", 0.0) == 0.0


@given(
    st.floats(0.01, 1e6),
    st.integers(1, 1000),
    st.lists(st.tuples(st.floats(0, 100), st.sampled_from("ab")), max_size=200),
)
def test_never_more_than_burst_and_rate_times_time(rate: float, burst: int, steps: list[tuple[float, str]]) -> None:
    """Whatever the moments of asking, the grants of a key stay within burst + rate * elapsed."""
    buckets = TokenBuckets(rate, burst)
    now = start = 1.7e9
    grants = {"a": 0, "b": 0}
    for wait, key in steps:
        now += wait
        left = buckets.take(key, now)
        if left >= 0:
            grants[key] += 1
            assert left <= burst - 1
        assert grants[key] <= burst + rate * (now - start) * (1 + 1e-9) + 1e-3


@given(st.floats(0.01, 1e4), st.integers(1, 10))
def test_the_wait_that_is_told_is_enough(rate: float, burst: int) -> None:
    """Who waits as long as told gets a token."""
    buckets = TokenBuckets(rate, burst)
    now = 1000.0
    while (left := buckets.take("a", now)) >= 0:
        pass
    assert buckets.take("a", now - left + 1e-9) >= 0 or buckets.take("a", now - left + 1e-6) >= 0


@pytest.mark.parametrize(("rate", "burst", "keys"), [(0, 1, 1), (-1, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_limits_that_make_no_sense(rate: float, burst: int, keys: int) -> None:
    """They are refused when made."""
    with pytest.raises(ValueError, match="token bucket"):
        TokenBuckets(rate, burst, keys)
