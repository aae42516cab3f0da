"""Each way to make an HTTP/2 endpoint work or remember for nothing: it is counted, and ended at a limit; honest use next to it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hpack
import pytest

from sidecar.codec.h2.connection import H2Connection
from sidecar.codec.h2.events import ConnectionFailed, HeadRefused, StreamReset
from sidecar.codec.h2.frames import (
    CONTINUATION,
    DATA,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    NO_ERROR,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    frame,
    reset_frame,
    window_update_frame,
)
from sidecar.codec.h2.limits import H2Limits
from sidecar.codec.h2.receiving import EARLY_REFUSALS
from sidecar.message import RequestHead
from tests.codec.h2.peers import GET, OK, POST, block, client, frames, headers, pair, pump, request, response, server, written


def rapid_reset(number: int) -> bytes:
    """CVE-2023-44487."""
    return headers(2 * number + 1, GET) + reset_frame(2 * number + 1, 8)


def made_you_reset(number: int) -> bytes:
    """CVE-2025-8671: the peer's mistake makes us reset the stream, so that it never counts as open."""
    return headers(2 * number + 1, GET) + window_update_frame(2 * number + 1, 0)


FLOODS: list[tuple[str, str, Callable[[int], bytes], int]] = [
    ("rapid reset", "resets_received", rapid_reset, 500),
    ("provoked resets", "resets_provoked", made_you_reset, 200),
    ("provoked resets by malformed heads", "resets_provoked", lambda number: headers(2 * number + 1, [*GET, (b"A", b"b")]), 200),
    ("empty DATA", "empty_data", lambda number: headers(1, POST, 4) if number == 0 else frame(DATA, 0, 1), 100),
    ("padded DATA without content", "empty_data", lambda number: headers(1, POST, 4) if number == 0 else frame(DATA, 8, 1, b"\x03\0\0\0"), 100),
    ("DATA of single octets", "small_data", lambda number: headers(1, POST, 4) if number == 0 else frame(DATA, 0, 1, b"x"), 20_000),
    ("padded DATA of single octets", "small_data", lambda number: headers(1, POST, 4) if number == 0 else frame(DATA, 8, 1, b"\x03x\0\0\0"), 20_000),
    ("PING", "pings", lambda number: frame(PING, 0, 0, b"12345678"), 500),
    ("PING answers", "pings", lambda number: frame(PING, 1, 0, b"12345678"), 500),
    ("SETTINGS", "settings", lambda number: frame(SETTINGS, 0, 0, b"\0\4\0\0\0\1"), 49),
    ("SETTINGS acknowledgements", "ignored_frames", lambda number: frame(SETTINGS, 1, 0), 500),
    ("PRIORITY", "ignored_frames", lambda number: frame(PRIORITY, 0, 2 * number + 3, b"\0\0\0\1\0"), 500),
    ("unknown frames", "ignored_frames", lambda number: frame(0xFA, 0, 0, b"x"), 500),
    ("RST_STREAM for closed streams", "ignored_frames", lambda number: rapid_reset(0) if number == 0 else reset_frame(1, 8), 500),
    ("heads for reset streams", "ignored_frames", lambda number: rapid_reset(0) if number == 0 else headers(1, GET, 4), 500),
    ("empty DATA for reset streams", "ignored_frames", lambda number: rapid_reset(0) if number == 0 else frame(DATA, number & 1, 1), 500),
    ("GOAWAY", "ignored_frames", lambda number: frame(GOAWAY, 0, 0, bytes(8)), 500),
    ("WINDOW_UPDATE", "window_updates", lambda number: window_update_frame(0, 1), 1000),
    ("WINDOW_UPDATE for a stream", "window_updates", lambda number: headers(1, GET) if number == 0 else window_update_frame(1, 1), 1000),
]


def run(connection: H2Connection, step: Callable[[int], bytes], count: int, seconds_between: float = 0.0) -> list[Any]:
    events = []
    for number in range(count):
        told = connection.receive(step(number), number * seconds_between)
        for stream_id, event in told:
            if type(event) is bytes:
                connection.consumed(stream_id, len(event))
        events += told
        connection.data_to_send()
    return events


