"""Files with keys: their mode from the first byte, and whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sidecar.identity import files
from sidecar.identity.files import PRIVATE, PUBLIC, replace_file


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_a_file_has_exactly_its_mode_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    """0600 for keys, also with a umask of 0."""
    before = os.umask(umask)
    try:
        replace_file(tmp_path / "key.pem", b"secret", PRIVATE)
        replace_file(tmp_path / "cert.pem", b"public", PUBLIC)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "cert.pem").stat().st_mode) == 0o644


def test_no_byte_is_written_while_others_could_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is private when it is made, not some time later."""
    modes = []
    fdopen = os.fdopen

    def watched(descriptor: int, *args: str) -> object:
        modes.append((stat.S_IMODE(os.fstat(descriptor).st_mode), os.fstat(descriptor).st_size))
        return fdopen(descriptor, *args)

    monkeypatch.setattr(files.os, "fdopen", watched)
    before = os.umask(0)
    try:
        replace_file(tmp_path / "key.pem", b"secret", PRIVATE)
    finally:
        os.umask(before)
    assert modes == [(0o600, 0)]


def test_a_replacement_is_a_new_file(tmp_path: Path) -> None:
    """Whoever has the old one open reads it to its end; its mode does not matter."""
    path = tmp_path / "key.pem"
    path.write_bytes(b"old")
    path.chmod(0o666)
    with path.open("rb") as reader:
        replace_file(path, b"new", PRIVATE)
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk does not cost the key that is there."""
    path = tmp_path / "key.pem"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"new", PRIVATE)
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("key.pem", b"old")]
