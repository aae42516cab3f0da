"""Questions to HTTP APIs: whole answers, streams of lines, and every way in which they can go wrong."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.ssl import PrivateCertificate
from twisted.internet.task import deferLater
from twisted.internet.tcp import Client

from sidecar.discovery.http import FetchFailed, Server
from tests.discovery.api_server import API, Asked
from tests.discovery.watching import run, until
from tests.transport.loopback import authority, certificate


def fetched(*script: Callable[[Asked], Any], limit: int = 100, deadline: float = 5.0) -> Any:
    """The answer to one GET."""

    async def scenario(reactor: Any) -> Any:
        api = API(reactor, *script)
        server = Server(reactor, f"http://127.0.0.1:{api.port}", None)
        try:
            answer = await server.fetch("/a?b=c", {"X-Token": b"t"}, limit, deadline)
            return answer, api.asked[0]
        finally:
            server.close()
            await api.end()

    return run(scenario)


def test_nothing_is_said_of_connections(caught_logs: list[str]) -> None:
    """They are ours to make, and nobody's news."""
    fetched(lambda request: request.answer(b"body"))
    assert not [line for line in caught_logs if "_HTTP11ClientFactory" in line]


def test_a_whole_answer() -> None:
    """Status, body and fields; the request says what it should."""
    answer, asked = fetched(lambda request: request.answer(b"body", 404, X_Consul_Index="7"))
    assert (answer.status, answer.body, answer.field("x-consul-index"), answer.field("other")) == (404, b"body", "7", None)
    assert (asked.method, asked.path, asked.query, asked.fields["x-token"]) == ("GET", "/a", {"b": "c"}, "t")


def drip(request: Asked) -> None:
    """An answer by octets, which says at once how long it is."""
    request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Le")
    request.transport.write(b"ngth: 3\r\n\r\na")
    request.transport.write(b"bc")


def endless(request: Asked) -> None:
    """A head without an end."""
    request.transport.write(b"HTTP/1.1 200 OK\r\n")
    request.transport.write(b"X-A: %b\r\n" % (b"a" * 1000) * 300)


def half(request: Asked) -> None:
    """An answer that ends too early."""
    request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nabc")
    request.cut()


def test_slow_answers() -> None:
    """However it is cut into segments."""
    assert fetched(drip)[0].body == b"abc"


@pytest.mark.parametrize(
    ("script", "deadline", "words"),
    [
        (half, 5.0, "the answer was cut short"),
        (lambda request: request.answer(b"x" * 101), 5.0, "more than 100 octets"),
        (lambda request: request.transport.write(b"SSH-2.0-x\r\n\r\n"), 5.0, "http://127.0.0.1:"),
        (lambda request: request.cut(), 5.0, "http://127.0.0.1:"),
        (endless, 5.0, "the head of the answer has more than 262144 octets"),
        (lambda request: None, 0.1, "did not answer within 0.1 s"),
        (lambda request: (request.begin(), request.send(b"a")), 0.1, "did not answer within 0.1 s"),
    ],
)
def test_no_answer(script: Callable[[Asked], Any], deadline: float, words: str) -> None:
    """Half an answer is none, and neither is one that is too long, too late, or no HTTP."""
    with pytest.raises(FetchFailed, match=words):
        fetched(script, deadline=deadline)


def test_nobody_listens() -> None:
    """The reason is that of the system."""

    async def scenario(reactor: Any) -> None:
        api = API(reactor)
        await api.end()
        await Server(reactor, f"http://127.0.0.1:{api.port}", None).fetch("/", {}, 10, 5.0)

    with pytest.raises(FetchFailed, match="refused"):
        run(scenario)


def test_cancelled() -> None:
    """Before the head and in the body: the connection closes."""

    async def scenario(reactor: Any) -> None:
        api = API(reactor, lambda request: None, lambda request: (request.begin(), request.send(b"a")))
        server = Server(reactor, f"http://127.0.0.1:{api.port}", None)
        for count in (1, 2):
            asked = server.fetch("/", {}, 100, 5.0)
            await until(reactor, lambda count=count: len(api.asked) == count)
            await deferLater(reactor, 0.02, lambda: None)
            asked.cancel()
            with pytest.raises(CancelledError):
                await asked
            await until(reactor, lambda: not api.asked[-1].transport.connected)
            assert not api.asked[-1].transport.connected
        await api.end()

    run(scenario)


def test_dead_peers_are_noticed() -> None:
    """A connection that is silent asks whether anybody is there."""

    async def scenario(reactor: Any) -> list[tuple[int, int]]:
        api = API(reactor)
        server = Server(reactor, f"http://127.0.0.1:{api.port}", None)
        asked = server.fetch("/", {}, 100, 5.0)
        await until(reactor, lambda: api.asked)
        clients = [each for each in reactor.getReaders() if isinstance(each, Client)]
        found = [
            (each.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), each.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE))
            for each in clients
        ]
        asked.addErrback(lambda failure: failure.trap(CancelledError))
        asked.cancel()
        await api.end()
        return found

    assert run(scenario) == [(1, 30)]