@pytest.mark.parametrize(("counter", "step", "burst"), [each[1:] for each in FLOODS], ids=[each[0] for each in FLOODS])
def test_a_flood_ends_the_connection_and_is_counted(counter: str, step: Callable[[int], bytes], burst: int) -> None:
    connection = server()
    run(connection, step, burst)
    assert not connection.failed
    events = run(connection, lambda number: step(number + burst), 3)
    assert connection.failed and connection.counters[counter] == burst + (2 if counter == "settings" else 1)
    assert connection.counters["floods"] == 1
    assert [event.code for _, event in events if isinstance(event, ConnectionFailed)] == [ENHANCE_YOUR_CALM]


@pytest.mark.parametrize(("counter", "step", "burst"), [each[1:] for each in FLOODS], ids=[each[0] for each in FLOODS])
def test_the_same_in_its_time_is_served(counter: str, step: Callable[[int], bytes], burst: int) -> None:
    connection = server()
    run(connection, step, burst * 2, seconds_between=0.25)
    assert not connection.failed


def test_pings_and_window_updates_that_come_with_data_are_no_flood() -> None:
    """Estimators of bandwidth send a PING for each batch of DATA; receivers send WINDOW_UPDATE for each frame."""
    connection = server()
    connection.receive(headers(1, POST, 4), 0.0)
    connection.send_head(1, response(), False)
    for _ in range(3000):
        connection.receive(frame(DATA, 0, 1, b"x") + frame(PING, 0, 0, b"12345678"), 0.0)
        connection.consumed(1, 1)
        connection.send_data(1, b"y")
        connection.data_to_send()
        connection.receive(window_update_frame(1, 1) + window_update_frame(0, 1), 0.0)
    assert not connection.failed


def test_a_receiver_that_gives_credit_for_each_4_kib_is_no_flood() -> None:
    """As Go's client does, for the stream and for the connection: eight times for a frame."""
    connection = server()
    connection.receive(headers(1, GET), 0.0)
    connection.send_head(1, response(), False)
    for _ in range(5_000):
        connection.send_data(1, bytes(16_384))
        assert len(connection.data_to_send()) >= 2
        connection.receive((window_update_frame(1, 4_096) + window_update_frame(0, 4_096)) * 4, 0.0)
    assert not connection.failed and connection.counters["window_updates"] == 40_000


def test_small_messages_that_are_answered_are_no_flood() -> None:
    """Empty messages of gRPC (5 octets), each answered by one."""
    connection = server()
    connection.receive(headers(1, POST, 4), 0.0)
    connection.send_head(1, response(), False)
    for _ in range(50_000):
        connection.receive(frame(DATA, 0, 1, bytes(5)), 0.0)
        connection.consumed(1, 5)
        connection.send_data(1, bytes(5))
        connection.data_to_send()
        connection.receive(window_update_frame(1, 5) + window_update_frame(0, 5), 0.0)
    assert not connection.failed and connection.counters["small_data"] == 50_000


def test_messages_as_long_as_a_frame_s_head_are_no_flood() -> None:
    """A client that streams numbers as fast as it can."""
    connection = server()
    run(connection, lambda number: headers(1, POST, 4) if number == 0 else frame(DATA, 0, 1, bytes(8)), 50_000)
    assert not connection.failed and connection.counters["small_data"] == 0


def test_an_application_may_send_octets_one_by_one() -> None:
    """Its connection is everybody's, and it was chosen."""
    ours = client()
    stream_id = ours.open_stream()
    assert stream_id
    ours.send_head(stream_id, request(), True)
    ours.receive(headers(stream_id, OK, 4), 0.0)
    run(ours, lambda number: frame(DATA, 0, stream_id, b"x"), 30_000)
    assert not ours.failed and ours.counters["small_data"] == 30_000


def test_windows_opened_octet_by_octet_do_not_pay_for_themselves() -> None:
    """Each lets one octet out in a frame of its own."""
    connection = server()
    connection.receive(frame(SETTINGS, 0, 0, b"\0\4\0\0\0\0") + headers(1, GET), 0.0)
    connection.send_head(1, response(), False)
    connection.send_data(1, bytes(100_000))
    events = run(connection, lambda number: window_update_frame(1, 1), 1_010)
    assert connection.failed and connection.counters["floods"] == 1
    assert [event.code for _, event in events if isinstance(event, ConnectionFailed)] == [ENHANCE_YOUR_CALM]


def test_a_failing_application_may_reset_as_much_as_it_likes() -> None:
    ours = client()
    for _ in range(2000):
        stream_id = ours.open_stream()
        assert stream_id
        ours.send_head(stream_id, request(), True)
        ours.receive(reset_frame(stream_id, 7), 0.0)
        ours.data_to_send()
    assert not ours.failed and ours.counters["resets_received"] == 2000


