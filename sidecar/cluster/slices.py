"""Long work in short steps: generators yield when a step is long enough, and whoever advances them does so once for each turn of the reactor."""

from __future__ import annotations

# Pieces of work (an endpoint looked at, a place of a table filled) in one step: half a millisecond, or two where memory is cold.
STEP_PIECES = 500


class Slices:
    """Counts what was done over all generators that share it, so that many short pieces of work make one step."""

    __slots__ = ("_left", "_size")

    def __init__(self, size: int = STEP_PIECES) -> None:
        self._size = self._left = size

    def restart(self) -> None:
        """A new step begins."""
        self._left = self._size

    def done(self, pieces: int = 1) -> bool:
        """So many more pieces are done: is the step over? Then yield."""
        self._left -= pieces
        if self._left > 0:
            return False
        self._left = self._size
        return True
