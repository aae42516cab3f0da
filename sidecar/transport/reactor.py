"""The `sidecar` reactor: Twisted's epoll reactor with a short way from the poll to our own transports.

Twisted wraps each event in a logging context, a validity check and an error handler, and each turn of its loop in another one with two looks at the timed
calls. For descriptors that look after themselves (`DirectDescriptor`) none of that is needed; all others are served exactly as before. What is to be done at
the end of a turn needs no timed call (`at_turn_end`). Linux only; elsewhere any stock reactor does the same, slower.
"""

from __future__ import annotations

from select import EPOLLIN, EPOLLOUT
from typing import TYPE_CHECKING, Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import installReactor
from twisted.logger import Logger
from twisted.python import log as context_log

from sidecar.transport.readiness import DirectDescriptor

if TYPE_CHECKING:
    from collections.abc import Callable

_log = Logger()

# Events taken from the kernel at once: more only means that one turn of the loop lasts longer before timed calls are looked at.
EVENTS_PER_TURN = 256
# The longest wait epoll_wait(2) can express: 2**31 - 1 milliseconds.
LONGEST_WAIT_SECONDS = 2147483.0

_NOT_READ = ~EPOLLIN
_NOT_WRITE = ~EPOLLOUT


class SidecarReactor(EPollReactor):
    """An `EPollReactor` that calls `DirectDescriptor`s without ceremony."""

    # What Twisted's own classes keep and their annotations do not tell.
    if TYPE_CHECKING:
        _poller: Any
        _selectables: dict[int, Any]
        _reads: set[int]
        _writes: set[int]

    # None while there are none, so that a turn asks for nothing more.
    _at_turn_end: list[Callable[[], object]] | None = None

    def at_turn_end(self, call: Callable[[], object]) -> None:
        """`call()` once, soon, before the reactor waits again: as `callLater(0, call)`, for a fraction of its price. What it raises is logged."""
        if self._at_turn_end is None:
            self._at_turn_end = [call]
        else:
            self._at_turn_end.append(call)

    def doPoll(self, timeout: float | None) -> None:
        """Wait at most `timeout` seconds (None: for ever) and serve what is ready."""
        selectables = self._selectables
        # EINTR cannot surface: Python retries it (PEP 475).
        for fd, event in self._poller.poll(-1 if timeout is None else timeout, EVENTS_PER_TURN):
            selectable = selectables.get(fd)
            if selectable is None:
                pass  # left within this turn
            elif not isinstance(selectable, DirectDescriptor):
                context_log.callWithLogger(selectable, self._doReadOrWrite, selectable, fd, event)
            elif event == EPOLLIN:
                selectable.doRead()
            else:
                # A hang-up or an error is found out by whichever of the two is waited for.
                if event & _NOT_WRITE and fd in self._reads:
                    selectable.doRead()
                if event & _NOT_READ and fd in self._writes and selectables[fd] is selectable:
                    selectable.doWrite()

    doIteration = doPoll

    def mainLoop(self) -> None:
        """Run until stopped: one look at the clock for each turn, and none at all while nothing is timed."""
        while self._started:
            # Outside of the inner loop the net costs nothing per turn.
            try:
                while self._started:
                    self._turn()
            except BaseException:
                # As Twisted's own loop: whatever got here was raised by foreign code, and the others still want to be served.
                _log.failure("Main loop error")
        _log.info("Main loop terminated.")

    def _turn(self) -> None:
        timed = self._pendingTimedCalls
        if self._newTimedCalls or self.threadCallQueue or self._justStopped or not self.running:
            self.runUntilCurrent()
            wait = self.timeout() if self.running else 0
        elif timed:
            wait = timed[0].time - self.seconds()
            if wait <= 0:
                self.runUntilCurrent()
                wait = self.timeout() if self.running else 0
            elif wait > LONGEST_WAIT_SECONDS:
                wait = LONGEST_WAIT_SECONDS
        else:
            wait = None
        if self._at_turn_end is None:
            self.doPoll(wait)
        else:
            self.doPoll(0)
        if self._at_turn_end is not None:
            self._end_turn()

    def _end_turn(self) -> None:
        """Those who ask meanwhile wait for the end of the next turn, as with timed calls."""
        calls, self._at_turn_end = self._at_turn_end, None
        for call in calls or ():
            try:
                call()
            except BaseException:
                # Whatever it was: the others have connections that would stand still for ever.
                _log.failure("{call!r} failed at the end of a turn", call=call)


def install() -> None:
    """Make a `SidecarReactor` the process's reactor. Raises `ReactorAlreadyInstalledError` when there is one."""
    installReactor(SidecarReactor())  # type: ignore[no-untyped-call]
