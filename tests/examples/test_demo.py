"""The demo keeps its promises, says so, and leaves nothing behind."""

from __future__ import annotations

import importlib.util
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.examples.processes import EXAMPLES, environment, wait_until

DEMO = EXAMPLES / "demo"


def surroundings(directory: Path, **more: str) -> dict[str, str]:
    """The environment of a demo in a work directory of its own, on ports that are free."""
    return {**environment(), "DEMO_DIR": str(directory), "DEMO_PORTS": "free", "PYTHONUNBUFFERED": "1", "ONCE": "", **more}


@pytest.fixture(scope="module")
def mesh_module() -> ModuleType:
    """examples/demo/mesh.py, which is no module of a package."""
    spec = importlib.util.spec_from_file_location("mesh", DEMO / "mesh.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_once_shows_everything_and_ends(tmp_path: Path) -> None:
    """`make demo ONCE=1` ends by itself with status 0 when all was as promised."""
    done = subprocess.run([sys.executable, str(DEMO / "run.py")], env=surroundings(tmp_path, ONCE="1"), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("All as promised.")
    assert done.stdout.count("   ok ") >= 12 and "   NOT " not in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_stays_until_it_is_ended_and_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C ends every child; they end, too, when the demo itself is killed."""
    output = tmp_path / "output"
    with open(output, "wb") as stream:
        demo = subprocess.Popen([sys.executable, str(DEMO / "run.py")], env=surroundings(tmp_path / "work"), stdout=stream, stderr=stream)
    try:
        wait_until(lambda: b"Ctrl-C ends it" in output.read_bytes() or demo.poll() is not None, "the demo is up", 60)
        assert demo.poll() is None, output.read_text()
        ports = {int(each) for each in re.findall(r"127\.0\.0\.1:(\d+)", output.read_text())}
        assert ports and all(map(is_open, ports))
    finally:
        demo.send_signal(number)
        status = demo.wait(60)
    assert status == (0 if number == signal.SIGINT else -number)
    wait_until(lambda: not any(map(is_open, ports)), "all children ended", 60)


def test_a_child_that_dies_shows_what_it_wrote(tmp_path: Path, mesh_module: ModuleType) -> None:
    """A start that fails is not guessed at."""
    mesh = mesh_module.Mesh(tmp_path)
    mesh._spawn("unlucky app", [sys.executable, "-c", "import sys; sys.exit('no luck today')"])
    try:
        wait_until(lambda: mesh._children[0][1].poll() is not None, "the child ended")
        with pytest.raises(mesh_module.DemoFailed, match=r"the unlucky app ended with status 1:\s+no luck today"):
            mesh.check()
    finally:
        mesh.stop()


def test_two_demos_do_not_share_a_directory(tmp_path: Path, mesh_module: ModuleType) -> None:
    """The second one says what to do, and takes nothing away from the first."""
    first = mesh_module.Mesh(tmp_path)
    first._clear()
    (tmp_path / "kept").touch()
    with pytest.raises(mesh_module.DemoFailed, match="another demo is running"):
        mesh_module.Mesh(tmp_path)._clear()
    assert (tmp_path / "kept").exists()
