"""The promise that lets a reactor call a descriptor without a safety net: what `SidecarReactor` asks of the descriptors it calls directly."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any


def at_turn_end(reactor: Any) -> Callable[[Callable[[], object]], object]:
    """What calls something soon, before `reactor` waits again; each call once, none of them within this one. For any IReactorTime."""
    call: Callable[[Callable[[], object]], object] = getattr(reactor, "at_turn_end", None) or partial(reactor.callLater, 0)
    return call


class DirectDescriptor:
    """A descriptor whose `doRead` and `doWrite` take care of themselves.

    They return None, never raise, catch and log what application code raises, take themselves out of the reactor when their connection ends, and bear being
    called when nothing is ready (an event may be stale by the time it is delivered, even meant for an earlier owner of the same file descriptor).
    """

    def doRead(self) -> None:
        """Read what is there, if anything."""
        raise NotImplementedError

    def doWrite(self) -> None:
        """Write what is queued, if anything."""
        raise NotImplementedError
