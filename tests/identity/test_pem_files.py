"""PEM files as a certificate source: loading, watching, and what is said about them."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from sidecar.identity.authority import Authority
from sidecar.identity.material import IncompleteMaterial
from sidecar.identity.pem_files import MAX_FILE_BYTES, POLL_SECONDS, PEMFiles
from sidecar.interfaces import ICertificateSource

NOW = 1_800_000_000.0
ORDERS = "spiffe://example.org/ns/shop/sa/orders"


class Log:
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, text: str, **values: Any) -> None:
        self.lines.append(text.format(**values))

    def failure(self, text: str, *args: Any, **values: Any) -> None:
        self.lines.append(text.format(**values))


@pytest.fixture(scope="module")
def here() -> Authority:
    """An authority that is valid around NOW."""
    return Authority.create("example.org", NOW - 86400)


class Place:
    """A directory with orders' files, a source that looks at them, and a count of the changes it told."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self.directory, self.authority = directory, authority
        self.clock, self.log, self.changes = Clock(), Log(), 0
        self.clock.advance(NOW)
        self.write()
        self.source = self.make(directory)

    def make(self, directory: Path) -> PEMFiles:
        config = PEMFiles.Config(certificate=str(directory / "cert.pem"), key=str(directory / "key.pem"), trust=str(directory / "ca.pem"))
        return PEMFiles(config, SimpleNamespace(clock=self.clock, log=self.log))

    def write(self, *names: str, directory: Path | None = None) -> None:
        chain, key = self.authority.issue(ORDERS, now=NOW)
        for name, content in (("cert.pem", chain), ("key.pem", key), ("ca.pem", self.authority.trust_pem)):
            if not names or name in names:
                path = (directory or self.directory) / name
                path.write_bytes(content)
                path.chmod(0o600)

    def count(self) -> None:
        self.changes += 1

    def polls(self, count: int = 1) -> int:
        """How many changes were told within so many polls."""
        before = self.changes
        self.clock.pump([POLL_SECONDS] * count)
        return self.changes - before


@pytest.fixture
def place(tmp_path: Path, here: Authority) -> Place:
    """Good files, not watched yet."""
    return Place(tmp_path, here)


def test_it_is_a_certificate_source(place: Place) -> None:
    """Of the kind's interface, with all of its methods."""
    assert verifyObject(ICertificateSource, place.source)


def test_files_are_loaded_by_the_contexts_clock(place: Place) -> None:
    """The same files, another time, another answer."""
    assert str(place.source.load().identity) == ORDERS
    place.clock.advance(400 * 86400)
    with pytest.raises(ValueError, match="expired on"):
        place.source.load()


def test_nothing_is_told_while_nothing_changes(place: Place) -> None:
    """Looking is not reading: access times do not count."""
    place.source.load()
    place.source.watch(place.count)
    (place.directory / "cert.pem").read_bytes()
    assert place.polls(5) == 0


@pytest.mark.parametrize("how", ["in place", "renamed", "gone"])
@pytest.mark.parametrize("name", ["cert.pem", "key.pem", "ca.pem"])
def test_each_kind_of_change_is_told_once(place: Place, name: str, how: str) -> None:
    """Written over, renamed into place, or removed; within one poll and not again at the next."""
    place.source.load()
    place.source.watch(place.count)
    path = place.directory / name
    if how == "gone":
        path.unlink()
    elif how == "renamed":
        (place.directory / "new").write_bytes(path.read_bytes())
        os.replace(place.directory / "new", path)
    else:
        path.write_bytes(path.read_bytes() + b"\n")
    assert place.polls(1) == 1
    assert place.polls(3) == 0


