"""Heads, bodies and trailers as they go out: order, windows, turns, endings, credit."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sidecar.codec.h2.connection import H2Connection
from sidecar.codec.h2.frames import (
    CONTINUATION,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    LARGEST_STREAM_ID,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    read_settings,
    window_update_frame,
)
from sidecar.codec.h2.limits import H2Limits
from sidecar.headers import Headers
from tests.codec.h2.peers import GET, POST, client, frames, headers, pair, pump, request, response, server, written


def setting(name: int, value: int) -> bytes:
    return name.to_bytes(2, "big") + value.to_bytes(4, "big")


def test_the_preface_comes_first_with_settings_and_credit() -> None:
    """RFC 9113, section 3.4."""
    connection = H2Connection(True)
    connection.start()
    data = written(connection)
    assert data.startswith(PREFACE)
    first, second = frames(data[len(PREFACE) :])
    assert (first[0], dict(read_settings(first[3]))[2]) == (SETTINGS, 0)
    assert second == (WINDOW_UPDATE, 0, 0, (1_048_576 - 65_535).to_bytes(4, "big"))


def test_an_answer_is_headers_and_data_with_the_end_on_the_last() -> None:
    connection = server()
    connection.receive(headers(1, GET), 0.0)
    connection.send_head(1, response(), False)
    assert connection.send_data(1, b"abc") == 0
    connection.send_end(1)
    sent = frames(written(connection))
    assert [(kind, flags, payload) for kind, flags, _, payload in sent[1:]] == [(DATA, END_STREAM, b"abc")]
    assert connection.open_streams == 0


@pytest.mark.parametrize("chunk", [b"abc", b"", bytes(20_000)], ids=["at once", "nothing", "queued"])
def test_a_chunk_may_be_sent_with_its_end(chunk: bytes) -> None:
    connection = server()
    connection.receive(headers(1, GET), 0.0)
    connection.send_head(1, response(), False)
    connection.send_data(1, chunk, True)
    sent = frames(written(connection))
    assert [flags & END_STREAM for _, flags, *_ in sent] == [0] * (len(sent) - 1) + [END_STREAM]
    assert b"".join(payload for kind, _, _, payload in sent if kind == DATA) == chunk
    assert connection.open_streams == 0
    assert connection.send_data(1, b"too late", True) == 0 and not written(connection)


def test_nothing_may_follow_a_chunk_sent_with_its_end() -> None:
    connection = server()
    connection.receive(headers(1, POST, 4), 0.0)
    connection.send_head(1, response(), False)
    connection.send_data(1, b"abc", True)
    with pytest.raises(RuntimeError):
        connection.send_data(1, b"d", True)


def test_an_end_is_never_set_on_a_head_before_the_last_one() -> None:
    """The final head went out in several frames behind a 103 in the same batch: the end is a frame of its own."""
    connection = server()
    connection.receive(headers(1, GET), 0.0)
    connection.send_informational(1, response(103))
    connection.send_head(1, response(200, [(b"x-long", b"v" * 20_000)]), False)
    connection.send_end(1)
    sent = [(kind, flags) for kind, flags, _, _ in frames(written(connection))]
    assert sent == [(HEADERS, 4), (HEADERS, 0), (CONTINUATION, 4), (DATA, END_STREAM)]


def test_an_answer_without_body_is_one_frame_also_when_its_end_comes_later() -> None:
    connection = server()
    connection.receive(headers(1, GET) + headers(3, GET), 0.0)
    connection.send_head(1, response(), True)
    connection.send_head(3, response(), False)
    connection.send_end(3)
    assert [(kind, flags & END_STREAM, stream_id) for kind, flags, stream_id, _ in frames(written(connection))] == [(HEADERS, 1, 1), (HEADERS, 1, 3)]


def test_an_end_behind_a_batch_is_a_frame_of_its_own() -> None:
    connection = server()
    connection.receive(headers(1, GET), 0.0)
    connection.send_head(1, response(), False)
    connection.send_data(1, b"abc")
    connection.data_to_send()
    connection.send_end(1)
    assert frames(written(connection)) == [(DATA, END_STREAM, 1, b"")]


def test_trailers_end_the_stream_behind_what_is_queued() -> None:
    connection = server()
    connection.receive(headers(1, GET), 0.0)
    connection.send_head(1, response(), False)
    assert connection.send_data(1, b"x" * 70_000) == 70_000
    connection.send_end(1, Headers.of([(b"grpc-status", b"0")]))
    assert sum(len(payload) for kind, _, _, payload in frames(written(connection)) if kind == DATA) == 65_535
    connection.receive(window_update_frame(1, 9999) + window_update_frame(0, 9999), 0.0)
    first, second = frames(written(connection))
    assert (first[0], len(first[3]), first[1]) == (DATA, 70_000 - 65_535, 0)
    assert (second[0], second[1] & END_STREAM) == (HEADERS, END_STREAM)
    assert connection.take_drained() == [1]


def test_a_large_head_goes_out_in_continuation_frames_in_one_piece() -> None:
    ours = client()
    stream_id = ours.open_stream()
    assert stream_id == 1
    ours.send_head(1, request(pairs=[(b"x-big", b"v" * 40_000)]), True)
    sent = frames(written(ours))
    assert [(kind, flags) for kind, flags, _, _ in sent] == [(HEADERS, END_STREAM), (CONTINUATION, 0), (CONTINUATION, 4)]
    assert server().receive(b"".join(frame(*each[:3], each[3]) for each in sent), 0.0)[0][1].headers.get(b"x-big") == b"v" * 40_000


def test_waiting_streams_take_turns() -> None:
    connection = server()
    connection.receive(b"".join(headers(each, GET) for each in (1, 3, 5)) + window_update_frame(0, 1_000_000), 0.0)
    for stream_id in (1, 3, 5):
        connection.send_head(stream_id, response(), False)
        connection.send_data(stream_id, b"x" * 40_000)
    order = [stream_id for kind, _, stream_id, _ in frames(written(connection)) if kind == DATA]
    assert order == [1, 3, 5] * 3


def test_a_blocked_stream_stops_no_other() -> None:
    connection = server()
    connection.receive(headers(1, GET) + headers(3, GET) + window_update_frame(0, 1_000_000), 0.0)
    for stream_id in (1, 3):
        connection.send_head(stream_id, response(), False)
    connection.send_data(1, b"x" * 100_000)
    connection.data_to_send()
    assert connection.send_data(3, b"free") == 0
    assert frames(written(connection)) == [(DATA, 0, 3, b"free")]


def test_a_batch_may_be_bounded() -> None:
    connection = server()
    connection.receive(headers(1, GET), 0.0)
    connection.send_head(1, response(), False)
    connection.send_data(1, b"x" * 60_000)
    assert sum(len(each[3]) for each in frames(b"".join(connection.data_to_send(16_000))) if each[0] == DATA) == 16_375
    assert connection.wants_write


def test_a_long_chunk_goes_out_in_frames_that_fill_tls_records() -> None:
    """Each has 16 KiB with its head, and is a view of the chunk."""
    connection = server()
    connection.receive(headers(1, GET) + window_update_frame(0, 1_000_000) + window_update_frame(1, 1_000_000), 0.0)
    connection.send_head(1, response(), False)
    connection.data_to_send()
    chunk = bytes(range(256)) * 256
    connection.send_data(1, chunk)
    out = connection.data_to_send()
    assert [len(payload) for payload in out[1::2]] == [16_375] * 4 + [36] and all(type(each) is memoryview for each in out[1::2])
    assert b"".join(out[1::2]) == chunk and all(kind == DATA for kind, *_ in frames(b"".join(out)))


def test_a_chunk_that_fits_is_not_copied() -> None:
    connection = server()
    connection.receive(headers(1, GET), 0.0)
    chunk = b"x" * 10_000
    connection.send_head(1, response(), False)
    connection.send_data(1, chunk)
    assert any(each is chunk for each in connection.data_to_send())


def test_settings_change_the_windows_of_open_streams() -> None:
    """RFC 9113, section 6.9.2: also below zero."""
    connection = server()
    connection.receive(headers(1, GET), 0.0)
    connection.send_head(1, response(), False)
    connection.send_data(1, b"x" * 1000)
    connection.receive(frame(SETTINGS, 0, 0, setting(4, 400)), 0.0)
    assert connection.send_data(1, b"yz") == 2
    connection.data_to_send()
    connection.receive(window_update_frame(1, 600), 0.0)
    assert frames(written(connection)) == []
    ((_, event),) = connection.receive(window_update_frame(1, 1), 0.0)
    assert event.stream_ids == [1]
    assert frames(written(connection)) == [(DATA, 0, 1, b"y")]


@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from([1, 3, 5]), st.integers(1, 50_000)), max_size=60))
def test_nothing_is_ever_sent_beyond_a_window_and_nothing_is_lost(steps: list[tuple[int, int, int]]) -> None:
    connection = server()
    connection.receive(b"".join(headers(each, GET) for each in (1, 3, 5)), 0.0)
    given = {0: 65_535, 1: 65_535, 3: 65_535, 5: 65_535}
    queued = {1: 0, 3: 0, 5: 0}
    got = {1: 0, 3: 0, 5: 0}
    initial = 65_535
    for stream_id in queued:
        connection.send_head(stream_id, response(), False)
    for action, stream_id, octets in steps:
        if action <= 2:
            connection.send_data(stream_id, b"x" * octets)
            queued[stream_id] += octets
        elif action == 3:
            connection.receive(window_update_frame(stream_id, octets), 0.0)
            given[stream_id] += octets
        elif action == 4:
            connection.receive(window_update_frame(0, octets), 0.0)
            given[0] += octets
        elif action == 5:
            connection.receive(frame(SETTINGS, 0, 0, setting(4, octets)), 0.0)
            for each in queued:
                given[each] += octets - initial
            initial = octets
        for kind, _, each, payload in frames(written(connection)):
            if kind == DATA:
                got[each] += len(payload)
                given[each] -= len(payload)
                given[0] -= len(payload)
                assert given[each] >= 0 and given[0] >= 0 and len(payload) <= 16_384
    for each in queued:
        assert queued[each] - got[each] == connection.queued(each)
        assert not connection.queued(each) or given[each] <= 0 or given[0] <= 0, "what may be sent is sent"


def test_streams_are_opened_up_to_the_peers_limit() -> None:
    ours = client(settings=setting(3, 2))
    assert [ours.open_stream() for _ in range(3)] == [1, 3, None]
    ours.reset(1, 8)
    assert ours.open_stream() == 5


def test_ids_run_out_without_an_error() -> None:
    ours = client()
    ours._next_stream = LARGEST_STREAM_ID
    assert ours.open_stream() == LARGEST_STREAM_ID
    assert ours.open_stream() is None


def test_a_reset_drops_what_is_queued_and_is_said_once() -> None:
    connection = server()
    connection.receive(headers(1, GET), 0.0)
    connection.send_head(1, response(), False)
    connection.send_data(1, b"x" * 100_000)
    connection.data_to_send()
    connection.reset(1, 8)
    connection.reset(1, 8)
    connection.send_data(1, b"in vain")
    connection.send_end(1)
    assert frames(written(connection)) == [(RST_STREAM, 0, 1, b"\0\0\0\x08")]
    assert not connection.receive(window_update_frame(0, 100_000), 0.0)
    assert written(connection) == b""


def test_our_own_mistakes_are_loud() -> None:
    connection = server()
    connection.receive(headers(1, POST, 4), 0.0)
    connection.send_head(1, response(), False)
    with pytest.raises(RuntimeError):
        connection.send_head(1, response(), False)
    with pytest.raises(RuntimeError):
        connection.send_informational(1, response(103))
    connection.send_end(1)
    for call in (lambda: connection.send_data(1, b"x"), lambda: connection.send_end(1)):
        with pytest.raises(RuntimeError):
            call()
    with pytest.raises(ValueError):
        connection.ping(b"short")


def test_credit_follows_delivery() -> None:
    """A stream's window comes back when the octets have left on the other side, not when they came in."""
    connection = server(H2Limits(stream_window=65_535))
    connection.receive(headers(1, POST, 4), 0.0)
    connection.receive(b"".join(frame(DATA, 0, 1, b"x" * 13_107) for _ in range(5)), 0.0)
    assert written(connection) == b""
    connection.consumed(1, 30_000)
    assert written(connection) == b""
    connection.consumed(1, 30_000)
    assert frames(written(connection)) == [(WINDOW_UPDATE, 0, 1, (60_000).to_bytes(4, "big"))]


