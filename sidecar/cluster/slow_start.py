"""New endpoints get their share little by little, so that caches fill and just-in-time compilers warm up before everybody comes (Envoy: slow start mode)."""

from __future__ import annotations

from sidecar.model import SlowStart

# Weights are whole numbers; with slow start they are multiplied by this, so that a hundredth of a weight of 1 can be told.
WEIGHT_SCALE = 100
# How often in a window weights are set anew: each step is at most a twentieth of the full share.
STEPS = 20
STEP_SECONDS_MIN = 0.1  # nobody sees the difference below, and an update of thousands of endpoints is not free


def part_of(settings: SlowStart, age_seconds: float) -> float:
    """Which part of its weight (above 0, up to 1) an endpoint has that is used for `age_seconds`."""
    if age_seconds >= settings.slow_start_window:
        return 1.0
    grown = max(0.0, age_seconds) / settings.slow_start_window
    part: float = max(settings.min_weight_percent / 100.0, grown ** (1.0 / settings.aggression))
    return min(1.0, part)


def weight_at(settings: SlowStart, weight: int, age_seconds: float) -> int:
    """The weight of such an endpoint, times `WEIGHT_SCALE`; at least 1 unless `weight` is 0."""
    return max(1, round(WEIGHT_SCALE * weight * part_of(settings, age_seconds))) if weight else 0


def step_seconds(settings: SlowStart) -> float:
    """After how many seconds to look again."""
    return max(STEP_SECONDS_MIN, settings.slow_start_window / STEPS)
