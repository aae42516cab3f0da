"""GOAWAY, restarts, resets and full connections while h2load and gRPC clients go on: `python -m tests.conformance.h2_under_load`, from the root.

Nothing may be lost that may be sent again, and nothing may stay in memory. h2load and nghttpd (Debian: nghttp2-client, nghttp2-server) are used where they are.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc

from tests.conformance.grpc_server import Calls
from tests.conformance.sidecars import INSIDE, Report, free_port, wait_for_port, ways
from tests.e2e.conftest import Certificates
from tests.e2e.processes import SidecarProcess

SECONDS = float(os.environ.get("LOAD_SECONDS", "6"))
GROWTH_MIB = 24.0  # what an interpreter's heap may keep after a storm
BOTH = """
service: orders
namespace: shop
trust_domain: mesh.example
identity: {{directory: "{identity}"}}
outbound: {{listen: "127.0.0.1:0", services: {{calls: {{endpoints: [{inside}], hosts: [calls, 127.0.0.1], retry: {{attempts: 3, budget: null}}}}}}}}
access_log: off
admin: "127.0.0.1:0"
"""
FIXED = """
service: calls
inbound: {{listen: "127.0.0.1:{port}", app: "{app}", protocol: h2, mtls: disabled}}
access_log: off
admin: "127.0.0.1:0"
drain_time: 10s
"""


class Load:
    """gRPC calls one after the other in some threads until `stop`, which gives (how many went well, what went wrong)."""

    def __init__(self, port: int, threads: int = 8, wait_for_ready: bool = False) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._wait_for_ready = wait_for_ready
        self._over = threading.Event()
        self.count = 0
        self.problems: list[str] = []
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(threads)]
        for each in self._threads:
            each.start()

    def _call(self, number: int) -> None:
        unary = self._channel.unary_unary("/test.Calls/Unary")
        both = self._channel.stream_stream("/test.Calls/Both")
        while not self._over.is_set():
            try:
                if number % 4:
                    message = b"%d" % self.count * 100
                    assert unary(message, timeout=20, wait_for_ready=self._wait_for_ready) == message[::-1]
                else:
                    assert list(both(iter([b"a", b"b", b"c"]), timeout=20, wait_for_ready=self._wait_for_ready)) == [b"a!", b"b!", b"c!"]
                self.count += 1
            except (grpc.RpcError, AssertionError) as problem:
                self.problems.append(str(problem)[:400])

    def stop(self) -> tuple[int, list[str]]:
        """No more."""
        self._over.set()
        for each in self._threads:
            each.join()
        self._channel.close()
        return self.count, self.problems


def told(count: int, problems: list[str]) -> str:
    """What a report says of a load."""
    print(f"        {count} calls, {len(problems)} failed")
    return "" if count and not problems else f"{len(problems)} of {count} failed: {problems[:3]}"


def server_that_leaves(directory: Path, report: Report) -> None:
    """The application says GOAWAY every few hundred milliseconds (grpc.max_connection_age_ms)."""
    calls = Calls(options=(("grpc.max_connection_age_ms", 150), ("grpc.max_connection_age_grace_ms", 5000)))
    try:
        with ways(directory, f"127.0.0.1:{calls.port}") as found:
            for way in found:
                load = Load(way.port)
                time.sleep(SECONDS)
                report.case(f"server that leaves again and again, {way.name}", told(*load.stop()))
    finally:
        calls.stop()


def one_of_two_sidecars_stops(directory: Path, report: Report) -> None:
    """The inner sidecar of one of two instances drains and ends, then the other one, while a new one has taken the first one's place."""
    calls = Calls()
    with ExitStack() as ends:
        ends.callback(calls.stop)
        directory.mkdir()
        certificates = Certificates(directory)
        identity = certificates.issue("calls")
        config = INSIDE.format(app=f"127.0.0.1:{calls.port}", protocol="h2", identity=identity)
        ports = [free_port(), free_port()]

        def start(number: int, turn: int) -> SidecarProcess:
            text = config.replace('inbound: {listen: "127.0.0.1:0"', f'inbound: {{listen: "127.0.0.1:{ports[number]}"')
            sidecar = SidecarProcess(directory / f"inside{number}-{turn}", text).wait_ready()
            ends.callback(sidecar.kill)
            return sidecar

        inside = [start(0, 0), start(1, 0)]
        addresses = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
        outside = SidecarProcess(directory / "outside", BOTH.format(identity=certificates.issue("orders"), inside=addresses)).wait_ready()
        ends.callback(outside.end)
        load = Load(int(outside.places["outbound"][1]))
        for turn in range(1, 3):
            for number in range(2):
                time.sleep(SECONDS / 6)
                inside[number].signal(signal.SIGTERM)
                status = inside[number].wait(40)
                if status:
                    report.case("sidecar that stops", f"status {status}: {inside[number].log}")
                inside[number] = start(number, turn)
        report.case("sidecars that restart one after the other", told(*load.stop()))


