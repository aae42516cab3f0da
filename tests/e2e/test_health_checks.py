"""Endpoints that fall ill and recover, as processes: who gets requests follows what the health checks found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from tests.e2e.applications import Application, Request, Wire
from tests.e2e.clients import ask
from tests.e2e.conftest import Certificates, Start
from tests.e2e.processes import SidecarProcess, until

OUTBOUND = """
service: orders
outbound:
  listen: "127.0.0.1:0"
  services:
    payments:
      endpoints: [{endpoints}]
      mtls: false
      {more}
access_log: access.log
admin: "127.0.0.1:0"
"""
# What stands for a process of its own that can be stopped: it says where it listens.
SERVER = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Hello(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"process")
    def log_message(self, *words): pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Hello)
print(server.server_port, flush=True)
server.serve_forever()
"""


def failures(sidecar: SidecarProcess, cluster: str = "payments") -> dict[str, str]:
    """What the checks say against each endpoint."""
    (found,) = [each for each in sidecar.json("/clusters") if each["name"] == cluster]
    return {each["address"]: each["check"].removeprefix("ok") for each in found["endpoints"]}


def answers(sidecar: SidecarProcess, count: int = 6) -> set[bytes]:
    """What so many requests are answered with."""
    return {ask(sidecar.places["outbound"], "/who", Host="payments").body for _ in range(count)}


def named(app: Application, name: bytes) -> None:
    app.on("/who", lambda wire, request: wire.answer(name))


@pytest.fixture
def other() -> Iterator[Application]:
    """A second application."""
    made = Application()
    yield made
    made.stop()


def test_an_endpoint_that_says_that_it_is_ill(start: Start, app: Application, other: Application) -> None:
    """A 503 from /healthz takes it out, a 200 brings it back, and no request fails meanwhile."""
    is_ill = threading.Event()

    def health(wire: Wire, request: Request) -> None:
        wire.answer(b"", "503 Service Unavailable" if is_ill.is_set() else "200 OK")

    named(app, b"one")
    named(other, b"two")
    app.on("/healthz", health)
    other.on("/healthz", lambda wire, request: wire.answer())
    check = """health_checks:
        - check: {kind: health-check, name: http, config: {path: /healthz}}
          interval: 100ms
          event_log_path: events.log"""
    sidecar = start(OUTBOUND.format(endpoints=f'"{app.address}", "{other.address}"', more=check))
    assert answers(sidecar) == {b"one", b"two"}
    is_ill.set()
    assert until(lambda: failures(sidecar)[app.address] == "http check: answered 503")
    assert answers(sidecar) == {b"two"}
    assert sidecar.metric('sidecar_health_check_endpoints{cluster="payments",state="unhealthy"}') == 1
    is_ill.clear()
    assert until(lambda: not failures(sidecar)[app.address])
    assert answers(sidecar) == {b"one", b"two"}
    assert f"{app.address} fails its health checks: http check: answered 503" in sidecar.log
    assert f"{app.address} passes its health checks" in sidecar.log

    def events() -> list[str]:
        lines = [json.loads(line) for line in (sidecar.directory / "events.log").read_text().splitlines()]
        return [each["event"] for each in lines if each["host"] == app.address]

    assert until(lambda: events() == ["add_healthy", "eject_unhealthy", "add_healthy"])


def test_a_process_that_is_stopped(start: Start, app: Application) -> None:
    """The kernel goes on accepting for it, so only the timeout tells; when it goes on, so do requests to it."""
    named(app, b"thread")
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        address = f"127.0.0.1:{int(process.stdout.readline())}"
        check = "health_check: {interval: 100ms, timeout: 1s, unhealthy_threshold: 2}"
        sidecar = start(OUTBOUND.format(endpoints=f'"{app.address}", "{address}"', more=check))
        assert answers(sidecar) == {b"thread", b"process"}
        os.kill(process.pid, signal.SIGSTOP)
        assert until(lambda: failures(sidecar)[address]) == "http check: no answer within 1 s"
        assert answers(sidecar) == {b"thread"}
        os.kill(process.pid, signal.SIGCONT)
        assert until(lambda: not failures(sidecar)[address])
        assert answers(sidecar) == {b"thread", b"process"}
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


class HealthService(grpc.GenericRpcHandler):
    """grpc.health.v1.Health/Check, its messages as octets. `status`: of each service."""

    def __init__(self) -> None:
        self.status = {b"": 1, b"shop.Payments": 1}

    def service(self, details: Any) -> Any:
        if details.method != "/grpc.health.v1.Health/Check":
            return None
        return grpc.unary_unary_rpc_method_handler(self._check)

    def _check(self, request: bytes, context: Any) -> bytes:
        name = request[2:]
        if name not in self.status:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return b"\x08" + bytes([self.status[name]])


