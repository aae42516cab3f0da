"""The connection as a whole: preface, control frames, and what ends it (RFC 9113, sections 3.4, 4 and 6)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from sidecar.codec.h2.connection import H2Connection
from sidecar.codec.h2.events import ConnectionFailed, GoAwayReceived, SettingsChanged, StreamReset, WindowOpened
from sidecar.codec.h2.frames import (
    DATA,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    goaway_frame,
    reset_frame,
    window_update_frame,
)
from sidecar.headers import Headers
from sidecar.message import End, RequestHead
from tests.codec.h2.peers import GET, POST, client, frames, headers, pair, pump, request, response, server, written


def setting(name: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, name.to_bytes(2, "big") + value.to_bytes(4, "big"))


# (name, what comes behind the preface, the error's code, the streams reset or None for the whole connection)
REFUSED: list[tuple[str, bytes, int, list[int] | None]] = [
    ("a frame larger than announced", frame(DATA, 0, 1, bytes(16_385))[:9], FRAME_SIZE_ERROR, None),
    ("PRIORITY on stream 0", frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR, None),
    ("PRIORITY of 4 octets", frame(PRIORITY, 0, 1, bytes(4)), FRAME_SIZE_ERROR, None),
    ("PRIORITY of 6 octets on a stream", headers(1, POST, 4) + frame(PRIORITY, 0, 1, bytes(6)), FRAME_SIZE_ERROR, [1]),
    ("PRIORITY on itself", frame(PRIORITY, 0, 3, b"\0\0\0\3\0"), PROTOCOL_ERROR, None),
    ("RST_STREAM on stream 0", reset_frame(0, 8), PROTOCOL_ERROR, None),
    ("RST_STREAM on an idle stream", reset_frame(1, 8), PROTOCOL_ERROR, None),
    ("RST_STREAM on an even stream", reset_frame(2, 8), PROTOCOL_ERROR, None),
    ("RST_STREAM of 3 octets", headers(1, GET) + frame(RST_STREAM, 0, 1, bytes(3)), FRAME_SIZE_ERROR, None),
    ("SETTINGS on a stream", frame(SETTINGS, 0, 1), PROTOCOL_ERROR, None),
    ("SETTINGS of 5 octets", frame(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR, None),
    ("an acknowledgement with octets", frame(SETTINGS, 1, 0, bytes(6)), FRAME_SIZE_ERROR, None),
    ("ENABLE_PUSH 2", setting(2, 2), PROTOCOL_ERROR, None),
    ("INITIAL_WINDOW_SIZE 2^31", setting(4, 2**31), FLOW_CONTROL_ERROR, None),
    ("MAX_FRAME_SIZE too small", setting(5, 16_383), PROTOCOL_ERROR, None),
    ("MAX_FRAME_SIZE too large", setting(5, 2**24), PROTOCOL_ERROR, None),
    ("ENABLE_CONNECT_PROTOCOL 2", setting(8, 2), PROTOCOL_ERROR, None),
    ("ENABLE_CONNECT_PROTOCOL taken back", setting(8, 1) + setting(8, 0), PROTOCOL_ERROR, None),
    ("PUSH_PROMISE", headers(1, GET) + frame(PUSH_PROMISE, 4, 1, bytes(4)), PROTOCOL_ERROR, None),
    ("PING on a stream", frame(PING, 0, 1, bytes(8)), PROTOCOL_ERROR, None),
    ("PING of 7 octets", frame(PING, 0, 0, bytes(7)), FRAME_SIZE_ERROR, None),
    ("GOAWAY on a stream", frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR, None),
    ("GOAWAY of 7 octets", frame(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR, None),
    ("WINDOW_UPDATE of 3 octets", frame(WINDOW_UPDATE, 0, 0, bytes(3)), FRAME_SIZE_ERROR, None),
    ("WINDOW_UPDATE of nothing", window_update_frame(0, 0), PROTOCOL_ERROR, None),
    ("WINDOW_UPDATE of nothing on a stream", headers(1, GET) + window_update_frame(1, 0), PROTOCOL_ERROR, [1]),
    ("WINDOW_UPDATE on an idle stream", window_update_frame(1, 1), PROTOCOL_ERROR, None),
    ("a window beyond 2^31-1", window_update_frame(0, 2**31 - 1), FLOW_CONTROL_ERROR, None),
    ("a stream's window beyond 2^31-1", headers(1, GET) + window_update_frame(1, 2**31 - 1), FLOW_CONTROL_ERROR, [1]),
    ("SETTINGS that push a window beyond 2^31-1", headers(1, GET) + window_update_frame(1, 1) + setting(4, 2**31 - 1), FLOW_CONTROL_ERROR, None),
]


@pytest.mark.parametrize(("data", "code", "reset"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
def test_what_rfc_9113_refuses_is_refused_with_its_code(data: bytes, code: int, reset: list[int] | None) -> None:
    connection = server()
    last = connection.receive(data, 0.0)[-1][1]
    assert last.code == code
    sent = frames(written(connection))
    if reset is None:
        assert isinstance(last, ConnectionFailed) and connection.failed
        assert sent[-1][0] == GOAWAY and sent[-1][3][4:8] == code.to_bytes(4, "big")
    else:
        assert isinstance(last, StreamReset) and not connection.failed
        assert [each[2] for each in sent if each[0] == RST_STREAM] == reset


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n", b"P", PREFACE[:-1] + b"\r", PREFACE + frame(PING, 0, 0, bytes(8)), PREFACE + frame(SETTINGS, 1, 0), PREFACE + headers(1, GET)],
)
def test_a_wrong_preface_is_refused_as_soon_as_it_can_be(data: bytes) -> None:
    """RFC 9113, section 3.4."""
    connection = H2Connection(False)
    events = connection.receive(data, 0.0)
    if data == b"P":
        assert events == []
    else:
        assert [event.code for _, event in events] == [PROTOCOL_ERROR]


@pytest.mark.parametrize(
    "data", [setting(2, 1), headers(2, GET), headers(1, GET), frame(DATA, 0, 1, b"x"), window_update_frame(1, 1), b"HTTP/1.1 400 Bad Request\r\n"]
)
def test_a_client_refuses_what_no_server_may_send(data: bytes) -> None:
    ((_, event),) = client().receive(data, 0.0)
    assert isinstance(event, ConnectionFailed)


def test_settings_are_acknowledged_and_in_force() -> None:
    connection = server()
    ((stream_id, event),) = connection.receive(frame(SETTINGS, 0, 0, bytes.fromhex("000300000007 000500008000 00ff00000001 000600001000")), 0.0)
    assert stream_id == 0 and isinstance(event, SettingsChanged)
    assert (connection.peer.concurrent_streams, connection.peer.frame_octets, connection.peer.header_list_octets) == (7, 32_768, 4096)
    assert frames(written(connection)) == [(SETTINGS, 1, 0, b"")]


def test_a_table_that_shrinks_and_grows_in_one_frame_is_told_as_both() -> None:
    connection = server()
    connection.receive(headers(1, GET) + frame(SETTINGS, 0, 0, bytes.fromhex("000100000000 000100001000")), 0.0)
    connection.data_to_send()
    connection.send_head(1, response(), True)
    assert frames(written(connection))[0][3].hex() == "203fe11f88"


def test_frames_of_unknown_types_and_flags_are_passed_over() -> None:
    """RFC 9113, sections 4.1 and 5.5."""
    assert [type(event) for _, event in server().receive(frame(0xBE, 0xFF, 5, b"x") + headers(1, GET, 0xD5 & ~0x28), 0.0)] == [RequestHead]


def test_goaway_gives_back_the_streams_that_the_peer_did_not_take() -> None:
    """RFC 9113, section 6.8: they may be sent again on another connection."""
    ours = client()
    for _ in range(3):
        stream_id = ours.open_stream()
        assert stream_id
        ours.send_head(stream_id, request(), True)
    first, second, last = ours.receive(goaway_frame(1, 0, b"bye"), 0.0)
    assert [(stream_id, event.retry_safe) for stream_id, event in (first, second)] == [(3, True), (5, True)]
    assert isinstance(last[1], GoAwayReceived) and (last[1].last_stream_id, last[1].debug) == (1, b"bye")
    assert ours.open_stream() is None and ours.open_streams == 1
    assert isinstance(ours.receive(headers(1, [(b":status", b"200")]), 0.0)[0][1].status, int)


def test_a_reset_by_the_peer_ends_the_stream() -> None:
    connection = server()
    (_, (stream_id, event)) = connection.receive(headers(1, POST, 4) + reset_frame(1, 8), 0.0)
    assert stream_id == 1 and event.by_peer and event.code == 8 and connection.open_streams == 0


def test_an_opened_window_is_told_for_the_streams_that_wait() -> None:
    connection = server()
    connection.receive(headers(1, GET), 0.0)
    connection.send_head(1, response(), False)
    connection.send_data(1, b"x" * 70_000)
    connection.data_to_send()
    assert connection.receive(window_update_frame(0, 10_000), 0.0) == []
    ((stream_id, event),) = connection.receive(window_update_frame(1, 10_000), 0.0)
    assert stream_id == 0 and isinstance(event, WindowOpened) and event.stream_ids == [1]


WHOLE = (
    PREFACE
    + frame(SETTINGS, 0, 0)
    + headers(1, POST, 4)
    + frame(DATA, 0, 1, b"body" * 50)
    + frame(PING, 0, 0, b"12345678")
    + headers(3, GET, 1)[:-5].replace(headers(3, GET, 1)[:3], (len(headers(3, GET, 1)) - 14).to_bytes(3, "big"), 1)
    + frame(9, 4, 3, headers(3, GET, 1)[-5:])
    + headers(1, [(b"x-t", b"1")])
    + frame(SETTINGS, 1, 0)
)


@given(st.lists(st.integers(0, len(WHOLE)), max_size=30))
def test_any_chunking_tells_the_same(cuts: list[int]) -> None:
    def told(cuts: list[int]) -> tuple[list[str], bytes]:
        connection = H2Connection(False)
        events = []
        points = [0, *sorted(cuts), len(WHOLE)]
        for start, stop in pairwise(points):
            events += connection.receive(WHOLE[start:stop], 0.0)
        return [repr(event) if not isinstance(event[1], End) else f"{event[0]} end {event[1].trailers}" for event in events], written(connection)

    assert told(cuts) == told([])
    assert len(told([])[0]) == 5


@given(st.binary(max_size=300))
def test_no_octets_raise(data: bytes) -> None:
    server().receive(data, 0.0)
    client().receive(data, 0.0)


def test_two_of_our_own_exchange_messages() -> None:
    ours, theirs = pair()
    for number in range(50):
        stream_id = ours.open_stream()
        assert stream_id == 2 * number + 1
        ours.send_head(stream_id, request(b"POST", pairs=[(b"x-n", b"%d" % number), (b"authorization", b"s")], content_length=None), False)
        ours.send_data(stream_id, b"a" * 100_000)
        ours.send_end(stream_id, Headers.of([(b"x-sum", b"1")]))
        asked = pump(ours, theirs)[1]
        head = asked[0][1]
        assert isinstance(head, RequestHead) and head.headers.get(b"x-n") == b"%d" % number
        got = b"".join(event for _, event in asked if isinstance(event, bytes))
        theirs.consumed(stream_id, len(got))
        for _, event in pump(ours, theirs)[1]:
            if isinstance(event, bytes):
                got += event
                theirs.consumed(stream_id, len(event))
        assert got == b"a" * 100_000
        theirs.send_informational(stream_id, response(103))
        theirs.send_head(stream_id, response(200, [(b"content-type", b"a/b")]), False)
        theirs.send_data(stream_id, b"b" * 10)
        theirs.send_end(stream_id, Headers.of([(b"grpc-status", b"0")]))
        told = [event for _, event in pump(ours, theirs)[0]]
        assert [told[0].status, told[1].status, told[2], told[3].trailers.get(b"grpc-status")] == [103, 200, b"b" * 10, b"0"]
        ours.consumed(stream_id, 10)
    assert ours.open_streams == theirs.open_streams == 0
