"""What one discovery plugin knows: the last good answer, the first one that a start waits for, and how it went, for the pages and the log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from sidecar.model import Endpoint

Changed = Callable[[Sequence[Endpoint]], None]


class Findings:
    """Kept by each built-in discovery plugin; `source` says in a few words where it looks. Reactor thread only.

    `begin` when watching starts, then `found` or `failed` after each look-up, `stop` at the end. A failure never changes what is known.
    """

    def __init__(self, source: str, clock: Any, log: Logger) -> None:
        self.source = source
        self.failures = 0
        self.last_success: float | None = None
        self.last_error = ""
        self._clock = clock
        self._log = log
        self._changed: Changed | None = None
        self._first: Deferred[None] | None = None
        self._known: tuple[Endpoint, ...] | None = None

    @property
    def is_watching(self) -> bool:
        """Between `begin` and `stop`?"""
        return self._changed is not None

    def begin(self, changed: Changed) -> Deferred[None]:
        """From now on `changed` is told. The Deferred fires when the first answer is there, or with `give_up` or `stop`."""
        self._changed = changed
        self._first = Deferred()
        return self._first

    def found(self, endpoints: Sequence[Endpoint], remark: str = "") -> None:
        """A look-up went well. `remark`: what was wrong with a part of it that was left out."""
        if self._changed is None:
            return
        if self.last_error and not remark:
            self._log.info("{source}: it can be looked up again", source=self.source)
        self.last_success = self._clock.seconds()
        self._remark(remark)
        known = tuple(endpoints)
        if known != self._known:
            self._known = known
            self._changed(known)
        self.give_up()

    def confirmed(self) -> None:
        """What is known still holds."""
        self.last_success = self._clock.seconds()
        self.last_error = ""

    def failed(self, sentence: str) -> None:
        """A look-up failed: what is known stays. The log has each new reason once."""
        if self._changed is None:
            return
        self.failures += 1
        self._remark(sentence)

    def give_up(self) -> None:
        """Who waits for the first answer need wait no longer."""
        first, self._first = self._first, None
        if first is not None:
            first.callback(None)

    def stop(self) -> None:
        """Nobody is told any more."""
        self._changed = None
        self.give_up()

    def snapshot(self) -> dict[str, Any]:
        """See `IDiscovery`."""
        return {"source": self.source, "last_success": self.last_success, "last_error": self.last_error, "failures": self.failures}

    def _remark(self, sentence: str) -> None:
        if sentence and sentence != self.last_error:
            # A file's sentences begin with its name.
            self._log.warn("{error}", error=sentence if sentence.startswith(self.source) else f"{self.source}: {sentence}")
        self.last_error = sentence