@pytest.fixture
def grpc_server() -> Iterator[Callable[[HealthService], str]]:
    """Starts a server of the gRPC library with this service; its address."""
    servers = []

    def begin(service: HealthService) -> str:
        server = grpc.server(ThreadPoolExecutor(2))
        servers.append(server)
        server.add_generic_rpc_handlers((service,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        return f"127.0.0.1:{port}"

    yield begin
    for server in servers:
        server.stop(None).wait()


def test_grpc_health(start: Start, grpc_server: Callable[[HealthService], str]) -> None:
    """A server of the gRPC library: SERVING, NOT_SERVING and back, and a service that it does not know."""
    one, two = HealthService(), HealthService()
    del two.status[b"shop.Payments"]
    first, second = grpc_server(one), grpc_server(two)
    check = """protocol: h2
      health_checks:
        - check: {kind: health-check, name: grpc, config: {service: shop.Payments}}
          interval: 100ms
          no_traffic_interval: 100ms"""
    sidecar = start(OUTBOUND.format(endpoints=f'"{first}", "{second}"', more=check))
    assert failures(sidecar) == {first: "", second: "grpc check: gRPC status NOT_FOUND: unknown service"}
    one.status[b"shop.Payments"] = 2
    assert until(lambda: failures(sidecar)[first] == "grpc check: NOT_SERVING")
    one.status[b"shop.Payments"] = two.status[b"shop.Payments"] = 1
    assert until(lambda: failures(sidecar) == {first: "", second: ""})


INBOUND = """
service: payments
namespace: shop
trust_domain: mesh.example
identity: {{directory: "{identity}"}}
inbound: {{listen: "127.0.0.1:0", app: "{app}"}}
access_log: access.log
admin: "127.0.0.1:0"
"""
SECURED = """
service: orders
namespace: shop
trust_domain: mesh.example
identity: {{directory: "{identity}"}}
outbound:
  listen: "127.0.0.1:0"
  services:
    payments: {{endpoints: ["{payments}"], health_check: {{path: /healthz}}}}
    stranger: {{endpoints: ["{payments}"], identity: "spiffe://mesh.example/ns/shop/sa/somebody-else", health_check: {{path: /healthz}}}}
    bytes: {{endpoints: ["{payments}"], identity: "spiffe://mesh.example/ns/shop/sa/payments", health_check: {{type: tcp}}}}
    cleartext: {{endpoints: ["{payments}"], mtls: false, health_check: {{path: /healthz}}}}
access_log: false
admin: "127.0.0.1:0"
"""


def test_over_mutual_tls(start: Start, app: Application, certificates: Certificates) -> None:
    """Probes show the sidecar's certificate and check whose certificate they are shown, over the protocol that was chosen; failures are said in words."""
    app.on("/healthz", lambda wire, request: wire.answer())
    payments = start(INBOUND.format(identity=certificates.issue("payments"), app=app.address), name="payments")
    host, port = payments.places["inbound"]
    sidecar = start(SECURED.format(identity=certificates.issue("orders"), payments=f"{host}:{port}"), name="orders")
    address = f"{host}:{port}"
    assert failures(sidecar, "payments") == {address: ""}
    assert failures(sidecar, "bytes") == {address: ""}
    reason = failures(sidecar, "stranger")[address]
    assert "it showed spiffe://mesh.example/ns/shop/sa/payments, expected spiffe://mesh.example/ns/shop/sa/somebody-else" in reason
    assert failures(sidecar, "cleartext")[address].startswith("http check: ")
    assert {each["protocol"] for each in payments.records(path="/healthz")} == {"HTTP/2"}


def test_the_start_does_not_wait_for_ever(start: Start, app: Application, other: Application) -> None:
    """An endpoint that does not answer is not used when the time for first checks is over, and the sidecar serves."""
    release = threading.Event()
    named(app, b"one")
    named(other, b"two")
    app.on("/", lambda wire, request: wire.answer())
    other.on("/", lambda wire, request: (release.wait(15), wire.answer()))
    more = "health_check: {timeout: 20s}"
    sidecar = start(OUTBOUND.format(endpoints=f'"{app.address}", "{other.address}"', more=more) + "warming_time: 300ms\n")
    try:
        assert failures(sidecar) == {app.address: "", other.address: "not checked yet"}
        assert answers(sidecar) == {b"one"}
    finally:
        release.set()
    assert until(lambda: not failures(sidecar)[other.address])
    assert answers(sidecar) == {b"one", b"two"}
