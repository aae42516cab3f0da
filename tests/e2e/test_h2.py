"""HTTP/2 as others speak it: curl, h2load and gRPC through one sidecar and through two."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import ExitStack, closing
from typing import Any

import pytest
from websockets.sync.client import connect as connect_websocket

from tests.e2e.applications import Application
from tests.e2e.clients import ask, connect
from tests.e2e.conftest import Certificates, Plain, Start
from tests.e2e.processes import Place, SidecarProcess, until
from tests.e2e.test_clients import frames

INSIDE = """
service: {service}
namespace: shop
trust_domain: mesh.example
identity: {{directory: "{identity}"}}
inbound: {{listen: "127.0.0.1:0", app: "{app}", protocol: {protocol}, mtls: strict}}
access_log: access.log
admin: "127.0.0.1:0"
"""
OUTSIDE = """
service: orders
namespace: shop
trust_domain: mesh.example
identity: {{directory: "{identity}"}}
outbound:
  listen: "127.0.0.1:0"
  services:
    # What is tried takes long on a busy machine.
    payments: {{endpoints: ["{payments}"], timeout: 2m}}
    calls: {{endpoints: ["{calls}"]}}
access_log: access.log
admin: "127.0.0.1:0"
"""


def at(place: Place) -> str:
    """As a configuration file has it."""
    return f"{place[0]}:{place[1]}"


def curl(*words: str) -> str:
    """What curl prints."""
    if shutil.which("curl") is None or "HTTP2" not in subprocess.run(["curl", "--version"], capture_output=True, text=True).stdout:
        pytest.skip("there is no curl with HTTP/2 on this machine")
    done = subprocess.run(["curl", "--silent", "--show-error", "--max-time", "20", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Mesh:
    """The sidecar of the callers, and those of an HTTP/1.1 application and of a gRPC server."""

    def __init__(self, orders: SidecarProcess, payments: SidecarProcess, calls: SidecarProcess) -> None:
        self.orders = orders
        self.payments = payments
        self.calls = calls
        self.out = orders.places["outbound"]


@pytest.fixture(scope="module")
def grpc_server() -> Iterator[Any]:
    """A gRPC server without generated code: messages are octets. All four kinds of calls, and one that fails."""
    grpc = pytest.importorskip("grpc", reason="grpcio is not installed")

    def unary(message: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("x-length", str(len(message))),))
        return message[::-1]

    def refuse(message: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: 100%")

    def slow(message: bytes, context: Any) -> bytes:
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(10)
        return b""

    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
        "Down": grpc.unary_stream_rpc_method_handler(lambda message, context: iter([message] * 100)),
        "Up": grpc.stream_unary_rpc_method_handler(lambda messages, context: b"%d" % sum(map(len, messages))),
        "Both": grpc.stream_stream_rpc_method_handler(lambda messages, context: (each + b"!" for each in messages)),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Calls", methods),))
    server.bound_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield server
    server.stop(0)


@pytest.fixture(scope="module")
def mesh(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Mesh]:
    directory = tmp_path_factory.mktemp("h2")
    try:
        calls_at = f"127.0.0.1:{request.getfixturevalue('grpc_server').bound_port}"
    except pytest.skip.Exception:
        calls_at = "127.0.0.1:1"
    with ExitStack() as ends:
        app = Application()
        ends.callback(app.stop)
        app.on("/ws", frames)
        app.on("/large", lambda wire, request: wire.answer(b"z" * 20_000_000))
        inside = {}
        for service, place, protocol in (("payments", app.address, "h1"), ("calls", calls_at, "h2")):
            config = INSIDE.format(service=service, identity=certificates.issue(service), app=place, protocol=protocol)
            inside[service] = SidecarProcess(directory / service, config)
            ends.callback(inside[service].end)
        places = {name: at(each.wait_ready().places["inbound"]) for name, each in inside.items()}
        orders = SidecarProcess(directory / "orders", OUTSIDE.format(identity=certificates.issue("orders"), **places))
        ends.callback(orders.end)
        yield Mesh(orders.wait_ready(), inside["payments"], inside["calls"])


def test_curl_with_prior_knowledge(plain: Plain) -> None:
    """The same listener speaks both versions; the application sees no difference."""
    seen = json.loads(curl("--http2-prior-knowledge", f"{plain.url}/facts?a=1", "-H", "X-Thing: One", "-b", "a=1; b=2"))
    assert seen["version"] == "HTTP/1.1" and ["host", f"127.0.0.1:{plain.port}"] in [[name.lower(), value] for name, value in seen["fields"]]
    assert ["cookie", "a=1; b=2"] in seen["fields"] and ["x-thing", "One"] in seen["fields"]
    assert curl("--http2-prior-knowledge", f"{plain.url}/echo", "-d", "x" * 100_000) == "x" * 100_000
    assert curl("--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_version} %{http_code}", "--head", plain.url) == "2 200"


def test_upgrade_to_h2c_is_passed_over(plain: Plain) -> None:
    """RFC 9113 section 3.1: it is obsolete, so the answer comes over HTTP/1.1."""
    assert curl("--http2", "-o", "/dev/null", "-w", "%{http_version} %{http_code}", plain.url) == "1.1 200"


def test_curl_by_alpn(mesh: Mesh, certificates: Certificates) -> None:
    """TLS listeners take both, HTTP/2 first."""
    orders = certificates.issue("orders")
    place = mesh.payments.places["inbound"]
    common = ("--insecure", "--cert", f"{orders}/cert.pem", "--key", f"{orders}/key.pem", "-o", "/dev/null", "-w", "%{http_version} %{http_code}")
    for version, expected in (("--http2", "2 200"), ("--http1.1", "1.1 200")):
        assert curl(version, *common, f"https://127.0.0.1:{place[1]}/facts") == expected


def test_h2load(plain: Plain) -> None:
    """Thousands of requests over a few connections, all answered."""
    if shutil.which("h2load") is None:
        pytest.skip("h2load is not on this machine")
    done = subprocess.run(["h2load", "-n", "2000", "-c", "4", "-m", "20", f"{plain.url}/"], capture_output=True, text=True, timeout=60)
    assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout, done.stdout + done.stderr


def test_sidecars_share_a_connection(mesh: Mesh) -> None:
    """Many callers at once, one mutual-TLS connection between the sidecars, as HTTP/2; large bodies pass both ways."""
    with futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(mesh.out, "/echo", "POST", b"x" * 10_000, Host="payments").body, range(40)))
    assert answers == [b"x" * 10_000] * 40
    assert ask(mesh.out, "/echo", "POST", b"y" * 5_000_000, Host="payments").body == b"y" * 5_000_000
    assert mesh.orders.metric('sidecar_upstream_h2_connections_total{cluster="payments"}') == 1
    assert mesh.orders.metric('sidecar_upstream_connections{cluster="payments"}') == 1
    assert {row["protocol"] for row in mesh.payments.records(path="/echo", count=41)} == {"HTTP/2"}


def test_slow_reader_does_not_stop_the_others(mesh: Mesh) -> None:
    """One client takes nothing of its 20 MB; others go on over the same connection between the sidecars; then it gets all."""
    with closing(connect(mesh.out, receive_buffer=4096)) as slow:
        slow.sendall(b"GET /large HTTP/1.1\r\nHost: payments\r\n\r\n")
        for _ in range(20):
            assert ask(mesh.out, "/facts", Host="payments").status == 200
        count = 0
        while count < 20_000_000:
            data = slow.recv(1 << 20)
            assert data
            count += len(data)


def test_many_slow_readers_do_not_stop_the_others(mesh: Mesh) -> None:
    """Together their windows are larger than the connection's; 20 MB for another client still pass between the sidecars, all over one connection."""
    with ExitStack() as stack:
        for _ in range(30):
            slow = stack.enter_context(closing(connect(mesh.out, receive_buffer=4096)))
            slow.sendall(b"GET /large HTTP/1.1\r\nHost: payments\r\n\r\n")
        until(lambda: mesh.orders.metric('sidecar_requests_active{chain="outbound"}') >= 30)
        assert len(ask(mesh.out, "/large", Host="payments").body) == 20_000_000
        assert mesh.orders.metric('sidecar_upstream_h2_connections_total{cluster="payments"}') == 1


