"""What one discovery plugin knows: the last good answer, the first one that a start waits for, and how it went, for the pages and the log."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from sidecar.discovery.steps import in_turns
from sidecar.model import Endpoint
from sidecar.naming.places import Steps, sliced

COMPARED_AT_ONCE = 1000  # endpoints, a millisecond; more are compared in steps

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")  # what begins a line, an escape sequence or text from right to left

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
        self._comparing: Deferred[Any] | None = None

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
        self._end_comparing()
        found = tuple(endpoints)
        if self._known is None or len(found) != len(self._known) or len(found) <= COMPARED_AT_ONCE:
            self._taken(found, found != self._known)
            return
        self._comparing = in_turns(self._clock, _is_other(found, self._known))
        self._comparing.addCallback(lambda is_other: self._taken(found, is_other)).addErrback(lambda failure: failure.trap(CancelledError))

    def _taken(self, found: tuple[Endpoint, ...], is_other: bool) -> None:
        if is_other and self._changed is not None:
            self._known = found
            self._changed(found)
        self.give_up()

    def _end_comparing(self) -> None:
        comparing, self._comparing = self._comparing, None
        if comparing is not None:
            comparing.cancel()

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
        self._end_comparing()
        self.give_up()

    def snapshot(self) -> dict[str, Any]:
        """See `IDiscovery`."""
        return {"source": self.source, "last_success": self.last_success, "last_error": self.last_error, "failures": self.failures}

    def _remark(self, sentence: str) -> None:
        # Servers' own words are in it, and a log is read on terminals.
        sentence = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", sentence)
        if sentence and sentence != self.last_error:
            # A file's sentences begin with its name.
            self._log.warn("{error}", error=sentence if sentence.startswith(self.source) else f"{self.source}: {sentence}")
        self.last_error = sentence


def _is_other(found: tuple[Endpoint, ...], known: tuple[Endpoint, ...]) -> Steps[bool]:
    """Do these, as many as those, differ from them?"""
    for one, other in zip(sliced(found), sliced(known), strict=True):
        if one != other:
            return True
        yield
    return False
