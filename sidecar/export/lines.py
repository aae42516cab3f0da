"""Lines to a file or to standard output, in batches, without ever making the sidecar wait for a reader.

A regular file is written with blocking calls: the page cache takes a batch in microseconds. Everything else (a pipe, a terminal, a FIFO) may have a reader that
sleeps, so it is written without blocking; what it does not take is kept, up to `PENDING_BYTES`, and beyond that new lines are dropped and counted.
Pieces for a pipe are whole lines of at most `PIPE_BUF` octets, which the system writes entirely or not at all: lines of several writers do not mix.

A file that was renamed or removed (logrotate) is opened anew at the next batch.
"""

from __future__ import annotations

import os
import select
import stat
from collections import deque
from typing import Any

# A batch is written when it has this size, or when its first line is this old.
BATCH_BYTES = 64 * 1024
BATCH_SECONDS = 1.0
# What waits for a pipe's reader: about a thousand records.
PENDING_BYTES = 1024 * 1024
# What is kept of a batch when a pipe took none of it is tried again after this time.
RETRY_SECONDS = 0.1
# Linux; elsewhere at least 512 (POSIX), and a smaller piece is as atomic.
PIPE_BYTES = min(getattr(select, "PIPE_BUF", 512), 4096)
# Records hold addresses and names of callers: not for everybody on the machine.
FILE_MODE = 0o640
STDOUT = "-"
_NEWLINE = ord("\n")


class LineWriter:
    """`write(line)` for each line; `start` first and `stop` last. `write` never raises: what is lost is counted in `dropped`, and said in the log."""

    def __init__(self, path: str, context: Any, stdout_fd: int = 1) -> None:
        """`path`: a file, or "-" for standard output. `context`: the plugin's `IPluginContext`."""
        self.path = path
        self._clock = context.clock
        self._log = context.log
        self._written = context.counter("lines_written", "Lines written to a file or to standard output.")
        self._lost = context.counter("lines_dropped", "Lines that were not written: the reader is too slow, or writing failed.")
        self._errors = context.counter("write_errors", "Writes that failed.")
        self._stdout_fd = stdout_fd
        self._fd = -1
        self._is_regular = True
        self._lines: list[bytes] = []
        self._size = 0
        self._pending: deque[bytes] = deque()
        self._pending_size = 0
        self._timer: Any = None
        self._torn = False
        self._failing = False
        self.dropped = 0

    # -- life ------------------------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the file. Raises `OSError` when that is not possible: a log that cannot be written is found at the start."""
        self._open()

    def stop(self) -> None:
        """Write what is there, as far as the reader takes it at once, and close."""
        self._flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._drop(len(self._pending))
        self._pending.clear()
        self._pending_size = 0
        if self.dropped:
            self._log.warn("{count} lines were not written to {path}", count=self.dropped, path=self.path)
        self._close()

    def _open(self) -> None:
        if self.path == STDOUT:
            self._fd, self._is_regular = _own_description(self._stdout_fd)
            return
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, FILE_MODE)
        self._fd, self._is_regular = fd, stat.S_ISREG(os.fstat(fd).st_mode)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0 and fd != self._stdout_fd:
            os.close(fd)

    # -- writing ---------------------------------------------------------------------------------------------------------------------------------

    def write(self, line: bytes) -> None:
        """Write this soon. `line` ends with a newline."""
        self._lines.append(line)
        self._size += len(line)
        if self._size >= BATCH_BYTES:
            self._flush()
        elif self._timer is None:
            self._timer = self._clock.callLater(BATCH_SECONDS, self._timed_flush)

    def _timed_flush(self) -> None:
        self._timer = None
        self._flush()

    def _flush(self) -> None:
        lines, self._lines, self._size = self._lines, [], 0
        if not lines and not self._pending:
            return
        try:
            self._reopen()
        except OSError as error:
            self._failed(error, len(lines))
            return
        if self._is_regular:
            self._write_file(lines)
        else:
            self._hold(lines)
            self._write_pipe()
        if self._pending and self._timer is None:
            self._timer = self._clock.callLater(RETRY_SECONDS, self._timed_flush)

    def _reopen(self) -> None:
        """Open the file when it is not open, or when another one (or none) has its name now."""
        if self._fd >= 0 and (self.path == STDOUT or not self._is_regular):
            return
        if self._fd >= 0:
            mine = os.fstat(self._fd)
            try:
                named = os.stat(self.path)
            except FileNotFoundError:
                named = None
            if named is not None and (named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino):
                return
            self._close()
        self._open()

    def _write_file(self, lines: list[bytes]) -> None:
        # A full disk cut a line in two: the next one starts on a line of its own.
        batch = b"".join([b"\n", *lines] if self._torn else lines)
        done = 0
        try:
            while done < len(batch):
                done += os.write(self._fd, memoryview(batch)[done:])
            whole = len(lines)
            self._failing = False
        except OSError as error:
            whole = max(0, batch.count(b"\n", 0, done) - self._torn)
            self._failed(error, len(lines) - whole)
        if done:
            self._torn = batch[done - 1] != _NEWLINE
        self._written.inc(by=whole)

    def _hold(self, lines: list[bytes]) -> None:
        for index, line in enumerate(lines):
            if self._pending_size + len(line) > PENDING_BYTES:
                self._drop(len(lines) - index)
                return
            self._pending.append(line)
            self._pending_size += len(line)

    def _write_pipe(self) -> None:
        pending = self._pending
        while pending:
            piece, count = _piece(pending)
            try:
                size = os.write(self._fd, piece)
            except BlockingIOError:
                return
            except OSError as error:
                self._failed(error, 0)
                return
            self._failing = False
            for _ in range(count):
                pending.popleft()
            self._pending_size -= size
            if size < len(piece):
                # Only long lines, terminals and sockets are taken in part; the rest comes first next time.
                rest = piece[size:].splitlines(keepends=True)
                pending.extendleft(reversed(rest))
                count -= len(rest)
            self._written.inc(by=count)

    def _failed(self, error: OSError, count: int) -> None:
        """Count, and say so once for each series of failures. These lines and what was kept are lost: keeping them would fill memory while the disk is full."""
        self._errors.inc()
        self._drop(len(self._pending) + count)
        self._pending.clear()
        self._pending_size = 0
        if not self._failing:
            self._failing = True
            self._log.error("cannot write to {path}: {error}; lines are dropped until it works again", path=self.path, error=error)
        if not self._is_regular and self.path != STDOUT:
            # A FIFO whose reader went away is opened anew for the next one.
            self._close()

    def _drop(self, count: int) -> None:
        if count:
            self.dropped += count
            self._lost.inc(by=count)


def _piece(pending: deque[bytes]) -> tuple[bytes, int]:
    """Whole lines of at most `PIPE_BYTES` together, at least one, and their number."""
    size = len(pending[0])
    if size >= PIPE_BYTES:
        return pending[0], 1
    piece = []
    size = 0
    for line in pending:
        size += len(line)
        if size > PIPE_BYTES:
            break
        piece.append(line)
    return b"".join(piece), len(piece)


def _own_description(fd: int) -> tuple[int, bool]:
    """(descriptor, is it a regular file?) for standard output, one that does not block.

    The flag O_NONBLOCK belongs to the open file, which the shell and the application may share with us; so a pipe or terminal is opened once more.
    Where that cannot be done (a socket, not Linux) the shared one is made non-blocking: a log that stops the sidecar is worse.
    """
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd, True
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY), False
    except OSError:
        os.set_blocking(fd, False)
        return fd, False
