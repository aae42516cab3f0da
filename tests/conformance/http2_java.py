"""The JDK's own HTTP client, eighty requests at once: `python -m tests.conformance.http2_java`, from the root of the repository.

Over mutual TLS, where ALPN decides, and in cleartext with `Upgrade: h2c`, which a sidecar passes over. The application is the Go server of `http2_go`. Needs
Java 11 or later, and Go.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key, pkcs12

from tests.conformance.http2_go import build, run, serve
from tests.conformance.sidecars import SKIPPED, Report, Way, ways

SCRIPT = Path(__file__).with_name("Http2Java.java")
PASSWORD = "java wants one"


def key_store(directory: Path, path: Path) -> Path:
    """Key and certificate of a workload, as Java takes them."""
    key = load_pem_private_key((directory / "key.pem").read_bytes(), None)
    certificate = x509.load_pem_x509_certificate((directory / "cert.pem").read_bytes())
    path.write_bytes(pkcs12.serialize_key_and_certificates(b"client", key, certificate, None, BestAvailableEncryption(PASSWORD.encode())))  # type: ignore[arg-type]
    return path


def main() -> int:
    """Run it."""
    if shutil.which("java") is None:
        print("HTTP/2 in Java: skipped, there is no Java", file=sys.stderr)
        return SKIPPED
    report = Report("HTTP/2 in Java")
    with tempfile.TemporaryDirectory() as name, ExitStack() as ends:
        program = build(Path(name))
        if program is None:
            return SKIPPED
        port = serve(program, ends)
        for protocol in ("h2", "h1"):
            directory = Path(name) / protocol
            with ways(directory, f"127.0.0.1:{port}", protocol) as (one, two):
                suite = f"Java, application over {protocol}"
                run(["java", str(SCRIPT), f"http://127.0.0.1:{one.port}"], suite, one, report)
                inside = two.sidecars[1]
                host, place = inside.places["inbound"]
                store = key_store(directory / "certificates" / "orders", Path(name) / "keys.p12")
                run(["java", str(SCRIPT), f"https://{host}:{place}", str(store), PASSWORD], suite, Way("mutual TLS", int(place), [inside]), report)
    return report.status


if __name__ == "__main__":
    sys.exit(main())
