"""How long to wait before the next look-up: after failures ever longer, and never all sidecars of a mesh at the same moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator

# The least first wait: with less a server that refuses would be asked without a pause, and so would the processor.
MIN_BASE_SECONDS = 0.01
Die = Callable[[], float]  # gives a number from 0 to 1, as `random.random`


class Backoff:
    """Waits that double from `base` up to `most` seconds, each shortened by up to half, so that those who failed together do not come back together."""

    __slots__ = ("_base", "_die", "_most", "failures")

    def __init__(self, base: float, most: float, die: Die) -> None:
        self._base = base
        self._most = most
        self._die = die
        # In a row.
        self.failures = 0

    def failed(self) -> float:
        """Seconds to wait after one more failure."""
        # 2.0 ** 60 is longer than anybody waits; a number without end would overflow some day.
        wait = min(self._most, self._base * 2.0 ** min(self.failures, 60))
        self.failures += 1
        return wait * (1 - self._die() / 2)

    def succeeded(self) -> None:
        """The next failure is a first one."""
        self.failures = 0


def rate_problems(base: float) -> Iterator[str]:
    """What is wrong with a `failure_refresh_rate` that begins with `base` seconds."""
    if base < MIN_BASE_SECONDS:
        yield f"expected a failure_refresh_rate with a base of at least {MIN_BASE_SECONDS:g} s, got {base:g} s"


def spread(seconds: float, share: float, die: Die) -> float:
    """`seconds`, shortened by up to `share` (0 to 1) of them: earlier rather than later, because they are an upper bound."""
    return seconds * (1 - share * die())
