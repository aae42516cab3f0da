"""Shares of traffic by weight."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sidecar.routing.weights import compile_weights


def test_shares() -> None:
    """Each index is hit for its part of the numbers from 0 to 1, and a weight of 0 never."""
    pick = compile_weights([1, 0, 3, 0])
    assert [pick(number) for number in (0.0, 0.2499, 0.25, 0.9999999999999999)] == [0, 0, 2, 2]


@given(st.lists(st.integers(0, 1_000_000), min_size=1).filter(any), st.floats(0, 1, exclude_max=True))
def test_never_outside_and_never_weight_zero(weights: list[int], number: float) -> None:
    """Rounding cannot pick what has no weight."""
    assert weights[compile_weights(weights)(number)] > 0


@pytest.mark.parametrize("weights", [[], [0], [0, 0]])
def test_no_weight_at_all(weights: list[int]) -> None:
    """There is nothing to pick."""
    with pytest.raises(ValueError, match="weight"):
        compile_weights(weights)
