"""Sockets of every kind, and opaque TCP."""

from __future__ import annotations

import socket
import threading

from tests.e2e.clients import ask, connect, exchange, read_all
from tests.e2e.conftest import Plain, every_reactor


@every_reactor
def test_unix_and_ipv6_listeners(plain: Plain) -> None:
    """Requests come in over a UNIX socket and over IPv6."""
    for name in ("unix", "ipv6"):
        assert ask(plain.sidecar.places[name], "/echo", "POST", b"hello").body == b"hello"


@every_reactor
def test_unix_and_ipv6_endpoints(plain: Plain) -> None:
    """Requests go out over a UNIX socket and over IPv6."""
    for name in ("unix", "ipv6"):
        for _ in range(3):
            assert ask(plain.sidecar.places["others"], f"/{name}", "POST", b"hello").json["body"] == "hello"


def test_answers_of_the_sidecars_own(plain: Plain) -> None:
    """A direct response, no route, nobody there, too slow: each says what it is."""
    place = plain.sidecar.places["others"]
    plain.app.on("/slow", lambda wire, request: wire.sock.recv(1))
    assert ask(place, "/direct").body == b"from here"
    for path, status, code in (("/nothing", 404, "no-route"), ("/nobody", 503, "connect-failed"), ("/slow", 504, "upstream-timeout")):
        answer = ask(place, path)
        assert (answer.status, answer.json["code"]) == (status, code), answer
        assert answer.fields["content-type"] == "application/problem+json" and "error=" in answer.fields["proxy-status"]


def opening(sock: socket.socket) -> bytes:
    """What the server says first."""
    got = b""
    while not got.endswith(b"\n"):
        got += sock.recv(100)
    return got


@every_reactor
def test_opaque_tcp_with_half_close(plain: Plain) -> None:
    """The server speaks first; the client's end reaches it, and what it says after that reaches the client."""
    with connect(plain.sidecar.places["tcp"]) as sock:
        assert opening(sock) == b"hello\n"
        sock.sendall(b"\x00\xff any octets")
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b"\x00\xff any octets\n13 octets"


@every_reactor
def test_much_opaque_tcp_both_ways(plain: Plain) -> None:
    """32 MiB come back whole, with flat memory."""
    piece = bytes(range(256)) * 1024
    with connect(plain.sidecar.places["tcp"]) as sock:
        assert opening(sock) == b"hello\n"
        before = plain.sidecar.forget_peak()

        def send() -> None:
            for _ in range(128):
                sock.sendall(piece)
            sock.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        got = read_all(sock)
        thread.join(10)
    assert len(got) == 128 * len(piece) + len(b"\n33554432 octets") and got.startswith(piece) and got.endswith(b"\n33554432 octets")
    assert plain.sidecar.resident_peak() - before < 8


def test_a_proxy_request_in_absolute_form(plain: Plain) -> None:
    """The target's authority counts, not the Host beside it; the application gets the origin form."""
    got = exchange(plain.place, b"GET http://other.example/facts?a HTTP/1.1\r\nHost: ignored\r\nConnection: close\r\n\r\n")
    assert b'"target": "/facts?a"' in got and b"other.example" in got and b"ignored" not in got
