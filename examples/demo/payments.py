"""The payments application: what a charge was, and who asked. It speaks plain HTTP on loopback and knows nothing of the mesh.

python payments.py PORT
"""

from __future__ import annotations

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# What the sidecar says of the caller: it drops whatever the client itself wrote there.
URI = re.compile(r"URI=([^;,]+)")


class Payments(BaseHTTPRequestHandler):
    """GET /charges/NUMBER."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with the charge."""
        caller = URI.search(self.headers.get("x-forwarded-client-cert", ""))
        charge = {
            "charge": self.path.rpartition("/")[2],
            "amount": "12.50",
            "card": "4111111111111111",
            "answered_by": f"payments in Python {sys.version_info.major}.{sys.version_info.minor}",
            "caller": caller.group(1) if caller else "nobody with a certificate",
        }
        body = json.dumps(charge).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """The sidecar keeps the access log."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Payments).serve_forever()