def test_a_switched_symbolic_link_is_a_change(tmp_path: Path, here: Authority) -> None:
    """How Kubernetes replaces all files of a secret at once."""
    for version in ("..1", "..2"):
        (tmp_path / version).mkdir()
    place = Place(tmp_path / "..1", here)
    place.write(directory=tmp_path / "..2")
    (tmp_path / "..data").symlink_to("..1")
    for name in ("cert.pem", "key.pem", "ca.pem"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    source = place.make(tmp_path)
    first = source.load()
    source.watch(place.count)
    (tmp_path / "..data_tmp").symlink_to("..2")
    os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
    assert place.polls() == 1
    assert source.load().certificate != first.certificate


def test_half_a_replacement_is_refused_and_the_other_half_heals_it(place: Place) -> None:
    """New certificate, old key: not complete yet; the key's change is told in its turn."""
    place.source.load()
    place.source.watch(place.count)
    chain, key = place.authority.issue(ORDERS, now=NOW)
    (place.directory / "cert.pem").write_bytes(chain)
    assert place.polls() == 1
    with pytest.raises(IncompleteMaterial, match="is one of the two files not replaced yet"):
        place.source.load()
    (place.directory / "key.pem").write_bytes(key)
    assert place.polls() == 1
    assert place.source.load().chain == chain


def test_a_change_during_loading_is_not_missed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `load` did not see, the next poll tells."""
    place.source.watch(place.count)
    seconds = place.clock.seconds

    def replaced_meanwhile() -> float:
        place.write()
        return seconds()

    monkeypatch.setattr(place.clock, "seconds", replaced_meanwhile)
    place.source.load()
    monkeypatch.undo()
    assert place.polls() == 1


def test_stop_ends_the_watch(place: Place) -> None:
    """Also a second time, and before `watch`."""
    place.source.stop()
    place.source.watch(place.count)
    place.source.stop()
    place.source.stop()
    place.write()
    assert place.polls(3) == 0
    assert place.clock.getDelayedCalls() == []


def test_a_listener_that_raises_does_not_end_the_watch(place: Place) -> None:
    """The change that mends it must be seen."""

    def broken() -> None:
        place.changes += 1
        raise RuntimeError("no")

    place.source.watch(broken)
    place.write()
    assert place.polls() == 1
    place.write()
    assert place.polls() == 1
    assert len(place.log.lines) == 2 and "taking them up failed" in place.log.lines[0]


def test_a_key_that_everybody_may_read_is_said_once(place: Place) -> None:
    """With the mode and the cure; a new file is looked at anew."""
    key = place.directory / "key.pem"
    key.chmod(0o644)
    place.source.load()
    place.source.load()
    assert place.log.lines == [f"the key {key} can be read or written by every user of this machine (mode 0644); `chmod 600 {key}` closes it"]
    key.chmod(0o640)
    place.source.load()
    assert len(place.log.lines) == 1
    key.chmod(0o604)
    place.source.load()
    assert len(place.log.lines) == 2


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda path: path.unlink(), "{path} cannot be read: No such file or directory"),
        (lambda path: path.write_bytes(b" \n"), "{path} is empty"),
        (lambda path: path.write_bytes(b"x" * (MAX_FILE_BYTES + 1)), "{path} has more than 1048576 octets: is it the right file?"),
        (lambda path: (path.unlink(), path.mkdir()), "{path} cannot be read: Is a directory"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "{path} is empty"),
    ],
    ids=["gone", "empty", "huge", "directory", "pipe"],
)
def test_a_file_that_cannot_be_one_is_named(place: Place, break_it: Any, sentence: str) -> None:
    """And the reactor never waits for it."""
    path = place.directory / "ca.pem"
    break_it(path)
    with pytest.raises(ValueError) as caught:
        place.source.load()
    assert str(caught.value) == sentence.format(path=path)


def test_trust_alone_needs_one_file(place: Place) -> None:
    """For verifying others without showing a certificate."""
    source = PEMFiles(PEMFiles.Config(trust=str(place.directory / "ca.pem")), SimpleNamespace(clock=place.clock, log=place.log))
    assert source.load().identity is None
    assert repr(source) == f"<PEMFiles {place.directory / 'ca.pem'}>"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"certificate": "a"}, "`certificate` and `key` come together"),
        ({"key": "a"}, "`certificate` and `key` come together"),
        ({}, "give `certificate` and `key`"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config: dict[str, str], sentence: str) -> None:
    """When the configuration is read, so that `sidecar check` finds it."""
    with pytest.raises(ValueError, match=sentence):
        PEMFiles.Config(**config)  # type: ignore[arg-type]


def test_an_unknown_setting_is_an_error() -> None:
    """Plugins read their configuration strictly."""
    with pytest.raises(msgspec.ValidationError, match="unknown field `cert`"):
        msgspec.convert({"cert": "a"}, PEMFiles.Config)