def test_the_connections_credit_follows_receipt() -> None:
    """Octets that wait for the slow reader of one stream take nothing from the other streams."""
    connection = server(H2Limits(stream_window=65_535, connection_window=65_535))
    connection.receive(headers(1, POST, 4) + b"".join(frame(DATA, 0, 1, b"x" * 10_000) for _ in range(4)), 0.0)
    assert frames(written(connection)) == [(WINDOW_UPDATE, 0, 0, (40_000).to_bytes(4, "big"))]


def test_credit_of_an_ended_stream_is_not_sent() -> None:
    connection = server(H2Limits(stream_window=65_535))
    connection.receive(headers(1, POST, 4) + b"".join(frame(DATA, each == 3, 1, b"x" * 10_000) for each in range(4)), 0.0)
    connection.consumed(1, 40_000)
    connection.send_head(1, response(), True)
    connection.data_to_send()
    connection.consumed(1, 99_000)
    assert written(connection) == b""


def test_streams_that_nobody_reads_stop_no_other() -> None:
    """All windows but one are full; the last stream still moves more than the connection's window."""
    ours, theirs = pair(H2Limits(stream_window=65_535, connection_window=65_535))
    full = [ours.open_stream() for _ in range(99)]
    for stream_id in full:
        ours.send_head(stream_id, request(b"POST", content_length=None), False)
        ours.send_data(stream_id, b"x" * 100_000)
    pump(ours, theirs)
    last = ours.open_stream()
    ours.send_head(last, request(b"POST", content_length=None), False)
    ours.send_data(last, b"y" * 500_000)
    got = 0
    for _ in range(100):
        for stream_id, event in pump(ours, theirs)[1]:
            if stream_id == last and isinstance(event, bytes):
                theirs.consumed(last, len(event))
                got += len(event)
    assert got == 500_000


