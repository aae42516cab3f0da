"""Node's gRPC and gRPC-Web through one sidecar and through two: `python -m tests.conformance.grpc_node`, from the root of the repository.

@grpc/grpc-js calls the server of grpcio, grpcio calls a server of @grpc/grpc-js, and the browsers' grpc-web calls the former through the filter `grpc-web`. The
packages come from npm, or from the directory that NODE_PACKAGES names.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conformance import grpc_python
from tests.conformance.grpc_server import Calls
from tests.conformance.sidecars import SKIPPED, Report, node_packages, ways

SCRIPT = Path(__file__).with_suffix(".js")
RUN_SECONDS = 300
FILTER = "extensions: [{kind: filter, name: grpc-web}]"


class NodeCalls:
    """A server in Node, as `grpc_server.Calls`. Its `waits` are told by what it prints."""

    def __init__(self, packages: Path) -> None:
        self.process = subprocess.Popen(["node", str(SCRIPT), str(packages), "grpc-js-server", "0"], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().split()[1])
        self.waits = self
        self.cancelled = self

    def acquire(self, timeout: float) -> bool:
        """Somebody cancelled: the server says so in a line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline() == "cancelled\n"

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()


def client(packages: Path, kind: str, port: int, name: str, report: Report) -> None:
    """Run the cases of one client."""
    done = subprocess.run(["node", str(SCRIPT), str(packages), kind, str(port)], capture_output=True, text=True, timeout=RUN_SECONDS)
    for line in done.stdout.splitlines():
        case, _, problem = line.partition("ok ")[2].partition(": ")
        report.case(f"{kind} {case}, {name}", problem if line.startswith("not ok") else "")
    if done.returncode:
        report.case(f"{kind}, {name}", done.stderr)


def main() -> int:
    """Run it."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        packages = node_packages(directory / "node", "@grpc/grpc-js@1", "grpc-web@2", "xhr2@0.2")
        if packages is None:
            print("Node's gRPC: skipped, there is no Node or no way to its packages", file=sys.stderr)
            return SKIPPED
        report = Report("Node's gRPC")
        calls = Calls()
        try:
            with ways(directory / "python", f"127.0.0.1:{calls.port}", more=FILTER) as found:
                for way in found[:1]:
                    client(packages, "grpc-web", way.port, way.name, report)
            with ways(directory / "plain", f"127.0.0.1:{calls.port}") as found:
                for way in found:
                    client(packages, "grpc-js", way.port, way.name, report)
        finally:
            calls.stop()
        server = NodeCalls(packages)
        try:
            with ways(directory / "server", f"127.0.0.1:{server.port}") as found:
                for way in found:
                    grpc_python.run(way, server, report, "grpcio to a server of grpc-js: ")
        finally:
            server.stop()
        return report.status


if __name__ == "__main__":
    sys.exit(main())
