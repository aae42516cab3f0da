"""Lines in batches: rotation, full disks, and readers that sleep or go away."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.export import lines
from sidecar.export.lines import BATCH_BYTES, BATCH_SECONDS, PENDING_BYTES, PIPE_BYTES, RETRY_SECONDS, LineWriter
from sidecar.testing import FakeContext


@pytest.fixture
def context() -> FakeContext:
    return FakeContext("log")


def counts(context: FakeContext) -> tuple[int, int, int]:
    return tuple(context.counters[name].value for name in ("lines_written", "lines_dropped", "write_errors"))  # type: ignore[return-value]


def writer(path: Path, context: FakeContext) -> LineWriter:
    made = LineWriter(str(path), context)
    made.start()
    return made


def test_a_batch_is_written_after_its_time(tmp_path: Path, context: FakeContext) -> None:
    """Nothing before, everything then; no timer runs while there is nothing to write."""
    log = writer(tmp_path / "log", context)
    log.write(b"a\n")
    log.write(b"b\n")
    assert (tmp_path / "log").read_bytes() == b""
    context.clock.advance(BATCH_SECONDS)
    assert (tmp_path / "log").read_bytes() == b"a\nb\n"
    assert context.clock.getDelayedCalls() == []
    assert counts(context) == (2, 0, 0)
    log.stop()


def test_a_large_batch_is_written_at_once(tmp_path: Path, context: FakeContext) -> None:
    """Memory stays small however busy it is."""
    log = writer(tmp_path / "log", context)
    line = b"x" * 1023 + b"\n"
    for _ in range(BATCH_BYTES // len(line)):
        log.write(line)
    assert (tmp_path / "log").stat().st_size == BATCH_BYTES
    log.stop()


def test_stop_writes_the_rest_and_existing_lines_stay(tmp_path: Path, context: FakeContext) -> None:
    """The file is appended to, and is not for everybody's eyes."""
    (tmp_path / "old").write_bytes(b"old\n")
    log = writer(tmp_path / "old", context)
    log.write(b"new\n")
    log.stop()
    assert (tmp_path / "old").read_bytes() == b"old\nnew\n"
    assert context.clock.getDelayedCalls() == []
    writer(tmp_path / "fresh", context).stop()
    assert (tmp_path / "fresh").stat().st_mode & 0o007 == 0


def test_logrotate(tmp_path: Path, context: FakeContext) -> None:
    """A renamed or removed file is opened anew under its name; the renamed one keeps what it had."""
    path = tmp_path / "log"
    log = writer(path, context)
    log.write(b"1\n")
    context.clock.advance(BATCH_SECONDS)
    path.rename(tmp_path / "log.1")
    log.write(b"2\n")
    context.clock.advance(BATCH_SECONDS)
    path.unlink()
    log.write(b"3\n")
    context.clock.advance(BATCH_SECONDS)
    assert (tmp_path / "log.1").read_bytes() == b"1\n"
    assert path.read_bytes() == b"3\n"
    log.stop()


def test_a_path_that_cannot_be_opened_stops_the_start(tmp_path: Path, context: FakeContext) -> None:
    """Not noticed only when a log is missing."""
    with pytest.raises(OSError, match="No such file"):
        LineWriter(str(tmp_path / "no" / "log"), context).start()


