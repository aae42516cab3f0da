"""Long work in steps, so that requests go on meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Cooperator, TaskStopped
from twisted.python.failure import Failure

from sidecar.naming.places import Steps

T = TypeVar("T")
# How long one turn of the event loop may be busy with it; with a step and a collection of some milliseconds each on top it stays below 20.
TURN_SECONDS = 0.002


def in_turns(clock: Any, steps: Steps[T]) -> Deferred[T]:
    """Fires with the result of the steps, which are taken in as many turns of `clock` (the reactor) as they need; fails with what they raise. Cancel it to
    leave the rest undone.
    """
    outcome: list[T] = []

    def taken() -> Generator[None, None, None]:
        outcome.append((yield from steps))

    def turn_is_over() -> Callable[[], bool]:
        end = clock.seconds() + TURN_SECONDS
        return lambda: bool(clock.seconds() > end)

    cooperator = Cooperator(terminationPredicateFactory=turn_is_over, scheduler=lambda turn: clock.callLater(0, turn))
    task = cooperator.cooperate(taken())
    result: Deferred[T] = Deferred(lambda _: task.stop())

    def failed(failure: Failure) -> None:
        if failure.check(TaskStopped) is None:
            result.errback(failure)

    task.whenDone().addCallbacks(lambda _: result.callback(outcome[0]), failed)
    return result
