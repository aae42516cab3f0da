"""What the conformance runs share: one sidecar, or two with mutual TLS between them, in front of an application; and what has to be built or fetched first."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.e2e.conftest import Certificates
from tests.e2e.processes import SidecarProcess

BUILD_SECONDS = 600
SKIPPED = 77  # automake's: what is needed cannot be had

ONE = """
service: calls
inbound: {{listen: "127.0.0.1:0", app: "{app}", protocol: {protocol}, mtls: disabled}}
{more}
access_log: access.log
admin: "127.0.0.1:0"
"""
INSIDE = """
service: calls
namespace: shop
trust_domain: mesh.example
identity: {{directory: "{identity}"}}
inbound: {{listen: "127.0.0.1:0", app: "{app}", protocol: {protocol}, mtls: strict}}
access_log: access.log
admin: "127.0.0.1:0"
"""
# Clients put the address that they connect to into :authority.
OUTSIDE = """
service: orders
namespace: shop
trust_domain: mesh.example
identity: {{directory: "{identity}"}}
outbound: {{listen: "127.0.0.1:0", services: {{calls: {{endpoints: ["{inside}"], hosts: [calls, localhost, 127.0.0.1]}}}}}}
access_log: access.log
admin: "127.0.0.1:0"
"""


class Way:
    """`port` leads to the application; `sidecars` are those on the way, the first one first."""

    def __init__(self, name: str, port: int, sidecars: list[SidecarProcess]) -> None:
        self.name = name
        self.port = port
        self.sidecars = sidecars


@contextmanager
def ways(directory: Path, app: str, protocol: str = "h2", more: str = "") -> Iterator[list[Way]]:
    """Through one sidecar and through two. `app`: host:port. `more`: lines for the configuration of the one."""
    with ExitStack() as ends:
        (directory / "certificates").mkdir(parents=True)
        certificates = Certificates(directory / "certificates")

        def start(name: str, config: str) -> SidecarProcess:
            sidecar = SidecarProcess(directory / name, config)
            ends.callback(sidecar.end)
            return sidecar.wait_ready()

        one = start("one", ONE.format(app=app, protocol=protocol, more=more))
        inside = start("inside", INSIDE.format(app=app, protocol=protocol, identity=certificates.issue("calls")))
        place = inside.places["inbound"]
        outside = start("outside", OUTSIDE.format(identity=certificates.issue("orders"), inside=f"{place[0]}:{place[1]}"))
        yield [
            Way("one sidecar", int(one.places["inbound"][1]), [one]),
            Way("two sidecars, mutual TLS between them", int(outside.places["outbound"][1]), [outside, inside]),
        ]


def free_port() -> int:
    """A port that nobody has now, for programs that cannot choose one by themselves."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float = 20.0) -> None:
    """Somebody accepts there."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.05)


def go_program(directory: Path, module: str, variable: str) -> str | None:
    """A Go program, built if need be; None when there is no way to it. `variable`: of the environment, may name the program."""
    name = module.partition("@")[0].rpartition("/")[2]
    found = os.environ.get(variable)
    if found or shutil.which("go") is None:
        return found
    directory.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["go", "install", module], env={**os.environ, "GOBIN": str(directory)}, capture_output=True, text=True, timeout=BUILD_SECONDS)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return None
    return str(directory / name)


def node_packages(directory: Path, *packages: str) -> Path | None:
    """A directory with these packages of npm; None when there is no way to them. NODE_PACKAGES may name one that has them."""
    found = os.environ.get("NODE_PACKAGES")
    if found:
        return Path(found)
    if shutil.which("npm") is None or shutil.which("node") is None:
        return None
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "package.json").write_text("{}")
    done = subprocess.run(["npm", "install", "--silent", *packages], cwd=directory, capture_output=True, text=True, timeout=BUILD_SECONDS)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        return None
    return directory


class Report:
    """Says how each case went, and remembers whether any failed."""

    def __init__(self, suite: str) -> None:
        self.suite = suite
        self.passed = self.failed = 0

    def case(self, name: str, problem: str = "") -> None:
        """One went well, or not."""
        if problem:
            self.failed += 1
            print(f"not ok  {name}\n{problem}")
        else:
            self.passed += 1
            print(f"ok      {name}")

    @property
    def status(self) -> int:
        """For the shell."""
        print(f"{self.suite}: {self.passed} passed, {self.failed} failed")
        return 1 if self.failed or not self.passed else 0