def test_a_full_disk(tmp_path: Path, context: FakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are lost with a count, writing goes on later, and a line that was cut does not spoil the next one."""
    log = writer(tmp_path / "log", context)
    write = os.write
    calls: list[int] = []

    def full(fd: int, chunk: Any) -> int:
        calls.append(len(chunk))
        if len(calls) == 1:
            return write(fd, bytes(chunk)[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lines.os, "write", full)
    log.write(b"abc\n")
    log.write(b"\n")
    context.clock.advance(BATCH_SECONDS)
    log.write(b"lost\n")
    context.clock.advance(BATCH_SECONDS)
    monkeypatch.undo()
    log.write(b"def\n")
    context.clock.advance(BATCH_SECONDS)
    assert (tmp_path / "log").read_bytes() == b"a\ndef\n"
    assert counts(context) == (1, 3, 2)
    assert log.dropped == 3
    log.stop()


def test_a_directory_that_goes_away(tmp_path: Path, context: FakeContext) -> None:
    """Errors are counted, never raised; when it is back, so is the log."""
    folder = tmp_path / "logs"
    folder.mkdir()
    log = writer(folder / "log", context)
    (folder / "log").unlink()
    folder.rmdir()
    for _ in range(2):
        log.write(b"lost\n")
        context.clock.advance(BATCH_SECONDS)
    folder.mkdir()
    log.write(b"back\n")
    context.clock.advance(BATCH_SECONDS)
    assert (folder / "log").read_bytes() == b"back\n"
    assert counts(context)[1:] == (2, 2)
    log.stop()


# -- pipes -----------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    for fd in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(fd)


def drain(fd: int) -> bytes:
    found = b""
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(fd, 1 << 20):
            found += chunk
    return found


def test_a_pipe_that_nobody_reads_never_blocks(pipe: tuple[int, int], context: FakeContext) -> None:
    """What it does not take is kept up to the limit, then dropped with a count; a reader that comes back gets whole lines, in order."""
    reading, writing = pipe
    log = LineWriter("-", context, stdout_fd=writing)
    log.start()
    assert os.get_blocking(writing), "the descriptor that others share stays as it was"
    total = 3 * PENDING_BYTES // 1000
    for number in range(total):
        log.write(b"%06d" % number + b"x" * 993 + b"\n")
        assert log._pending_size + log._size <= PENDING_BYTES + BATCH_BYTES
    context.clock.advance(BATCH_SECONDS)
    found = b""
    while log._pending:
        found += drain(reading)
        context.clock.advance(RETRY_SECONDS)
    found += drain(reading)
    numbers = [int(line[:6]) for line in found.splitlines()]
    assert all(len(line) == 999 for line in found.splitlines())
    assert numbers == sorted(numbers)
    written, dropped, errors = counts(context)
    assert (written, written + dropped, errors) == (len(numbers), total, 0)
    assert dropped > 0
    assert log._pending_size == 0
    log.write(b"after\n")
    log.stop()
    assert drain(reading) == b"after\n"


def test_lines_longer_than_a_piece(pipe: tuple[int, int], context: FakeContext) -> None:
    """They arrive whole, though in parts."""
    reading, writing = pipe
    log = LineWriter("-", context, stdout_fd=writing)
    log.start()
    long = b"y" * (40 * PIPE_BYTES) + b"\n"
    log.write(b"a\n" + long)
    log.write(b"b\n")
    found = b""
    for _ in range(20):
        found += drain(reading)
        context.clock.advance(RETRY_SECONDS)
    assert found == b"a\n" + long + b"b\n"
    log.stop()


def test_stop_does_not_wait_for_a_reader(pipe: tuple[int, int], context: FakeContext) -> None:
    """What the pipe does not take at once is counted as lost."""
    _, writing = pipe
    log = LineWriter("-", context, stdout_fd=writing)
    log.start()
    for _ in range(200):
        log.write(b"z" * 1999 + b"\n")
    log.stop()
    written, dropped, _ = counts(context)
    assert (written + dropped, dropped > 0) == (200, True)
    assert context.clock.getDelayedCalls() == []


def test_a_reader_that_went_away(pipe: tuple[int, int], context: FakeContext) -> None:
    """A broken pipe costs lines, not the sidecar."""
    reading, writing = pipe
    log = LineWriter("-", context, stdout_fd=writing)
    log.start()
    os.close(reading)
    for _ in range(3):
        log.write(b"a\n")
        context.clock.advance(BATCH_SECONDS)
    assert counts(context) == (0, 3, 3)
    log.stop()


def test_standard_output_that_is_a_file(tmp_path: Path, context: FakeContext) -> None:
    """It is written as it is, and left open for others."""
    with (tmp_path / "out").open("wb") as out:
        log = LineWriter("-", context, stdout_fd=out.fileno())
        log.start()
        log.write(b"a\n")
        log.stop()
        out.write(b"b\n")
    assert (tmp_path / "out").read_bytes() == b"a\nb\n"


def test_standard_output_that_is_a_socket(context: FakeContext) -> None:
    """It cannot be opened once more, so it is made non-blocking itself."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        log = LineWriter("-", context, stdout_fd=ours.fileno())
        log.start()
        assert not os.get_blocking(ours.fileno())
        log.write(b"a\n")
        log.stop()
        assert theirs.recv(10) == b"a\n"


def test_a_fifo(tmp_path: Path, context: FakeContext) -> None:
    """Without a reader the start fails; one that goes away is replaced by the next."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(OSError, match="No such device"):
        writer(path, context)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = writer(path, context)
    os.close(reader)
    for _ in range(2):
        log.write(b"lost\n")
        context.clock.advance(BATCH_SECONDS)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log.write(b"a\n")
    log.stop()
    assert drain(reader) == b"a\n"
    os.close(reader)
    assert counts(context) == (1, 2, 2)
