"""The timer wheel: never early, at most about a tick late, exactly once, whatever is set and cleared in between."""

from __future__ import annotations

import gc
import weakref
from math import inf

import pytest
from hypothesis import given, strategies as st
from twisted.internet.task import Clock

from sidecar.transport.wheel import FIRED, MOVED_AT_ONCE, SWEEP_AT_LEAST, TICK_SECONDS, Timer, TimerWheel

# Rounding of floats; far below what a clock resolves.
EPSILON = 1e-6


class Recorder:
    """A timer's callback that notes when it was called."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.times: list[float] = []

    def __call__(self) -> None:
        self.times.append(self.clock.seconds())


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.rightNow = 1_700_000_000.123  # as the real one: large enough for rounding to matter
    return clock


def walk(clock: Clock, seconds: float) -> None:
    """Advance in the steps the clock's own calls ask for, as a reactor does."""
    end = clock.seconds() + seconds
    while clock.getDelayedCalls() and (due := min(call.getTime() for call in clock.getDelayedCalls())) <= end:
        clock.advance(max(0.0, due - clock.seconds()))
    clock.advance(max(0.0, end - clock.seconds()))


@pytest.mark.parametrize("seconds", [0.001, 0.025, 0.026, 1, 6.3, 6.5, 60, 410, 3600, 86400])
def test_fires_once_and_in_time(clock: Clock, seconds: float) -> None:
    """A timer fires once, not before its deadline and at most a tick after it, however far away that is."""
    wheel, fired = TimerWheel(clock), Recorder(clock)
    deadline = clock.seconds() + seconds
    wheel.timer(fired).set(deadline)
    walk(clock, seconds + 10)
    assert len(fired.times) == 1
    assert deadline <= fired.times[0] <= deadline + TICK_SECONDS + EPSILON
    assert len(wheel) == 0


@given(
    start=st.floats(0, 2e9),
    steps=st.lists(st.tuples(st.integers(0, 2), st.floats(0, 30) | st.floats(0, 5000) | st.none(), st.floats(0, 40) | st.just(0.0)), max_size=30),
)
def test_any_sequence_of_set_and_clear(start: float, steps: list[tuple[int, float | None, float]]) -> None:
    """Whatever is set, moved and cleared, each deadline that stands fires once in its tick, and no other does."""
    clock = Clock()
    clock.rightNow = start
    wheel = TimerWheel(clock)
    recorders = [Recorder(clock) for _ in range(3)]
    timers = [wheel.timer(recorder) for recorder in recorders]
    expected: list[float] = [inf] * 3

    def check(now: float) -> None:
        for index, recorder in enumerate(recorders):
            for time in recorder.times:
                assert expected[index] <= time <= expected[index] + TICK_SECONDS + EPSILON
                expected[index] = inf
            recorder.times.clear()
            assert expected[index] > now - TICK_SECONDS - EPSILON, "a deadline passed and nothing fired"

    for index, delay, wait in steps:
        if delay is None:
            timers[index].clear()
            expected[index] = inf
        else:
            expected[index] = clock.seconds() + delay
            timers[index].set(expected[index])
        assert timers[index].is_set == (delay is not None)
        walk(clock, wait)
        check(clock.seconds())
    walk(clock, 6000)
    check(clock.seconds())
    assert expected == [inf] * 3
    assert not clock.getDelayedCalls()


