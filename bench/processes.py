"""Child processes that stay on their core, are counted by the kernel's own books, and are ended whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_SECONDS = 5.0  # between SIGTERM and SIGKILL
READY_SECONDS = 20.0  # a proxy that does not answer by then is broken; the slowest is there in two
TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_PDEATHSIG = 1  # linux/prctl.h: a child is killed when its parent dies, however that happens


class StartFailed(Exception):
    """The process ended or did not answer; the message holds the end of its output."""


def two_cores() -> tuple[int, int]:
    """(proxy's core, load's core): different ones when this process may use more than one."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]


def free_ports(count: int) -> list[int]:
    """As many different TCP ports of the loopback address that nobody listens on now."""
    with contextlib.ExitStack() as held:  # all at once, or the same port may come twice
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def background_share(seconds: float = 0.5) -> float:
    """The share of all cores (0 to 1) that others use right now: above a tenth, numbers are rough."""
    before = _busy_and_all()
    time.sleep(seconds)
    after = _busy_and_all()
    return (after[0] - before[0]) / max(1, after[1] - before[1])


def _busy_and_all() -> tuple[int, int]:
    ticks = [int(column) for column in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # less idle and iowait


def _preparation(core: int) -> None:
    """In the child, before its program: on its core, and dead when we are."""
    os.sched_setaffinity(0, {core})
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """A running program on one core, in a session of its own. Use it as a context manager: leaving ends the program and what it started."""

    def __init__(self, name: str, command: Sequence[str], core: int, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        """Start `command` in `directory`, with `environment` besides ours; its output goes to `<name>.out` there."""
        self.name = name
        self.output = directory / f"{name}.out"
        with self.output.open("ab") as out:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: _preparation(core),
            )
        self.pid = self._process.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Gone, and its descendants in the session too: asked first, then killed."""
        for how, patience in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)

    def wait_until_it_answers(self, url: str, body: bytes, seconds: float = READY_SECONDS) -> None:
        """A GET of `url` gives 200 with exactly `body`. Raises `StartFailed` with the reason and the end of the output."""
        deadline, last = time.monotonic() + seconds, "no connection"
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise StartFailed(f"{self.name} ended with status {self._process.returncode}:\n{self._last_words()}")
            try:
                status, got = fetch(url)
            except (OSError, http.client.HTTPException) as error:
                last = str(error)
            else:
                if (status, got) == (200, body):
                    return
                last = f"status {status} with {len(got)} octets: {got[:200]!r}"
            time.sleep(0.05)
        raise StartFailed(f"{self.name} did not answer as it should ({last}):\n{self._last_words()}")

    def wait_until_it_listens(self, port: int) -> None:
        """Connections to `port` are taken. Raises `StartFailed` as `wait_until_it_answers` does."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.05)
        raise StartFailed(f"{self.name} takes no connections on port {port}:\n{self._last_words()}")

    def _last_words(self) -> str:
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-25:])

    def cpu_seconds(self) -> float:
        """CPU time of all its threads until now, in user mode and in the kernel."""
        total = 0
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            try:
                total += int((thread / "schedstat").read_text().split()[0])  # nanoseconds
            except (OSError, IndexError):  # a kernel without it, or a thread that ended
                return self._cpu_seconds_in_ticks()
        return total / 1e9

    def _cpu_seconds_in_ticks(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS  # utime and stime, proc(5)

    def rss_mib(self) -> float:
        """Resident memory now, shared pages included."""
        return self._memory_mib("VmRSS:")

    def peak_mib(self) -> float:
        """The most that it was since the program began."""
        return self._memory_mib("VmHWM:")

    def _memory_mib(self, name: str) -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
        return 0.0


def fetch(url: str) -> tuple[int, bytes]:
    """(status, body) of one GET, whatever certificate the server shows. Raises `OSError` or `http.client.HTTPException`."""
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    if scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(authority, timeout=2, context=context)
    else:
        connection = http.client.HTTPConnection(authority, timeout=2)
    with contextlib.closing(connection):
        connection.request("GET", f"/{path}")
        response = connection.getresponse()
        return response.status, response.read()


def finish(command: Sequence[str], core: int, seconds: float) -> str:
    """The output, errors included, of a program run to its end on `core`. Raises `StartFailed` when it fails or takes longer than `seconds`."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=lambda: _preparation(core)
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except BaseException as error:
            process.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise StartFailed(f"{command[0]} did not end within {seconds:.0f} seconds") from error
            raise
    if process.returncode:
        raise StartFailed(f"{command[0]} failed with status {process.returncode}:\n{output[-1000:]}")
    return output
