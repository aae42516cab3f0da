"""Other people's HTTP/2 clients against one sidecar and through two: `python -m tests.conformance.http2_clients`, from the root of the repository.

nghttp (Debian: nghttp2-client) with its odder options, and Node's own client, WebSocket over extended CONNECT included. Each where it is.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conformance.sidecars import SKIPPED, Report, Way, ways
from tests.conformance.websocket import Echo
from tests.e2e.applications import echo

SCRIPT = Path(__file__).with_name("http2_node.js")
RUN_SECONDS = 120
ROWS: dict[str, tuple[list[str], str]] = {
    "plain": ([], ""),
    "a head in CONTINUATION frames": (["--continuation"], ""),
    "padding": (["--padding=200"], ""),
    "a tiny dynamic table": (["--header-table-size=0"], ""),
    "small windows": (["--window-bits=10", "--connection-window-bits=16"], ""),
    "a hundred at once": (["--multiply=100"], ""),
    "expecting 100-continue": (["--expect-continue"], "body"),
    "trailers": (["--trailer=x-sum: 1"], "body"),
    "no priorities": (["--no-dep"], ""),
    "a weighted stream": (["--weight=7"], ""),
    "settings": (["--max-concurrent-streams=1", "--no-push"], ""),
}


def nghttp(program: str, way: Way, directory: Path, report: Report) -> None:
    """Each row: every response is a 200."""
    (directory / "body").write_bytes(b"x" * 100_000)
    for name, (options, body) in ROWS.items():
        data = [f"--data={directory / body}"] if body else []
        command = [program, "--null-out", "--stat", *options, *data, f"http://127.0.0.1:{way.port}/{'echo' if body else ''}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS)
        lines = [line.split() for line in done.stdout.splitlines() if line[:1].isspace() and line.strip()[:1].isdigit()]
        well = done.returncode == 0 and lines and all(line[4] == "200" for line in lines)
        report.case(f"nghttp, {name}, {way.name}", "" if well else done.stdout + done.stderr)


def node(way: Way, report: Report) -> None:
    """The cases of the script."""
    done = subprocess.run(["node", str(SCRIPT), str(way.port)], capture_output=True, text=True, timeout=RUN_SECONDS)
    for line in done.stdout.splitlines():
        case, _, problem = line.partition("ok ")[2].partition(": ")
        report.case(f"Node, {case}, {way.name}", problem if line.startswith("not ok") else "")
    if done.returncode:
        report.case(f"Node, {way.name}", done.stderr)


def main() -> int:
    """Run it."""
    program, has_node = shutil.which("nghttp"), shutil.which("node") is not None
    if program is None and not has_node:
        print("HTTP/2 clients: skipped, there is neither nghttp nor Node", file=sys.stderr)
        return SKIPPED
    report = Report("HTTP/2 clients")
    app = Echo()
    app.on("/ws", app.upgrade)
    app.on("/echo", echo)
    app.behaviours.pop("/")
    try:
        with tempfile.TemporaryDirectory() as name, ways(Path(name) / "sidecars", app.address, "h1") as found:
            for way in found:
                if program is not None:
                    nghttp(program, way, Path(name), report)
                if has_node:
                    node(way, report)
    finally:
        app.stop()
    return report.status


if __name__ == "__main__":
    sys.exit(main())
