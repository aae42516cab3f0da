"""Kind `certificate-source`, name `pem-files`: certificate, key and trust bundle from PEM files, looked at again once a second.

Polling, because it works everywhere a file can be replaced: renamed into place, written over, or behind a symbolic link that is switched (Kubernetes' secret
volumes). The three files cannot be replaced in one step, so a pair of which only one half is new is refused by `load` like any broken one, and the next change
is tried again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct
from twisted.internet.task import LoopingCall
from zope.interface import implementer

from sidecar.identity.material import Material
from sidecar.interfaces import ICertificateSource

POLL_SECONDS = 1.0  # three stat calls a second cost nothing; a new certificate is in use within this time
MAX_FILE_BYTES = 1024 * 1024  # the whole set of public roots has 200 KiB; more is a wrong path (/dev/zero, a log) and would stop the reactor

# What tells one state of a file from another: device, inode, size, times in nanoseconds; None when it cannot be looked at.
_State = tuple[int, int, int, int, int] | None


@implementer(ICertificateSource)
class PEMFiles:
    """Our identity from files. Made with `(config, context)`."""

    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Paths. `certificate` (the chain, leaf first) and `key` come together, or neither for a source of trust alone; `trust` holds the authorities."""

        certificate: Path | None = None
        key: Path | None = None
        trust: Path | None = None

        def __post_init__(self) -> None:
            """Raises `ValueError` for half of a pair, or nothing, so that `sidecar check` finds it."""
            if (self.certificate is None) != (self.key is None):
                raise ValueError("`certificate` and `key` come together")
            if self.certificate is None and self.trust is None:
                raise ValueError("give `certificate` and `key`, or `trust`, or all three")

    def __init__(self, config: Config, context: Any) -> None:
        self._files = tuple(None if path is None else str(path) for path in (config.certificate, config.key, config.trust))
        self._clock = context.clock
        self._log = context.log
        self._paths = tuple(path for path in self._files if path is not None)
        self._seen: tuple[_State, ...] = ()
        self._warned: _State = None
        self._poll: LoopingCall | None = None
        self._changed: Callable[[], None] = _nobody

    def load(self) -> Material:
        """See `ICertificateSource`. Reads the files, at most `MAX_FILE_BYTES` of each; the clock is the context's."""
        self._seen = self._states()  # taken before reading: what changes while we read is seen at the next poll
        chain, key, trust = (b"" if path is None else _read(path) for path in self._files)
        if self._files[1] is not None:
            self._warn_if_open(self._files[1])
        return Material.parse(chain, key, trust, self._clock.seconds())

    def watch(self, changed: Any) -> None:
        """See `ICertificateSource`. `changed` is called at most once a poll, also when a file is gone."""
        self._changed = changed
        self._seen = self._seen or self._states()
        self._poll = LoopingCall(self._look)
        self._poll.clock = self._clock
        self._poll.start(POLL_SECONDS, now=False).addErrback(lambda failure: self._log.failure("watching certificate files ended", failure))

    def stop(self) -> None:
        """See `ICertificateSource`."""
        if self._poll is not None and self._poll.running:
            self._poll.stop()

    def _look(self) -> None:
        states = self._states()
        if states != self._seen:
            self._seen = states
            try:
                self._changed()
            except Exception:  # the watch goes on: the next change may be the one that mends it
                self._log.failure("{paths} changed, and taking them up failed", paths=", ".join(self._paths))

    def _states(self) -> tuple[_State, ...]:
        return tuple(_state(path) for path in self._paths)

    def _warn_if_open(self, path: str) -> None:
        """A key that others may read is not refused: in containers the mode is often not ours to choose. But it is said, once for each state of the file."""
        state = _state(path)
        if state == self._warned or state is None:
            return
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            self._warned = state
            self._log.warn(
                "the key {path} can be read or written by every user of this machine (mode {mode}); `chmod 600 {path}` closes it", path=path, mode=f"{mode:04o}"
            )

    def __repr__(self) -> str:
        return f"<PEMFiles {', '.join(self._paths)}>"


def _nobody() -> None:
    """Nobody watches."""


def _state(path: str) -> _State:
    try:
        found = os.stat(path)  # follows symbolic links: what counts is the file at the end
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{path} has more than {MAX_FILE_BYTES} octets: is it the right file?")
    if not content.strip():
        raise ValueError(f"{path} is empty")
    return content


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a named pipe would stop the reactor until somebody writes