def sidecar_that_restarts(directory: Path, report: Report) -> None:
    """Clients speak to the sidecar that restarts. Calls that wait for a connection (wait_for_ready) see nothing of it."""
    calls = Calls()
    with ExitStack() as ends:
        ends.callback(calls.stop)
        port = free_port()
        config = FIXED.format(port=port, app=f"127.0.0.1:{calls.port}")
        sidecar = SidecarProcess(directory / "0", config).wait_ready()
        ends.callback(sidecar.kill)
        load = Load(port, wait_for_ready=True)
        for turn in range(1, 3):
            time.sleep(SECONDS / 4)
            sidecar.signal(signal.SIGTERM)
            status = sidecar.wait(40)
            if status:
                report.case("sidecar that restarts", f"status {status}: {sidecar.log}")
            sidecar = SidecarProcess(directory / str(turn), config).wait_ready()
            ends.callback(sidecar.kill)
        time.sleep(SECONDS / 4)
        report.case("sidecar that restarts under its clients", told(*load.stop()))


def storms(directory: Path, report: Report) -> None:
    """Thousands of calls that are cancelled, time out, or break: nothing stays open, memory does not grow with them."""
    calls = Calls()
    try:
        with ways(directory, f"127.0.0.1:{calls.port}") as found:
            for way in found:
                with grpc.insecure_channel(f"127.0.0.1:{way.port}") as channel:
                    storm(channel, 300)
                    before = [sidecar.forget_peak() for sidecar in way.sidecars]
                    storm(channel, 3000)
                after = [sidecar.forget_peak() for sidecar in way.sidecars]
                problem = "".join(settled(sidecar) for sidecar in way.sidecars)
                growth = max(now - then for now, then in zip(after, before, strict=True))
                print(f"        resident before {before}, after {after} MiB")
                report.case(f"storm of cancelled calls, {way.name}", problem or (f"grew by {growth:.0f} MiB" if growth > GROWTH_MIB else ""))
    finally:
        calls.stop()


def storm(channel: Any, count: int) -> None:
    """Calls that end in three ways, 50 at a time."""
    down = channel.unary_stream("/test.Calls/Down")
    unary = channel.unary_unary("/test.Calls/Unary")
    for _ in range(count // 50):
        running = []
        for number in range(50):
            if number % 3 == 0:
                running.append(down(b"1000 2000", timeout=10))
                next(running[-1])
            elif number % 3 == 1:
                running.append(unary.future(b"x" * 20_000, timeout=0.005))
            else:
                running.append(unary.future(b"x" * 20_000, timeout=10))
        for each in running:
            each.cancel()


def settled(sidecar: SidecarProcess, seconds: float = 10.0) -> str:
    """Is nothing running any more? Else what is."""
    end = time.monotonic() + seconds
    while True:
        lines = [line for line in sidecar.page("/stats/prometheus")[1].splitlines() if line.startswith(("sidecar_requests_active", "sidecar_upstream_pending"))]
        active = [each["active_requests"] for cluster in sidecar.json("/clusters") for each in cluster["endpoints"]]
        if not any(active) and all(line.endswith(" 0") for line in lines):
            return ""
        if time.monotonic() > end:
            return f"still running: {lines} {active}"
        time.sleep(0.1)


def h2load(directory: Path, report: Report) -> None:
    """h2load with many streams to a server that takes few, over HTTP/1.1 and HTTP/2."""
    program, server = shutil.which("h2load"), shutil.which("nghttpd")
    if program is None or server is None:
        print("h2load: skipped, it or nghttpd is not on this machine")
        return
    directory.mkdir()
    (directory / "index.html").write_text("x" * 1024)
    port = free_port()
    with subprocess.Popen([server, "--no-tls", "-m", "7", "-d", str(directory), str(port)], stdout=subprocess.DEVNULL) as process:
        try:
            wait_for_port(port, process)
            with ways(directory / "sidecars", f"127.0.0.1:{port}") as found:
                for way in found:
                    for options in (["-c", "10", "-m", "100"], ["-c", "50", "-m", "1"], ["--h1", "-c", "20"], ["-c", "5", "-m", "32", "-w", "14", "-W", "16"]):
                        command = [program, "-n", "10000", *options, f"http://127.0.0.1:{way.port}/index.html"]
                        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
                        well = "10000 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout
                        report.case(f"h2load {' '.join(options)}, {way.name}", "" if well else done.stdout + done.stderr)
        finally:
            process.terminate()


def main() -> int:
    """Run it: all, or those that are named."""
    scenarios: list[Callable[[Path, Report], None]] = [h2load, server_that_leaves, one_of_two_sidecars_stops, sidecar_that_restarts, storms]
    report = Report("HTTP/2 under load")
    with tempfile.TemporaryDirectory() as name:
        for scenario in scenarios:
            if not sys.argv[1:] or scenario.__name__ in sys.argv[1:]:
                scenario(Path(name) / scenario.__name__, report)
    return report.status


if __name__ == "__main__":
    sys.exit(main())
