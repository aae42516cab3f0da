"""Go's own HTTP/2 client and server (net/http), 64 goroutines at once: `python -m tests.conformance.http2_go`, from the root of the repository.

Nothing may be lost, changed or put in another's place, and afterwards nothing may be left running in a sidecar. Needs Go 1.24 or later.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from tests.conformance.sidecars import BUILD_SECONDS, SKIPPED, Report, Way, ways
from tests.e2e.processes import SidecarProcess

SCRIPT = Path(__file__).with_name("http2_go.go")
RUN_SECONDS = 600
SETTLE_SECONDS = 10.0


def left_behind(sidecar: SidecarProcess) -> str:
    """Requests that still run or wait, in words; "" when there are none, perhaps after a moment."""
    host, port = sidecar.places["admin"]
    end = time.monotonic() + SETTLE_SECONDS
    while True:
        with urllib.request.urlopen(f"http://{host}:{port}/clusters", timeout=10) as answer:
            clusters = json.load(answer)
        busy = [f"{each['name']}: {endpoint['active_requests']} run, {each['pending']} wait" for each in clusters for endpoint in each["endpoints"]
                if endpoint["active_requests"] or each["pending"]]  # fmt: skip
        if not busy or time.monotonic() > end:
            return "; ".join(busy)
        time.sleep(0.1)


def run(command: list[str], suite: str, way: Way, report: Report) -> None:
    """The cases that the command prints, and what is left behind."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS)
    for line in done.stdout.splitlines():
        case, _, problem = line.partition("ok ")[2].partition(": ")
        told = "\n".join(each for sidecar in way.sidecars for each in sidecar.log.splitlines()[-20:] if "#warn" in each or "#info" not in each)
        report.case(f"{suite}, {case}, {way.name}", f"{problem}\n{told}" if line.startswith("not ok") else "")
    if done.returncode or not done.stdout:
        report.case(f"{suite}, {way.name}", done.stdout + done.stderr)
    for sidecar in way.sidecars:
        report.case(f"{suite}, nothing left behind, {way.name}", left_behind(sidecar))


def build(directory: Path) -> Path | None:
    """The program, or None and a sentence when it cannot be had."""
    if shutil.which("go") is None:
        print("skipped, there is no Go", file=sys.stderr)
        return None
    program = directory / "http2_go"
    built = subprocess.run(["go", "build", "-o", str(program), str(SCRIPT)], capture_output=True, text=True, timeout=BUILD_SECONDS)
    if built.returncode:
        print(f"skipped, {built.stderr}", file=sys.stderr)
        return None
    return program


def serve(program: Path, ends: ExitStack) -> int:
    """Its server is started, until `ends`; the port."""
    server = subprocess.Popen([str(program), "serve"], stdout=subprocess.PIPE, text=True)
    ends.callback(server.wait)
    ends.callback(server.kill)
    assert server.stdout is not None
    return int(server.stdout.readline())


def main() -> int:
    """Run it."""
    report = Report("HTTP/2 in Go")
    with tempfile.TemporaryDirectory() as name, ExitStack() as ends:
        program = build(Path(name))
        if program is None:
            return SKIPPED
        port = serve(program, ends)
        for protocol in ("h2", "h1"):
            with ways(Path(name) / protocol, f"127.0.0.1:{port}", protocol) as found:
                for way in found:
                    run([str(program), "load", str(way.port)], f"Go, application over {protocol}", way, report)
    return report.status


if __name__ == "__main__":
    sys.exit(main())
