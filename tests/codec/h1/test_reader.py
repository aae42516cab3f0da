"""Whole streams: the tables of malformed messages, any splitting into reads, pipelining, the ends of connections, tunnels."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from sidecar import errors
from sidecar.codec.h1.reader import BLANK_LINES, INFORMATIONAL_HEADS, RequestReader, ResponseReader
from sidecar.errors import DownstreamClosed, DownstreamError, SidecarError, UpstreamClosed, UpstreamProtocolError
from sidecar.message import END, End, RequestHead, ResponseHead
from tests.codec.h1.table_files import octets, rows

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"PUT /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\n"


def new_reader() -> RequestReader:
    return RequestReader(65536, 100)


def waiting(method: bytes = b"GET") -> ResponseReader:
    reader = ResponseReader(65536, 100)
    reader.expect(method)
    return reader


def plain(events: Iterable[object]) -> list[object]:
    """Events as comparable values, neighbouring body chunks joined."""
    out: list[object] = []
    for event in events:
        if isinstance(event, RequestHead):
            out.append((event.method, event.path, event.authority, event.version, event.content_length, event.end_stream, event.headers.fields))
        elif isinstance(event, ResponseHead):
            out.append((event.status, event.reason, event.version, event.content_length, event.end_stream, event.upgrade, event.headers.fields))
        elif isinstance(event, End):
            out.append(("end", event.trailers.fields if event.trailers else None))
        elif isinstance(event, SidecarError):
            out.append(type(event))
        elif out and isinstance(event, bytes) and isinstance(out[-1], bytes):
            out[-1] += event
        else:
            out.append(event)
    return out


def everything(reader: RequestReader, pieces: list[bytes], eof: bool = False) -> list[object]:
    """All events of all messages in the pieces, each exchange being over as soon as its request is."""
    events: list[object] = []
    for piece in pieces:
        got = reader.receive(piece)
        while got:
            events += got
            last = got[-1]
            over = isinstance(last, End) or (isinstance(last, RequestHead) and last.end_stream)
            got = reader.next_message() if over else []
    if eof:
        events += reader.receive_eof()
    return plain(events)


def split_at(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:stop] for start, stop in pairwise(places)]


# -- what must not be sent -------------------------------------------------------------------------------------------------------------------

MALFORMED_REQUESTS = rows("malformed_requests")
MALFORMED_RESPONSES = rows("malformed_responses")


@pytest.mark.parametrize("row", MALFORMED_REQUESTS, ids=lambda row: row[2])
def test_malformed_requests(row: list[str]) -> None:
    """Each row of the table is refused with its class and status; nothing behind it is read, and no body is ever invented."""
    name, status, _, text = row
    data = octets(text)
    reader = new_reader()
    events = reader.receive(data)
    error = events[-1]
    assert type(error) is getattr(errors, name)
    assert isinstance(error, SidecarError)
    assert error.status == int(status)
    assert reader.receive(GET) == reader.next_message() == reader.receive_eof() == []
    assert not reader.keep_alive


@pytest.mark.parametrize("row", MALFORMED_REQUESTS, ids=lambda row: row[2])
def test_malformed_requests_in_pieces(row: list[str]) -> None:
    """The same refusal comes when the octets arrive one by one, and behind another request."""
    data = octets(row[3])
    expected = plain(new_reader().receive(data))
    assert everything(new_reader(), [data[index : index + 1] for index in range(len(data))]) == expected
    assert everything(new_reader(), [POST + data])[3:] == expected
    assert everything(new_reader(), [GET, data])[1:] == expected


@pytest.mark.parametrize("row", MALFORMED_RESPONSES, ids=lambda row: row[0])
def test_malformed_responses(row: list[str]) -> None:
    """Each row of the table is refused as the application's mistake, at once or octet by octet."""
    data = octets(row[1])
    reader = waiting()
    events = reader.receive(data)
    assert type(events[-1]) is UpstreamProtocolError
    assert reader.receive(data) == reader.receive_eof() == []
    assert not reader.keep_alive
    assert not reader.finished
    single = waiting()
    got = [event for index in range(len(data)) for event in single.receive(data[index : index + 1])]
    assert plain(got) == plain(events)


