"""Servers that break HTTP/2's rules, by mistake or to do harm: the request gets its answer, the connection its error, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from sidecar.codec.h2.frames import (
    CANCEL,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    frame,
    reset_frame,
    window_update_frame,
)
from sidecar.model import PoolLimits
from sidecar.upstream.h2 import STALL_SECONDS
from sidecar.upstream.refused import PAUSED_ALWAYS
from tests.codec.h2.peers import block, frames
from tests.memory import CHUNKED, GET, POST, World, body_of
from tests.memory_h2 import multiplexed

OK = [(b":status", b"200")]
SETTINGS_FRAME = frame(SETTINGS, 0, 0)


def head(*fields: tuple[bytes, bytes], end: bool = False, stream: int = 1) -> bytes:
    return frame(HEADERS, 5 if end else 4, stream, block(list(fields)))


def data(octets: bytes = b"", end: bool = False, stream: int = 1) -> bytes:
    return frame(DATA, int(end), stream, octets)


def setting(name: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, name.to_bytes(2, "big") + value.to_bytes(4, "big"))


def begun(*requests: bytes, settings: bytes = SETTINGS_FRAME, **options: Any) -> Any:
    """(world, clients, the server's transport) after this server's SETTINGS."""
    world = multiplexed(World(**options))
    clients = [world.client() for _ in requests]
    for client, each in zip(clients, requests, strict=True):
        client.receive(each)
    world.turn()
    world.app.receive(settings)
    world.turn()
    return world, clients, world.app


def connection(world: World) -> Any:
    return world.attempts[0].protocol


def said(app: Any, kind: int) -> list[tuple[int, int]]:
    """(stream, error code) of the frames of this kind that were sent to the server."""
    place = 4 if kind == GOAWAY else 0
    octets = bytes(app.written)
    octets = octets[len(PREFACE) :] if octets.startswith(PREFACE) else octets
    return [(stream, int.from_bytes(payload[place : place + 4], "big")) for each, _, stream, payload in frames(octets) if each == kind]


# What a server says in answer to GET on stream 1, and the error that ends the connection. The request has not been answered: 502.
CONNECTION_ERRORS: dict[str, tuple[bytes, int]] = {
    "a window beyond 2^31-1": (setting(4, 1 << 31), FLOW_CONTROL_ERROR),
    "frames smaller than 16384": (setting(5, 100), PROTOCOL_ERROR),
    "frames larger than 2^24-1": (setting(5, 1 << 24), PROTOCOL_ERROR),
    "push": (setting(2, 1), PROTOCOL_ERROR),
    "extended CONNECT that is neither": (setting(8, 2), PROTOCOL_ERROR),
    "SETTINGS of five octets": (frame(SETTINGS, 0, 0, b"12345"), FRAME_SIZE_ERROR),
    "SETTINGS on a stream": (frame(SETTINGS, 0, 1), PROTOCOL_ERROR),
    "an acknowledgement with octets": (frame(SETTINGS, 1, 0, b"123456"), FRAME_SIZE_ERROR),
    "PUSH_PROMISE": (frame(PUSH_PROMISE, 4, 1, b"\0\0\0\2" + block([(b":method", b"GET")])), PROTOCOL_ERROR),
    "a stream of the server's": (head(*OK, stream=2), PROTOCOL_ERROR),
    "an answer to nothing": (head(*OK, stream=7), PROTOCOL_ERROR),
    "an answer on no stream": (head(*OK, stream=0), PROTOCOL_ERROR),
    "DATA on no stream": (data(b"x", stream=0), PROTOCOL_ERROR),
    "DATA for nothing": (data(b"x", stream=9), PROTOCOL_ERROR),
    "RST_STREAM for nothing": (reset_frame(9, 2), PROTOCOL_ERROR),
    "RST_STREAM of three octets": (frame(RST_STREAM, 0, 1, b"abc"), FRAME_SIZE_ERROR),
    "a window that grows by nothing": (window_update_frame(0, 0), PROTOCOL_ERROR),
    "a window that grows too large": (window_update_frame(0, (1 << 31) - 1), FLOW_CONTROL_ERROR),
    "WINDOW_UPDATE of three octets": (frame(8, 0, 0, b"abc"), FRAME_SIZE_ERROR),
    "PING of seven octets": (frame(PING, 0, 0, b"1234567"), FRAME_SIZE_ERROR),
    "PING on a stream": (frame(PING, 0, 1, b"12345678"), PROTOCOL_ERROR),
    "GOAWAY of seven octets": (frame(GOAWAY, 0, 0, b"1234567"), FRAME_SIZE_ERROR),
    "GOAWAY on a stream": (frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "CONTINUATION of nothing": (frame(CONTINUATION, 4, 1, block(OK)), PROTOCOL_ERROR),
    "a head that is interrupted": (frame(HEADERS, 0, 1, block(OK)) + frame(PING, 0, 0, b"12345678"), PROTOCOL_ERROR),
    "padding longer than the frame": (frame(DATA, 8, 1, b"\xff12"), PROTOCOL_ERROR),
    "HPACK that is none": (frame(HEADERS, 4, 1, b"\xff\xff\xff\xff\xff\xff"), COMPRESSION_ERROR),
    "an index that is not in the table": (frame(HEADERS, 4, 1, b"\xbe"), COMPRESSION_ERROR),
    "a frame that is too large": (frame(DATA, 0, 1, bytes(16_385)), FRAME_SIZE_ERROR),
    "an answer behind its end": (head(*OK, end=True) + head(*OK, end=True), STREAM_CLOSED),
    "DATA behind the end": (head(*OK, end=True) + data(b"x"), STREAM_CLOSED),
}


@pytest.mark.parametrize(("octets", "code"), CONNECTION_ERRORS.values(), ids=CONNECTION_ERRORS)
def test_what_ends_the_connection(octets: bytes, code: int) -> None:
    """GOAWAY with the right code; those who waited are told; a new request gets a new connection."""
    world, (client, other), app = begun(GET, POST + b"hello")
    app.receive(octets)
    world.turn()
    assert [each for _, each in said(app, GOAWAY)] == [code] and app.aborted
    assert connection(world).h2.counters["connection_errors"] == 1
    statuses = [each.take()[9:12] for each in (client, other)]
    assert statuses == ([b"200", b"502"] if code == STREAM_CLOSED else [b"502", b"502"])
    assert world.connector.connections == 0
    world.ended_once(*[int(each) for each in statuses])
    third = world.client()
    third.receive(GET)
    world.turn()
    assert len(world.attempts) == 2


# What breaks a rule of one stream: it is reset with this code, and the answer is 502 or breaks off; the connection goes on.
STREAM_ERRORS: dict[str, tuple[bytes, int]] = {
    "no status": (head((b"server", b"x")), PROTOCOL_ERROR),
    "a status that is none": (head((b":status", b"2x0")), PROTOCOL_ERROR),
    "two statuses": (head(*OK, *OK), PROTOCOL_ERROR),
    "101": (head((b":status", b"101")), PROTOCOL_ERROR),
    "a request": (head((b":method", b"GET")), PROTOCOL_ERROR),
    "a pseudo-header field behind others": (head((b"a", b"b"), *OK), PROTOCOL_ERROR),
    "an upper-case name": (head(*OK, (b"Server", b"x")), PROTOCOL_ERROR),
    "a field of HTTP/1.1 connections": (head(*OK, (b"connection", b"close")), PROTOCOL_ERROR),
    "transfer-encoding": (head(*OK, (b"transfer-encoding", b"chunked")), PROTOCOL_ERROR),
    "a line break in a value": (head(*OK, (b"a", b"b\r\nc: d")), PROTOCOL_ERROR),
    "two lengths": (head(*OK, (b"content-length", b"1"), (b"content-length", b"2")), PROTOCOL_ERROR),
    "a length that is none": (head(*OK, (b"content-length", b"+5")), PROTOCOL_ERROR),
    "a length without a body": (head(*OK, (b"content-length", b"5"), end=True), PROTOCOL_ERROR),
    "1xx that ends": (head((b":status", b"103"), end=True), PROTOCOL_ERROR),
    "1xx without end": (head((b":status", b"103")) * 33, PROTOCOL_ERROR),
    "a body before its head": (data(b"x"), PROTOCOL_ERROR),
    "too many fields": (head(*OK, *[(b"a", b"b")] * 250), ENHANCE_YOUR_CALM),
    "a window that grows by nothing": (window_update_frame(1, 0), PROTOCOL_ERROR),
    "a window that grows too large": (window_update_frame(1, (1 << 31) - 1), FLOW_CONTROL_ERROR),
}
BROKEN_OFF: dict[str, tuple[bytes, int]] = {
    "a body that is too long": (head(*OK, (b"content-length", b"2")) + data(b"abc"), PROTOCOL_ERROR),
    "a body that is too short": (head(*OK, (b"content-length", b"5")) + data(b"abc", end=True), PROTOCOL_ERROR),
    "a second head": (head(*OK) + data(b"abc") + head(*OK), PROTOCOL_ERROR),
    "trailers with a status": (head(*OK) + data(b"abc") + head(*OK, end=True), PROTOCOL_ERROR),
    "trailers that do not end": (head(*OK) + data(b"abc") + head((b"a", b"b")), PROTOCOL_ERROR),
    "trailers with an upper-case name": (head(*OK) + data(b"abc") + head((b"A", b"b"), end=True), PROTOCOL_ERROR),
    "more than the window": (head(*OK) + data(bytes(16_384)) * 9, FLOW_CONTROL_ERROR),
    "a reset": (head(*OK) + data(b"abc") + reset_frame(1, CANCEL), -1),
}


@pytest.mark.parametrize(("octets", "code"), (STREAM_ERRORS | BROKEN_OFF).values(), ids=STREAM_ERRORS | BROKEN_OFF)
def test_what_ends_the_stream_alone(octets: bytes, code: int) -> None:
    """The other request on the connection is answered, and all credit is back."""
    world, (client, other), app = begun(GET, GET)
    if octets is BROKEN_OFF["more than the window"][0]:
        client.high_bytes = 100  # a client that reads nothing, or the credit would be given back
        client.blocked = True
    app.receive(octets)
    app.receive(head(*OK, end=True, stream=3))
    world.turn()
    assert said(app, RST_STREAM) == ([] if code < 0 else [(1, code)]) and not app.closing
    assert other.take().startswith(b"HTTP/1.1 200 ")
    answer = client.take() + bytes(client.queued)
    if (octets, code) in STREAM_ERRORS.values():
        assert b"HTTP/1.1 502 " in answer and b"HTTP/1.1 200 " not in answer
    else:
        assert answer.startswith(b"HTTP/1.1 200 ") and client.closing and not body_of(answer).endswith(b"0\r\n\r\n")
    h2 = connection(world).h2
    assert h2.open_streams == 0 and h2._window.held == 0 and connection(world).reserved == 0


FLOODS: dict[str, tuple[bytes, str, int]] = {
    "SETTINGS": (setting(4, 70_000), "settings", 60),
    "PING": (frame(PING, 0, 0, b"12345678"), "pings", 600),
    "answers to no PING": (frame(PING, 1, 0, b"12345678"), "pings", 600),
    "empty DATA": (data(), "empty_data", 150),
    "PRIORITY": (frame(PRIORITY, 0, 3, b"\0\0\0\1\0"), "ignored_frames", 600),
    "unknown frames": (frame(0xFA, 0, 0, b"x"), "ignored_frames", 600),
    "WINDOW_UPDATE": (window_update_frame(0, 1), "window_updates", 1100),
    "GOAWAY": (frame(GOAWAY, 0, 0, b"\x7f\xff\xff\xff\0\0\0\0"), "ignored_frames", 600),
}


@pytest.mark.parametrize(("octets", "counter", "count"), FLOODS.values(), ids=FLOODS)
def test_floods_end_the_connection_and_are_counted(octets: bytes, counter: str, count: int) -> None:
    world, (client,), app = begun(GET)
    app.receive(head(*OK))
    for _ in range(count):
        app.receive(octets)
    counters = connection(world).h2.counters
    assert app.aborted and [each for _, each in said(app, GOAWAY)] == [ENHANCE_YOUR_CALM]
    assert counters["floods"] == 1 and counters[counter] >= 50 and client.closing
    world.ended_once(200)


def test_a_head_without_end() -> None:
    """CONTINUATION for ever."""
    world, (client,), app = begun(GET)
    app.receive(frame(HEADERS, 0, 1, block(OK)))
    for _ in range(20):
        app.receive(frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b"))
    assert app.aborted and connection(world).h2.counters["floods"] == 1
    assert client.take().startswith(b"HTTP/1.1 502 ")


def refuse_stream(stream: int) -> bytes:
    return reset_frame(stream, 7)


def leave(stream: int) -> bytes:
    return frame(GOAWAY, 0, 0, bytes(8))


@pytest.mark.parametrize("refuse", [refuse_stream, leave], ids=["REFUSED_STREAM", "GOAWAY for nothing"])
def test_a_server_that_takes_nothing(refuse: Callable[[int], bytes]) -> None:
    """Every stream is refused: it is tried some times, then the client is told; a POST as well, because the server said that it did not look at it."""
    world, (client,), app = begun(POST + b"hello")
    refused = set()
    for _ in range(100):
        for number, attempt in enumerate(world.attempts):
            app = attempt.transport
            if app is None:
                continue
            if number and (-1, number) not in refused:
                refused.add((-1, number))
                app.receive(SETTINGS_FRAME)
            for stream, _ in said(app, HEADERS):
                if (stream, number) not in refused:
                    refused.add((stream, number))
                    app.receive(refuse(stream))
        world.turn()
        world.clock.advance(0.025)
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 503 ") and b"REFUSED_STREAM) also when it was asked 10 times more" in answer
    assert len(world.attempts) <= 11 and world.connector.multiplexer is not None and world.connector.multiplexer.counters["replays"] == 10
    assert world.connector.multiplexer.refused.paused == 0
    world.ended_once(503)


def test_a_server_that_refuses_every_third_stream_fails_no_request() -> None:
    """A POST is safe: the server said that it did not look at it. 300 requests, drawn with a seed."""
    dice = Random(7)
    world, _, app = begun(GET)
    app.receive(head(*OK, end=True))
    seen = {(app, 1)}
    for _ in range(300):
        client = world.client()
        client.receive(POST + b"hello")
        for _ in range(60):
            world.turn()
            for app in [attempt.transport for attempt in world.attempts if attempt.transport is not None]:
                if (app, 0) not in seen:
                    seen.add((app, 0))
                    app.receive(SETTINGS_FRAME)
                begun_streams = said(app, HEADERS)
                app.written.clear()
                for stream, _ in begun_streams:
                    if (app, stream) not in seen:
                        seen.add((app, stream))
                        app.receive(reset_frame(stream, 7) if dice.random() < 1 / 3 else head(*OK, end=True, stream=stream))
            if client.written:
                break
            world.clock.advance(0.025)
        assert client.take().startswith(b"HTTP/1.1 200 ")
    assert len(world.attempts) <= 2


def test_only_some_requests_pause_when_all_are_refused() -> None:
    """The others are told at once: the cluster is ill, and who waits costs memory."""
    world, _, app = begun(*[POST + b"hello"] * 40)
    seen = set()
    for _ in range(5):
        world.turn()
        for stream, _ in said(app, HEADERS):
            if stream not in seen:
                seen.add(stream)
                app.receive(reset_frame(stream, 7))
    assert world.connector.multiplexer is not None and world.connector.multiplexer.refused.paused == PAUSED_ALWAYS
    assert [record.status for record in world.records] == [503] * 30


def test_a_client_that_leaves_ends_the_pause() -> None:
    """Nothing is asked for it any more."""
    world, (client,), app = begun(POST + b"hello")
    seen = set()
    for _ in range(5):
        world.turn()
        for stream, _ in said(app, HEADERS):
            if stream not in seen:
                seen.add(stream)
                app.receive(reset_frame(stream, 7))
    multiplexer = world.connector.multiplexer
    assert multiplexer is not None and multiplexer.refused.paused == 1 and len(seen) == 4
    client.lose()
    for _ in range(20):
        world.clock.advance(0.025)
    assert multiplexer.refused.paused == 0 and len(said(app, HEADERS)) == 4
    world.ended_once(499)


def test_a_server_that_lets_nobody_in() -> None:
    """MAX_CONCURRENT_STREAMS of 0 on a new connection: it is none within `connect_timeout`, so who waits is told in words, and may be tried elsewhere."""
    world, clients, app = begun(GET, POST + b"hello", settings=setting(3, 0), cluster={"connect_timeout": 3.0})
    world.clock.advance(2.9)
    assert not clients[0].written and not said(app, HEADERS)
    world.clock.advance(0.2)
    for client in clients:
        answer = client.take()
        assert answer.startswith(b"HTTP/1.1 503 ") and b"connect-timeout" in answer and b"SETTINGS_MAX_CONCURRENT_STREAMS is 0" in answer
    assert {record.flags for record in world.records} == {"UF"} and app.aborted and world.connector.connections == 0


def test_a_server_that_lets_nobody_in_any_more() -> None:
    """A connection that served: who waits is served on another one after `connect_timeout`."""
    world, (client,), app = begun(GET, cluster={"connect_timeout": 3.0})
    app.receive(head(*OK, end=True) + setting(3, 0))
    client.take()
    client.receive(GET)
    world.clock.advance(2.9)
    assert len(world.attempts) == 1
    world.clock.advance(0.2)
    world.turn()
    assert app.closing and len(world.attempts) == 2
    other = world.attempts[1].transport
    other.receive(SETTINGS_FRAME)
    world.turn()
    other.receive(head(*OK, end=True))
    assert client.take().startswith(b"HTTP/1.1 200 ")
    world.ended_once(200, 200)


def test_a_server_without_room() -> None:
    """MAX_CONCURRENT_STREAMS of 0: no storm of connections; who waits is served when there is room, or told in time."""
    world, (client,), app = begun(GET, settings=setting(3, 0), pool=PoolLimits(max_connections=100))
    told = [world.attempts[0]]
    for _ in range(50):
        for attempt in [each for each in world.attempts if each.transport is not None and each not in told]:
            told.append(attempt)
            attempt.transport.receive(setting(3, 0))
        world.turn()
    assert len(world.attempts) == 1
    app.receive(setting(3, 1))
    world.turn()
    assert said(app, HEADERS)
    app.receive(setting(3, 0) + head(*OK, end=True))
    assert client.take().startswith(b"HTTP/1.1 200 ")
    client.receive(GET)
    world.clock.advance(16)
    world.clock.advance(1)
    assert client.take()[9:12] in (b"503", b"504")


def test_a_server_that_opens_no_window() -> None:
    """The body waits, the client is held, and in the end the stream is given up and counted."""
    world, (client,), app = begun(CHUNKED + b"2710\r\n" + b"x" * 10_000 + b"\r\n", settings=setting(4, 0))
    assert not client.reading
    for _ in range(int(STALL_SECONDS / 15) + 3):
        world.clock.advance(15)
    assert client.take().startswith(b"HTTP/1.1 503 ") and said(app, RST_STREAM) == [(1, CANCEL)]
    assert connection(world).h2.counters["streams_stalled"] == 1
    world.ended_once(503)


def test_windows_that_shrink_below_nothing() -> None:
    """RFC 9113 section 6.9.2: the window is negative then, and nothing is sent until it has grown again."""
    world, (_client,), app = begun(CHUNKED + b"2710\r\n" + b"x" * 10_000 + b"\r\n", settings=setting(4, 8_000))

    def sent() -> int:
        octets = bytes(app.written)
        octets = octets[len(PREFACE) :] if octets.startswith(PREFACE) else octets
        return sum(len(payload) for kind, _, _, payload in frames(octets) if kind == DATA)

    assert sent() == 8_000
    app.receive(setting(4, 1_000))
    app.receive(window_update_frame(1, 7_000))
    world.turn()
    assert sent() == 8_000
    app.receive(window_update_frame(1, 500))
    world.turn()
    assert sent() == 8_500