def test_websocket_through_two_sidecars(mesh: Mesh) -> None:
    """HTTP/1.1 to the first, extended CONNECT between them, HTTP/1.1 to the application."""
    with connect_websocket("ws://payments/ws", sock=connect(mesh.out)) as socket:
        for message in ("hello", "x" * 100_000):
            socket.send(message)
            assert socket.recv(30) == message
    assert mesh.payments.records(path="/ws")[0]["protocol"] == "HTTP/2"


def test_grpc_through_two_sidecars(mesh: Mesh, grpc_server: Any) -> None:
    """Unary calls, streams in all directions, statuses, trailers and deadlines; the caller's stock client and the stock server."""
    grpc = pytest.importorskip("grpc")
    with grpc.insecure_channel(at(mesh.out), options=(("grpc.default_authority", "calls"),)) as channel:
        answer, call = channel.unary_unary("/test.Calls/Unary").with_call(b"abc", timeout=30)
        assert answer == b"cba" and ("x-length", "3") in [(each.key, each.value) for each in call.trailing_metadata()]
        assert channel.unary_unary("/test.Calls/Unary")(b"ab" * 500_000, timeout=30) == b"ba" * 500_000
        assert list(channel.unary_stream("/test.Calls/Down")(b"x" * 1000, timeout=30)) == [b"x" * 1000] * 100
        assert channel.stream_unary("/test.Calls/Up")(iter([b"x" * 10_000] * 100), timeout=30) == b"1000000"
        assert list(channel.stream_stream("/test.Calls/Both")(iter([b"a", b"b", b"c"]), timeout=30)) == [b"a!", b"b!", b"c!"]
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/test.Calls/Refuse")(b"", timeout=30)
        assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not today: 100%")
        with pytest.raises(grpc.RpcError) as late:
            channel.unary_unary("/test.Calls/Slow")(b"", timeout=0.3)
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        waiting = [channel.unary_unary("/test.Calls/Unary").future(b"%d" % each, timeout=30) for each in range(100)]
        assert [each.result() for each in waiting] == [(b"%d" % each)[::-1] for each in range(100)]


