"""Servers that refuse HTTP/2 streams, with Node's own server: `python -m tests.conformance.http2_servers`, from the root of the repository.

One stream in three (REFUSED_STREAM), every one because HTTP/1.1 is wanted (HTTP_1_1_REQUIRED), or none allowed (MAX_CONCURRENT_STREAMS of 0). POSTs go through
a sidecar: none is lost that may be sent again, none is carried out twice, and what cannot be served is said in words.
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

from tests.conformance.sidecars import ONE, OUTSIDE, SKIPPED, Report
from tests.e2e.conftest import Certificates
from tests.e2e.processes import SidecarProcess

SCRIPT = Path(__file__).with_name("http2_servers_node.js")
THREADS = 8
BODY = b"x" * 1000
WAIT_SECONDS = 60
OKAY = (200, "")


def posts(port: int, count: int) -> Counter[tuple[int, str]]:
    """How often each (status, error code) was the answer."""
    found: Counter[tuple[int, str]] = Counter()

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
        for _ in range(count // THREADS):
            connection.request("POST", "/", BODY, {"Host": "calls"})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == 200 and body != str(len(BODY)).encode():
                found[0, body.decode()] += 1
            else:
                found[answer.status, "" if answer.status == 200 else json.loads(body)["code"]] += 1

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return found


def main() -> int:
    """Run it."""
    if shutil.which("node") is None:
        print("HTTP/2 servers: skipped, there is no Node", file=sys.stderr)
        return SKIPPED
    report = Report("HTTP/2 servers")
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "certificates").mkdir()
        certificates = Certificates(Path(name) / "certificates")
        calls, orders = certificates.issue("calls"), certificates.issue("orders")
        for number, (way, is_tls, count, expected, version) in enumerate((
            ("every third", False, 3200, OKAY, "HTTP/2"),
            ("every third", True, 3200, OKAY, "HTTP/2"),
            ("HTTP/1.1 only", True, 320, OKAY, "HTTP/1.1"),
            ("HTTP/1.1 only", False, 320, (502, "http-version-required"), ""),
            ("no streams", False, 16, (503, "connect-timeout"), ""),
        )):  # fmt: skip
            command = ["node", str(SCRIPT), way, *([str(calls)] if is_tls else [])]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
                assert server.stdout is not None
                place = f"127.0.0.1:{int(server.stdout.readline())}"
                config = OUTSIDE.format(identity=orders, inside=place) if is_tls else ONE.format(app=place, protocol="h2", more="")
                sidecar = SidecarProcess(Path(name) / str(number), config).wait_ready()
                try:
                    found = posts(int(sidecar.places["outbound" if is_tls else "inbound"][1]), count)
                finally:
                    sidecar.end()
                    server.terminate()
                seen = json.loads(server.stdout.read())
            well = found == {expected: count} and (not version or seen[version] == count)
            report.case(f"{way}, {'TLS' if is_tls else 'cleartext'}", "" if well else f"{dict(found)}, the server saw {seen}")
    return report.status


if __name__ == "__main__":
    sys.exit(main())