def test_answers_to_tls_and_http2_say_so() -> None:
    """Who speaks TLS or HTTP/2 to a cleartext port is told, from the first octets on."""
    (error,) = new_reader().receive(b"\x16")
    assert "TLS" in str(error)
    (error,) = new_reader().receive(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert "HTTP/2" in str(error)


@pytest.mark.parametrize("start", [b"\x16\x03\x01", b"\x00", b" ", b"GET /\r\n", b"GET / HTTP/3.0\r\n", b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nHost: a\n"])
def test_hopeless_heads_are_refused_early(start: bytes) -> None:
    """A beginning that cannot become a head is refused without waiting for its end, which may never come."""
    assert isinstance(new_reader().receive(start)[-1], DownstreamError)


# -- splitting -------------------------------------------------------------------------------------------------------------------------------

GOOD = [octets(row[0]) for row in rows("good_requests")]
STREAM = GET + POST + CHUNKED + b"\r\n" + GET + CHUNKED + POST


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_splitting_gives_the_same_requests(cuts: list[int]) -> None:
    """However a stream of requests is cut into reads, the same events come out."""
    assert everything(new_reader(), split_at(STREAM, cuts)) == everything(new_reader(), [STREAM])


@pytest.mark.parametrize("data", GOOD, ids=lambda data: repr(data[:50]))
def test_good_requests_octet_by_octet(data: bytes) -> None:
    """Good requests arriving one octet at a time are the same requests."""
    assert everything(new_reader(), [data[index : index + 1] for index in range(len(data))]) == everything(new_reader(), [data])


@given(
    data=st.lists(st.sampled_from([octets(row[3]) for row in MALFORMED_REQUESTS] + GOOD), min_size=1, max_size=3).map(b"".join),
    cuts=st.lists(st.integers(0, 500), max_size=5),
)
def test_any_splitting_gives_the_same_refusals(data: bytes, cuts: list[int]) -> None:
    """Good and bad requests in a row give the same events however they are cut."""
    assert everything(new_reader(), split_at(data, cuts), eof=True) == everything(new_reader(), [data], eof=True)


@given(data=st.binary(max_size=60), where=st.integers(0, len(STREAM)), cuts=st.lists(st.integers(0, 500), max_size=4))
def test_rubbish_never_raises(data: bytes, where: int, cuts: list[int]) -> None:
    """Whatever octets come, the answer is events and at most one error, the last of all."""
    events = everything(new_reader(), split_at(STREAM[:where] + data + STREAM[where:], cuts), eof=True)
    assert not any(isinstance(each, type) for each in events[:-1])


ANSWERS = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello", False),
    (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
        False,
    ),
    (b"HTTP/1.0 200 OK\r\n\r\nhello", True),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", False),
]


@pytest.mark.parametrize(("data", "until_eof"), ANSWERS)
@given(cuts=st.lists(st.integers(0, 200), max_size=8))
def test_any_splitting_gives_the_same_answers(data: bytes, until_eof: bool, cuts: list[int]) -> None:
    """However an answer is cut into reads, the same events come out."""
    results = []
    for pieces in ([data], split_at(data, cuts)):
        reader = waiting()
        events = [event for piece in pieces for event in reader.receive(piece)] + (reader.receive_eof() if until_eof else [])
        assert reader.finished
        assert reader.keep_alive is not until_eof
        results.append(plain(events))
    assert results[0] == results[1]


# -- one request after another ---------------------------------------------------------------------------------------------------------------


def test_reading_stops_at_the_end_of_a_request() -> None:
    """What the client sent ahead stays in the buffer until the exchange is over."""
    reader = new_reader()
    assert reader.at_message_start
    assert [type(each) for each in reader.receive(POST + GET + CHUNKED[:30])] == [RequestHead, bytes, End]
    assert reader.buffered == len(GET) + 30
    assert not reader.at_message_start
    assert reader.receive(CHUNKED[30:]) == []
    assert [each.path for each in reader.next_message() if isinstance(each, RequestHead)] == [b"/"]
    assert reader.buffered == len(CHUNKED)
    assert plain(list(reader.next_message())) == everything(new_reader(), [CHUNKED])
    assert reader.buffered == 0
    assert reader.next_message() == []
    assert reader.at_message_start


def test_requests_sent_ahead_in_later_reads() -> None:
    """A request that arrives during an exchange is found whole, whatever was in the buffer before it."""
    reader = new_reader()
    reader.receive(POST + GET)
    assert len(reader.next_message()) == 1
    reader.receive(GET)
    (head,) = reader.next_message()
    assert isinstance(head, RequestHead)
    assert head.path == b"/"


def test_body_octets_are_not_copied() -> None:
    """A read that is all body is handed on as the same object."""
    reader = new_reader()
    reader.receive(POST[:-5])
    data = b"hell"
    (chunk,) = reader.receive(data)
    assert chunk is data
    response = waiting()
    response.receive(b"HTTP/1.1 200 OK\r\n\r\n")
    assert response.receive(data)[0] is data


def test_unfinished_head_is_not_an_idle_connection() -> None:
    """Time limits tell a client that has begun from one that is silent; an empty line is still silence."""
    reader = new_reader()
    reader.receive(b"\r\n")
    assert reader.at_message_start
    reader.receive(b"G")
    assert not reader.at_message_start
    assert reader.buffered == 1
    reader.receive(GET[1:])
    assert not reader.at_message_start


def test_blank_lines_count_anew_for_each_request() -> None:
    """A few empty lines before each request are skipped, in whatever pieces they come."""
    reader = new_reader()
    for _ in range(3):
        for _ in range(BLANK_LINES):
            assert reader.receive(b"\r") == reader.receive(b"\n") == []
        assert len(reader.receive(GET)) == 1
        reader.next_message()


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        ("1.1", "", True),
        ("1.1", "close", False),
        ("1.1", "keep-alive", True),
        ("1.1", "keep-alive, close", False),
        ("1.0", "", False),
        ("1.0", "Keep-Alive", True),
    ],
)
def test_keep_alive(version: str, connection: str, keep_alive: bool) -> None:
    """Version and Connection say whether another request may follow (RFC 9112, section 9.3)."""
    reader = new_reader()
    reader.receive(f"GET / HTTP/{version}\r\nHost: a\r\nConnection: {connection}\r\n\r\n".encode())
    assert reader.keep_alive is keep_alive


