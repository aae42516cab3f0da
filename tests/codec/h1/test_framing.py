"""Bodies and first lines as they go out."""

from __future__ import annotations

import pytest

from sidecar.codec.h1 import framing
from sidecar.codec.h1.framing import BodyWriter, request_line, status_line
from sidecar.codec.h1.grammar import REMEMBERED_LINES
from sidecar.errors import PluginFailed
from sidecar.headers import Headers


class Chunked(BodyWriter):
    def __init__(self) -> None:
        super().__init__()
        self._mode = framing.CHUNKED


def test_one_chunk_for_each_piece() -> None:
    """A piece of the body becomes one chunk and is not copied; an empty one would end the body and is left out."""
    out: list[bytes] = []
    writer = Chunked()
    piece = b"x" * 300
    writer.data(piece, out)
    writer.data(b"", out)
    writer.end(None, out)
    assert out == [b"12c\r\n", piece, b"\r\n", b"0\r\n\r\n"]
    assert out[1] is piece


def test_trailers_are_filtered() -> None:
    """Trailers go out in their spelling, without what must not be one."""
    out: list[bytes] = []
    Chunked().end(Headers.of([(b"Grpc-Status", b"0"), (b"Content-Length", b"5"), (b"X", b"y")]), out)
    assert out == [b"0\r\nGrpc-Status: 0\r\nX: y\r\n\r\n"]


def test_nothing_follows_the_end() -> None:
    """After the end a writer sends nothing until its next head; in a tunnel everything goes as it is and the end is silent."""
    out: list[bytes] = []
    writer = Chunked()
    writer.end(None, out)
    writer.data(b"x", out)
    writer.end(None, out)
    assert out == [b"0\r\n\r\n"]
    writer.open_tunnel()
    writer.data(b"raw", out)
    writer.end(None, out)
    assert out[1:] == [b"raw"]


@pytest.mark.parametrize(
    ("method", "target"),
    [
        (b"GET", b"/a b"),
        (b"GET", b"/a\r\nX: y"),
        (b"GET", b""),
        (b"GET", b"a"),
        (b"GET", b"/#"),
        (b"G T", b"/"),
        (b"", b"/"),
        (b"GET", b"/\xe9"),
        (b"CONNECT", b"a"),
        (b"CONNECT", b"/"),
    ],
)
def test_edited_request_lines_cannot_split_a_request(method: bytes, target: bytes) -> None:
    """A method or path that a filter or rewrite spoiled is not sent."""
    with pytest.raises(PluginFailed):
        request_line(method, target)


def test_request_lines() -> None:
    """The line says HTTP/1.1, the first time and from memory."""
    for _ in range(2):
        assert request_line(b"GET", b"/a?b") == b"GET /a?b HTTP/1.1\r\n"
        assert request_line(b"OPTIONS", b"*") == b"OPTIONS * HTTP/1.1\r\n"
        assert request_line(b"CONNECT", b"a:1") == b"CONNECT a:1 HTTP/1.1\r\n"


def test_status_lines() -> None:
    """An empty reason becomes the usual phrase, if there is one."""
    for _ in range(2):
        assert status_line(200, b"Fine") == b"HTTP/1.1 200 Fine\r\n"
        assert status_line(404, b"") == b"HTTP/1.1 404 Not Found\r\n"
        assert status_line(799, b"") == b"HTTP/1.1 799 \r\n"


@pytest.mark.parametrize(("status", "reason"), [(99, b""), (1000, b""), (200, b"a\r\nX: y"), (200, b"\x00")])
def test_edited_status_lines_cannot_split_an_answer(status: int, reason: bytes) -> None:
    """A status or reason that a filter spoiled is not sent."""
    with pytest.raises(PluginFailed):
        status_line(status, reason)


def test_remembered_lines_are_bounded() -> None:
    """New lines all the time do not make the sidecar grow, and queries are never kept."""
    for number in range(2 * REMEMBERED_LINES):
        request_line(b"GET", b"/%d" % number)
        status_line(200, b"%d" % number)
    request_line(b"GET", b"/?secret")
    assert len(framing._REQUEST_LINES) <= REMEMBERED_LINES
    assert len(framing._STATUS_LINES) <= REMEMBERED_LINES
    assert (b"GET", b"/?secret") not in framing._REQUEST_LINES