def test_windows_of_streams_grow_within_what_the_connection_may_hold() -> None:
    """A peer that makes all of them grow and then has nobody read them gets no more than the connection's share; ended streams give theirs back."""
    limits = H2Limits(stream_window=65_535, stream_window_most=400_000, grown_windows=500_000)
    ours, theirs = pair(limits)

    def grow(stream_id: int) -> int:
        ours.send_head(stream_id, request(b"POST", content_length=None), False)
        ours.send_data(stream_id, b"x" * 4_000_000)
        for _ in range(300):
            for each, event in pump(ours, theirs)[1]:
                if isinstance(event, bytes):
                    theirs.consumed(each, len(event))
        window = theirs._streams[stream_id].window
        assert window is not None
        return window.size

    first, *others = [ours.open_stream() for _ in range(4)]
    assert first is not None
    assert grow(first) == 400_000
    assert sum(grow(each) for each in others if each is not None) == 3 * 65_535 + 500_000 - (400_000 - 65_535)
    theirs.reset(first, 8)
    pump(ours, theirs)
    (later,) = [ours.open_stream()]
    assert later is not None and grow(later) == 400_000


def test_streams_that_do_not_move_are_reported_with_since_when() -> None:
    connection = server()
    connection.receive(headers(1, GET) + headers(3, GET) + window_update_frame(0, 1_000_000), 0.0)
    for stream_id in (1, 3):
        connection.send_head(stream_id, response(), False)
        connection.send_data(stream_id, b"x" * 100_000)
    connection.data_to_send()
    assert connection.stalled(10.0) == []
    connection.receive(window_update_frame(1, 1) + window_update_frame(3, 5000), 11.0)
    connection.data_to_send()
    assert connection.stalled(20.0) == [(1, 10.0)]
    assert connection.stalled(30.0) == [(1, 10.0), (3, 20.0)]