def test_end_of_the_client_between_messages() -> None:
    """A client that leaves between two requests, or after its last one, did nothing wrong."""
    reader = new_reader()
    assert reader.receive_eof() == []
    reader = new_reader()
    reader.receive(POST)
    assert reader.receive_eof() == []
    assert reader.next_message() == []


@pytest.mark.parametrize("data", [b"G", GET[:-1], POST[:-1], CHUNKED[:-1], CHUNKED[:80]])
def test_end_of_the_client_inside_a_message(data: bytes) -> None:
    """A client that leaves in the middle is gone, whether the part is the first or a later request."""
    reader = new_reader()
    reader.receive(data)
    assert [type(each) for each in reader.receive_eof()] == [DownstreamClosed]
    reader = new_reader()
    reader.receive(GET + data)
    assert reader.receive_eof() == []
    assert isinstance(reader.next_message()[-1], DownstreamClosed)
    assert reader.next_message() == []


def test_tunnel_of_the_client() -> None:
    """After CONNECT or an upgrade what came behind the request belongs to the tunnel."""
    reader = new_reader()
    (head,) = reader.receive(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n\x00\x01")
    assert isinstance(head, RequestHead)
    assert head.end_stream
    reader.receive(b"\x02")
    assert reader.open_tunnel() == b"\x00\x01\x02"
    assert reader.buffered == 0
    assert reader.receive(b"GET") == []


def test_remembered_block_does_not_leak_into_other_messages() -> None:
    """Requests with the same fields, other fields, none, and the same again are told apart, and a head that was edited does not change the next."""
    reader = new_reader()
    blocks = [b"Host: a\r\nX: 1\r\n", b"Host: a\r\nX: 1\r\n", b"Host: a\r\nX: 2\r\n", b"Host: a\r\nX: 1\r\nY: 1\r\n", b"Host: a\r\nX: 1\r\n"]
    for number, block in enumerate(blocks):
        head = reader.receive(b"GET /%d HTTP/1.1\r\n" % number + block + b"\r\n")[0]
        assert isinstance(head, RequestHead)
        assert head.path == b"/%d" % number
        assert b"".join(each[2] for each in head.headers.fields) == block
        head.headers.fields.clear()
        reader.next_message()
    (head,) = reader.receive(b"GET / HTTP/1.0\r\n\r\n")
    assert isinstance(head, RequestHead)
    assert len(head.headers) == 0


def test_edited_answers_do_not_change_the_next() -> None:
    """A response head belongs to who got it; the reader's memory of its fields does not change with it."""
    reader = ResponseReader(65536, 100)
    for _ in range(3):
        reader.expect(b"HEAD")
        (answer,) = reader.receive(b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\n")
        assert isinstance(answer, ResponseHead)
        assert len(answer.headers) == 1
        answer.headers.fields.clear()


# -- one answer after another ----------------------------------------------------------------------------------------------------------------


def test_answers_in_a_row() -> None:
    """One reader serves all requests of a connection."""
    reader = ResponseReader(65536, 100)
    assert reader.finished
    assert reader.keep_alive
    for method, end in ((b"GET", [b"abc", END]), (b"HEAD", []), (b"GET", [b"abc", END])):
        reader.expect(method)
        assert not reader.finished
        data = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + (b"" if method == b"HEAD" else b"abc")
        assert reader.receive(data)[1:] == end
        assert reader.finished
        assert reader.keep_alive


@pytest.mark.parametrize("rest", [b"H", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_octets_that_answer_nothing_end_the_use_of_a_connection(rest: bytes) -> None:
    """What comes behind a complete answer is never taken for the next one, in the same read or a later one."""
    for pieces in ([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + rest], [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", rest]):
        reader = waiting()
        events = [event for piece in pieces for event in reader.receive(piece)]
        assert len(events) == 1
        assert reader.finished
        assert not reader.keep_alive
        with pytest.raises(AssertionError):
            reader.expect(b"GET")


def test_informational_heads_are_bounded() -> None:
    """Informational heads come before the final one, and only so many."""
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    reader = waiting()
    events = reader.receive(hint * INFORMATIONAL_HEADS + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert [each.status for each in events if isinstance(each, ResponseHead)] == [103] * INFORMATIONAL_HEADS + [200]
    reader.expect(b"GET")
    assert len(reader.receive(hint * INFORMATIONAL_HEADS)) == INFORMATIONAL_HEADS
    reader = waiting()
    assert isinstance(reader.receive(hint * (INFORMATIONAL_HEADS + 1))[-1], UpstreamProtocolError)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "without an answer"),
        (b"HTTP/1.1 2", "head"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "head"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na", "body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", "body"),
    ],
)
def test_end_of_the_application_inside_an_answer(data: bytes, word: str) -> None:
    """An answer cut short is an error that says where; it is never passed off as complete."""
    reader = waiting()
    reader.receive(data)
    (error,) = reader.receive_eof()
    assert isinstance(error, UpstreamClosed)
    assert word in str(error)
    assert not reader.finished
    assert not reader.keep_alive


def test_end_of_an_idle_application() -> None:
    """An idle connection that ends is no error, and no good any more."""
    reader = ResponseReader(65536, 100)
    assert reader.receive_eof() == []
    assert not reader.keep_alive


def test_tunnel_of_the_application() -> None:
    """What comes behind a 101 belongs to the tunnel, however it was split."""
    reader = waiting()
    reader.receive(b"HTTP/1.1 101 x\r\nUpgrade: y\r\n\r\n\x00")
    assert reader.receive(b"\x01") == []
    assert reader.open_tunnel() == b"\x00\x01"
    assert reader.receive_eof() == []


def test_repr_shows_the_state() -> None:
    """A reader in a log says where it is."""
    reader = new_reader()
    reader.receive(GET[:5])
    assert repr(reader) == "<RequestReader head buffered=5>"
    assert repr(waiting()) == "<ResponseReader head to b'GET' keep_alive=True>"


def test_later_requests_in_tiny_pieces_are_kept_in_few() -> None:
    """What the caller counts is about what they take in memory; nothing is lost, also behind the rest of a read."""
    reader = new_reader()
    waiting_ones = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(1000))
    assert len(reader.receive(GET + waiting_ones[:1])) == 1
    for start in range(1, len(waiting_ones), 2):
        reader.receive(waiting_ones[start : start + 2])
    assert reader.buffered == len(waiting_ones) and len(reader._later) < 20
    assert [event.path for _ in range(1000) for event in reader.next_message() if isinstance(event, RequestHead)] == [b"/%d" % number for number in range(1000)]
