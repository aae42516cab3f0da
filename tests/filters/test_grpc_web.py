"""gRPC-Web to gRPC and back: the filter by itself, and in an exchange over HTTP/1.1."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from sidecar.filters.grpc_web import GRPCWeb
from sidecar.headers import Headers
from sidecar.interfaces import IBodyInterest, IRequestBodyHook, IRequestHeadHook, IResponseBodyHook, IResponseHeadHook
from sidecar.testing import FakeContext, FakeExchange, make_request
from sidecar.verdicts import Refuse
from tests.memory import MemoryTransport, World, body_of
from tests.memory_h2 import H2App, multiplexed, response

HELLO = b"\0\0\0\0\5hello"
OK_FRAME = b"\x80\0\0\0\x10grpc-status: 0\r\n"
STATUS_OK = Headers.of([(b"grpc-status", b"0")])


def plugin() -> GRPCWeb:
    return GRPCWeb(GRPCWeb.Config(), FakeContext("grpc-web"))


def test_provides_its_interfaces() -> None:
    for each in (IBodyInterest, IRequestHeadHook, IRequestBodyHook, IResponseHeadHook, IResponseBodyHook):
        assert verifyObject(each, plugin())


@pytest.mark.parametrize(
    ("method", "content_type", "accept", "up", "down"),
    [
        (b"POST", "application/grpc-web", None, b"application/grpc", b"application/grpc-web"),
        (b"POST", "application/grpc-web+proto", "application/grpc-web+proto", b"application/grpc+proto", b"application/grpc-web+proto"),
        (b"POST", "application/grpc-web-text+proto", None, b"application/grpc+proto", b"application/grpc-web-text+proto"),
        (b"POST", "application/grpc-web-text", "application/grpc-web", b"application/grpc", b"application/grpc-web"),
        (b"POST", "application/grpc-web", "application/grpc-web-text", b"application/grpc", b"application/grpc-web-text"),
        (b"POST", "application/grpc-web", "*/*", b"application/grpc", b"application/grpc-web"),
        (b"POST", "application/grpc-website", None, None, None),
        (b"POST", "application/grpc", None, None, None),
        (b"GET", "application/grpc-web", None, None, None),
    ],
)
def test_heads(method: bytes, content_type: str, accept: str | None, up: bytes | None, down: bytes | None) -> None:
    """What is gRPC-Web is translated, and nothing else is touched."""
    filter_ = plugin()
    fields = {"content-type": content_type, "x-grpc-web": "1", **({"accept": accept} if accept else {})}
    exchange = FakeExchange(make_request(method.decode(), headers=fields))
    assert filter_.request_head(exchange) is None
    assert filter_.takes_part(exchange) is (up is not None)
    exchange.response = response(200, (b"content-type", b"application/grpc+proto"))
    filter_.response_head(exchange)
    headers = exchange.request.headers
    if up is None:
        assert headers.get(b"content-type") == content_type.encode() and b"te" not in headers and b"x-grpc-web" in headers
        assert exchange.response.headers.get(b"content-type") == b"application/grpc+proto"
    else:
        assert headers.get(b"content-type") == up and headers.get(b"te") == b"trailers" and b"x-grpc-web" not in headers
        assert exchange.response.headers.get(b"content-type") == down


@pytest.mark.parametrize("body", [b"AAAA*AAA", b"AAAAA"])
def test_text_that_is_no_base64_is_refused(body: bytes) -> None:
    filter_ = plugin()
    exchange = FakeExchange(make_request("POST", headers={"content-type": "application/grpc-web-text"}))
    filter_.request_head(exchange)
    answer = filter_.request_body(exchange, body, True)
    assert isinstance(answer, Refuse) and answer.error.grpc_status == 3


def call(content_type: bytes, body: bytes, *plugins: Any) -> tuple[World, MemoryTransport, H2App]:
    """A browser over HTTP/1.1 that called, and a gRPC server that got it."""
    world = multiplexed(World(plugin(), *plugins))
    head = b"POST /s/m HTTP/1.1\r\nHost: app\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (content_type, len(body))
    client, _ = world.send(head + body)
    return world, client, H2App(world)


def unchunked(body: bytes) -> bytes:
    out = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        out += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
    return out


def test_binary_while_it_streams() -> None:
    """Each message comes down when it comes; the trailers are the last frame; the call is seen as one of gRPC."""
    world, client, app = call(b"application/grpc-web+proto", HELLO)
    assert app.head(1).headers.get(b"content-type") == b"application/grpc+proto" and app.body(1) == HELLO
    app.h2.send_head(1, response(200, (b"content-type", b"application/grpc+proto")), False)
    app.h2.send_data(1, HELLO)
    app.exchange()
    first = client.take()
    assert b"Content-Type: application/grpc-web+proto" in first.replace(b"content-type", b"Content-Type") and unchunked(body_of(first)) == HELLO
    app.h2.send_end(1, STATUS_OK)
    app.exchange()
    assert unchunked(client.take()) == OK_FRAME
    assert [(each.grpc_status, each.request_messages, each.response_messages) for each in world.records] == [(0, 1, 1)]
    world.ended_once(200)


def test_text_both_ways() -> None:
    world, client, app = call(b"application/grpc-web-text", b64encode(HELLO[:3]) + b64encode(HELLO[3:]))
    assert app.body(1) == HELLO
    app.answer(1, response(200, (b"content-type", b"application/grpc")), HELLO, trailers=STATUS_OK)
    answer = client.take()
    pieces = unchunked(body_of(answer))
    assert b"application/grpc-web-text\r\n" in answer
    assert b64decode(pieces[: len(b64encode(HELLO))]) + b64decode(pieces[len(b64encode(HELLO)) :]) == HELLO + OK_FRAME
    world.ended_once(200)


def test_a_head_alone() -> None:
    """Trailers-only stays so."""
    _world, client, app = call(b"application/grpc-web", HELLO)
    app.answer(1, response(200, (b"content-type", b"application/grpc"), (b"grpc-status", b"5"), end=True))
    answer = client.take().lower()
    assert b"grpc-status: 5\r\n" in answer and b"content-type: application/grpc-web\r\n" in answer and body_of(answer) == b""


def test_an_answer_that_is_no_grpc() -> None:
    world, client, app = call(b"application/grpc-web", HELLO)
    app.answer(1, response(503, (b"content-type", b"text/html"), (b"content-length", b"6")), b"<html>")
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and b"grpc-status: 14\r\n" in answer and b"<html>" not in answer
    assert world.records[0].grpc_status == 14


def test_an_answer_that_breaks_off_between_messages() -> None:
    """The call ends with a status also here, in the last frame."""
    world, client, app = call(b"application/grpc-web", HELLO)
    app.h2.send_head(1, response(200, (b"content-type", b"application/grpc")), False)
    app.h2.send_data(1, HELLO)
    app.exchange()
    app.h2.reset(1, 2)
    app.exchange()
    body = unchunked(body_of(client.take()))
    assert body.startswith(HELLO + b"\x80") and b"grpc-status: 14\r\n" in body and b"upstream-reset" in body
    assert world.records[0].grpc_status == 14 and client.closing is False


def test_local_replies_are_statuses() -> None:
    """Of the sidecar itself: nobody is there to ask."""
    world = multiplexed(World(plugin(), endpoints=0))
    client = world.client()
    client.receive(b"POST /s/m HTTP/1.1\r\nHost: app\r\nContent-Type: application/grpc-web\r\nContent-Length: 10\r\n\r\n" + HELLO)
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 200 ") and b"grpc-status: 14\r\n" in answer and b"content-type: application/grpc-web\r\n" in answer.lower()


def test_other_requests_keep_their_lengths() -> None:
    """A filter that takes no part costs them nothing."""
    world, client, app = call(b"text/plain", b"hello")
    assert app.head(1).headers.get(b"content-length") == b"5" and app.body(1) == b"hello"
    app.answer(1, response(200, (b"content-length", b"2")), b"ok")
    assert b"content-length: 2\r\n" in client.take().lower()
    world.ended_once(200)
