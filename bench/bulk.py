"""One large body through the sidecar over HTTP/2 and over HTTP/1.1, down and up: `python -m bench.bulk [--mebibytes 1024] [--rounds 3]`.

The promise: one HTTP/2 stream moves at no less than 60 % of HTTP/1.1's speed. The application is nginx, which sends and takes bodies without looking at them;
it speaks the version that the client speaks, cleartext, and the sidecar has its telemetry on. One client, one stream: h2load, whose windows are as large as
they get. Each round takes every way once, in turn; the medians are printed, with CPU seconds of the sidecar for each gibibyte, and the versions' ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import attrs

from bench import load
from bench.cases import CASES, Plan
from bench.certificates import write_certificates
from bench.peers import Sidecar
from bench.processes import Child, finish, free_ports, two_cores
from bench.programs import nginx_configuration, program

MEBIBYTE = 1024 * 1024
DEADLINE_SECONDS = 600.0
VERSIONS = {"HTTP/1.1": "plain", "HTTP/2": "h2-h2"}  # -> the case whose configuration is used


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0 when the ratio is kept in both directions, else 1."""
    parser = argparse.ArgumentParser(prog="python -m bench.bulk", description="Compare one large HTTP/2 stream with HTTP/1.1, through the sidecar.")
    parser.add_argument("--mebibytes", type=int, default=1024, help="size of the body (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is measured (default: %(default)s)")
    options = parser.parse_args(arguments)
    absent = [name for name in ("h2load", "nginx") if program(name) is None]
    if absent:
        print(f"missing: {', '.join(absent)} (Debian packages: nghttp2-client nginx-light)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="sidecar-bulk-") as directory, contextlib.ExitStack() as running:
        body = Path(directory) / "body"
        with body.open("wb") as file:
            file.truncate(options.mebibytes * MEBIBYTE)
        ways = {version: _start(version, Path(directory), body, running) for version in VERSIONS}
        found: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for _ in range(options.rounds):
            for direction in ("down", "up"):
                for version, (plan, child) in ways.items():
                    found.setdefault((direction, version), []).append(_move(plan, child, body if direction == "up" else None, options.mebibytes))
        most = {version: child.peak_mib() for version, (_, child) in ways.items()}
    return _report(found, most)


def _start(version: str, directory: Path, body: Path, running: contextlib.ExitStack) -> tuple[Plan, Child]:
    case = CASES[VERSIONS[version]]
    proxy_core, load_core = two_cores()
    upstream_port, port, admin_port = free_ports(3)
    mine = directory / case.name
    mine.mkdir()
    plan = Plan(case, upstream_port, upstream_port, 0, mine, *write_certificates(mine))
    http2 = " http2" if case.upstream == "h2" else ""
    # `return` alone would answer before the body is there: forwarding keeps all of it in a file first.
    server = f"""
    client_max_body_size 0;
    server {{
        listen 127.0.0.1:{upstream_port}{http2};
        location / {{ root {body.parent}; sendfile on; }}
        location /up {{ proxy_pass http://unix:{mine}/sink; proxy_pass_request_body off; proxy_set_header Content-Length ""; }}
    }}
    server {{ listen unix:{mine}/sink; return 204; }}"""
    path = mine / "application.conf"
    path.write_text(nginx_configuration(mine, "application", "off", server))
    command = [program("nginx") or "nginx", "-e", "stderr", "-p", str(mine), "-c", str(path)]
    running.enter_context(Child("application", command, load_core, mine)).wait_until_it_listens(upstream_port)
    plan = attrs.evolve(plan, port=port, admin_port=admin_port)
    child = running.enter_context(Child("sidecar", Sidecar().command(plan), proxy_core, mine))
    child.wait_until_it_listens(port)
    return plan, child


def _move(plan: Plan, child: Child, sent: Path | None, mebibytes: int) -> tuple[float, float]:
    """(MiB a second, CPU seconds of the sidecar for a GiB) of one body."""
    kind = ("--h1",) if plan.case.client == "h1" else ("--window-bits=30", "--connection-window-bits=30", "--max-frame-size=16384")
    what = (f"http://127.0.0.1:{plan.port}/body",) if sent is None else (f"--data={sent}", f"http://127.0.0.1:{plan.port}/up")
    before, then = child.cpu_seconds(), time.monotonic()
    output = finish([program("h2load") or "h2load", "--threads=1", "--clients=1", "--requests=1", *kind, *what], two_cores()[1], DEADLINE_SECONDS)
    seconds = time.monotonic() - then
    try:
        load.parse_saturation_h2(output, seconds)
    except load.InvalidRun as failure:
        raise load.InvalidRun(f"{plan.case.name}, {'down' if sent is None else 'up'}: {failure}") from failure
    return mebibytes / seconds, (child.cpu_seconds() - before) * 1024 / mebibytes


def _report(found: dict[tuple[str, str], list[tuple[float, float]]], most: dict[str, float]) -> int:
    kept = True
    for direction in ("down", "up"):
        speeds = {}
        for version in VERSIONS:
            samples = found[direction, version]
            speeds[version] = median(speed for speed, _ in samples)
            cpu = median(cpu for _, cpu in samples)
            print(f"{direction:5} {version:9} {speeds[version]:8.0f} MiB/s  {cpu:6.2f} CPU seconds/GiB  {most[version]:5.1f} MiB resident at most")
        ratio = speeds["HTTP/2"] / speeds["HTTP/1.1"]
        kept = kept and ratio >= 0.6
        print(f"{direction:5} HTTP/2 to HTTP/1.1: {ratio:.2f}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
