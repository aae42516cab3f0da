"""grpc-go's interoperability suite through one sidecar and through two: `python -m tests.conformance.grpc_go`, from the root of the repository.

Client and server are those of google.golang.org/grpc/interop; GRPC_GO_CLIENT and GRPC_GO_SERVER may name them, else Go builds them into a temporary directory.
The cases: https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conformance.sidecars import SKIPPED, Report, free_port, go_program, wait_for_port, ways

MODULE = "google.golang.org/grpc/interop/%s@v1.85.0"
CASES = (
    "empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream", "timeout_on_sleeping_server", "cancel_after_begin",
    "cancel_after_first_response", "status_code_and_message", "special_status_message", "custom_metadata", "unimplemented_method", "unimplemented_service",
    "rpc_soak", "channel_soak",
)  # fmt: skip
SOAK = ("-soak_iterations=200", "-soak_num_threads=8", "-soak_overall_timeout_seconds=60")
CASE_SECONDS = 120


def main() -> int:
    """Run it."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        client = go_program(directory / "go", MODULE % "client", "GRPC_GO_CLIENT")
        server = go_program(directory / "go", MODULE % "server", "GRPC_GO_SERVER")
        if client is None or server is None:
            print("grpc-go: skipped, there is neither the programs nor Go to build them", file=sys.stderr)
            return SKIPPED
        report = Report("grpc-go interop")
        port = free_port()
        with subprocess.Popen([server, f"-port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                wait_for_port(port, process)
                with ways(directory / "sidecars", f"127.0.0.1:{port}") as found:
                    for way in found:
                        for case in CASES:
                            command = [client, "-server_host=127.0.0.1", f"-server_port={way.port}", f"-test_case={case}", *(SOAK if "soak" in case else ())]
                            done = subprocess.run(command, capture_output=True, text=True, timeout=CASE_SECONDS)
                            report.case(f"{case}, {way.name}", "" if done.returncode == 0 else done.stderr[-2000:])
            finally:
                process.terminate()
        return report.status


if __name__ == "__main__":
    sys.exit(main())
