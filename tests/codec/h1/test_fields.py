"""Field lines: what goes on, what is understood and taken out, what is never remembered."""

from __future__ import annotations

import pytest

from sidecar.codec.h1 import fields
from sidecar.codec.h1.fields import CLOSE, KEEP_ALIVE, PROTECTED_IN_REQUESTS, PROTECTED_IN_RESPONSES, UPGRADES, may_be_trailer, read_fields, read_trailers
from sidecar.codec.h1.grammar import REMEMBERED_BYTES, REMEMBERED_LINES, Malformed
from sidecar.errors import HeadTooLarge


def lines_of(block: bytes) -> list[bytes]:
    return [each[2] for each in read_fields(block, 100, PROTECTED_IN_REQUESTS)[0]]


def test_spelling_and_order_stay() -> None:
    """Lines go on as they came: case, order and repetition; only white space around values is made the usual."""
    assert lines_of(b"b: 1\r\nA:2\r\nB: \t3\t \r\na:\r\nc: x  y") == [b"b: 1\r\n", b"A: 2\r\n", b"B: 3\r\n", b"a: \r\n", b"c: x  y\r\n"]


def test_second_reading_is_the_same() -> None:
    """A line that is remembered means what it meant the first time."""
    block = b"Host: h\r\nContent-Length: 7\r\nConnection: close, upgrade\r\nUpgrade: WebSocket, b\r\nExpect: 100-Continue\r\nTE: trailers"
    first = read_fields(block, 100, PROTECTED_IN_REQUESTS)
    assert read_fields(block, 100, PROTECTED_IN_REQUESTS) == first
    kept, host, length, chunked, options, upgrade, expects, harmless = first
    assert [each[0] for each in kept] == [b"host", b"content-length", b"expect", b"te"]
    assert (host, length, chunked, options, upgrade, expects, harmless) == (b"h", 7, False, CLOSE | UPGRADES, b"websocket", True, True)


def test_connection_options_add_up() -> None:
    """Several Connection fields count as one list."""
    read = read_fields(b"Connection: X\r\nX: 1\r\nConnection: keep-alive\r\nConnection: Y\r\nY: 2\r\nZ: 3", 100, PROTECTED_IN_REQUESTS)
    assert [each[0] for each in read[0]] == [b"z"]
    assert read[4] == KEEP_ALIVE


def test_responses_may_list_transfer_encoding() -> None:
    """Some servers list Transfer-Encoding in Connection, which is harmless there; Content-Length never is."""
    assert read_fields(b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked", 100, PROTECTED_IN_RESPONSES)[3]
    with pytest.raises(Malformed):
        read_fields(b"Connection: Content-Length\r\nContent-Length: 1", 100, PROTECTED_IN_RESPONSES)


@pytest.mark.parametrize(
    "name", ["Authorization", "Cookie", "Set-Cookie", "X-Api-Key", "X-Auth-Token", "X-Request-Id", "Traceparent", "Proxy-Authorization", "X-Session"]
)
def test_secrets_are_not_remembered(name: str) -> None:
    """Credentials and ids are read each time and leave nothing behind, neither as lines nor as a remembered block."""
    line = name.encode() + b": s3cr3t"
    assert not read_fields(line, 100, PROTECTED_IN_REQUESTS)[7]
    assert line not in fields._LINES


def test_remembered_lines_are_bounded() -> None:
    """New lines and names all the time do not make the sidecar grow; long ones are never kept."""
    for number in range(2 * REMEMBERED_LINES):
        read_fields(b"X-%d: %d" % (number, number), 100, PROTECTED_IN_REQUESTS)
    long = b"X: " + b"a" * REMEMBERED_BYTES
    read_fields(long, 100, PROTECTED_IN_REQUESTS)
    assert len(fields._LINES) <= REMEMBERED_LINES
    assert len(fields._NAMES) <= REMEMBERED_LINES
    assert long not in fields._LINES


def test_too_many_fields() -> None:
    """One field more than the limit is refused as too large a head."""
    block = b"\r\n".join(b"X: %d" % number for number in range(5))
    assert len(read_fields(block, 5, PROTECTED_IN_REQUESTS)[0]) == 5
    with pytest.raises(Malformed) as problem:
        read_fields(block, 4, PROTECTED_IN_REQUESTS)
    assert problem.value.error is HeadTooLarge
    with pytest.raises(Malformed) as problem:
        read_trailers(block, 4)
    assert problem.value.error is HeadTooLarge


def test_values_do_not_get_into_sentences() -> None:
    """What is said about a refused field names it, but never shows its value: it may be a password."""
    with pytest.raises(Malformed) as problem:
        read_fields(b"Authorization: s3cr3t\x00", 100, PROTECTED_IN_REQUESTS)
    assert "Authorization" in str(problem.value)
    assert "s3cr3t" not in str(problem.value)


@pytest.mark.parametrize(
    ("line", "word"),
    [(b" a: b", "obs-fold"), (b"ab", "no colon"), (b": b", "no name"), (b"a : b", "white space"), (b"a(: b", "not a field name"), (b"a: \x01", "control")],
)
def test_sentences(line: bytes, word: str) -> None:
    """A refused line is explained in words."""
    with pytest.raises(Malformed, match=word):
        read_fields(line, 100, PROTECTED_IN_REQUESTS)


def test_what_may_be_a_trailer() -> None:
    """Framing, routing and credentials never, the rest may."""
    assert may_be_trailer(b"grpc-status")
    assert not any(map(may_be_trailer, [b"host", b"content-length", b"trailer", b"authorization", b"te"]))