@pytest.mark.parametrize("piece", [b"", b"\x82"])
def test_a_head_without_end_is_ended(piece: bytes) -> None:
    """CVE-2024-27316 and others: CONTINUATION for ever."""
    connection = server()
    connection.receive(frame(HEADERS, 0, 1, block(GET)), 0.0)
    for _ in range(16):
        assert connection.receive(frame(CONTINUATION, 0, 1, piece), 0.0) == []
    ((_, event),) = connection.receive(frame(CONTINUATION, 0, 1, piece), 0.0)
    assert event.code == ENHANCE_YOUR_CALM and connection.counters["floods"] == connection.counters["endless_heads"] == 1


def test_a_head_of_many_octets_is_ended_before_it_is_whole() -> None:
    connection = server(H2Limits(frame_octets=65_536))
    connection.receive(frame(HEADERS, 0, 1, block(GET)), 0.0)
    assert [connection.receive(frame(CONTINUATION, 0, 1, bytes(65_000)), 0.0) for _ in range(4)] == [[]] * 4
    ((_, event),) = connection.receive(frame(CONTINUATION, 0, 1, bytes(10_000)), 0.0)
    assert event.code == ENHANCE_YOUR_CALM


def test_a_head_that_is_a_little_too_large_costs_its_stream_alone() -> None:
    connection = server()
    connection.receive(headers(1, POST, 4), 0.0)
    large = block([*GET, *[(b"a%d" % number, b"a" * 7000) for number in range(12)]])
    pieces = [large[start : start + 16_384] for start in range(0, len(large), 16_384)]
    events = connection.receive(frame(HEADERS, 1, 3, pieces[0]), 0.0)
    for number, piece in enumerate(pieces[1:], 2):
        events += connection.receive(frame(CONTINUATION, 4 if number == len(pieces) else 0, 3, piece), 0.0)
    assert [(stream_id, type(event)) for stream_id, event in events] == [(3, HeadRefused)]
    assert connection.receive(frame(DATA, 1, 1, b"x"), 0.0)[0] == (1, b"x")


def bomb() -> list[bytes]:
    """A field of 4 KB once in the table, then repeated by one octet each."""
    encoder = hpack.Encoder()
    first = encoder.encode([*GET, (b"x-bomb", b"b" * 4000)], huffman=False)
    again = encoder.encode([*GET, (b"x-bomb", b"b" * 4000)], huffman=False)
    return [first, again + again[-1:] * 15_000]


def test_a_list_that_unpacks_to_megabytes_is_refused_without_the_connection() -> None:
    connection = server()
    first, second = bomb()
    connection.receive(frame(HEADERS, 5, 1, first), 0.0)
    ((stream_id, event),) = connection.receive(frame(HEADERS, 4, 3, second), 0.0)
    assert stream_id == 3 and isinstance(event, HeadRefused) and event.error.status == 431
    assert connection.counters["heads_too_large"] == 1
    # What follows on it is dropped, its credit is given back, and the answer ends it.
    assert connection.receive(frame(DATA, 0, 3, b"x" * 1000), 0.0) == []
    assert connection._window.held == 0
    connection.data_to_send()
    connection.send_head(3, response(431), True)
    sent = frames(written(connection))
    assert [(kind, stream_id) for kind, _, stream_id, _ in sent] == [(HEADERS, 3), (RST_STREAM, 3)]
    assert sent[1][3] == NO_ERROR.to_bytes(4, "big")
    assert isinstance(connection.receive(headers(5, GET), 0.0)[0][1], RequestHead), "the table is still right"


def test_too_many_small_fields_are_refused_likewise() -> None:
    connection = server()
    ((_, event),) = connection.receive(headers(1, [*GET, *[(b"a", b"")] * 200]), 0.0)
    assert isinstance(event, HeadRefused)


def test_of_a_head_that_is_too_large_is_told_what_its_answer_depends_on() -> None:
    kind = (b"content-type", b"application/grpc")
    connection = server()
    ((_, event),) = connection.receive(headers(1, [*POST, *[(b"a", b"")] * 200, kind]), 0.0)
    assert event.request.method == b"POST" and event.request.headers.get(kind[0]) == kind[1]
    ((_, event),) = connection.receive(headers(3, [(b":method", b"no method"), *[(b"a", b"")] * 200]), 0.0)
    assert event.request.method == b"-" and not event.request.headers.fields


