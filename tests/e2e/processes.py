"""Sidecars as processes: started by twistd as users start them, on ports that the system chooses, read from what the sidecar says; ended with their test."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
# Only a test that fails waits for so long; a busy machine may need much of it.
START_SECONDS = 60.0
WAIT_SECONDS = 30.0
TWISTD = "import sys; from twisted.scripts.twistd import run; sys.exit(run())"
T = TypeVar("T")
Place = tuple[str, int] | str


def until(ask: Callable[[], T], seconds: float = WAIT_SECONDS) -> T:
    """What `ask()` says once it is true; the last answer when that takes longer than `seconds`."""
    end = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer or time.monotonic() > end:
            return answer
        time.sleep(0.01)


def place(address: str) -> Place:
    """What a socket connects to, of an address as the sidecar writes it."""
    if address.startswith("unix:"):
        return address[5:]
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def environment() -> dict[str, str]:
    """Of a child process in which this repository can be imported from any directory."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


class SidecarProcess:
    """`twistd sidecar` with this configuration. `places`: the listeners by name, and `admin`. `reactor`: "" for the one that it picks by itself."""

    def __init__(self, directory: Path, config: str, *options: str, reactor: str = "", cwd: Path | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.config = directory / "sidecar.yaml"
        self.config.write_text(config)
        self.places: dict[str, Place] = {}
        self.expects_traceback = False
        self._killed = False
        self._stderr = directory / "stderr"
        self._stdout = directory / "stdout"
        # `make test` runs the whole suite once more with this set: everything has to work on Twisted's own reactors, too.
        reactor = reactor or os.environ.get("SIDECAR_TEST_REACTOR", "")
        chosen = [f"--reactor={reactor}"] if reactor else []
        with self._stderr.open("wb") as stderr, self._stdout.open("wb") as stdout:
            self.process = subprocess.Popen(
                [sys.executable, "-c", TWISTD, "--nodaemon", "--pidfile=", *chosen, "sidecar", "--config", str(self.config), *options],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=environment(),
                cwd=cwd or directory,
            )

    @property
    def log(self) -> str:
        """What it said of itself."""
        return self._stderr.read_text(errors="replace")

    @property
    def output(self) -> str:
        """Its standard output: access records, unless they go to a file."""
        return self._stdout.read_text(errors="replace")

    def wait_ready(self) -> SidecarProcess:
        """It serves."""
        until(lambda: "ready; admin pages at" in self.log or self.process.poll() is not None, START_SECONDS)
        ready = re.search(r"ready; admin pages at (\S+)", self.log)
        if ready is None or self.process.poll() is not None:
            self.kill()
            raise AssertionError(f"the sidecar did not start (status {self.process.returncode}):\n{self.log}\n{self.config.read_text()}")
        for name, address in re.findall(r"listener (\S+) accepts at (\S+)", self.log):
            self.places[name] = place(address)
        if ready[1] != "nowhere":
            self.places["admin"] = place(ready[1])
            assert self.page("/healthz/ready")[0] == 200
        return self

    def page(self, path: str, method: str = "GET", **fields: str) -> tuple[int, str]:
        """(status, text) of an admin page."""
        host, port = self.places["admin"]
        connection = HTTPConnection(host, int(port), timeout=WAIT_SECONDS)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in fields.items()})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        """An admin page's value."""
        status, text = self.page(path)
        assert status == 200, text
        return json.loads(text)

    def metric(self, line: str) -> float:
        """The number behind `line` (name and labels) in the metrics; 0 when it is not there."""
        found = [each for each in self.page("/stats/prometheus")[1].splitlines() if each.startswith(line + " ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    def records(self, file: str = "access.log", path: str | None = None, count: int = 1) -> list[dict[str, Any]]:
        """The lines of its access log (written at least once a second) as objects, once `count` of them are there; only those of `path`, if given."""

        def read() -> list[dict[str, Any]]:
            name = self.directory / file
            text = name.read_text() if name.exists() else ""
            rows = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
            found = [row for row in rows if path is None or row.get("path") == path]
            return found if len(found) >= count else []

        return until(read)

    def resident_peak(self) -> float:
        """MiB of resident memory at most since `forget_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024

    def forget_peak(self) -> float:
        """Begin anew with the peak; MiB resident now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.resident_peak()

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, seconds: float = WAIT_SECONDS) -> int:
        """Its exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the sidecar did not end within {seconds:g} s:\n{self.log}") from None

    def kill(self) -> None:
        """End it at once, if it still runs."""
        if self.process.poll() is None:
            self._killed = True
            self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """End it without waiting for connections; it must have lived until now, without a traceback in its log, unless the test says otherwise."""
        is_alive = self.process.poll() is None
        self.kill()
        assert self.expects_traceback or "Traceback" not in self.log, self.log
        assert is_alive or self.process.returncode == 0 or self._killed, f"the sidecar ended with status {self.process.returncode}:\n{self.log}"
