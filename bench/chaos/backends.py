"""The applications as processes: started, stopped, told how to misbehave, and asked what was delivered to them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
START_SECONDS = 20.0
KINDS = ("python", "node", "go", "nginx")
# nginx cannot be told to misbehave; it closes idle connections early all the time instead.
OBEDIENT = ("python", "node", "go")
NGINX = """
daemon off; master_process off; pid {directory}/{name}.pid; error_log {directory}/{name}.log;
events {{ worker_connections 512; }}
http {{
  map $request_method $is_post {{ POST 1; default 0; }}
  log_format ids '$http_x_id';
  access_log {deliveries} ids if=$is_post;
  client_body_temp_path {directory}/{name}-body; proxy_temp_path {directory}/{name}-proxy; fastcgi_temp_path {directory}/{name}-fastcgi;
  uwsgi_temp_path {directory}/{name}-uwsgi; scgi_temp_path {directory}/{name}-scgi;
  keepalive_timeout 1s; keepalive_requests 200;
  server {{ listen 127.0.0.1:{port}; location / {{ add_header X-Backend {name} always; return 200 "hello from {name}"; }} }}
}}
"""


def present(kinds: tuple[str, ...] = KINDS) -> list[str]:
    """Which of these can run here."""
    return [kind for kind in kinds if kind == "python" or shutil.which(kind)]


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Backend:
    """One application. `weight`: its share of the load."""

    def __init__(self, kind: str, name: str, weight: int, directory: Path) -> None:
        self.kind = kind
        self.name = name
        self.weight = weight
        self.port = free_port()
        self._directory = directory
        self._mode = directory / f"{name}.mode"
        self._deliveries = directory / f"{name}.deliveries"
        self._process: subprocess.Popen[bytes] | None = None
        self._deliveries.touch()
        self.tell("ok")

    def tell(self, mode: str) -> None:
        """How to behave from now on; see backend.py."""
        new = self._mode.with_suffix(".new")
        new.write_text(mode)
        new.replace(self._mode)

    def start(self) -> None:
        """Run, and wait until it listens. Raises `RuntimeError` when it does not."""
        with (self._directory / f"{self.name}.out").open("ab") as out:
            self._process = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self._directory, start_new_session=True)
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"{self.name} did not start; see {self._directory / self.name}.out")

    def _command(self) -> list[str]:
        arguments = [str(self.port), str(self._mode), str(self._deliveries), self.name]
        if self.kind == "node":
            return ["node", str(HERE / "backend.mjs"), *arguments]
        if self.kind == "go":
            return [str(self._built()), *arguments]
        if self.kind == "nginx":
            config = self._directory / f"{self.name}.conf"
            config.write_text(NGINX.format(directory=self._directory, name=self.name, port=self.port, deliveries=self._deliveries))
            return ["nginx", "-c", str(config), "-p", str(self._directory)]
        return [sys.executable, str(HERE / "backend.py"), *arguments]

    def _built(self) -> Path:
        """The Go program, built once for each run."""
        binary = self._directory / "backend-go"
        if not binary.exists():
            subprocess.run(["go", "build", "-o", str(binary), str(HERE / "backend.go")], check=True, env={**os.environ, "GO111MODULE": "off"})
        return binary

    def send(self, number: signal.Signals) -> None:
        """A signal to the process and all that it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """Gone, without a word."""
        self.send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def deliveries(self) -> Counter[str]:
        """How often each POST was delivered."""
        return Counter(self._deliveries.read_text().split())


def begin(backend: Backend, trouble: str) -> None:
    """Make trouble: `kill`, `stop`, or a mode."""
    if trouble == "kill":
        backend.kill()
    elif trouble == "stop":
        backend.send(signal.SIGSTOP)
    else:
        backend.tell(trouble)


def end(backend: Backend, trouble: str) -> None:
    """All is well again, as far as the application goes."""
    if trouble == "kill":
        backend.start()
    elif trouble == "stop":
        backend.send(signal.SIGCONT)
    else:
        backend.tell("ok")