def test_late_answers_to_requests_that_we_reset_are_no_flood() -> None:
    """An application that answers all of a storm of cancelled calls: a head and trailers for each, at the same moment."""
    ours = client()
    for number in range(3000):
        stream_id = ours.open_stream()
        assert stream_id == 2 * number + 1
        ours.send_head(stream_id, request(), True)
        ours.reset(stream_id, 8)
        ours.receive(headers(stream_id, OK, 4) + headers(stream_id, [(b"grpc-status", b"1")]), 0.0)
    assert not ours.failed


def test_a_response_that_is_too_large_resets_its_stream() -> None:
    ours = client()
    ours.open_stream()
    ours.send_head(1, request(), True)
    ((_, event),) = ours.receive(headers(1, [*OK, *[(b"a", b"")] * 200]), 0.0)
    assert isinstance(event, StreamReset) and not event.by_peer and event.code == ENHANCE_YOUR_CALM


def test_informational_heads_without_end_reset_their_stream() -> None:
    ours = client()
    ours.open_stream()
    ours.send_head(1, request(), True)
    events = [each for _ in range(40) for each in ours.receive(headers(1, [(b":status", b"103")], 4), 0.0)]
    assert len(events) == 33 and isinstance(events[-1][1], StreamReset)


def test_streams_beyond_the_limit_are_refused_and_may_be_sent_again() -> None:
    """RFC 9113, sections 5.1.2 and 8.7."""
    ours, theirs = pair(H2Limits(concurrent_streams=100))
    pump(ours, theirs)
    ours.peer.concurrent_streams = 1000
    ours._limit_streams()
    for _ in range(103):
        stream_id = ours.open_stream()
        assert stream_id
        ours.send_head(stream_id, request(), True)
    (told, asked) = pump(ours, theirs)
    assert len(asked) == 100 and theirs.counters["streams_refused"] == 3
    assert [(stream_id, event.retry_safe) for stream_id, event in told] == [(201, True), (203, True), (205, True)]


def test_refusals_are_not_held_against_a_client_that_cannot_know_the_limit() -> None:
    connection = server(H2Limits(concurrent_streams=1))
    connection.settings_acked = False
    run(connection, lambda number: headers(2 * number + 1, GET), 400)
    assert not connection.failed
    connection.settings_acked = True
    run(connection, lambda number: headers(2 * (number + 400) + 1, GET), 400)
    assert connection.failed


def test_a_client_that_never_acknowledges_is_not_refused_without_end() -> None:
    """It cannot stay one that does not know the limit."""
    connection = server(H2Limits(concurrent_streams=1))
    connection.settings_acked = False
    run(connection, lambda number: headers(2 * number + 1, GET), EARLY_REFUSALS)
    assert not connection.failed
    run(connection, lambda number: headers(2 * (number + EARLY_REFUSALS) + 1, GET), 400)
    assert connection.failed and connection.counters["floods"] == 1


def test_answers_that_nobody_reads_are_bounded() -> None:
    connection = server(H2Limits(pings_burst=10_000, answers_waiting=50))
    events = [each for _ in range(60) for each in connection.receive(frame(PING, 0, 0, b"12345678"), 0.0)]
    assert [event.code for _, event in events] == [ENHANCE_YOUR_CALM]
    assert len(connection.data_to_send()) == 51


def test_what_is_remembered_of_ended_streams_is_bounded() -> None:
    connection = server()
    for number in range(5000):
        connection.receive(headers(4 * number + 1, GET), number * 1.0)
        connection.reset(4 * number + 1, 8)
        connection.data_to_send()
    assert len(connection._ended) <= 1000 and len(connection._gaps) <= 16 and not connection._streams


def test_a_window_of_one_octet_is_reported_so_that_it_can_be_ended() -> None:
    connection = server()
    connection.receive(frame(SETTINGS, 0, 0, b"\0\4\0\0\0\1") + headers(1, GET), 0.0)
    connection.send_head(1, response(), False)
    connection.send_data(1, b"x" * 1000)
    connection.data_to_send()
    connection.stalled(0.0)
    for second in range(1, 60):
        connection.receive(window_update_frame(1, 1), second)
        connection.data_to_send()
    assert connection.stalled(60.0) == [(1, 0.0)]
