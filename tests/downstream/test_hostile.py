"""A client that sends pieces of HTTP in any order, at an application that answers likewise: nothing is raised, every exchange ends once, and in the end the
connection is closed, by limits of time if by nothing else.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from twisted.logger import globalLogPublisher

from sidecar.codec.h2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    frame,
    goaway_frame,
    reset_frame,
    settings_frame,
    window_update_frame,
)
from sidecar.codec.h2.limits import H2Limits
from sidecar.downstream.h2 import H2ServerConnection
from sidecar.model import HTTP2Options, HTTPLimits
from sidecar.upstream.h2 import H2ClientConnection
from sidecar.verdicts import OBSERVE, STREAM, buffer
from tests.memory import CHUNKED, GET, OK, POST, SWITCH, UPGRADE, MemoryTransport, World
from tests.memory_h2 import multiplexed
from tests.proxy.plugins import RequestBodyPlugin, ResponseBodyPlugin

PIECES = [
    *(GET, POST, CHUNKED, UPGRADE, GET.replace(b"GET", b"HEAD"), GET.replace(b"1.1", b"1.0"), b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"),
    *(b"hello", b"5\r\nhello\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"\r\n", b"\n", b"\0", b"GET", b" /", b"x" * 3000, b"7fffffffffffffff\r\n"),
    GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
    POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"),
    POST.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
    GET.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"),
    PREFACE,
]
ANSWERS = [
    *(OK, SWITCH, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nworld\r\n", b"0\r\n\r\n", b"world", b"\0", b"HTTP/1.1 200 OK\r\n\r\n"),
    *(b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early\r\n\r\n"),
    *(b"HTTP/1.1 503 No\r\nContent-Length: 3\r\n\r\nbad", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nwo"),
]
IDS = st.sampled_from([0, 1, 1, 2, 3, 5, 7, 9])


def _literals(pairs: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"\0%c%b%c%b" % (len(name), name, len(value), value) for name, value in pairs)


def _head(stream_id: int, method: bytes, protocol: bytes, path: bytes, extra: tuple[bytes, bytes] | None, end: int) -> bytes:
    pairs = [(b":method", method), (b":authority", b"app")]
    if method != b"CONNECT" or protocol:
        pairs += [(b":scheme", b"http"), (b":path", path)]
    if protocol:
        pairs.append((b":protocol", protocol))
    return frame(HEADERS, END_HEADERS | end, stream_id, _literals(pairs + ([] if extra is None else [extra])))


EXTRAS = st.sampled_from([None, None, (b"content-length", b"5"), (b"content-length", b"x"), (b"expect", b"100-continue"), (b"X", b"1"), (b"te", b"trailers")])
METHODS = st.sampled_from([b"GET", b"POST", b"CONNECT"])
PATHS = st.sampled_from([b"/a", b"*", b""])
ENDS = st.sampled_from([0, 0, END_STREAM])
ANY_FRAMES = st.one_of(
    st.builds(lambda stream_id, end, size: frame(DATA, end, stream_id, b"x" * size), IDS, ENDS, st.sampled_from([0, 1, 5, 2000, 16000])),
    st.builds(reset_frame, IDS, st.sampled_from([0, 7, 8, 13])),
    st.builds(window_update_frame, IDS, st.sampled_from([0, 1, 1000, 2**31 - 1])),
    st.builds(lambda name, value: settings_frame({name: value}), st.sampled_from([1, 2, 3, 4, 5, 6, 8]), st.sampled_from([0, 1, 100, 65535, 2**31 - 1, 2**31])),
    st.builds(lambda kind, stream_id: frame(kind, 0, stream_id, b"12345678"), st.sampled_from([PING, PRIORITY, PUSH_PROMISE, CONTINUATION, 20]), IDS),
    st.builds(lambda last: goaway_frame(last, 0, b""), IDS),
    st.builds(lambda stream_id: frame(HEADERS, END_HEADERS | END_STREAM, stream_id, _literals([(b"a", b"b")])), IDS),
)
FRAMES = st.one_of(st.builds(_head, IDS, METHODS, st.sampled_from([b"", b"", b"websocket"]), PATHS, EXTRAS, ENDS), ANY_FRAMES)
ANSWER_FRAMES = st.one_of(
    st.builds(
        lambda stream_id, status, end: frame(HEADERS, END_HEADERS | end, stream_id, _literals([(b":status", status)])),
        IDS, st.sampled_from([b"200", b"200", b"103", b"204", b"503", b"101"]), ENDS,
    ),
    ANY_FRAMES,
)  # fmt: skip
MODES = st.sampled_from([None, OBSERVE, STREAM, buffer(3000)])
OTHERS = st.tuples(st.sampled_from(["block", "time", "lose"]), st.just(b""))


def step(world: World, client: MemoryTransport, who: str, octets: bytes, cut: int) -> None:
    """One thing that happens."""
    if who == "client":
        for piece in (octets[:cut], octets[cut:]):
            if piece:
                client.receive(piece)
    elif who == "block":
        client.blocked = not client.blocked
        if not client.blocked:
            client.drain()
    elif who == "time":
        world.clock.pump([0.5] * 4)
    for attempt in world.attempts:
        if attempt.transport is not None and who == "application":
            if isinstance(attempt.protocol, H2ClientConnection) and attempt.protocol.state == "connecting":
                attempt.transport.receive(settings_frame({8: 1}))
            attempt.transport.receive(octets)
        elif attempt.transport is not None and who == "lose":
            attempt.transport.lose()
    settle(world, client)


def settle(world: World, client: MemoryTransport) -> None:
    world.turn()
    for each in (client, *(attempt.transport for attempt in world.attempts if attempt.transport is not None)):
        each.pump()
        each.settle()


@pytest.mark.parametrize(("down", "up"), [("h1", "h1"), ("h1", "h2"), ("h2", "h1"), ("h2", "h2")])
@settings(max_examples=60, deadline=None)
@given(st.data(), MODES)
def test_whatever_comes(down: str, up: str, data: st.DataObject, mode: Any) -> None:
    """See the file."""
    failures: list[Any] = []
    globalLogPublisher.addObserver(observe := lambda event: failures.append(event) if "log_failure" in event else None)
    plugins = [] if mode is None else [RequestBodyPlugin(mode=mode), ResponseBodyPlugin(mode=mode)]
    world = World(*plugins, limits=HTTPLimits(watermark_bytes=500, pipeline_bytes=2000, head_bytes=2000), upgrades=("websocket", "connect"))
    world.route.upgrade_idle_timeout = 60.0
    if up == "h2":
        multiplexed(world)
    if down == "h1":
        client = world.client(half_close=data.draw(st.booleans()))
    else:
        connection = H2ServerConnection(world.http, world.limits, HTTP2Options(), world._begin, world._refuse, world.closed.append, b"http", H2Limits())
        client = MemoryTransport(connection)
        connection.makeConnection(client)
        client.receive(PREFACE + settings_frame({}))
    asked = st.tuples(st.just("client"), st.sampled_from(PIECES) if down == "h1" else FRAMES)
    answered = st.tuples(st.just("application"), st.sampled_from(ANSWERS) if up == "h1" else ANSWER_FRAMES)
    steps = st.lists(st.one_of(asked, asked, answered, OTHERS), min_size=3, max_size=30)
    for who, what in data.draw(steps):
        step(world, client, who, what, data.draw(st.integers(1, 40)))
    if data.draw(st.booleans()):
        client.end()
    for _ in range(3000):
        if client.lost and not world.http.active:
            break
        world.clock.advance(5.0)
        settle(world, client)
    globalLogPublisher.removeObserver(observe)
    assert client.lost and len(world.closed) == 1, client.protocol
    assert all(each.finished for each in world.exchanges) and not world.http.active
    assert [pool.active for pool in world.connector.pools] == [0] and not world.connector.pending
    assert len(world.observed) >= len(world.exchanges) and not failures, failures
