"""Tells when a file may have changed: at once by inotify(7) where the system has it, and by looking at it every now and then in any case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IReactorFDSet
from twisted.logger import Logger
from twisted.python.filepath import FilePath

from sidecar.discovery.files import State, directories_to, state_of

SETTLE_SECONDS = 0.05  # who writes in several steps is done by then; half a file would be refused, but why log it
SAFETY_SECONDS = 30.0  # beside inotify, which sees nothing of a network file system's other users


class WatchedFile:
    """`changed()` is called (reactor thread) when the file that `path` leads to is another one, gone or back. `start`, then `stop`."""

    def __init__(self, path: Path, poll_seconds: float, only_poll: bool, clock: Any, log: Logger, changed: Callable[[], None]) -> None:
        self.path = path
        self.is_notified = False
        self._poll_seconds = poll_seconds
        self._only_poll = only_poll
        self._clock = clock
        self._log = log
        self._changed = changed
        self._seen: State = None
        self._inotify: Any = None
        self._directories: set[str] = set()
        self._is_running = False
        self._next: Any = None
        self._settling: Any = None

    def start(self) -> None:
        """Begin; what is there now counts as seen."""
        self._is_running = True
        self._seen = state_of(self.path)
        self._notify()
        self._look_later()

    def stop(self) -> None:
        """End."""
        self._is_running = False
        for timer in (self._next, self._settling):
            if timer is not None and timer.active():
                timer.cancel()
        self._end_inotify()

    def look(self) -> None:
        """Has it changed?"""
        if not self._is_running:
            return
        self._notify()  # first: what changes after this is told
        self._look_later()
        state = state_of(self.path)
        if state != self._seen:
            self._seen = state
            self._changed()

    def _look_later(self) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = self._clock.callLater(SAFETY_SECONDS if self.is_notified else self._poll_seconds, self.look)

    def _notify(self) -> None:
        """Watch the directories that matter now; links may lead elsewhere since."""
        if self._only_poll or not IReactorFDSet.providedBy(self._clock):
            return
        directories = directories_to(self.path)
        if self._inotify is not None and directories == self._directories:
            return
        self._end_inotify()
        try:
            from twisted.internet import inotify

            self._inotify = inotify.INotify(self._clock)
            self._inotify.startReading()
            for directory in directories:
                # A directory that is replaced is another one under the same name: then this watch ends, and the link above it tells.
                self._inotify.watch(FilePath(directory), inotify.IN_WATCH_MASK, callbacks=[self._event])
        except Exception as error:  # other systems have none, and its limits are the machine's (max_user_instances)
            self._log.debug("{path} is looked at every {seconds} s: {error}", path=str(self.path), seconds=self._poll_seconds, error=error)
            self._end_inotify()
            return
        self._directories = directories
        self.is_notified = True

    def _end_inotify(self) -> None:
        inotify, self._inotify = self._inotify, None
        self.is_notified = False
        if inotify is not None:
            inotify.loseConnection()

    def _event(self, ignored: object, path: object, mask: int) -> None:
        if self._settling is None or not self._settling.active():
            self._settling = self._clock.callLater(SETTLE_SECONDS, self._settled)

    def _settled(self) -> None:
        # An inode may have gone from under its watch (a directory deleted and made anew), so each event renews them.
        self._directories = set()
        self.look()
