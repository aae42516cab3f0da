"""Kind `discovery`, name `file`: replaced in every way that files are replaced, and broken in some."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import deferLater
from zope.interface.verify import verifyObject

from sidecar.discovery import file as file_module, watched as watched_module
from sidecar.discovery.file import EndpointFile
from sidecar.interfaces import IDiscovery
from sidecar.testing import FakeContext
from tests.discovery.watching import Told, run, until

Scenario = Callable[[Any, EndpointFile, Told], Coroutine[Any, Any, Any]]
WATCHES = ["auto", "poll"]


def watching(path: Path, watch: Any, scenario: Scenario) -> Any:
    """The result of `scenario(reactor, plugin, told)`. With "auto" nothing is polled, so what is seen was told by the system."""

    async def begin(reactor: Any) -> Any:
        plugin = EndpointFile(EndpointFile.Config(path=path, watch=watch, poll_interval=0.02), FakeContext("file", reactor=reactor))
        told = Told()
        first = plugin.watch(told)
        try:
            if path.exists():
                await first
            assert plugin._file.is_notified == (watch == "auto")
            return await scenario(reactor, plugin, told)
        finally:
            plugin.stop()
            assert plugin._file._inotify is None

    return run(begin)


def replace(path: Path, content: str) -> None:
    """As `mv new path` does it."""
    (path.parent / "new").write_text(content)
    (path.parent / "new").replace(path)


def test_promise(tmp_path: Path) -> None:
    """It is a discovery."""
    assert verifyObject(IDiscovery, EndpointFile(EndpointFile.Config(path=tmp_path / "f"), FakeContext()))


@pytest.mark.parametrize("watch", WATCHES)
def test_replaced_and_rewritten(tmp_path: Path, watch: str) -> None:
    """Each new content is told once, however it came."""
    path = tmp_path / "endpoints.yaml"
    path.write_text("- a:1\n")

    async def scenario(reactor: Any, plugin: EndpointFile, told: Told) -> None:
        assert told.sets == [["a:1"]]
        replace(path, "- b:1\n")
        await until(reactor, lambda: told.last == ["b:1"])
        path.write_text('{"endpoints": ["c:1"]}')
        await until(reactor, lambda: told.last == ["c:1"])
        path.touch()
        path.unlink()
        await until(reactor, lambda: plugin.snapshot()["last_error"])
        assert plugin.snapshot()["last_error"] == f"{path} cannot be read: No such file or directory"
        path.write_text("[]")
        await until(reactor, lambda: told.last == [])
        assert told.sets == [["a:1"], ["b:1"], ["c:1"], []]
        assert plugin.snapshot()["last_error"] == ""

    watching(path, watch, scenario)


@pytest.mark.parametrize("watch", WATCHES)
def test_a_switched_link(tmp_path: Path, watch: str) -> None:
    """As Kubernetes updates a ConfigMap: the file is a link through `..data`, which is replaced; several times, old directories removed."""
    (tmp_path / "..1").mkdir()
    (tmp_path / "..1" / "e.yaml").write_text("- a:1\n")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "e.yaml").symlink_to("..data/e.yaml")

    async def scenario(reactor: Any, plugin: EndpointFile, told: Told) -> None:
        for number in (2, 3, 4):
            (tmp_path / f"..{number}").mkdir()
            (tmp_path / f"..{number}" / "e.yaml").write_text(f"- a:{number}\n")
            (tmp_path / "..tmp").symlink_to(f"..{number}")
            (tmp_path / "..tmp").replace(tmp_path / "..data")
            (tmp_path / f"..{number - 1}" / "e.yaml").unlink()
            (tmp_path / f"..{number - 1}").rmdir()
            await until(reactor, lambda number=number: told.last == [f"a:{number}"])
        assert told.sets == [["a:1"], ["a:2"], ["a:3"], ["a:4"]]

    watching(tmp_path / "e.yaml", watch, scenario)


def test_descriptors(tmp_path: Path) -> None:
    """However often the directory changes, the watch holds one."""
    path = tmp_path / "e.yaml"
    path.write_text("- a:1\n")

    async def scenario(reactor: Any, plugin: EndpointFile, told: Told) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for number in range(2, 12):
            replace(path, f"- a:{number}\n")
            await until(reactor, lambda number=number: told.last == [f"a:{number}"])
        assert len(os.listdir("/proc/self/fd")) <= before + 1

    watching(path, "auto", scenario)


def test_a_broken_file(tmp_path: Path) -> None:
    """Is refused with line and column, and the last good one serves."""
    path = tmp_path / "e.yaml"
    path.write_text("- a:1\n")

    async def scenario(reactor: Any, plugin: EndpointFile, told: Told) -> None:
        replace(path, "- b:1\n- {address: c:1, weight: much}\n")
        await until(reactor, lambda: plugin.snapshot()["failures"])
        assert plugin.snapshot()["last_error"] == f"{path}:2:26: expected an integer from 0 to 1000000, got 'much'"
        assert told.sets == [["a:1"]]
        replace(path, "- b:1\n")
        await until(reactor, lambda: told.last == ["b:1"])
        assert plugin.snapshot()["last_error"] == ""

    watching(path, "auto", scenario)


def test_broken_at_the_start(tmp_path: Path) -> None:
    """The start need not wait: such a file does not mend itself."""
    path = tmp_path / "e.yaml"
    path.write_text("nonsense")

    async def scenario(reactor: Any, plugin: EndpointFile, told: Told) -> None:
        assert told.sets == []
        assert plugin.snapshot()["last_error"].startswith(f"{path}:1:1: ")

    watching(path, "auto", scenario)


def test_a_file_that_comes_later(tmp_path: Path) -> None:
    """Is waited for, also when its directory is not there yet."""
    path = tmp_path / "later" / "e.yaml"

    async def begin(reactor: Any) -> None:
        plugin = EndpointFile(EndpointFile.Config(path=path, poll_interval=0.02), FakeContext("file", reactor=reactor))
        told, done = Told(), []
        plugin.watch(told).addCallback(done.append)
        await deferLater(reactor, 0.05, lambda: None)
        assert done == []
        path.parent.mkdir()
        path.write_text("- a:1\n")
        await until(reactor, lambda: done)
        assert told.sets == [["a:1"]]
        replace(path, "- b:1\n")
        await until(reactor, lambda: told.last == ["b:1"])
        assert plugin._file.is_notified
        plugin.stop()
        assert [call for call in reactor.getDelayedCalls() if call.func == plugin._file.look] == []

    run(begin)


def test_without_inotify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system refuses a watch, the file is looked at."""
    path = tmp_path / "e.yaml"
    path.write_text("- a:1\n")
    monkeypatch.setattr("twisted.internet.inotify.INotify.watch", lambda *args, **kwargs: 1 / 0)

    async def begin(reactor: Any) -> None:
        plugin = EndpointFile(EndpointFile.Config(path=path, poll_interval=0.02), FakeContext("file", reactor=reactor))
        told = Told()
        await plugin.watch(told)
        assert not plugin._file.is_notified
        replace(path, "- b:1\n")
        await until(reactor, lambda: told.last == ["b:1"])
        assert told.last == ["b:1"]
        plugin.stop()

    run(begin)


