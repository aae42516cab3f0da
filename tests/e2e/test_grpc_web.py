"""gRPC-Web as a browser sends it, over HTTP/1.1, to a stock gRPC server."""

from __future__ import annotations

import threading
from base64 import b64decode, b64encode
from collections.abc import Iterator
from concurrent import futures
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import SidecarProcess

CONFIG = """
service: calls
inbound: {{listen: "127.0.0.1:0", app: "127.0.0.1:{port}", protocol: h2, mtls: disabled}}
extensions: [{{kind: filter, name: grpc-web}}]
access_log: access.log
admin: "127.0.0.1:0"
"""


class Server:
    """A gRPC server whose stream sends its second message when it is told to."""

    def __init__(self) -> None:
        grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
        self.proceed = threading.Event()

        def down(message: bytes, context: Any) -> Iterator[bytes]:
            yield message
            assert self.proceed.wait(10)
            context.set_trailing_metadata((("x-end", "yes"),))
            yield message[::-1]

        def refuse(message: bytes, context: Any) -> bytes:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
            raise AssertionError("abort raises")

        methods = {"Down": grpc.unary_stream_rpc_method_handler(down), "Refuse": grpc.unary_unary_rpc_method_handler(refuse)}
        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Calls", methods),))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.server.stop(0)


def post(connection: HTTPConnection, method: str, content_type: str, body: bytes) -> HTTPResponse:
    connection.request("POST", f"/test.Calls/{method}", body, {"Content-Type": content_type, "X-Grpc-Web": "1"})
    return connection.getresponse()


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def read_frame(response: HTTPResponse, text: bool) -> tuple[int, bytes]:
    """(flag, octets) of the next frame. Of text, each frame is a piece of base64 by itself here."""
    if not text:
        head = response.read(5)
        return head[0], response.read(int.from_bytes(head[1:], "big"))
    head = b64decode(response.read(8))
    size = int.from_bytes(head[1:5], "big")
    rest = b64decode(response.read((5 + size + 2) // 3 * 4 - 8))
    return head[0], (head + rest)[5:]


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
def test_a_stream(server: Server, tmp_path: Path, text: bool) -> None:
    """The first message is here before the second is sent; the trailers are the last frame."""
    sidecar = SidecarProcess(tmp_path, CONFIG.format(port=server.port))
    try:
        host, port = sidecar.wait_ready().places["inbound"]
        with closing(HTTPConnection(host, int(port), timeout=30)) as connection:
            body = framed(b"hello")
            response = post(connection, "Down", "application/grpc-web-text+proto" if text else "application/grpc-web+proto", b64encode(body) if text else body)
            assert response.status == 200 and response.getheader("content-type") == f"application/grpc-web{'-text' if text else ''}+proto"
            assert read_frame(response, text) == (0, b"hello")
            server.proceed.set()
            assert read_frame(response, text) == (0, b"olleh")
            flag, trailers = read_frame(response, text)
            assert flag == 0x80 and {b"grpc-status: 0", b"x-end: yes"} <= set(trailers.split(b"\r\n"))
            assert response.read() == b""
            refused = post(connection, "Refuse", "application/grpc-web", framed(b""))
            assert (refused.getheader("grpc-status"), refused.getheader("grpc-message")) == ("5", "no such thing") and refused.read() == b""
        rows = sidecar.records(count=2)
        assert [(row["grpc_status"], row["request_messages"], row["response_messages"]) for row in rows] == [(0, 1, 2), (5, 1, 0)]
        page = sidecar.page("/stats/prometheus")[1]
        assert 'grpc_response_status="5"' in page and "istio_response_messages_total{" in page
    finally:
        sidecar.end()
