"""Files that are replaced while we run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidecar.discovery.files import directories_to, read_bounded, read_token, state_of


def test_states(tmp_path: Path) -> None:
    """Writing, replacing and removing make another state; looking does not."""
    file = tmp_path / "f"
    assert state_of(file) is None
    file.write_text("a")
    first = state_of(file)
    assert state_of(file) == first
    (tmp_path / "g").write_text("a")
    (tmp_path / "g").replace(file)
    assert state_of(file) not in (first, None)


def test_reading(tmp_path: Path) -> None:
    """An ordinary file within its bound; everything else is a sentence."""
    (tmp_path / "f").write_bytes(b"12345")
    assert read_bounded(tmp_path / "f", 5) == b"12345"
    os.mkfifo(tmp_path / "pipe")
    for name, words in (
        ("f", "more than 4 octets"),
        ("none", "cannot be read: No such file"),
        ("pipe", "is no ordinary file"),
        ("", "cannot be read: Is a directory"),
    ):
        with pytest.raises(ValueError, match=words):
            read_bounded(tmp_path / name, 4)


def test_tokens(tmp_path: Path) -> None:
    """One line of visible characters: anything else would end the header field that it becomes part of."""
    (tmp_path / "t").write_bytes(b" abc.def\n")
    assert read_token(tmp_path / "t") == b"abc.def"
    for content in (b"", b"\n", b"a\r\nX-Evil: 1", b"a b", b"\xff"):
        (tmp_path / "t").write_bytes(content)
        with pytest.raises(ValueError, match="holds no token"):
            read_token(tmp_path / "t")


def test_directories(tmp_path: Path) -> None:
    """Of the file, and of every link on the way to it."""
    base = os.path.realpath(tmp_path)
    config = tmp_path / "config"
    (config / "..2026").mkdir(parents=True)
    (config / "..2026" / "e.yaml").write_text("")
    (config / "..data").symlink_to("..2026")
    (config / "e.yaml").symlink_to("..data/e.yaml")
    (tmp_path / "link").symlink_to(config)
    assert directories_to(Path(base) / "config" / "e.yaml") == {f"{base}/config", f"{base}/config/..2026"}
    assert directories_to(Path(base) / "link" / "e.yaml") == {base, f"{base}/config", f"{base}/config/..2026"}
    assert directories_to(Path(base) / "none" / "e.yaml") == {f"{base}/none"}


def test_links_in_a_circle(tmp_path: Path) -> None:
    """They end."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert directories_to(Path(os.path.realpath(tmp_path)) / "a") == {os.path.realpath(tmp_path)}
