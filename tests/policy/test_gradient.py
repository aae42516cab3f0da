"""The gradient controller on a walking clock: how it measures, follows the application's speed, and stays within bounds."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies

from sidecar.policy.gradient import (
    GRADIENT_MAXIMUM,
    GRADIENT_MINIMUM,
    WINDOWS_AT_MINIMUM,
    ConcurrencyLimitParams,
    GradientController,
    GradientSettings,
    Latencies,
    MinRTTParams,
)


class Walk:
    """A controller, and an application that takes `latency` seconds for a request while at most `capacity` run, and longer in proportion when more do."""

    def __init__(self, latency: float = 0.01, capacity: int = 10_000, jitter_die: float = 0.0, **params: object) -> None:
        limits = ConcurrencyLimitParams(max_concurrency_limit=200, concurrency_update_interval=0.1)
        rtt = MinRTTParams(**{"interval": 10.0, "request_count": 5, **params})  # type: ignore[arg-type]
        self.settings = GradientSettings(concurrency_limit_params=limits, min_rtt_calc_params=rtt)
        self.now = 100.0
        self.latency = latency
        self.capacity = capacity
        self.controller = GradientController(self.settings, self.now, lambda: jitter_die)

    def round(self) -> int:
        """As many requests as are let in run side by side, and end. How many."""
        entered = 0
        while self.controller.try_enter(self.now):
            entered += 1
        then = self.now
        self.now += self.latency * max(1.0, entered / self.capacity)
        for _ in range(entered):
            self.controller.leave(then, self.now)
        return entered

    def walk(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.round()


def test_at_first_it_measures() -> None:
    """A few at a time, until there are enough samples."""
    walk = Walk()
    assert walk.controller.is_measuring and walk.round() == 3 and walk.controller.is_measuring
    walk.round()
    assert not walk.controller.is_measuring
    assert walk.controller.min_rtt == pytest.approx(0.01, rel=0.02) and walk.controller.measurements == 1


def test_an_application_with_room_gets_more() -> None:
    """As long as nothing gets slower the limit grows, to its maximum."""
    walk = Walk()
    walk.walk(8.0)
    assert walk.controller.limit == 200


def test_one_that_queues_gets_less() -> None:
    """The limit settles not far above what runs without queueing."""
    walk = Walk(capacity=20)
    walk.walk(9.0)
    assert 20 <= walk.controller.limit <= 50


def test_it_follows_one_that_gets_slow() -> None:
    """Ten times as slow: the limit falls to the minimum; then it is measured anew, and rises again for the new speed."""
    walk = Walk(interval=1000.0)
    walk.walk(5.0)
    assert walk.controller.limit == 200
    walk.latency = 0.1
    walk.walk(3.0)
    assert walk.controller.measurements == 2 and walk.controller.min_rtt == pytest.approx(0.1, rel=0.02)
    walk.walk(10.0)
    assert walk.controller.limit == 200


def test_it_is_measured_from_time_to_time() -> None:
    """After the interval, later by the jitter; the limit from before is there again afterwards."""
    for die, due in ((0.0, 10.0), (1.0, 15.0)):
        walk = Walk(jitter_die=die, jitter=50.0)
        walk.round()
        walk.round()
        started = walk.now
        while not walk.controller.is_measuring:
            before = walk.controller.limit
            walk.round()
        assert due <= walk.now - started < due + 0.2
        while walk.controller.is_measuring:
            walk.round()
        assert before * 0.9 <= walk.controller.limit <= 200 and walk.controller.measurements == 2


def test_those_from_before_do_not_count() -> None:
    """A request that met a crowd says nothing about an idle application."""
    walk = Walk(request_count=1)
    controller = walk.controller
    assert controller.try_enter(100.0) and controller.try_enter(100.0)
    controller.leave(99.0, 100.5)
    assert controller.is_measuring
    controller.leave(100.0, 100.5, counts=False)
    assert controller.is_measuring and controller.running == 0


def test_a_known_min_rtt() -> None:
    """Nothing is measured, not even when the limit stays at its minimum."""
    walk = Walk(latency=1.0, fixed_value=0.01)
    walk.walk(0.2 * (WINDOWS_AT_MINIMUM + 30))
    assert walk.controller.measurements == 0 and not walk.controller.is_measuring and walk.controller.limit == 3


@settings(max_examples=100, deadline=None)
@given(
    strategies.lists(strategies.tuples(strategies.sampled_from(["enter", "leave", "wait"]), strategies.floats(0.0, 5.0)), max_size=200),
    strategies.integers(1, 20),
    strategies.integers(0, 30),
)
def test_the_limit_stays_within_bounds(steps: list[tuple[str, float]], least: int, more: int) -> None:
    """Whatever requests do: never below the minimum or above the maximum, never more running than were let in, gradients within theirs."""
    limits = ConcurrencyLimitParams(max_concurrency_limit=least + more, concurrency_update_interval=0.1)
    controller = GradientController(
        GradientSettings(concurrency_limit_params=limits, min_rtt_calc_params=MinRTTParams(request_count=3, interval=5.0, min_concurrency=least)),
        0.0,
        lambda: 0.5,
    )
    now = 0.0
    entered: list[float] = []
    for what, number in steps:
        if what == "wait":
            now += number
        elif what == "enter":
            limit = controller.limit
            if controller.try_enter(now):
                entered.append(now)
                assert len(entered) <= max(limit, controller.limit)
        elif entered:
            controller.leave(entered.pop(int(number) % len(entered)), now, number < 4.0)
        assert least <= controller.limit <= least + more
        assert controller.running == len(entered)
        assert controller.gradient == 0.0 or GRADIENT_MINIMUM <= controller.gradient <= GRADIENT_MAXIMUM


@given(strategies.lists(strategies.floats(1e-5, 100.0), min_size=1, max_size=100))
def test_percentiles_are_near(samples: list[float]) -> None:
    """Within 2 % of the true ones, and they grow with the percentage."""
    latencies = Latencies()
    for sample in samples:
        latencies.add(sample)
    ordered = sorted(samples)
    assert latencies.percentile(100.0) == pytest.approx(ordered[-1], rel=0.02)
    assert latencies.percentile(0.0) == pytest.approx(ordered[0], rel=0.02)
    found = [latencies.percentile(percent) for percent in range(0, 101, 10)]
    assert all(low <= high for low, high in pairwise(found))


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (ConcurrencyLimitParams, {"concurrency_update_interval": 0.0}),
        (MinRTTParams, {"interval": 0.0}),
        (MinRTTParams, {"fixed_value": 0.0}),
        (GradientSettings, {"concurrency_limit_params": ConcurrencyLimitParams(max_concurrency_limit=2)}),
    ],
)
def test_what_makes_no_sense_stops_the_start(kind: type, more: dict[str, object]) -> None:
    """Not the first request."""
    with pytest.raises(ValueError, match="above"):
        kind(**more)
