"""Python's collector, tuned so that no collection looks at many objects, however many there are.

What survives the oldest generation is frozen: later collections leave it alone. So each looks only at what was made since, which `THRESHOLDS` bound, and takes
milliseconds where ten thousand endpoints or connections would take a tenth of a second. Frozen objects are freed by their reference counts as all others are.
What is lost is a cycle that became garbage when it was frozen already; the path makes none (connections, exchanges and endpoints undo their cycles when they
end), but plugins may. So the collector looks at everything when the process has twice the memory that it had after the last time, and `GROWTH_BYTES` on top.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

# How many objects more than before start a collection, and how many of one generation are left to it alone before the next older one is looked at as well:
# none, so that collections look at 500, 1,000 and 1,500 objects at most, and then it begins anew. In memory that was not touched for a while, on a machine
# whose caches others use as well, an object and what it refers to take up to six microseconds. Nearly everything is freed by its reference count, so that
# requests start few.
THRESHOLDS = (500, 0, 0)
OBJECTS_AT_ONCE = 3 * THRESHOLDS[0]
LOOK_SECONDS = 60.0  # how often it is asked whether to look at everything
FREEZES = 600  # not asked before so many: they are a million objects at most
GROWTH_BYTES = 128 * 1024 * 1024  # some twenty thousand endpoints with health checks; to look at everything stops the event loop


# The collector is the process's, and so is who tunes it.
_tuned: list[Collector] = []


def settle() -> None:
    """Called between the steps of long work: what it has made so far is frozen, where a `Collector` tunes this process. A list of ten thousand endpoints is one
    object among those that a collection looks at, and yet it is ten thousand to look at: a change makes a dozen such.
    """
    for each in _tuned:
        gc.freeze()
        each.freezes += 1


class Collector:
    """Tunes the collector of this process from `start` to `stop`. `resident()`: its memory, octets (to count the frozen objects would take longer than a
    collection). Reactor thread only, but for the collector's own call.
    """

    def __init__(self, reactor: Any, resident: Callable[[], int]) -> None:
        self.freezes = 0
        # How often everything was looked at.
        self.looks = 0
        self._reactor = reactor
        self._thresholds = gc.get_threshold()
        self._resident = resident
        self._bytes = 0
        self._call: Any = None

    def start(self) -> None:
        """What there is now is frozen: the configuration, modules and plugins live as long as the process."""
        gc.callbacks.append(self._collected)
        gc.set_threshold(*THRESHOLDS)
        self._look_at_everything()
        self._next()
        _tuned.append(self)

    def stop(self) -> None:
        """As it was before."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self in _tuned:
            _tuned.remove(self)
        if self._collected in gc.callbacks:
            gc.callbacks.remove(self._collected)
        gc.set_threshold(*self._thresholds)
        gc.unfreeze()

    def _next(self) -> None:
        self._call = self._reactor.callLater(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        if self.freezes >= FREEZES:
            self.freezes = 0
            if self._resident() > 2 * self._bytes + GROWTH_BYTES:
                self._look_at_everything()
        self._next()

    def _look_at_everything(self) -> None:
        self.looks += 1
        gc.unfreeze()
        gc.collect()  # which freezes what is left
        # With nothing in it: the collector waits with the oldest generation until that has grown by a quarter of what survived the last time.
        gc.collect()
        self.freezes = 0
        self._bytes = self._resident()

    def _collected(self, phase: str, details: Mapping[str, int]) -> None:
        """Called by the collector, in whatever thread it ran, before and after each collection."""
        if phase == "stop" and details["generation"] == 2:
            gc.freeze()
            self.freezes += 1
