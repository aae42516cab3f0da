"""Limits of heads, reached exactly however the octets arrive, at the same cost for each octet."""

from __future__ import annotations

import pytest

from sidecar.codec.h1.reader import RequestReader, ResponseReader
from sidecar.codec.h1.reading import KNOWN_BLOCK_BYTES
from sidecar.errors import HeadTooLarge, SidecarError, TargetTooLong, UpstreamProtocolError
from sidecar.message import RequestHead

LIMIT = 300


def last(pieces: list[bytes], fields: int = 5) -> object:
    reader = RequestReader(LIMIT, fields)
    events = [event for piece in pieces for event in reader.receive(piece)]
    return events[-1] if events else None


def in_pieces(data: bytes) -> list[list[bytes]]:
    return [[data], [data[:1], data[1:]], [data[: LIMIT + 1], data[LIMIT + 1 :]], [data[index : index + 1] for index in range(len(data))]]


def head_of(size: int) -> bytes:
    start = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
    return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"


def test_a_head_may_be_as_large_as_the_limit() -> None:
    """The limit counts every octet up to and with the empty line, and is reached exactly."""
    for pieces in in_pieces(head_of(LIMIT)):
        assert isinstance(last(pieces), RequestHead)
    for pieces in in_pieces(head_of(LIMIT + 1)):
        assert type(last(pieces)) is HeadTooLarge
    for pieces in in_pieces(head_of(2 * LIMIT)[:-4]):
        assert type(last(pieces)) is HeadTooLarge


def test_a_request_line_beyond_the_limit_has_its_own_status() -> None:
    """A target that alone breaks the limit is answered with 414, not 431, whether its line ends or not."""
    target = b"GET /" + b"a" * LIMIT + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    for data in (target, target[: LIMIT + 1], target * 3):
        for pieces in in_pieces(data):
            error = last(pieces)
            assert type(error) is TargetTooLong
            assert isinstance(error, SidecarError)
            assert error.status == 414


def test_the_request_line_is_judged_first() -> None:
    """A bad request line is answered as such even when the head is too large as well, however it arrives."""
    for pieces in in_pieces(head_of(2 * LIMIT).replace(b"HTTP/1.1", b"HTTP/7.1", 1)):
        error = last(pieces)
        assert isinstance(error, SidecarError)
        assert error.status == 505


def test_a_head_may_have_as_many_fields_as_the_limit() -> None:
    """One field too many is refused with 431."""
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 4
    for pieces in in_pieces(head + b"\r\n"):
        assert isinstance(last(pieces), RequestHead)
    for pieces in in_pieces(head + b"Y: 1\r\n\r\n"):
        assert type(last(pieces)) is HeadTooLarge


def test_limits_hold_for_remembered_blocks() -> None:
    """A head is not let in because its fields were seen before: its request line counts, too."""
    reader = RequestReader(100, 5)
    assert isinstance(reader.receive(head_of(100))[0], RequestHead)
    reader.next_message()
    assert isinstance(reader.receive(head_of(100))[0], RequestHead)
    reader.next_message()
    assert type(reader.receive(head_of(100).replace(b"/", b"/a", 1))[-1]) is HeadTooLarge


def test_each_request_line_is_checked_early() -> None:
    """The second head that comes in pieces is judged as early as the first one."""
    reader = RequestReader(LIMIT, 5)
    for _ in range(2):
        reader.receive(b"GET / HTTP/1.1\r\nHost")
        reader.receive(b": a\r\n\r\n")
        reader.next_message()
    assert len(reader.receive(b"GET / HTTP/9.9\r\nHost")) == 1


def test_large_blocks_are_not_remembered() -> None:
    """A connection keeps a block of fields for comparing only when it is small and holds nothing secret."""
    for field in (b"X: " + b"x" * KNOWN_BLOCK_BYTES, b"Authorization: x"):
        reader = RequestReader(65536, 100)
        reader.receive(b"GET / HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n\r\n")
        assert reader._known_tail == b"\r\n\r\n"


def test_limits_of_answers() -> None:
    """An application's head beyond the limits is its mistake."""
    for data in (b"HTTP/1.1 200 OK\r\nX: " + b"x" * LIMIT, b"HTTP/1.1 200 " + b"x" * LIMIT, b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 6 + b"\r\n"):
        for pieces in in_pieces(data):
            reader = ResponseReader(LIMIT, 5)
            reader.expect(b"GET")
            events = [event for piece in pieces for event in reader.receive(piece)]
            assert type(events[-1]) is UpstreamProtocolError


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: "])
def test_each_octet_is_looked_at_once(start: bytes) -> None:
    """A head or trailer section arriving octet by octet costs the same for each octet, however much came before."""
    searched = 0

    class Counted(bytes):
        def find(self, *args: object) -> int:
            nonlocal searched
            searched += len(self)
            return super().find(*args)  # type: ignore[arg-type]

        def count(self, *args: object) -> int:
            nonlocal searched
            searched += len(self)
            return super().count(*args)  # type: ignore[arg-type]

    reader = RequestReader(65536, 100)
    reader.receive(start)
    for _ in range(5000):
        assert reader.receive(Counted(b"x")) == []
    assert searched <= 5000 * 4