def test_draining_takes_two_steps() -> None:
    """RFC 9113, section 6.8."""
    connection = server()
    connection.goaway(0, LARGEST_STREAM_ID)
    assert [type(event).__name__ for _, event in connection.receive(headers(1, GET), 0.0)] == ["RequestHead"]
    connection.goaway()
    assert [each[3][:4] for each in frames(written(connection)) if each[0] == GOAWAY] == [b"\x7f\xff\xff\xff", b"\0\0\0\1"]
    assert connection.receive(headers(3, POST, 4) + frame(DATA, 1, 3, b"abc"), 0.0) == []
    assert (connection.open_streams, connection.counters["streams_ignored"]) == (1, 1)


def test_a_ping_is_answered_with_its_octets() -> None:
    ours, theirs = pair()
    ours.ping(b"12345678")
    (((_, event),), _) = pump(ours, theirs)
    assert event.payload == b"12345678"
    assert frames(written(theirs)) == []
    theirs.receive(frame(PING, 0, 0, b"abcdefgh"), 0.0)
    assert frames(written(theirs)) == [(PING, 1, 0, b"abcdefgh")]


def test_streams_share_the_connections_window_to_its_last_octet() -> None:
    connection = server()
    connection.receive(headers(1, GET) + headers(3, GET), 0.0)
    for stream_id in (1, 3):
        connection.send_head(stream_id, response(), False)
        connection.send_data(stream_id, b"x" * 50_000)
    assert sum(len(payload) for kind, _, _, payload in frames(written(connection)) if kind == DATA) == 65_535
    assert connection.queued(1) + connection.queued(3) == 100_000 - 65_535