def test_moving_a_deadline_touches_nothing_but_the_timer(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A timeout that is moved along with every request is put into the wheel a handful of times, not once for each move."""
    wheel = TimerWheel(clock)
    insertions = []
    insert = TimerWheel._insert
    monkeypatch.setattr(TimerWheel, "_insert", lambda self, timer: (insertions.append(timer), insert(self, timer)))
    fired = Recorder(clock)
    timer = wheel.timer(fired)
    for _ in range(1000):
        timer.set(clock.seconds() + 0.5)
        clock.advance(0.01)
    assert not fired.times
    assert len(insertions) <= 25  # ten seconds, half a second each
    insertions.clear()
    fresh = wheel.timer(fired)
    for _ in range(100):
        fresh.set(clock.seconds() + 0.5)
        clock.advance(0.0001)
    fresh.clear()
    assert len(insertions) <= 2  # also within one tick
    insertions.clear()
    timer.set(clock.seconds() + 3600)
    walk(clock, 3601)
    assert len(fired.times) == 1
    assert len(insertions) <= 5


def test_a_nearer_deadline_counts(clock: Clock) -> None:
    """A timer in a far slot that is set to a nearer time fires at the nearer one, and only there."""
    wheel, fired = TimerWheel(clock), Recorder(clock)
    timer = wheel.timer(fired)
    timer.set(clock.seconds() + 1000)
    near = clock.seconds() + 1
    timer.set(near)
    walk(clock, 2000)
    assert len(fired.times) == 1
    assert near <= fired.times[0] <= near + TICK_SECONDS + EPSILON


def test_a_deadline_in_the_past_fires_with_the_next_tick(clock: Clock) -> None:
    """Setting a passed deadline calls back soon, but not from within `set`."""
    wheel, fired = TimerWheel(clock), Recorder(clock)
    wheel.timer(fired).set(clock.seconds() - 5)
    assert not fired.times
    walk(clock, TICK_SECONDS + EPSILON)
    assert len(fired.times) == 1


def test_callbacks_may_set_and_clear(clock: Clock) -> None:
    """A callback may set its own timer anew and clear others that are due in the same tick."""
    wheel = TimerWheel(clock)
    again = Recorder(clock)
    timers: list[Timer] = []

    def rearm() -> None:
        again()
        if len(again.times) < 3:
            timers[0].set(clock.seconds() + 1)

    def first_of_two() -> None:
        again()
        for timer in timers[1:]:
            timer.clear()

    timers.append(wheel.timer(rearm))
    timers[0].set(clock.seconds() + 1)
    walk(clock, 10)
    assert len(again.times) == 3
    again.times.clear()
    timers += [wheel.timer(first_of_two), wheel.timer(first_of_two)]
    for timer in timers[1:]:
        timer.set(clock.seconds() + 1)
    walk(clock, 10)
    assert len(again.times) == 1


def test_a_raising_callback_stops_nobody(clock: Clock, caught_failures: list[object]) -> None:
    """What a callback raises is logged, and the others of its slot fire all the same."""
    wheel, fired = TimerWheel(clock), Recorder(clock)
    for callback in (fired, lambda: 1 / 0, fired):
        wheel.timer(callback).set(clock.seconds() + 1)
    walk(clock, 2)
    assert len(fired.times) == 2
    assert len(caught_failures) == 1


def test_sleeps_while_nothing_is_in_it(clock: Clock) -> None:
    """The wheel's own timed call exists only while a timer is in the wheel."""
    wheel = TimerWheel(clock)
    assert not clock.getDelayedCalls()
    timer = wheel.timer(Recorder(clock))
    timer.set(clock.seconds() + 1)
    timer.clear()
    assert len(clock.getDelayedCalls()) == 1
    walk(clock, 2)
    assert not clock.getDelayedCalls()


def test_stop(clock: Clock) -> None:
    """After `stop` nothing fires, and setting a timer has no effect."""
    wheel, fired = TimerWheel(clock), Recorder(clock)
    timer = wheel.timer(fired)
    timer.set(clock.seconds() + 1)
    wheel.stop()
    timer.set(clock.seconds() + 0.5)
    assert not clock.getDelayedCalls()
    walk(clock, 5)
    assert not fired.times


def test_cleared_timers_do_not_keep_their_owners(clock: Clock) -> None:
    """The owners of timers that were set for an hour and cleared are given back long before the hour is over."""
    wheel = TimerWheel(clock)
    keep = wheel.timer(lambda: None)
    keep.set(clock.seconds() + 1)

    def owner() -> weakref.ref[Recorder]:
        recorder = Recorder(clock)
        timer = wheel.timer(recorder)
        timer.set(clock.seconds() + 3600)
        timer.clear()
        return weakref.ref(recorder)

    owners = [owner() for _ in range(SWEEP_AT_LEAST * 2)]
    walk(clock, 2)
    gc.collect()
    assert not [each for each in owners if each() is not None]
    assert len(wheel) == 0


def test_a_hundred_thousand_timers_are_cheap(clock: Clock) -> None:
    """A hundred thousand idle connections' timers need a few slots, and one timed call."""
    wheel, fired = TimerWheel(clock), Recorder(clock)
    for index in range(100_000):
        wheel.timer(fired).set(clock.seconds() + 300 + index * 0.0006)
    assert len(clock.getDelayedCalls()) == 1
    assert len(wheel._slots) < 100
    walk(clock, 400)
    assert len(fired.times) == 100_000


def turn(clock: Clock) -> None:
    """One turn of a reactor: the calls that are due now, and not those that they add."""
    now = clock.seconds()
    for call in [each for each in clock.getDelayedCalls() if each.getTime() <= now]:
        clock.calls.remove(call)
        call.called = 1
        call.func(*call.args, **call.kw)


def test_many_that_are_due_share_out_turns(clock: Clock) -> None:
    """Of ten thousand that fire, or only move, at the same time, each turn of the reactor does a bounded part, and none is forgotten."""
    wheel, fired = TimerWheel(clock), Recorder(clock)
    now = clock.seconds()
    moved = [wheel.timer(fired) for _ in range(2000)]
    for timer in moved:
        timer.set(now + 1)
        timer.deadline = now + 2  # as `set` would, when a later deadline comes
    for _ in range(1000):
        wheel.timer(fired).set(now + 1)
    clock.rightNow = now + 1.1
    steps = [0]
    while len(fired.times) < 1000:
        before = len(fired.times)
        turn(clock)
        steps.append(len(fired.times) - before)
        assert steps[-1] <= MOVED_AT_ONCE // FIRED + 1
    assert len(steps) >= 1000 * FIRED // MOVED_AT_ONCE
    walk(clock, 2)
    assert len(fired.times) == 3000 and len(wheel) == 0


def test_those_that_wait_for_their_turn_may_be_set_cleared_and_closed(clock: Clock) -> None:
    """Between two turns of a reactor that has many to fire: each does what was said last."""
    wheel = TimerWheel(clock)
    now = clock.seconds()
    recorders = [Recorder(clock) for _ in range(500)]
    timers = [wheel.timer(recorder) for recorder in recorders]
    for timer in timers:
        timer.set(now + 1)
    clock.rightNow = now + 1.1
    turn(clock)
    waiting = [number for number, timer in enumerate(timers) if timer.is_set]
    assert 400 < len(waiting) < 500
    cleared, closed, later, past, both = (waiting[first::5] for first in range(5))
    for number in waiting:
        if number in cleared or number in both:
            timers[number].clear()
        elif number in closed:
            timers[number].close()
        if number in later:
            timers[number].set(now + 5)
        elif number in past or number in both:
            timers[number].set(now - 5)
    walk(clock, 1)
    assert all(len(recorders[number].times) == (number in past or number in both) for number in waiting)
    walk(clock, 5)
    assert all(len(recorders[number].times) == (number in past or number in both or number in later) for number in waiting)
    assert len(wheel) == 0 and not clock.getDelayedCalls()


def test_stop_between_two_turns(clock: Clock) -> None:
    """Those that wait for their turn fire no more, and neither do those after one whose callback stops the wheel."""
    wheel = TimerWheel(clock)
    fired = 0

    def fire() -> None:
        nonlocal fired
        fired += 1
        if fired == 40:
            wheel.stop()

    for _ in range(200):
        wheel.timer(fire).set(clock.seconds() + 1)
    clock.rightNow += 1.1
    walk(clock, 5)
    assert fired == 40 and len(wheel) == 0 and not clock.getDelayedCalls()


def test_a_closed_timer_lets_its_owner_go() -> None:
    """The slot of a deadline an hour away does not keep a connection that is gone in memory."""

    class Owner:
        def fire(self) -> None:
            raise AssertionError("a closed timer fired")

    clock = Clock()
    wheel = TimerWheel(clock)
    owner = Owner()
    gone = weakref.ref(owner)
    timer = wheel.timer(owner.fire)
    timer.set(3600.0)
    timer.close()
    del owner
    assert gone() is None
    clock.advance(4000.0)
    wheel.stop()