def test_looked_at_now_and_then_all_the_same(tmp_path: Path) -> None:
    """On a clock that no system tells of changes: every poll_interval."""
    path = tmp_path / "e.yaml"
    path.write_text("- a:1\n")
    context = FakeContext("file")
    plugin = EndpointFile(EndpointFile.Config(path=path, poll_interval=5.0), context)
    told = Told()
    plugin.watch(told)
    context.clock.advance(0)
    assert told.sets == [["a:1"]]
    replace(path, "- b:1\n")
    context.clock.advance(4.9)
    assert told.sets == [["a:1"]]
    context.clock.advance(0.1)
    context.clock.advance(0)
    assert told.sets == [["a:1"], ["b:1"]]
    plugin.stop()
    assert context.clock.getDelayedCalls() == []


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is too long, or none at all (a pipe), stops nobody."""
    monkeypatch.setattr(file_module, "MAX_FILE_BYTES", 10)
    (tmp_path / "long").write_text("- a:1\n- b:1\n")
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("long", "more than 10 octets"), ("pipe", "no ordinary file")):
        plugin = EndpointFile(EndpointFile.Config(path=tmp_path / name), FakeContext())
        plugin.watch(Told())
        assert words in plugin.snapshot()["last_error"]
        plugin.stop()
    assert watched_module.SETTLE_SECONDS < 1
