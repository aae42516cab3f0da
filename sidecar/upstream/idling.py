"""Connections that nobody has used for long are closed: those of a cluster, a part of them in each turn of the reactor.

Health checks keep one for each endpoint, and ten thousand of those may be due at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from typing import Any

# What one look does: so many endpoints are looked at, and a connection that is closed counts as `CLOSED` of them.
LOOKED_AT_ONCE = 500
CLOSED = 10


class Idling:
    """`open_pools`: the endpoints with connections, as they are now; `discard(connection)` closes one. `is_armed`: does it look anyway? Else who keeps a
    connection has to `arm` it. Not armed without a `timeout`, seconds.
    """

    __slots__ = ("_discard", "_left", "_oldest", "_open_pools", "_seconds", "_timeout", "_timer", "is_armed")

    def __init__(
        self,
        timeout: float,
        open_pools: Iterable[Any],
        discard: Callable[[Any], None],
        seconds: Callable[[], float],
        timer: Callable[[Callable[[], None]], Any],
    ) -> None:
        self.is_armed = False
        self._timeout = timeout
        self._open_pools = open_pools
        self._discard = discard
        self._seconds = seconds
        self._timer = timer(self._look)
        # Of a round: who is still to be looked at, and since when the oldest connection is idle that was not closed.
        self._left: list[Any] = []
        self._oldest = inf

    def arm(self, now: float) -> None:
        """A connection is idle from now on."""
        self.is_armed = True
        if self._left:
            # A round is under way, and may have looked at its endpoint already.
            self._oldest = min(self._oldest, now)
        else:
            self._timer.set(now + self._timeout)

    def stop(self) -> None:
        """Nothing is closed any more."""
        self._timer.clear()
        self._left = []

    def _look(self) -> None:
        now = self._seconds()
        if not self._left:
            self._left, self._oldest = list(self._open_pools), inf
            self.is_armed = False
        pieces = LOOKED_AT_ONCE
        while self._left and pieces > 0:
            pool = self._left.pop()
            pieces -= 1
            while pool.idle and now - pool.idle[0].idle_since >= self._timeout:
                pieces -= CLOSED
                self._discard(pool.idle.popleft())
            if pool.idle:
                self._oldest = min(self._oldest, pool.idle[0].idle_since)
        if self._left:
            self._timer.set(now)  # with the next tick
            return
        self.is_armed = self._oldest < inf
        if self.is_armed:
            self._timer.set(self._oldest + self._timeout)
