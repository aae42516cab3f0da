"""Octets that are no HTTP, at the socket: the client's mistakes get 4xx and a closed connection, the application's get 502; neither reaches the other side."""

from __future__ import annotations

import pytest

from tests.e2e.applications import Request, Wire
from tests.e2e.clients import ask, exchange
from tests.e2e.conftest import Plain, every_reactor

H = b"Host: a\r\n"
END = b"\r\n\r\n"
GET = b"GET /bad HTTP/1.1\r\n"
POST = b"POST /bad HTTP/1.1\r\n" + H
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

# What a client sends, and the status that it gets.
REQUESTS: dict[str, tuple[bytes, int]] = {
    "no http at all": (b"hello\r\n\r\n", 400),
    "tls to a plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100, 400),
    "another version": (b"GET / HTTP/3.0\r\n" + H + b"\r\n", 505),
    "two spaces": (b"GET  / HTTP/1.1\r\n" + H + b"\r\n", 400),
    "a method that is none": (b"G(T / HTTP/1.1\r\n" + H + b"\r\n", 400),
    "a target with a space": (b"GET /a b HTTP/1.1\r\n" + H + b"\r\n", 400),
    "a target with a control": (b"GET /a\x01b HTTP/1.1\r\n" + H + b"\r\n", 400),
    "a bare line feed": (b"GET /bad HTTP/1.1\nHost: a\n\n", 400),
    "a bare carriage return": (GET + H + b"A: b\rc: d" + END, 400),
    "a null": (GET + H + b"A: b\x00c" + END, 400),
    "a space before the colon": (GET + H + b"A : b" + END, 400),
    "a folded line": (GET + H + b"A: b\r\n c: d" + END, 400),
    "a field without a colon": (GET + H + b"Nothing" + END, 400),
    "a field without a name": (GET + H + b": b" + END, 400),
    "no host": (GET + b"A: b" + END, 400),
    "two hosts": (GET + H + H + b"\r\n", 400),
    "a bad host": (GET + b"Host: a/b" + END, 400),
    "length and chunks": (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "a list of lengths": (POST + b"Content-Length: 3, 4\r\n\r\nabcd", 400),
    "a signed length": (POST + b"Content-Length: +3\r\n\r\nabc", 400),
    "a hexadecimal length": (POST + b"Content-Length: 0x3\r\n\r\nabc", 400),
    "a huge length": (POST + b"Content-Length: " + b"9" * 40 + END, 400),
    "an unknown coding": (POST + b"Transfer-Encoding: gzip, chunked" + END, 501),
    "chunked twice": (POST + b"Transfer-Encoding: chunked, chunked" + END, 400),
    "a hidden coding": (POST + b"Transfer-Encoding: \x0bchunked" + END, 400),
    "chunks in 1.0": (b"POST /bad HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a chunk size that is none": (CHUNKED + b"xyz\r\n", 400),
    "a negative chunk size": (CHUNKED + b"-1\r\n", 400),
    "a huge chunk size": (CHUNKED + b"fffffffffffffffff\r\n", 400),
    "a chunk longer than its size": (CHUNKED + b"3\r\nabcd\r\n", 400),
    "a bare line feed after a size": (CHUNKED + b"3\nabc\r\n", 400),
    "an endless chunk extension": (CHUNKED + b"3;" + b"x" * 100_000, 400),
    "a bad trailer": (CHUNKED + b"0\r\nA : b\r\n\r\n", 400),
    "a long target": (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n" + H + b"\r\n", 414),
    "a long head": (GET + H + b"A: " + b"x" * 70_000 + END, 431),
    "many fields": (GET + H + b"A: b\r\n" * 200 + b"\r\n", 431),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_malformed_request(plain: Plain, name: str) -> None:
    """It is answered with its status and `Connection: close`, the connection closes, and the application sees nothing complete."""
    data, status = REQUESTS[name]
    complete: list[object] = []

    def body(wire: Wire, request: Request) -> None:
        for _ in wire.body(request):
            pass
        complete.append(request)
        wire.answer(b"never")

    plain.app.on("/bad", body)
    got = exchange(plain.place, data + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
    head = got.partition(b"\r\n\r\n")[0]
    assert head.startswith(b"HTTP/1.1 %d " % status), got[:300]
    assert b"connection: close" in head.lower() and got.count(b"HTTP/1.1 ") == 1
    assert b"application/problem+json" in head.lower() and b'"side":"downstream"' in got
    assert complete == []


@every_reactor
def test_malformed_requests_on_every_reactor(plain: Plain) -> None:
    """The whole table; and the sidecar goes on."""
    for name, (data, status) in REQUESTS.items():
        got = exchange(plain.place, data)
        assert got.startswith(b"HTTP/1.1 %d " % status), (name, got[:300])
    assert ask(plain.place, "/").status == 200


def test_an_upgrade_that_is_not_allowed(plain: Plain) -> None:
    """It is left out of the request, which goes on without it (RFC 9110 section 7.8); CONNECT, which cannot, is refused."""
    got = exchange(plain.place, b"GET /facts HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: strange\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200 ") and b"strange" not in got and b"pgrade" not in got
    got = exchange(plain.sidecar.places["unix"], b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nConnection: close\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 403 ") and b'"code":"upgrade-refused"' in got


OK = b"HTTP/1.1 200 OK\r\n"
# What an application answers, and the status that the client gets.
ANSWERS: dict[str, tuple[bytes, int]] = {
    "no http at all": (b"hello\r\n\r\n", 502),
    "a bad status": (b"HTTP/1.1 20 OK\r\n\r\n", 502),
    "another version": (b"HTTP/2.0 200 OK\r\n\r\n", 502),
    "length and chunks": (OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 502),
    "two lengths": (OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 502),
    "a bad length": (OK + b"Content-Length: three\r\n\r\nabc", 502),
    "an unknown coding": (OK + b"Transfer-Encoding: gzip\r\n\r\nabc", 502),
    "a space before the colon": (OK + b"A : b\r\nContent-Length: 0\r\n\r\n", 502),
    "a folded line": (OK + b"A: b\r\n c\r\nContent-Length: 0\r\n\r\n", 502),
    "a null": (OK + b"A: \x00\r\nContent-Length: 0\r\n\r\n", 502),
    "a bare carriage return": (OK + b"A: b\rc\r\nContent-Length: 0\r\n\r\n", 502),
    "a long head": (OK + b"A: " + b"x" * 70_000 + END, 502),
    "many fields": (OK + b"A: b\r\n" * 200 + b"\r\n", 502),
    "an upgrade that nobody asked for": (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", 502),
    "nothing": (b"", 503),
    "half a head": (OK + b"A: b", 503),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_malformed_answer(plain: Plain, name: str) -> None:
    """The client gets a problem that says which side is to blame, over a connection that it can keep; the bad connection is not used again."""
    data, status = ANSWERS[name]

    def answer(wire: Wire, request: Request) -> bool:
        wire.send(data)
        return status != 503

    plain.app.on("/answer", answer)
    got = ask(plain.place, "/answer", "POST", b"x")
    assert got.status == status, got
    assert got.json["side"] == "upstream" and got.json["code"] in ("upstream-protocol-error", "upstream-closed")
    assert ask(plain.place, "/").body == b"ok\n"


def test_what_follows_an_answer_is_not_the_next_one(plain: Plain) -> None:
    """An application that sends two answers to one request poisons nobody else's."""

    def double(wire: Wire, request: Request) -> None:
        wire.send(OK + b"Content-Length: 1\r\n\r\na" + OK + b"Content-Length: 8\r\n\r\npoisoned")

    plain.app.on("/double", double)
    for _ in range(20):
        assert ask(plain.place, "/double").body == b"a"
        assert ask(plain.place, "/").body == b"ok\n"


def test_a_body_behind_head_is_not_the_next_answer(plain: Plain) -> None:
    """An application that sends a body in answer to HEAD poisons nobody either."""
    plain.app.on("/head", lambda wire, request: wire.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned"))
    for _ in range(20):
        assert ask(plain.place, "/head", "HEAD").body == b""
        assert ask(plain.place, "/").body == b"ok\n"


def test_endless_informational_heads(plain: Plain) -> None:
    """Some are passed on; then it is enough."""

    def hints(wire: Wire, request: Request) -> None:
        wire.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100)

    plain.app.on("/hints", hints)
    got = exchange(plain.place, b"GET /hints HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert 0 < got.count(b"HTTP/1.1 103 ") < 20 and got.count(b"HTTP/1.1 502 ") == 1


def test_bad_chunks_in_an_answer_cut_it_short(plain: Plain) -> None:
    """When the head has gone out already, the client sees that the body does not end."""
    plain.app.on("/chunks", lambda wire, request: wire.send(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nxyz\r\n"))
    got = exchange(plain.place, b"GET /chunks HTTP/1.1\r\nHost: a\r\n\r\n")
    assert got.endswith(b"3\r\nabc\r\n") and b"\r\n0\r\n" not in got
