"""Peers that repeat themselves: what is remembered of a head gives the same messages and octets as reading and writing it anew."""

from __future__ import annotations

import pytest

from sidecar.codec.h1.reader import RequestReader, ResponseReader
from sidecar.codec.h1.writer import ResponseWriter
from sidecar.headers import field
from sidecar.message import RequestHead, ResponseHead

FIELDS = "Host: a\r\nUser-Agent: b\r\n"
REQUESTS = [
    f"GET /1 HTTP/1.1\r\n{FIELDS}\r\n",
    f"GET /2 HTTP/1.1\r\n{FIELDS}Connection: keep-alive\r\n\r\n",
    f"GET http://b/ HTTP/1.1\r\n{FIELDS}\r\n",
    f"CONNECT b:1 HTTP/1.1\r\n{FIELDS}\r\n",
    f"GET / HTTP/1.0\r\n{FIELDS}\r\n",
    f"GET / HTTP/1.1\r\n{FIELDS}Connection: close\r\n\r\n",
    f"POST / HTTP/1.1\r\n{FIELDS}Content-Length: 1\r\n\r\nx",
    f"POST / HTTP/1.1\r\n{FIELDS}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    f"GET / HTTP/1.1\r\n{FIELDS}Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    f"GET / HTTP/1.1\r\n{FIELDS}Expect: 100-continue\r\n\r\n",
    "GET / HTTP/1.1\r\nUser-Agent: b\r\n\r\n",
]
ANSWERS = [
    "HTTP/1.1 200 OK\r\nServer: s\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 404 No\r\nServer: s\r\nContent-Length: 2\r\n\r\nno",
    "HTTP/1.0 200 OK\r\nServer: s\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 304 Not Modified\r\nServer: s\r\nContent-Length: 2\r\n\r\n",
    "HTTP/1.1 200 OK\r\nServer: s\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nServer: s\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nServer: s\r\nSet-Cookie: a=1\r\nContent-Length: 2\r\n\r\nok",
]


def look(event: object) -> object:
    if isinstance(event, RequestHead | ResponseHead):
        return {name: getattr(event, name) for name in type(event).__struct_fields__ if name not in ("known", "headers")}, event.headers.fields
    return (type(event), str(event)) if isinstance(event, Exception) else event


def asked(reader: RequestReader, text: str) -> object:
    return [look(each) for each in reader.receive(text.encode())], reader.keep_alive, reader.buffered


@pytest.mark.parametrize("later", REQUESTS)
@pytest.mark.parametrize("first", REQUESTS)
def test_requests_after_others(first: str, later: str) -> None:
    """Whatever came before on the connection, a request is read as on a new one, also with the next one behind it."""
    reader = RequestReader(1000, 10)
    for _ in range(2):
        reader.receive(first.encode())
        if not reader.keep_alive:
            return
        reader.next_message()
    assert asked(reader, later + "GET") == asked(RequestReader(1000, 10), later + "GET")


@pytest.mark.parametrize("cut", [0, 1, 2])
@pytest.mark.parametrize("later", ANSWERS)
@pytest.mark.parametrize("first", ANSWERS)
@pytest.mark.parametrize("methods", [(b"GET", b"GET"), (b"GET", b"HEAD"), (b"HEAD", b"GET"), (b"GET", b"CONNECT")])
def test_answers_after_others(first: str, later: str, methods: tuple[bytes, bytes], cut: int) -> None:
    """Whatever was answered before, an answer is read as the first one is, whole or with the end of its body in another read."""
    reader, fresh = ResponseReader(1000, 10), ResponseReader(1000, 10)
    for _ in range(3):
        reader.expect(methods[0])
        reader.receive(first.encode() if methods[0] == b"GET" else first.encode().partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        if not reader.finished or not reader.keep_alive:
            return
    octets = later.encode()
    seen = []
    for each in (reader, fresh):
        each.expect(methods[1])
        events = [look(event) for piece in (octets[: len(octets) - cut], octets[len(octets) - cut :]) for event in each.receive(piece)]
        seen.append((events, each.finished, each.keep_alive))
    assert seen[0] == seen[1]


def sent(head: ResponseHead, method: bytes = b"GET", version: int = 11, keep_alive: bool = True) -> tuple[bytes, object, object, bool]:
    writer = ResponseWriter()
    writer.begin(RequestHead(method, b"/", b"a", None, version), keep_alive)  # type: ignore[arg-type]
    out: list[bytes] = []
    writer.head(head, out)
    return b"".join(out), writer._mode, writer._left if head.content_length else 0, writer.closes


def test_answers_written_again() -> None:
    """A head that was written before is written the same way for whom it fits, and anew for everybody else and after every edit."""
    for text in (ANSWERS[0], ANSWERS[5]):
        reader = ResponseReader(1000, 10)

        def answer(reader: ResponseReader = reader, text: str = text) -> ResponseHead:
            reader.expect(b"GET")
            head = reader.receive(text.encode())[0]
            assert isinstance(head, ResponseHead)
            return head

        def check(head: ResponseHead, *to: object) -> None:
            unknown = ResponseHead(head.status, head.headers.copy(), head.reason, head.version, head.content_length, head.end_stream, head.upgrade)
            assert sent(head, *to) == sent(unknown, *to)  # type: ignore[arg-type]

        answer()
        for to in ((b"GET", 11, True), (b"GET", 11, True), (b"HEAD", 11, True), (b"GET", 10, True), (b"GET", 11, False), (b"GET", 11, True)):
            check(answer(), *to)
        for edit in ("status", "reason", "length", "added", "removed", "replaced"):
            head = answer()
            if edit == "status":
                head.status = 500
            elif edit == "reason":
                head.reason = b"Fine"
            elif edit == "length":
                head.content_length = 3
            elif edit == "added":
                head.headers.fields.append(field(b"X-New", b"1"))
            elif edit == "removed":
                head.headers.remove(b"server")
            else:
                head.headers.set(b"server", b"other")
            check(head)
            check(answer())
