"""`sidecar/collector.py`: no collection looks at many objects, and nothing is lost for ever."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from sidecar.collector import FREEZES, GROWTH_BYTES, LOOK_SECONDS, OBJECTS_AT_ONCE, THRESHOLDS, Collector, settle
from sidecar.testing import Clock


class Knot:
    """Refers to itself, so that only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory() -> list[int]:
    """Octets that the process has, as far as it is told."""
    return [50_000_000]


@pytest.fixture
def tuned(clock: Clock, memory: list[int]) -> Iterator[Collector]:
    tuned = Collector(clock, lambda: memory[0])
    tuned.start()
    yield tuned
    tuned.stop()


def looked_at() -> int:
    """Objects that a collection of the oldest generation looks at."""
    return len(gc.get_objects())


def test_what_was_there_is_left_alone(tuned: Collector) -> None:
    """The start freezes everything; so only what is made since is looked at."""
    assert looked_at() < THRESHOLDS[0]
    assert gc.get_freeze_count() > 10_000


def test_what_stays_is_looked_at_a_few_times_and_no_more(tuned: Collector) -> None:
    """However many objects are made at once: the most that any collection looks at is what the thresholds say, and some that came meanwhile."""
    most = []
    watch = lambda phase, details: phase == "start" and most.append(looked_at())  # noqa: E731
    gc.callbacks.append(watch)
    try:
        kept = [[number] for number in range(100_000)]
    finally:
        gc.callbacks.remove(watch)
    assert len(kept) == 100_000 and len(most) > 40
    assert THRESHOLDS[0] < max(most) < 1.1 * OBJECTS_AT_ONCE


def test_young_cycles_are_freed(tuned: Collector) -> None:
    """Tuned, not switched off."""
    knot = weakref.ref(Knot())
    kept = [[number] for number in range(4 * THRESHOLDS[0])]
    assert kept and knot() is None


def test_what_long_work_has_made_is_not_looked_at(tuned: Collector) -> None:
    """A large list is one object, and ten thousand to look at; between two steps it is put aside. Without a tuned collector nothing is."""
    large = [[number] for number in range(THRESHOLDS[0] // 2)]
    settle()
    assert large and looked_at() < 10 and tuned.freezes > 0
    tuned.stop()
    settle()
    assert not gc.get_freeze_count()


def test_frozen_cycles_are_freed_when_they_are_many(tuned: Collector, clock: Clock, memory: list[int]) -> None:
    """Not at each look, because it takes long: when there is far more memory than the last time."""
    knot = Knot()
    gone = weakref.ref(knot)
    for _ in range(FREEZES):
        gc.collect()
    del knot
    clock.advance(LOOK_SECONDS)
    assert gone() is not None and tuned.looks == 1
    memory[0] = 2 * memory[0] + GROWTH_BYTES + 1
    clock.advance(LOOK_SECONDS)
    assert gone() is not None, "hardly anything was frozen since: it is not that"
    for _ in range(FREEZES):
        gc.collect()
    clock.advance(LOOK_SECONDS)
    assert gone() is None and tuned.looks == 2


def test_stopped_it_is_as_it_was(clock: Clock) -> None:
    """Thresholds, callbacks, timers and what is frozen."""
    before = (gc.get_threshold(), list(gc.callbacks))
    tuned = Collector(clock, int)
    tuned.start()
    assert gc.get_threshold() == THRESHOLDS and gc.isenabled()
    tuned.stop()
    assert (gc.get_threshold(), gc.callbacks) == before
    assert not clock.getDelayedCalls() and not gc.get_freeze_count()
