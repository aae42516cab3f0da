"""A share that grows with time."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sidecar.cluster.slow_start import WEIGHT_SCALE, part_of, step_seconds, weight_at
from sidecar.model import SlowStart


@pytest.mark.parametrize(
    ("age", "aggression", "part"),
    [(0, 1, 0.1), (3, 1, 0.1), (15, 1, 0.5), (30, 1, 1.0), (99, 1, 1.0), (7.5, 2, 0.5), (15, 0.5, 0.25), (-1, 1, 0.1)],
)
def test_part(age: float, aggression: float, part: float) -> None:
    """(time / window) ^ (1 / aggression), never below the minimum; whole after the window."""
    assert part_of(SlowStart(slow_start_window=30.0, aggression=aggression), age) == pytest.approx(part)


@given(st.floats(0.1, 100), st.floats(0.01, 100), st.integers(1, 100), st.lists(st.floats(0, 200), min_size=2), st.integers(0, 1_000_000))
def test_it_only_grows(window: float, aggression: float, least: int, ages: list[float], weight: int) -> None:
    """From the minimum to the whole weight, and nothing comes of nothing."""
    settings = SlowStart(slow_start_window=window, aggression=aggression, min_weight_percent=least)
    weights = [weight_at(settings, weight, age) for age in sorted(ages)]
    assert weights == sorted(weights)
    assert all(weight * least - 1 <= each <= weight * WEIGHT_SCALE for each in weights)
    assert weight_at(settings, weight, window) == weight * WEIGHT_SCALE
    assert (0 in weights) == (weight == 0)


def test_steps() -> None:
    """A twentieth of the window, but not too often."""
    assert step_seconds(SlowStart(slow_start_window=60.0)) == 3.0
    assert step_seconds(SlowStart(slow_start_window=0.5)) == 0.1
