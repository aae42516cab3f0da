"""The streams of an HTTP/2 connection whose other side was told to hold, because too much of theirs waits here for windows.

How much one stream may keep waiting falls with the number of those that do: a few fast transfers have the room that they need, and a peer that opens no window
for hundreds of streams does not get as much for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

# Streams that may each fill the connection's whole mark; beyond, they share this many marks.
FULL_MARKS = 8
# Octets that any stream may keep waiting: a frame of the usual size, so that there is always something to send when its window opens.
LEAST_MARK_OCTETS = 16_384


class Slow(Protocol):
    """A stream."""

    id: int
    is_congested: bool


S = TypeVar("S", bound=Slow)


class SlowStreams(Generic[S]):
    """`high`: octets that one stream may keep waiting while few do. `mark`: the same now. True while there are any."""

    __slots__ = ("_high", "_streams", "mark")

    def __init__(self, high: int) -> None:
        self._high = high
        self._streams: set[S] = set()
        self.mark = high

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[S]:
        return iter(self._streams)

    def add(self, stream: S) -> None:
        """Its source was told to hold."""
        stream.is_congested = True
        self._streams.add(stream)
        self._share()

    def discard(self, stream: S) -> None:
        """It is over."""
        if stream in self._streams:
            self._streams.remove(stream)
            self._share()

    def drained(self, queued: Callable[[int], int]) -> Iterator[S]:
        """Those that have little left, which are slow no more: tell the source of each to go on. `queued(stream id)`: octets that wait."""
        low = self.mark // 2
        for stream in [each for each in self._streams if queued(each.id) <= low]:
            # Telling one may end another.
            if stream in self._streams:
                self.discard(stream)
                stream.is_congested = False
                yield stream

    def _share(self) -> None:
        count = len(self._streams)
        self.mark = self._high if count <= FULL_MARKS else min(self._high, max(self._high * FULL_MARKS // count, LEAST_MARK_OCTETS))

    def __repr__(self) -> str:
        return f"<SlowStreams {len(self._streams)} mark={self.mark}>"
