"""Request lines, status lines and authorities: what is read, what is refused, and what is remembered."""

from __future__ import annotations

import pytest

from sidecar.codec.h1 import grammar
from sidecar.codec.h1.grammar import Malformed, is_authority, read_request_line, read_status_line


@pytest.mark.parametrize("text", ["a", "a:1", "a.b-c_d~e:65535", "127.0.0.1:80", "[::1]", "[::ffff:1.2.3.4]:8080", "a" * 255, "a:00080"])
def test_authorities(text: str) -> None:
    """Names, IPv4 and bracketed IPv6 addresses with or without a port are authorities."""
    assert is_authority(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":80",
        "a:",
        "a:-1",
        "a:65536",
        "a:000080",
        "a b",
        "a,b",
        "a/b",
        "u@a",
        "a%2e",
        "::1",
        "[]",
        "[::1",
        "::1]",
        "[1.2.3.4]",
        "[::1%25eth0]",
        "a" * 256,
        "é",
    ],
)
def test_no_authorities(text: str) -> None:
    """Everything else is not, percent-encoding and zone ids included."""
    assert not is_authority(text.encode())


def test_connect_authority_needs_port() -> None:
    """A CONNECT target without port is refused by the same check."""
    assert is_authority(b"a:1", port_required=True)
    assert not is_authority(b"a", port_required=True)


def test_remembered_lines_are_bounded() -> None:
    """A client that sends a new target each time does not make the sidecar grow."""
    for number in range(3 * grammar.REMEMBERED_LINES):
        read_request_line(b"GET /%d HTTP/1.1" % number)
        read_status_line(b"HTTP/1.1 200 %d" % number)
    assert len(grammar.REQUEST_LINES) <= grammar.REMEMBERED_LINES
    assert len(grammar.STATUS_LINES) <= grammar.REMEMBERED_LINES


def test_queries_and_long_lines_are_not_remembered() -> None:
    """What may hold a secret, or never comes again, does not stay in memory."""
    for line in (b"GET /a?token=secret HTTP/1.1", b"GET /" + b"a" * grammar.REMEMBERED_BYTES + b" HTTP/1.1"):
        read_request_line(line)
        assert line not in grammar.REQUEST_LINES


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("HTTP/1.1 200 OK", (200, b"OK", 11)),
        ("HTTP/1.0 404 Not Found here", (404, b"Not Found here", 10)),
        ("HTTP/1.1 204 ", (204, b"", 11)),
        ("HTTP/1.1 204", (204, b"", 11)),
        ("HTTP/1.3 999 x", (999, b"x", 11)),
    ],
)
def test_status_lines(line: str, parts: tuple[int, bytes, int]) -> None:
    """The reason may be empty, even without the space before it."""
    assert read_status_line(line.encode()) == parts


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (b"\x16\x03\x01", "TLS"),
        (b"PRI * HTTP/2.0", "HTTP/2"),
        (b"GET /", "HTTP/0.9"),
        (b"GET /a\nb HTTP/1.1", "LF"),
        (b"GET  / HTTP/1.1", "one space"),
        (b"G{T / HTTP/1.1", "method"),
        (b"GET /#a HTTP/1.1", "fragment"),
        (b"GET / HTTP/1", "HTTP/1.1"),
        (b"GET /\x7f HTTP/1.1", "target"),
        (b"GET http://u:p@a/ HTTP/1.1", "user information"),
        (b"", "HTTP request"),
    ],
)
def test_sentences(line: bytes, word: str) -> None:
    """A refused request line is explained in words."""
    with pytest.raises(Malformed, match=word):
        read_request_line(line)
