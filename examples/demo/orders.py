"""The orders application: an order, with its charge asked of payments. It calls http://payments/ through its sidecar, in plain HTTP, without a certificate.

python orders.py PORT OUTBOUND_PORT
"""

from __future__ import annotations

import json
import sys
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# The one thing that a sidecar cannot do for an application: say which of its calls belong to which request.
PASSED_ON = ("traceparent", "tracestate", "x-request-id")


class Orders(BaseHTTPRequestHandler):
    """GET /orders/NUMBER."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with the order and what payments said."""
        number = self.path.rpartition("/")[2]
        status, charge = self.ask_payments(f"/charges/{number}")
        body = json.dumps({"order": number, "item": "a kettle", "payment": charge}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def ask_payments(self, path: str) -> tuple[int, object]:
        """(status, JSON) of payments' answer."""
        headers = {"Host": "payments", **{name: self.headers[name] for name in PASSED_ON if name in self.headers}}
        sidecar = HTTPConnection("127.0.0.1", int(sys.argv[2]), timeout=10)
        try:
            sidecar.request("GET", path, headers=headers)
            answer = sidecar.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            sidecar.close()

    def log_message(self, format: str, *args: object) -> None:
        """The sidecar keeps the access log."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Orders).serve_forever()
