"""The conformance suite h2spec against a running sidecar: `python -m tests.conformance.h2spec`, from the root of the repository.

Needs Go, which builds the suite into a temporary directory (or H2SPEC, the path of the program). Ends with h2spec's status; 77 when it cannot be had.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.e2e.applications import Application
from tests.e2e.processes import SidecarProcess

MODULE = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"
BUILD_SECONDS = 300
RUN_SECONDS = 300
SKIPPED = 77  # automake's
CONFIG = """
service: web
inbound: {{listen: "127.0.0.1:0", app: "{app}", mtls: disabled}}
access_log: off
admin: "127.0.0.1:0"
# `auto` would answer an invalid preface as HTTP/1.1, which it is not HTTP/2 enough to differ from.
listeners:
  - {{name: h2, address: "127.0.0.1:0", direction: inbound, filter_chains: [{{http: {{routes: inbound, codec: h2}}}}]}}
"""


def find_h2spec(directory: Path) -> str | None:
    """The program, built if need be; None when there is no way to it."""
    found = os.environ.get("H2SPEC") or shutil.which("h2spec")
    if found or shutil.which("go") is None:
        return found
    done = subprocess.run(["go", "install", MODULE], env={**os.environ, "GOBIN": str(directory)}, capture_output=True, text=True, timeout=BUILD_SECONDS)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return None
    return str(directory / "h2spec")


def main() -> int:
    """Run it."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        program = find_h2spec(directory)
        if program is None:
            print("h2spec: skipped, there is neither the program nor Go to build it", file=sys.stderr)
            return SKIPPED
        app = Application()
        sidecar = SidecarProcess(directory / "sidecar", CONFIG.format(app=app.address))
        try:
            _, port = sidecar.wait_ready().places["h2"]
            command = [program, "-h", "127.0.0.1", "-p", str(port), "-P", "/facts", "--strict", "-o", "5", *sys.argv[1:]]
            return subprocess.run(command, timeout=RUN_SECONDS).returncode
        finally:
            sidecar.end()
            app.stop()


if __name__ == "__main__":
    sys.exit(main())
