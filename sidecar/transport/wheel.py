"""A coarse timer wheel for timeouts that are nearly always moved or cleared before they fire.

Setting a timer stores its deadline and nothing else as long as the wheel will look at it early enough anyway; when its slot comes and the deadline has moved,
it is put into a later slot. A timeout moved a thousand times a second so costs a thousand stores and a few insertions. Deadlines that are far away share coarse
slots and get to fine ones as they come near, so that an hour takes three insertions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from math import ceil, inf

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

_log = Logger()

# Timeouts are tens of milliseconds at the least; forty wake-ups a second are nothing.
TICK_SECONDS = 0.025
# (at least this many ticks away, share slots of this many ticks), farthest first: with the default tick, slots of 102 s beyond 7 minutes and of 1.6 s beyond 6
# seconds.
_COARSE = ((16384, 4096), (256, 64))
# Cleared timers below this number are not worth a sweep.
SWEEP_AT_LEAST = 256
# What one turn of the reactor does about timers that are due: so many are moved to a later slot, and a callback counts as `FIRED` of them. Ten thousand health
# checks share a coarse slot by the thousand, and after a minute none of their objects is in a processor's cache.
MOVED_AT_ONCE = 256
FIRED = 8


class Timer:
    """One deadline that may be set, moved and cleared at will. Made by `TimerWheel.timer`.

    `deadline`: seconds on the wheel's clock, infinity while nothing is set; read only.
    """

    __slots__ = ("_callback", "_slot", "_wakes", "_wheel", "deadline")

    def __init__(self, wheel: TimerWheel, callback: Callable[[], object]) -> None:
        self.deadline = inf
        self._wheel = wheel
        self._callback = callback
        self._slot = 0
        self._wakes = inf  # earlier deadlines than this need another slot; infinity: in no slot

    @property
    def is_set(self) -> bool:
        """Will it fire?"""
        return self.deadline != inf

    def set(self, deadline_seconds: float) -> None:
        """The callback is called once, not before `deadline_seconds` (absolute, on the wheel's clock) and about one tick later at most, unless set anew or
        cleared before.
        A deadline in the past fires with the next tick, never from within this call."""
        self.deadline = deadline_seconds
        if deadline_seconds < self._wakes:
            self._wheel._insert(self)

    def clear(self) -> None:
        """Nothing will be called. Costs two stores; the wheel forgets this timer (and its owner) when its slot comes or when cleared ones outnumber the others,
        whichever is first."""
        if self.deadline != inf:
            self.deadline = inf
            self._wheel._cleared += 1


    def close(self) -> None:
        """Nothing will be called any more, and the owner is let go at once: a connection that is gone must not stay in memory until its slot comes."""
        self.clear()
        self._callback = _nothing


def _nothing() -> None:
    """What a closed timer would call."""


class TimerWheel:
    """Many `Timer`s on one `callLater`, which runs only while a timer is in the wheel."""

    def __init__(self, clock: IReactorTime, tick_seconds: float = TICK_SECONDS) -> None:
        self._clock = clock
        self._tick = tick_seconds
        self._slots: dict[int, set[Timer]] = {}
        self._order: list[int] = []  # a heap of the slots' numbers
        self._due: deque[tuple[int, set[Timer]]] = deque()  # slots whose time has come, with the timers not looked at yet
        self._call: IDelayedCall | None = None
        self._next = 0  # the slot that `_call` waits for
        self._served = 0  # the last slot served; a timer found a rounding error too early in it goes into a later one
        self._stopped = False
        self._cleared = 0  # calls of `clear` since cleared timers were last swept out

    def timer(self, callback: Callable[[], object]) -> Timer:
        """A timer, not set, that calls `callback()`; what that raises is logged."""
        return Timer(self, callback)

    def stop(self) -> None:
        """Nothing fires any more, and timers may be set without effect."""
        self._stopped = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        for slot in (*self._slots.values(), *(slot for _, slot in self._due)):
            for timer in slot:
                timer._wakes = inf
            slot.clear()
        self._slots.clear()
        self._order.clear()
        self._due.clear()

    def __len__(self) -> int:
        """How many timers are in the wheel, cleared ones included whose slot has not come."""
        return sum(map(len, self._slots.values())) + sum(len(slot) for _, slot in self._due)

    def _insert(self, timer: Timer) -> None:
        """Put a timer where it is looked at in time, taking it out of the later slot in which it may be."""
        if self._stopped:
            return
        if timer._wakes != inf:
            self._remove(timer)
        now = int(self._clock.seconds() / self._tick)
        number = max(ceil(timer.deadline / self._tick), now + 1, self._served + 1)
        for distance, width in _COARSE:
            if number - now >= distance:
                number -= number % width  # earlier, and still ahead of us: distance > width
                break
        slot = self._slots.get(number)
        if slot is None:
            self._slots[number] = {timer}
            heappush(self._order, number)
            if self._call is None or number < self._next:
                self._wait_for(number)
        else:
            slot.add(timer)
        timer._slot = number
        timer._wakes = (number - 1) * self._tick

    def _remove(self, timer: Timer) -> None:
        slot = self._slots.get(timer._slot)
        if slot is not None:
            slot.discard(timer)
        timer._wakes = inf

    def _sweep(self) -> None:
        """Take cleared timers out of all slots: a timer with an hour to go must not keep a connection's objects that long. Done so rarely that it costs each
        `clear` next to nothing."""
        self._cleared = 0
        for slot in self._slots.values():
            for timer in [timer for timer in slot if timer.deadline == inf]:
                slot.remove(timer)
                timer._wakes = inf

    def _wait_for(self, number: int) -> None:
        delay = max(0.0, number * self._tick - self._clock.seconds())
        self._next = number
        if self._call is None:
            self._call = self._clock.callLater(delay, self._turn)
        else:
            self._call.reset(delay)

    def _turn(self) -> None:
        """Serve every slot whose time has come, as far as one turn of the reactor bears it, then wait for the next one."""
        self._call = None
        now = self._clock.seconds()
        order = self._order
        while order and order[0] * self._tick <= now:
            self._served = heappop(order)
            self._due.append((self._served, self._slots.pop(self._served)))
        if self._cleared > SWEEP_AT_LEAST and self._cleared > len(self) >> 1:
            self._sweep()
        self._serve(now)
        while order and not self._slots[order[0]]:
            del self._slots[heappop(order)]
        if self._due:
            self._wait_for(self._served)
        elif order and not self._stopped and (self._call is None or order[0] < self._next):
            self._wait_for(order[0])

    def _serve(self, now: float) -> None:
        """Fire what is due and move the rest. Callbacks may set, clear and close any timer, those that wait here for their turn as well."""
        due = self._due
        left = MOVED_AT_ONCE
        while due and left > 0:
            number, slot = due[0]
            while slot and left > 0:
                timer = slot.pop()
                left -= 1
                if timer._slot != number:
                    continue  # set meanwhile, and in another slot since
                timer._wakes = inf
                if timer.deadline <= now:
                    left -= FIRED - 1
                    self._fire(timer)
                elif timer.deadline != inf:
                    self._insert(timer)
            if due and not slot:
                # `stop` may have been called, and then nothing is due any more.
                due.popleft()

    def _fire(self, timer: Timer) -> None:
        timer.deadline = inf
        try:
            timer._callback()
        except Exception:
            _log.failure("A timer's callback {callback!r} failed", callback=timer._callback)
