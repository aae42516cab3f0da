"""The demo's processes: ports, identities, applications and sidecars; started together, ended together.

Everything that is made here stands in one work directory: certs/ and, for each process, its output, access log and spans.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType

HERE = Path(__file__).resolve().parent
PLUGINS = HERE.parent / "plugins"
TRUST_DOMAIN = "demo.example"
NAMESPACE = "shop"
SERVICES = ("orders", "payments", "intruder")

# Ports as the documentation uses them; where one is taken, a free one serves.
PORTS = {
    "ORDERS_APP": 18080,
    "ORDERS_INBOUND": 15006,
    "ORDERS_OUTBOUND": 15001,
    "ORDERS_ADMIN": 15000,
    "PAYMENTS_APP": 18081,
    "PAYMENTS_APP_2": 18082,
    "PAYMENTS_INBOUND": 15106,
    "PAYMENTS_ADMIN": 15100,
    "INTRUDER_OUTBOUND": 15201,
    "INTRUDER_ADMIN": 15200,
}

START_SECONDS = 30.0  # a start takes about one second; slow machines get time, a hung one is told
STOP_SECONDS = 5.0  # above the sidecars' drain_time of 2 s
PDEATHSIG = 1  # prctl(2): the child gets a signal when this process dies, however it dies


class DemoFailed(Exception):
    """The mesh cannot be started; the text says why."""


def choose_ports() -> dict[str, int]:
    """A free port on loopback for each name: the usual one, else any (DEMO_PORTS=free: any)."""
    any_free = os.environ.get("DEMO_PORTS") == "free"
    chosen = {}
    with ExitStack() as held:
        for name, usual in PORTS.items():
            probe = held.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", 0 if any_free else usual))
            except OSError:
                probe.bind(("127.0.0.1", 0))
            chosen[name] = probe.getsockname()[1]
    return chosen


class Mesh:
    """A context manager: the mesh runs inside it, and nothing of it afterwards. `ports`: by the names of `PORTS`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = choose_ports()
        self.node = shutil.which("node")
        self._children: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._environment = {**os.environ, "DEMO_DIR": str(directory), **{name: str(port) for name, port in self.ports.items()}}

    def __enter__(self) -> Mesh:
        try:
            self._prepare()
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _prepare(self) -> None:
        """A work directory with a fresh authority and an identity for each service: what `sidecar ca init` and `sidecar ca issue` do."""
        from sidecar.identity.authority import Authority
        from sidecar.identity.files import PRIVATE, replace_file

        self._clear()
        now = time.time()
        authority = Authority.create(TRUST_DOMAIN, now)
        authority.save(self.directory / "ca")
        for service in SERVICES:
            (self.directory / service).mkdir()
            certs = self.directory / "certs" / service
            certs.mkdir(parents=True)
            chain, key = authority.issue(f"spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{service}", now=now)
            for name, content in (("cert.pem", chain), ("key.pem", key), ("ca.pem", authority.trust_pem)):
                replace_file(certs / name, content, PRIVATE)

    def _clear(self) -> None:
        """An empty directory, that no other demo uses."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.directory / "lock", "w")  # noqa: SIM115 - held as long as the mesh runs
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DemoFailed(f"another demo is running in {self.directory}; end it with Ctrl-C in its terminal, or set DEMO_DIR to another directory") from None
        for each in self.directory.iterdir():
            if each.is_dir():
                shutil.rmtree(each)
            elif each.name != "lock":
                each.unlink()

    def _start(self) -> None:
        ports = self.ports
        python = sys.executable
        for service in SERVICES:
            self._spawn(f"{service} sidecar", self._sidecar(service))
        self._spawn("orders app", [python, "orders.py", str(ports["ORDERS_APP"]), str(ports["ORDERS_OUTBOUND"])])
        self._spawn("payments app", [python, "payments.py", str(ports["PAYMENTS_APP"])])
        second = [self.node, "payments.mjs"] if self.node else [python, "payments.py"]
        self._spawn("payments app 2", [*second, str(ports["PAYMENTS_APP_2"])])
        deadline = time.monotonic() + START_SECONDS
        for name in ("ORDERS_APP", "PAYMENTS_APP", "PAYMENTS_APP_2"):
            self._wait(name, deadline, _accepts)
        for service in SERVICES:
            self._wait(f"{service.upper()}_ADMIN", deadline, _is_ready)

    def _sidecar(self, service: str) -> list[str]:
        twistd = Path(sys.executable).with_name("twistd")
        if not twistd.exists():
            raise DemoFailed(f"{twistd} is not there: the sidecar and Twisted are to be installed beside {sys.executable}; `make demo` does that")
        return [str(twistd), "--nodaemon", "--pidfile=", "sidecar", "--config", f"{service}.yaml", "--plugin-dir", str(PLUGINS)]

    def _spawn(self, name: str, command: list[str]) -> None:
        # A session of its own: Ctrl-C reaches this process alone, which then ends the others in order.
        with open(self._output(name), "wb") as output:
            child = subprocess.Popen(
                command,
                cwd=HERE,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_us,
            )
        self._children.append((name, child))

    def _output(self, name: str) -> Path:
        return self.directory / f"{name.replace(' ', '-')}.out"

    def _wait(self, name: str, deadline: float, is_up: Callable[[int], bool]) -> None:
        while not is_up(self.ports[name]):
            self.check()
            if time.monotonic() > deadline:
                raise DemoFailed(f"{name} did not answer on port {self.ports[name]} within {START_SECONDS:g} seconds\n{self._outputs()}")
            time.sleep(0.02)

    def check(self) -> None:
        """Raises `DemoFailed`, with what it wrote, when a process has ended."""
        for name, child in self._children:
            if child.poll() is not None:
                raise DemoFailed(f"the {name} ended with status {child.returncode}:\n{self._tail(name)}")

    def _outputs(self) -> str:
        return "\n".join(f"-- {name}\n{self._tail(name)}" for name, _ in self._children)

    def _tail(self, name: str) -> str:
        lines = self._output(name).read_text(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-20:]) or "    (it wrote nothing)"

    def stop(self) -> None:
        """End every process: SIGTERM to all, SIGKILL to those that do not follow in time."""
        for _, child in self._children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for _, child in self._children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C: now
                child.kill()
                child.wait()
        self._children.clear()


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_us() -> None:
    if _libc is not None:
        _libc.prctl(PDEATHSIG, signal.SIGTERM)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _is_ready(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/healthz/ready")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
