"""Heads, bodies and trailers as they come in, and the rules broken on a stream (RFC 9113, sections 5, 6 and 8)."""

from __future__ import annotations

from typing import Any

import hpack
import pytest

from sidecar.codec.h2.connection import H2Connection
from sidecar.codec.h2.events import ConnectionFailed, LastChunk, StreamReset
from sidecar.codec.h2.frames import (
    ACK,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    HEADERS,
    LARGEST_STREAM_ID,
    PREFACE,
    PROTOCOL_ERROR,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    frame,
    reset_frame,
    window_update_frame,
)
from sidecar.codec.h2.limits import H2Limits
from sidecar.headers import Headers
from sidecar.message import END, End, RequestHead, ResponseHead
from tests.codec.h2.peers import GET, OK, POST, block, client, frames, headers, pair, pump, request, response, server, written

LENGTH_3 = [*POST, (b"content-length", b"3")]

# (name, what comes behind the preface, the error's code, the streams reset or None for the whole connection)
REFUSED: list[tuple[str, bytes, int, list[int] | None]] = [
    ("HEADERS on stream 0", headers(0, GET), PROTOCOL_ERROR, None),
    ("HEADERS on an even stream", headers(2, GET), PROTOCOL_ERROR, None),
    ("the reserved bit behind the last id", headers(LARGEST_STREAM_ID, GET) + headers(LARGEST_STREAM_ID + 2, GET), PROTOCOL_ERROR, None),
    ("a lower id, never used", headers(5, GET) + headers(3, GET), PROTOCOL_ERROR, None),
    ("padding longer than HEADERS", frame(HEADERS, 0xD, 1, b"\x20" + block(GET)), PROTOCOL_ERROR, None),
    ("padded HEADERS without octets", frame(HEADERS, 0xD, 1), FRAME_SIZE_ERROR, None),
    ("HEADERS too short for a priority", frame(HEADERS, 0x25, 1, b"abc"), FRAME_SIZE_ERROR, None),
    ("a stream that depends on itself", frame(HEADERS, 0x25, 1, b"\0\0\0\1\0" + block(GET)), PROTOCOL_ERROR, None),
    ("a block that cannot be decoded", frame(HEADERS, 5, 1, b"\xbe"), COMPRESSION_ERROR, None),
    ("a frame between HEADERS and CONTINUATION", frame(HEADERS, 1, 1, block(GET)) + frame(DATA, 0, 1), PROTOCOL_ERROR, None),
    ("CONTINUATION of another stream", frame(HEADERS, 1, 1, block(GET)) + frame(CONTINUATION, 4, 3), PROTOCOL_ERROR, None),
    ("CONTINUATION behind a whole head", headers(1, GET) + frame(CONTINUATION, 4, 1), PROTOCOL_ERROR, None),
    ("DATA on stream 0", frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR, None),
    ("DATA on an idle stream", frame(DATA, 0, 1, b"x"), PROTOCOL_ERROR, None),
    ("padding longer than DATA", headers(1, POST, 4) + frame(DATA, 8, 1, b"\x05abc"), PROTOCOL_ERROR, None),
    ("padded DATA without octets", headers(1, POST, 4) + frame(DATA, 8, 1), FRAME_SIZE_ERROR, None),
    ("DATA behind END_STREAM", headers(1, GET) + frame(DATA, 0, 1, b"x"), STREAM_CLOSED, [1]),
    ("HEADERS behind END_STREAM", headers(1, GET) + headers(1, GET), STREAM_CLOSED, [1]),
    ("DATA behind RST_STREAM", headers(1, POST, 4) + reset_frame(1, 8) + frame(DATA, 0, 1, b"x"), STREAM_CLOSED, [1]),
    ("HEADERS behind RST_STREAM", headers(1, POST, 4) + reset_frame(1, 8) + headers(1, GET), STREAM_CLOSED, [1]),
    ("a malformed head", headers(1, [*GET, (b"X", b"1")]), PROTOCOL_ERROR, [1]),
    ("Content-Length without a body", headers(1, LENGTH_3), PROTOCOL_ERROR, [1]),
    ("more than Content-Length", headers(1, LENGTH_3, 4) + frame(DATA, 0, 1, b"abcd"), PROTOCOL_ERROR, [1]),
    ("less than Content-Length", headers(1, LENGTH_3, 4) + frame(DATA, 1, 1, b"ab"), PROTOCOL_ERROR, [1]),
    ("less than Content-Length, trailers", headers(1, LENGTH_3, 4) + frame(DATA, 0, 1, b"ab") + headers(1, [(b"a", b"b")]), PROTOCOL_ERROR, [1]),
    ("trailers that end nothing", headers(1, POST, 4) + headers(1, [(b"a", b"b")], 4), PROTOCOL_ERROR, [1]),
    ("pseudo fields among trailers", headers(1, POST, 4) + headers(1, GET), PROTOCOL_ERROR, [1]),
    ("trailers on a tunnel", headers(1, [(b":method", b"CONNECT"), (b":authority", b"a:1")], 4) + headers(1, [(b"a", b"b")]), PROTOCOL_ERROR, [1]),
]


