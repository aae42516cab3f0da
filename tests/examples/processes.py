"""Running sidecars and commands as processes: this repository on their path, as if it were installed; they end with their test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
START_SECONDS = 30.0
TWISTD = "import sys; from twisted.scripts.twistd import run; sys.exit(run())"


class UnixHTTPConnection(HTTPConnection):
    """HTTP over a UNIX socket: tests need no free port."""

    def __init__(self, path: Path) -> None:
        super().__init__("app.example", timeout=10)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(self._path))


class UnixHTTPServer(ThreadingMixIn, UnixStreamServer):
    """An application."""

    daemon_threads = True
    allow_reuse_address = True

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """The handler class wants an address with a host."""
        return self.socket.accept()[0], ("unix", 0)


def environment(*paths: Path) -> dict[str, str]:
    """The environment of a child process in which `paths` and this repository can be imported."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*paths, ROOT])), "PYTHONDONTWRITEBYTECODE": "1"}


def run_command(*words: str, paths: tuple[Path, ...] = (), cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`sidecar WORDS`, run to its end."""
    return subprocess.run([sys.executable, "-m", "sidecar.cli", *words], env=environment(*paths), cwd=cwd, capture_output=True, text=True, timeout=60)


class Sidecar:
    """A running `twistd sidecar`, whose inbound listener is the UNIX socket `socket`."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "in.sock"
        self.output = directory / "sidecar.out"

    def get(self, path: str = "/", **headers: str) -> tuple[HTTPResponse, bytes]:
        """(response, body) of a GET; names of headers with "_" for "-"."""
        connection = UnixHTTPConnection(self.socket)
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()


@contextmanager
def running_sidecar(directory: Path, text: str, *options: str, paths: tuple[Path, ...] = ()) -> Iterator[Sidecar]:
    """A sidecar with this configuration, which listens at `in.sock` in `directory`, and that directory as its own."""
    (directory / "sidecar.yaml").write_text(text)
    sidecar = Sidecar(directory)
    with open(sidecar.output, "wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-c", TWISTD, "--nodaemon", "--pidfile=", "sidecar", "--config", "sidecar.yaml", *options],
            env=environment(*paths), cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        wait_until(lambda: sidecar.socket.exists() or child.poll() is not None, "the sidecar listens")
        assert child.poll() is None, sidecar.output.read_text()
        yield sidecar
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Return when `is_so()`; fail the test when that takes too long."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
