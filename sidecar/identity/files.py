"""Files with certificates and keys, written so that nobody ever reads half of one, or a key that is not theirs."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

PRIVATE = 0o600  # the owner alone
PUBLIC = 0o644


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """`path` holds `content` with exactly `mode`; whoever reads it sees the old content or the new one, whole. Raises `OSError`.

    The new file has its mode before its first byte, and a name that nobody can have prepared; the old one stays when anything fails.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)  # the umask may have taken bits away
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
