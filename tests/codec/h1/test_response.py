"""Where an answer's body ends, and what that means for the connection."""

from __future__ import annotations

import pytest

from sidecar.codec.h1.reader import ResponseReader
from sidecar.errors import UpstreamProtocolError
from sidecar.message import END, ResponseHead

# method | status line and fields | rest | content_length, end_stream | events behind the head | keep_alive | finished
CASES = [
    ("GET", "HTTP/1.1 200 OK|Content-Length: 3", b"abc", 3, False, [b"abc", END], True, True),
    ("GET", "HTTP/1.1 200 OK|Content-Length: 0", b"", 0, True, [], True, True),
    ("GET", "HTTP/1.1 200 OK|Transfer-Encoding: chunked", b"1\r\na\r\n0\r\n\r\n", None, False, [b"a", END], True, True),
    ("GET", "HTTP/1.1 200 OK", b"abc", None, False, [b"abc"], False, False),
    ("GET", "HTTP/1.1 200 OK|Connection: close|Content-Length: 1", b"a", 1, False, [b"a", END], False, True),
    ("GET", "HTTP/1.0 200 OK|Content-Length: 1", b"a", 1, False, [b"a", END], False, True),
    ("GET", "HTTP/1.0 200 OK|Content-Length: 1|Connection: keep-alive", b"a", 1, False, [b"a", END], True, True),
    ("GET", "HTTP/1.0 200 OK|Connection: keep-alive", b"a", None, False, [b"a"], False, False),
    ("HEAD", "HTTP/1.1 200 OK|Content-Length: 3", b"", 3, True, [], True, True),
    ("HEAD", "HTTP/1.1 200 OK|Transfer-Encoding: chunked", b"", None, True, [], True, True),
    ("HEAD", "HTTP/1.1 200 OK", b"", None, True, [], True, True),
    ("GET", "HTTP/1.1 304 Not Modified|Content-Length: 3", b"", 3, True, [], True, True),
    ("GET", "HTTP/1.1 304 Not Modified", b"", None, True, [], True, True),
    ("GET", "HTTP/1.1 204 No Content", b"", 0, True, [], True, True),
    ("GET", "HTTP/1.1 204 No Content|Content-Length: 0", b"", 0, True, [], True, True),
    # Servers that announce a body with 204 may send it as well: then it would be read as the next answer.
    ("GET", "HTTP/1.1 204 No Content|Content-Length: 3", b"", 0, True, [], False, True),
    ("GET", "HTTP/1.1 204 No Content|Transfer-Encoding: chunked", b"", 0, True, [], False, True),
    ("CONNECT", "HTTP/1.1 200 OK|Content-Length: 3", b"", None, False, [], False, False),
    ("CONNECT", "HTTP/1.1 403 No|Content-Length: 1", b"x", 1, False, [b"x", END], True, True),
    ("GET", "HTTP/1.1 101 Switching Protocols|Connection: upgrade|Upgrade: WebSocket", b"", None, False, [], False, False),
    # Octets behind a complete answer belong to no request.
    ("GET", "HTTP/1.1 200 OK|Content-Length: 1", b"aHTTP/1.1 200 OK\r\n\r\n", 1, False, [b"a", END], False, True),
    ("HEAD", "HTTP/1.1 200 OK|Content-Length: 3", b"abc", 3, True, [], False, True),
    ("GET", "HTTP/1.1 304 Not Modified", b"x", None, True, [], False, True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[1]}")
def test_bodies_end_where_rfc_9112_says(case: tuple[str, str, bytes, int | None, bool, list[object], bool, bool]) -> None:
    """Length, method, status and version decide where an answer ends, and whether the connection is good for another."""
    method, head_text, rest, length, end_stream, events, keep_alive, finished = case
    reader = ResponseReader(65536, 100)
    reader.expect(method.encode())
    head, *got = reader.receive(head_text.replace("|", "\r\n").encode() + b"\r\n\r\n" + rest)
    assert isinstance(head, ResponseHead)
    assert (head.content_length, head.end_stream) == (length, end_stream)
    assert got == events
    assert (reader.keep_alive, reader.finished) == (keep_alive, finished)


def test_lengths_that_do_not_belong_are_taken_out() -> None:
    """No Content-Length goes on with 1xx, 204 or a 2xx to CONNECT (RFC 9110, section 8.6)."""
    for method, status in ((b"GET", 100), (b"GET", 204), (b"CONNECT", 200)):
        reader = ResponseReader(65536, 100)
        reader.expect(method)
        head, *_ = reader.receive(b"HTTP/1.1 %d x\r\nContent-Length: 0\r\nX: 1\r\n\r\n" % status)
        assert isinstance(head, ResponseHead)
        assert [name for name, _ in head.headers] == [b"x"]


def test_upgrade_is_named() -> None:
    """A 101 says which protocol it switches to; one that does not is refused."""
    reader = ResponseReader(65536, 100)
    reader.expect(b"GET")
    (head,) = reader.receive(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\r\n")
    assert isinstance(head, ResponseHead)
    assert head.upgrade == b"websocket"
    assert not head.is_informational
    assert len(head.headers) == 0
    reader = ResponseReader(65536, 100)
    reader.expect(b"GET")
    (error,) = reader.receive(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    assert isinstance(error, UpstreamProtocolError)