def followed(*script: Callable[[Asked], Any], limit: int = 100, lines: Any = None, deadline: float = 5.0, head_deadline: float = 5.0) -> Any:
    """(answer, lines) of one stream."""

    async def scenario(reactor: Any) -> Any:
        api = API(reactor, *script)
        server = Server(reactor, f"http://127.0.0.1:{api.port}", None)
        got: list[bytes] = []

        def take(batch: list[bytes]) -> Deferred[None]:
            got.extend(batch)
            return deferLater(reactor, 0.001, lambda: None)

        try:
            return await server.follow("/", {}, limit, deadline, lines or take, head_deadline), got
        finally:
            server.close()
            await api.end()

    return run(scenario)


def stream(*pieces: bytes, cut: bool = False) -> Callable[[Asked], None]:
    """Sends these pieces."""

    def answer(request: Asked) -> None:
        request.begin()
        for piece in pieces:
            request.send(piece)
        request.cut() if cut else request.finish()

    return answer


@pytest.mark.parametrize(
    ("script", "lines"),
    [
        (stream(b"one\ntwo\n"), [b"one", b"two"]),
        (stream(*(bytes([octet]) for octet in b"one\n\ntwo\nthr")), [b"one", b"two"]),
        (stream(b"one\ntw", cut=True), [b"one"]),
        (stream(), []),
    ],
)
def test_lines(script: Callable[[Asked], Any], lines: list[bytes]) -> None:
    """Whole ones alone, wherever the stream is cut; the last one, cut in its middle, is dropped."""
    answer, got = followed(script)
    assert (answer.status, got) == (200, lines)


def test_a_line_without_end() -> None:
    """Is not kept for ever."""
    with pytest.raises(FetchFailed, match="a line has more than 100 octets"):
        followed(stream(b"x" * 60, b"x" * 60))


def test_the_head_of_a_stream_has_its_own_time() -> None:
    """A server that is stuck before its head is not waited for as long as a stream may last; one that is silent after it is."""
    with pytest.raises(FetchFailed, match=r"did not answer within 0\.1 s"):
        followed(lambda request: None, head_deadline=0.1)
    with pytest.raises(FetchFailed, match=r"did not answer within 0\.2 s"):
        followed(lambda request: request.begin(), head_deadline=5.0, deadline=0.2)


def test_long_bodies_are_not_taken_for_heads() -> None:
    """Neither of one answer nor of the next one on the same connection."""

    async def scenario(reactor: Any) -> list[int]:
        api = API(reactor, *[lambda request: request.answer(b"x" * 400_000)] * 3)
        server = Server(reactor, f"http://127.0.0.1:{api.port}", None)
        sizes = [len((await server.fetch("/", {}, 1_000_000, 5.0)).body) for _ in range(3)]
        server.close()
        await api.end()
        return sizes

    assert run(scenario) == [400_000] * 3


def test_a_stream_that_is_refused() -> None:
    """Comes as an answer."""
    answer, got = followed(lambda request: request.answer(b"no", 403))
    assert (answer.status, answer.body, got) == (403, b"no", [])


def test_whoever_takes_lines_may_fail() -> None:
    """The stream then ends with that failure."""

    def take(batch: list[bytes]) -> Deferred[None]:
        return succeed(None).addCallback(lambda _: int(b"".join(batch)))  # type: ignore[return-value,arg-type]

    with pytest.raises(ValueError, match="invalid literal"):
        followed(stream(b"x\n"), lines=take)


def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is verified by the CA file, also one that was replaced since; without certificates in it nothing is asked."""
    ca = tmp_path / "ca.pem"
    right, other = (authority(name)[0].public_bytes(Encoding.PEM) for name in ("the authority", "somebody else"))
    own, key = certificate("api.example")
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + own.public_bytes(Encoding.PEM)

    async def scenario(reactor: Any) -> list[str]:
        # Twisted's TLS collects writes by the process's own reactor, which is another one here.
        monkeypatch.setattr("twisted.protocols.tls._get_default_clock", lambda: reactor)
        api = API(reactor, *[lambda request: request.answer(b"well")] * 3, context=PrivateCertificate.loadPEM(pem).options())
        server = Server(reactor, f"https://127.0.0.1:{api.port}", ca)
        outcomes = []
        for content in (other, right, b"nothing", other + right):
            ca.write_bytes(content)
            try:
                outcomes.append((await server.fetch("/", {}, 100, 5.0)).body.decode())
            except FetchFailed as error:
                outcomes.append(str(error))
        server.close()
        await api.end()
        return outcomes

    wrong, well, nothing, both = run(scenario)
    assert "verify failed" in wrong
    assert well == both == "well"
    assert nothing == f"{ca} holds no certificates in PEM form (Error)"
