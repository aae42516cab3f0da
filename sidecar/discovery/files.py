"""Files that others replace while we run: read whole and bounded, and told apart by what the system says of them."""

from __future__ import annotations

import os
import stat
from collections import deque
from pathlib import Path

MAX_LINKS = 40  # as Linux follows at most (path_resolution(7))
MAX_TOKEN_BYTES = 64 * 1024  # a Kubernetes token has one to two KiB

# What tells one state of a file from another: device, inode, size, times in nanoseconds; None when it cannot be looked at.
State = tuple[int, int, int, int, int] | None


def state_of(path: Path) -> State:
    """The state of the file that `path` leads to, links followed."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_bounded(path: Path, limit: int) -> bytes:
    """The content of an ordinary file of at most `limit` octets. Raises `ValueError` with a sentence otherwise."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError(f"{path} is no ordinary file")
            content = file.read(limit + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > limit:
        raise ValueError(f"{path} has more than {limit} octets")
    return content


def read_token(path: Path) -> bytes:
    """The secret in a file, without the white space around it. Raises `ValueError` with a sentence that does not show it."""
    token = read_bounded(path, MAX_TOKEN_BYTES).strip()
    if not token or not all(0x21 <= octet <= 0x7E for octet in token):
        raise ValueError(f"{path} holds no token: expected one line of visible ASCII")
    return token


def directories_to(path: Path) -> set[str]:
    """The directories in which an entry may change what `path` leads to: that of the file itself, and those of every link on the way (Kubernetes switches
    the link `..data` beside the file). Ends at a part that is not there.
    """
    found: set[str] = set()
    parts = deque(os.path.abspath(path).split(os.sep)[1:])
    current = os.sep
    links = 0
    while parts:
        part = parts.popleft()
        if part in ("", "."):
            continue
        if part == "..":
            current = os.path.dirname(current)
            continue
        candidate = os.path.join(current, part)
        try:
            target = os.readlink(candidate)
        except OSError:
            if not parts:
                found.add(current)
            current = candidate
            continue
        found.add(current)
        links += 1
        if links > MAX_LINKS:
            break
        if target.startswith(os.sep):
            current = os.sep
        parts.extendleft(reversed(target.split(os.sep)))
    return found


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a named pipe would stop the reactor until somebody writes