@pytest.mark.parametrize(("data", "code", "reset"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
def test_what_rfc_9113_refuses_is_refused_with_its_code(data: bytes, code: int, reset: list[int] | None) -> None:
    connection = server()
    events = connection.receive(data, 0.0)
    sent = frames(written(connection))
    if reset is None:
        assert isinstance(events[-1][1], ConnectionFailed) and events[-1][1].code == code
        assert connection.failed and connection.receive(headers(99, GET), 0.0) == []
    else:
        assert not connection.failed
        assert [(stream_id, payload) for kind, _, stream_id, payload in sent if kind == RST_STREAM] == [(each, code.to_bytes(4, "big")) for each in reset]
        assert isinstance(connection.receive(headers(99, GET), 0.0)[0][1], RequestHead), "other streams go on"


@pytest.mark.parametrize(("data", "kind"), [(frame(DATA, 0, 1, b"x"), DATA), (headers(1, GET), HEADERS)])
def test_a_frame_for_a_stream_that_both_ended_ends_the_connection(data: bytes, kind: int) -> None:
    connection = server()
    connection.receive(headers(1, GET), 0.0)
    connection.send_head(1, response(), True)
    assert connection.receive(window_update_frame(1, 5) + reset_frame(1, 8), 0.0) == [], "these may be late"
    ((_, event),) = connection.receive(data, 0.0)
    assert event.code == STREAM_CLOSED


def test_late_frames_for_a_stream_that_we_reset_are_ignored_but_their_blocks_and_octets_count() -> None:
    """RFC 9113, section 5.1: the table and the connection's window must stay right."""
    connection = server(H2Limits(connection_window=65_535))
    oracle = hpack.Encoder()
    connection.receive(frame(HEADERS, 4, 1, oracle.encode(POST)), 0.0)
    connection.reset(1, 8)
    connection.data_to_send()
    assert (
        connection.receive(b"".join(frame(DATA, 0, 1, b"x" * 10_000) for _ in range(4)) + frame(HEADERS, 5, 1, oracle.encode([(b"x-new", b"entry")])), 0.0)
        == []
    )
    assert [each[:3] for each in frames(written(connection))] == [(WINDOW_UPDATE, 0, 0)]
    ((_, head),) = connection.receive(frame(HEADERS, 5, 3, oracle.encode([*GET, (b"x-new", b"entry")])), 0.0)
    assert head.headers.get(b"x-new") == b"entry"


def test_data_beyond_a_streams_window_is_an_error_of_flow_control() -> None:
    connection = server(H2Limits(stream_window=65_535))
    connection.receive(headers(1, POST, 4) + b"".join(frame(DATA, 0, 1, bytes(13_107)) for _ in range(5)), 0.0)
    ((_, event),) = connection.receive(frame(DATA, 0, 1, b"x"), 0.0)
    assert isinstance(event, StreamReset) and event.code == FLOW_CONTROL_ERROR


def test_data_beyond_the_connections_window_is_an_error_of_flow_control() -> None:
    connection = server(H2Limits(stream_window=131_072, connection_window=65_535, frame_octets=65_536))
    connection.receive(headers(1, POST, 4) + frame(DATA, 0, 1, bytes(30_000)), 0.0)
    ((_, event),) = connection.receive(frame(DATA, 0, 1, bytes(36_000)), 0.0)
    assert isinstance(event, ConnectionFailed) and event.code == FLOW_CONTROL_ERROR


def test_a_window_smaller_than_the_default_counts_from_its_acknowledgement() -> None:
    connection = server(H2Limits(stream_window=1000))
    assert connection.settings_acked
    connection.receive(headers(1, POST, 4) + frame(DATA, 0, 1, bytes(1000)), 0.0)
    ((_, event),) = connection.receive(frame(DATA, 0, 1, b"x"), 0.0)
    assert event.code == FLOW_CONTROL_ERROR


def test_a_request_with_body_and_trailers_comes_in_order() -> None:
    connection = server()
    data = headers(1, LENGTH_3, 4) + frame(DATA, 8, 1, b"\x02ab\0\0") + frame(DATA, 0, 1, b"c") + headers(1, [(b"x-t", b"1")])
    (one, head), *rest, (_, end) = connection.receive(data, 0.0)
    assert one == 1 and isinstance(head, RequestHead) and head.content_length == 3 and not head.end_stream
    assert rest == [(1, b"abc")]
    assert isinstance(end, End) and end.trailers == Headers.of([(b"x-t", b"1")])


def test_small_chunks_of_one_stream_that_arrive_together_are_one() -> None:
    """Each chunk costs what comes behind the codec more than its octets do; large ones and those of other streams stay as they are."""
    connection = server()
    connection.receive(headers(1, POST, 4) + headers(3, POST, 4), 0.0)
    large = bytes(300)
    pieces = [(1, b"a"), (1, b"b"), (3, b"c"), (1, b"d"), (1, large), (1, b"e"), (1, large)]
    events = connection.receive(b"".join(frame(DATA, 0, stream_id, piece) for stream_id, piece in pieces), 0.0)
    assert events == [(1, b"ab"), (3, b"c"), (1, b"d"), (1, large + b"e"), (1, large)]
    events = connection.receive(frame(DATA, 0, 1, bytes(200)) * 100, 0.0)
    assert sum(len(chunk) for _, chunk in events) == 20_000 and max(len(chunk) for _, chunk in events) < 4_096 + 256


def test_a_smaller_window_counts_from_its_acknowledgement_on() -> None:
    """Also for what comes in the same octets."""
    connection = H2Connection(False, H2Limits(stream_window=1000))
    connection.start()
    connection.receive(PREFACE + frame(SETTINGS, 0, 0) + headers(1, POST, 4), 0.0)
    *_, (_, event) = connection.receive(frame(SETTINGS, ACK, 0) + frame(DATA, 0, 1, bytes(1001)), 0.0)
    assert isinstance(event, StreamReset) and event.code == FLOW_CONTROL_ERROR


def test_a_last_chunk_and_its_end_may_be_one() -> None:
    """Where that is asked for; an end without octets, and what takes more than a look, come as always."""
    connection = server()
    connection.joins_ends = True
    connection.receive(b"".join(headers(each, POST, 4) for each in (1, 3, 5)), 0.0)
    data = frame(DATA, 0, 1, b"a" * 300) + frame(DATA, 1, 1, b"bc") + frame(DATA, 1, 3) + frame(DATA, 9, 5, b"\x01d\0")
    (one, chunk), (two, last), *others = connection.receive(data, 0.0)
    assert (one, chunk, two, type(last), last.chunk) == (1, b"a" * 300, 1, LastChunk, b"bc")
    assert others == [(3, END), (5, b"d"), (5, END)]
    connection.receive(headers(7, LENGTH_3, 4) + headers(9, LENGTH_3, 4), 0.0)
    ((_, last), (_, event)) = connection.receive(frame(DATA, 1, 7, b"abc") + frame(DATA, 1, 9, b"ab"), 0.0)
    assert (last.chunk, event.code) == (b"abc", PROTOCOL_ERROR)


def test_padding_is_credited_at_once() -> None:
    connection = server()
    connection.receive(headers(1, POST, 4) + frame(DATA, 8, 1, b"\xff" + b"x" * 10 + bytes(255)), 0.0)
    stream = connection._streams[1]
    assert stream.window is None and (stream.taken, stream.given) == (266, 256)


def test_a_window_that_is_opened_late_knows_what_came_before() -> None:
    """Less than half a window needs no counting; from then on every octet is allowed, held or owed, those from before included."""
    connection = server()
    connection.receive(headers(1, POST, 4), 0.0)
    stream = connection._streams[1]
    size = connection._initial_window
    for _ in range(size // 2 // 10_000):
        connection.receive(frame(DATA, 0, 1, bytes(10_000)), 0.0)
    assert stream.window is None
    connection.consumed(1, 7_000)
    connection.receive(frame(DATA, 0, 1, bytes(10_000)), 0.0)
    window = stream.window
    assert window is not None
    came = stream.taken + 10_000
    assert (window.left, window.held, window.owed) == (size - came, came - 7_000, 7_000)
    while window.left >= 10_000:
        assert connection.receive(frame(DATA, 0, 1, bytes(10_000)), 0.0) == [(1, bytes(10_000))]
    ((_, event),) = connection.receive(frame(DATA, 0, 1, bytes(10_000)), 0.0)
    assert event.code == FLOW_CONTROL_ERROR


def test_a_short_body_cannot_pass_the_window_with_its_end() -> None:
    """Whatever was let through uncounted before counts when the last frame comes."""
    connection = server(H2Limits(stream_window=65_535, frame_octets=65_536))
    connection.receive(headers(1, POST, 4), 0.0)
    connection.receive(frame(DATA, 0, 1, bytes(30_000)), 0.0)
    ((_, event),) = connection.receive(frame(DATA, 1, 1, bytes(40_000)), 0.0)
    assert event.code == FLOW_CONTROL_ERROR


def test_a_priority_in_headers_is_passed_over() -> None:
    ((_, head),) = server().receive(frame(HEADERS, 0x2D, 1, b"\x01" + b"\x80\0\0\3\xff" + block(GET) + b"\0"), 0.0)
    assert head.path == b"/"


def answered(asked: RequestHead, *sent: bytes) -> list[Any]:
    ours = client(settings=b"\0\x08\0\0\0\x01")
    ours.open_stream()
    ours.send_head(1, asked, True) if asked.upgrade is None and asked.method != b"CONNECT" else ours.send_head(1, asked, False)
    return [event for _, event in ours.receive(b"".join(sent), 0.0)]


def test_responses_say_how_their_bodies_end() -> None:
    for_head = answered(request(b"HEAD"), headers(1, [*OK, (b"content-length", b"10")]))
    assert [(each.content_length, each.end_stream) for each in for_head] == [(10, True)]
    not_modified = answered(request(), headers(1, [(b":status", b"304"), (b"content-length", b"10")]))
    assert [(each.content_length, each.end_stream) for each in not_modified] == [(10, True)]
    empty = answered(request(), headers(1, OK))
    assert [(each.content_length, each.end_stream) for each in empty] == [(0, True)]
    unknown = answered(request(), headers(1, OK, 4), frame(DATA, 1, 1))
    assert unknown[0].content_length is None and unknown[1] is END


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (request(), [headers(1, [*OK, (b"content-length", b"10")])]),
        (request(), [headers(1, [*OK, (b"content-length", b"1")], 4), frame(DATA, 1, 1, b"xy")]),
        (request(b"HEAD"), [headers(1, OK, 4), frame(DATA, 1, 1, b"x")]),
        (request(), [headers(1, [(b":status", b"204")], 4), frame(DATA, 1, 1, b"x")]),
        (request(), [frame(DATA, 1, 1, b"x")]),
        (request(), [headers(1, [(b":status", b"103")])]),
        (request(), [headers(1, OK, 4), headers(1, OK, 4)]),
        (request(), [headers(1, GET)]),
    ],
)
def test_malformed_answers_reset_their_stream(asked: RequestHead, sent: list[bytes]) -> None:
    """RFC 9113, section 8.1."""
    event = answered(asked, *sent)[-1]
    assert isinstance(event, StreamReset) and event.code == PROTOCOL_ERROR and not event.by_peer and not event.retry_safe


def test_informational_heads_come_before_the_final_one() -> None:
    first, second, third = answered(request(), headers(1, [(b":status", b"100")], 4), headers(1, [(b":status", b"103"), (b"link", b"a")], 4), headers(1, OK))
    assert [(each.status, each.is_informational) for each in (first, second, third)] == [(100, True), (103, True), (200, False)]


def test_an_upgrade_crosses_as_an_extended_connect() -> None:
    """RFC 8441: a GET with `upgrade` on both sides, 101 on both sides, and octets both ways."""
    ours, theirs = pair()
    ours.open_stream()
    ours.send_head(1, request(upgrade=b"websocket"), False)
    ((_, asked),) = pump(ours, theirs)[1]
    assert (asked.method, asked.upgrade, asked.end_stream) == (b"GET", b"websocket", False)
    theirs.send_head(1, response(101, upgrade=b"websocket"), False)
    ((_, told),) = pump(ours, theirs)[0]
    assert isinstance(told, ResponseHead) and (told.status, told.upgrade) == (101, b"websocket")
    ours.send_data(1, b"there")
    theirs.send_data(1, b"back")
    theirs.send_end(1)
    assert pump(ours, theirs) == ([(1, b"back"), (1, END)], [(1, b"there")])


def test_a_refused_upgrade_is_an_ordinary_answer() -> None:
    (told,) = answered(request(upgrade=b"websocket"), headers(1, [(b":status", b"403"), (b"content-length", b"0")]))
    assert (told.status, told.upgrade, told.content_length) == (403, None, 0)


def test_a_connect_is_a_tunnel_whatever_length_its_answer_claims() -> None:
    told = answered(RequestHead(b"CONNECT", b"", b"a:1", Headers()), headers(1, [*OK, (b"content-length", b"0")], 4), frame(DATA, 1, 1, b"octets"))
    assert told[0].content_length is None and told[1:] == [b"octets", END]


def test_a_repeated_head_gives_heads_of_their_own() -> None:
    connection = server()
    first, second, third = (connection.receive(headers(each, GET), 0.0)[0][1] for each in (1, 3, 5))
    second.headers.add(b"x-a", b"1")
    assert first.headers == third.headers != second.headers and first is not third


def test_a_body_that_comes_whole_has_no_window() -> None:
    """No credit will ever be due, so nothing is counted for it; but more than the window is refused all the same."""
    connection = server(H2Limits(stream_window=100_000))
    connection.receive(headers(1, POST, 4) + frame(DATA, 1, 1, b"whole") + headers(3, POST, 4) + 4 * frame(DATA, 0, 3, bytes(16_000)), 0.0)
    assert connection._streams[1].window is None and connection._streams[3].window is not None
    connection.consumed(1, 5)
    assert connection.data_to_send() == []
    small = server(H2Limits(stream_window=65_535, frame_octets=16_384))
    data = headers(1, POST, 4) + frame(DATA, 0, 1, bytes(16_384)) * 3 + frame(DATA, 1, 1, bytes(16_384))
    assert any(isinstance(event, StreamReset) and event.code == FLOW_CONTROL_ERROR for _, event in small.receive(data, 0.0))


def test_a_head_that_comes_again_is_known_by_fields_that_stay_as_they_are() -> None:
    """Writers keep octets by these fields, so whatever is made of one head's fields must not change them."""
    connection = server()
    block = b"\x82\x86\x84\x01\x01a\x00\x01x\x01y"
    heads = [connection.receive(frame(HEADERS, 5, stream_id, block), 0.0)[0][1] for stream_id in (1, 3, 5, 7)]
    known = heads[-1].known
    assert heads[0].known is None and known is not None and heads[-2].known is known
    before = [*known]
    heads[-2].headers.fields.append((b"x-added", b"1", b"x-added: 1\r\n"))
    heads[-1].headers.remove(b"host")
    assert known == before == connection.receive(frame(HEADERS, 5, 9, block), 0.0)[0][1].headers.fields


def test_an_end_without_octets_is_an_end_and_nothing_more() -> None:
    """Also behind octets of another stream."""
    connection = server()
    connection.receive(headers(1, POST, 4) + headers(3, POST, 4), 0.0)
    assert connection.receive(frame(DATA, 0, 1, b"x" * 100) + frame(DATA, 1, 3), 0.0) == [(1, b"x" * 100), (3, END)]
