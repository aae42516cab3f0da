"""Long work leaves room for others."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from sidecar.discovery.steps import TURN_SECONDS, in_turns
from sidecar.naming.places import Steps


def steps(clock: Clock, count: int, done: list[int]) -> Steps[str]:
    """Each takes 2 ms."""
    for number in range(count):
        clock.rightNow += 0.002
        done.append(number)
        yield
    return "result"


def turn(clock: Clock) -> None:
    """One turn of the event loop: what was scheduled for it, and nothing of what that schedules (as `Clock.advance` would)."""
    for call in list(clock.calls):
        clock.calls.remove(call)
        call.called = 1
        call.func(*call.args, **call.kw)


def test_a_turn_ends_in_time() -> None:
    """No more than a few steps in a turn; then the event loop serves others."""
    clock, done, got = Clock(), [], []
    in_turns(clock, steps(clock, 10, done)).addCallback(got.append)
    turns = 0
    while not got:
        before = len(done)
        turn(clock)
        turns += 1
        assert (len(done) - before) * 0.002 <= TURN_SECONDS + 0.002
    assert (got, done) == (["result"], list(range(10)))
    assert turns > 3


def test_what_is_raised_comes_out() -> None:
    """As the failure of the Deferred."""

    def fails() -> Steps[None]:
        yield
        raise ValueError("no")

    clock, got = Clock(), []
    in_turns(clock, fails()).addErrback(lambda failure: got.append(failure.getErrorMessage()))
    clock.advance(0)
    assert got == ["no"]


def test_cancelled() -> None:
    """The rest is left undone."""
    clock, done, got = Clock(), [], []
    working = in_turns(clock, steps(clock, 100, done))
    working.addErrback(lambda failure: got.append(failure.check(CancelledError)))
    turn(clock)
    working.cancel()
    so_far = len(done)
    for _ in range(50):
        turn(clock)
    assert (got, len(done)) == ([CancelledError], so_far)
    assert 0 < so_far < 100


@pytest.mark.parametrize("result", [None, 0, ()])
def test_any_result(result: Any) -> None:
    """Also one that counts as false, and of work without a single pause."""

    def nothing() -> Steps[Any]:
        return result
        yield

    clock, got = Clock(), []
    in_turns(clock, nothing()).addCallback(got.append)
    clock.advance(0)
    assert got == [result]
