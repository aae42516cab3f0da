"""Chunked bodies in any pieces, and their limits."""

from __future__ import annotations

import pytest

from sidecar.codec.h1.body import CHUNK_LINE_BYTES, EXTENSION_BYTES, ChunkedBody, end_of, has_bare_lf
from sidecar.codec.h1.grammar import REMEMBERED_LINES, Malformed
from sidecar.codec.h1.reader import RequestReader
from sidecar.errors import BadFraming, HeadTooLarge
from sidecar.message import END, End


def read(*pieces: bytes) -> tuple[list[object], int]:
    body = ChunkedBody(100, 3)
    events: list[object] = []
    position = -1
    for piece in pieces:
        assert position == -1, "the body had ended"
        position = body.read(piece, 0, events)
    return events, position


def test_chunks_are_handed_on_as_they_come() -> None:
    """A chunk is not waited for: what is there of it goes on at once, and a read that is all body is not even copied."""
    body = ChunkedBody(100, 3)
    events: list[object] = []
    assert body.read(b"ff\r\nabc", 0, events) == -1
    piece = b"d" * 200
    assert body.read(piece, 0, events) == -1
    assert events == [b"abc", piece]
    assert events[1] is piece


def test_position_behind_the_body() -> None:
    """The position returned is that of the first octet of what follows, and the end without trailers is the one object for it."""
    events, position = read(b"3\r\nabc\r\n0\r\n\r\nGET")
    assert (events, position) == ([b"abc", END], 13)
    assert events[-1] is END


def test_trailers() -> None:
    """Trailers come with the end, in order and with their spelling."""
    events, position = read(b"0\r\nGrpc-Status: 0\r\nX: 1\r\n\r\nrest")
    (end,) = events
    assert isinstance(end, End)
    assert end.trailers is not None
    assert [each[2] for each in end.trailers.fields] == [b"Grpc-Status: 0\r\n", b"X: 1\r\n"]
    assert position == 27


@pytest.mark.parametrize("stream", [b"3\r\nabc\r\n0\r\n\r\n", b"3;a=b\r\nabc\r\n0;c\r\nX: 1\r\nY: 2\r\n\r\n", b"000A\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n"])
def test_one_octet_at_a_time(stream: bytes) -> None:
    """However the octets are split, the same body and trailers come out."""
    whole, _ = read(stream)
    single, position = read(*(stream[index : index + 1] for index in range(len(stream))))
    assert position == 1
    assert b"".join(each for each in single if isinstance(each, bytes)) == b"".join(each for each in whole if isinstance(each, bytes))
    ends = [each.trailers for each in (whole[-1], single[-1]) if isinstance(each, End)]
    assert ends[0] == ends[1]


def test_begin_forgets_the_body_before() -> None:
    """A reader used for a second body starts afresh, also after one that was left in the middle."""
    body = ChunkedBody(100, 3)
    body.read(b"5\r\nab", 0, [])
    body.begin()
    events: list[object] = []
    assert body.read(b"1\r\nx\r\n0\r\n\r\n", 0, events) == 11
    assert events == [b"x", END]


@pytest.mark.parametrize("split", [0, 1, 2000])
def test_size_lines_are_bounded(split: int) -> None:
    """A size line may have as many octets as the limit says and not one more, arriving at once or in pieces."""
    line = b"1;" + b"a" * (CHUNK_LINE_BYTES - 4) + b"\r\n"
    assert read(line[:split], line[split:] + b"x")[0] == [b"x"]
    line = b"1;" + b"a" * (CHUNK_LINE_BYTES - 3) + b"\r\n"
    with pytest.raises(Malformed) as problem:
        read(line[:split], line[split:])
    assert problem.value.error is BadFraming


def test_extensions_of_a_message_are_bounded() -> None:
    """Many extensions, each short enough, are too many together: they cost us and carry nothing."""
    chunk = b"1;" + b"a" * 1022 + b"\r\nx\r\n"
    count = EXTENSION_BYTES // 1023
    assert len(read(chunk * count)[0]) == count
    with pytest.raises(Malformed, match="extensions"):
        read(chunk * (count + 1))


def test_trailers_are_bounded() -> None:
    """Trailers have the limits of heads."""
    for split in (3, 50):
        stream = b"0\r\nX: " + b"a" * 100 + b"\r\n\r\n"
        with pytest.raises(Malformed) as problem:
            read(stream[:split], stream[split:])
        assert problem.value.error is HeadTooLarge


def test_remembered_sizes_are_bounded() -> None:
    """Chunks of all sizes do not make the sidecar grow."""
    from sidecar.codec.h1 import body

    for size in range(1, 2 * REMEMBERED_LINES):
        read(b"%x\r\n" % size)
    assert len(body._SIZES) <= REMEMBERED_LINES


@pytest.mark.parametrize("held", [0, 1, 2, 3, 4, 6])
def test_end_found_across_reads(held: int) -> None:
    """A terminator is found wherever it is split."""
    data = b"ab\r\n\r\ncd"
    found = end_of(b"\r\n\r\n", bytearray(data[:held]), data[held:], 0) if held < 6 else 0
    assert held + found == 6


def test_end_is_not_there() -> None:
    """Half a terminator is none."""
    assert end_of(b"\r\n\r\n", bytearray(b"a\r\n\r"), b"x\r\n", 0) == -1
    assert end_of(b"\r\n", bytearray(), b"xx\r\n", 3) == -1


@pytest.mark.parametrize(
    ("held", "data", "answer"), [("", "\n", True), ("a", "\n", True), ("a\r", "\n", False), ("", "a\r\nb\n", True), ("\r\n", "\n", True), ("", "a\r\n", False)]
)
def test_bare_lf(held: str, data: str, answer: bool) -> None:
    """An LF is bare unless the octet before it, perhaps of the read before, is a CR."""
    assert has_bare_lf(bytearray(held.encode()), data.encode(), 0) is answer


def test_tiny_chunks_of_one_read_come_as_one_piece() -> None:
    """An octet in each chunk must not cost a trip through the whole path for each octet."""
    reader = RequestReader(65536, 100)
    _, *rest = reader.receive(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1000)
    assert rest == [b"x" * 1000]
    assert reader.receive(b"1\r\ny\r\n" * 10 + b"0\r\n\r\n") == [b"y" * 10, END]
