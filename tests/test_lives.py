"""Plugins are stopped in reverse, and nothing that one of them does keeps the process from ending."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred

from sidecar.lives import STOP_SECONDS, PluginLives
from sidecar.testing import Clock


class Living:
    """Does as it is told, and notes it."""

    def __init__(self, events: list[str], name: str, start: Any = None, stop: Any = None) -> None:
        self.events = events
        self.name = name
        self._start = start
        self._stop = stop

    def start(self) -> Any:
        self.events.append(f"start {self.name}")
        if isinstance(self._start, BaseException):
            raise self._start
        return self._start

    def stop(self) -> Any:
        self.events.append(f"stop {self.name}")
        if isinstance(self._stop, BaseException):
            raise self._stop
        return self._stop() if callable(self._stop) else self._stop


def run(coroutine: Any) -> list[Any]:
    results: list[Any] = []
    ensureDeferred(coroutine).addBoth(results.append)
    return results


async def deaf() -> None:
    """Does not listen when it is told to stop waiting."""
    with contextlib.suppress(CancelledError):
        await Deferred()
    await Deferred()


def started(clock: Clock, *plugins: Living) -> PluginLives:
    lives = PluginLives(clock)
    for plugin in plugins:
        assert run(lives.start(plugin, ValueError)) == [None]
    return lives


@pytest.mark.parametrize("bad", [None, ValueError("x"), SystemExit(9), KeyboardInterrupt()])
def test_all_are_stopped_in_reverse(bad: Any) -> None:
    events: list[str] = []
    lives = started(Clock(), Living(events, "a"), Living(events, "b", stop=bad), Living(events, "c"))
    assert run(lives.stop()) == [None]
    assert events[3:] == ["stop c", "stop b", "stop a"] and lives.started == []


@pytest.mark.parametrize("stop", [Deferred, deaf])
def test_one_that_does_not_come_to_an_end_is_left(stop: Any) -> None:
    """After its time; then the others have their turn."""
    events: list[str] = []
    clock = Clock()
    stopped = run(started(clock, Living(events, "a"), Living(events, "b", stop=stop)).stop())
    clock.advance(STOP_SECONDS - 0.1)
    assert stopped == [] and events[-1] == "stop b"
    clock.advance(0.1)
    assert stopped == [None] and events[-1] == "stop a"


@pytest.mark.parametrize("when", ["before", "while it waits"])
def test_in_a_hurry_none_is_waited_for(when: str) -> None:
    """But each is told."""
    events: list[str] = []
    late: Deferred[None] = Deferred()
    lives = started(Clock(), Living(events, "a", stop=Deferred), Living(events, "b", stop=lambda: late))
    if when == "before":
        lives.hurry()
    stopped = run(lives.stop())
    lives.hurry()
    assert stopped == [None] and events[2:] == ["stop b", "stop a"]
    late.callback(None)


@pytest.mark.parametrize("bad", [ValueError("no database"), SystemExit(3), KeyboardInterrupt("no database")])
def test_one_that_cannot_start_is_stopped_as_well(bad: Any) -> None:
    """Whatever it raises is a reason, also what would end a process."""
    events: list[str] = []
    lives = PluginLives(Clock())
    (failure,) = run(lives.start(Living(events, "a", start=bad), LookupError))
    assert failure.check(LookupError) and "could not start: " in str(failure.value)
    assert run(lives.stop()) == [None] and events == ["start a", "stop a"]