def test_grpc_client_is_told_in_its_own_terms(mesh: Mesh) -> None:
    """A local reply is a gRPC status."""
    grpc = pytest.importorskip("grpc")
    with grpc.insecure_channel(at(mesh.out), options=(("grpc.default_authority", "nobody"),)) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/test.Calls/Unary")(b"abc", timeout=30)
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED and "no-route" in refused.value.details()


def test_as_the_client_came(plain: Plain, start: Start) -> None:
    """`protocol: downstream`: what came over HTTP/2 goes up over HTTP/2, the rest over HTTP/1.1, to one port that takes both."""
    inbound = f'{{listen: "127.0.0.1:0", app: "127.0.0.1:{plain.port}", protocol: downstream, mtls: disabled}}'
    near = start(f'service: near\ninbound: {inbound}\nadmin: "127.0.0.1:0"\naccess_log: false\n')
    url = f"http://{at(near.places['inbound'])}/facts?way="
    for option, path in (("--http2-prior-knowledge", "new"), ("--http1.1", "old")):
        assert json.loads(curl(option, url + path))["method"] == "GET"
    seen = {path: plain.sidecar.records(path=f"/facts?way={path}")[0]["protocol"] for path in ("new", "old")}
    assert seen == {"new": "HTTP/2", "old": "HTTP/1.1"}
    assert near.metric('sidecar_upstream_requests_total{cluster="app over HTTP/2"}') == 1
