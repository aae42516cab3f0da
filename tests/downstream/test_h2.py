"""`sidecar/downstream/h2.py`: one client's connection, many requests at once."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from zope.interface import implementer
from zope.interface.verify import verifyObject

from sidecar.codec.h2.frames import DATA, GOAWAY, HEADERS, LARGEST_STREAM_ID, RST_STREAM, frame
from sidecar.codec.h2.limits import H2Limits
from sidecar.codec.websocket import accept_of
from sidecar.downstream.h2 import DRAIN_ROUND_TRIP_SECONDS, FREE_STREAMS, LINGER_SECONDS, STALL_SECONDS
from sidecar.downstream.h2_stream import H2ServerStream
from sidecar.errors import RouteNotFound
from sidecar.headers import Headers
from sidecar.interfaces import IDownstreamStream, IRequestHeadHook
from sidecar.model import HTTP2Options, HTTPLimits, PoolLimits
from sidecar.proxy.replies import text_reply
from tests.codec.h2.peers import GET as PLAIN_GET, frames, headers
from tests.memory import OK, World, body_of
from tests.memory_h2 import H2Client, request


def answering() -> World:
    """A world that answers every request from here."""
    world = World()
    world.route.answer = lambda head: text_reply(200, b"text/plain", head.path, head)
    return world


def test_provides_the_stream() -> None:
    """Each request has the downstream stream that its exchange needs."""
    verifyObject(IDownstreamStream, H2ServerStream(H2Client(World()).connection))


def test_request_goes_up_as_http1_and_its_answer_comes_back() -> None:
    """Host from :authority, cookies in one field, the body counted; the answer without fields of HTTP/1.1 connections."""
    world = World()
    client = H2Client(world)
    stream = client.send(request(b"POST", b"/a?b", (b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"content-length", b"5")), b"hello")
    up = world.app.take()
    assert up.startswith(b"POST /a?b HTTP/1.1\r\nHost: app\r\n") and b"cookie: a=1; b=2\r\n" in up and body_of(up) == b"hello"
    world.app.receive(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nKeep-Alive: x\r\nConnection: keep-alive\r\nX-A: b\r\n\r\nok")
    client.exchange()
    head = client.head(stream)
    assert head.status == 201 and head.headers.get(b"x-a") == b"b" and b"keep-alive" not in head.headers
    assert client.body(stream) == b"ok" and client.ended(stream)
    world.ended_once(201)


def test_body_of_unknown_length_and_trailers_both_ways() -> None:
    """Chunked towards the application; trailers are trailers on both sides."""
    world = World()
    client = H2Client(world)
    stream = client.send(request(b"POST", b"/a", (b"te", b"trailers")), b"he", b"llo", trailers=Headers.of([(b"x-sum", b"1")]))
    up = world.app.take()
    assert b"Transfer-Encoding: chunked" in up and b"te: trailers" in up.lower() and up.endswith(b"0\r\nx-sum: 1\r\n\r\n")
    world.app.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nGrpc-Status: 0\r\n\r\n")
    client.exchange()
    assert client.body(stream) == b"ok" and client.of(stream)[-1].trailers.get(b"grpc-status") == b"0"


def test_informational_heads_and_head_requests() -> None:
    """103 comes before the answer; the answer to HEAD has a length and no body."""
    world = World()
    client = H2Client(world)
    stream = client.send(request(b"HEAD"))
    world.app.receive(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
    client.exchange()
    early, final = client.of(stream)
    assert early.status == 103 and final.status == 200 and final.end_stream and final.headers.get(b"content-length") == b"10"
    world.ended_once(200)


def test_requests_run_beside_each_other() -> None:
    """The second answer may be there first."""
    world = World()
    client = H2Client(world)
    first, second = client.send(request(path=b"/1")), client.send(request(path=b"/2"))
    apps = [each.transport for each in world.attempts]
    apps[1].receive(OK)
    client.exchange()
    assert client.ended(second) and not client.ended(first)
    apps[0].receive(OK)
    client.exchange()
    assert client.ended(first)
    world.ended_once(200, 200)


def test_answers_of_one_turn_leave_in_one_write() -> None:
    """Each costs no system call of its own."""
    world = World()
    client = H2Client(world)
    for _ in range(10):
        client.send(request())
    writes: list[bytes] = []
    client.transport.write = writes.append  # type: ignore[method-assign]
    for each in world.attempts:
        each.transport.receive(OK)
    world.turn()
    assert len(writes) == 1


def test_streams_are_used_again_and_a_thousand_local_answers_do_not_nest() -> None:
    """One connection, stream after stream."""
    world = answering()
    client = H2Client(world, server_limits=H2Limits(concurrent_streams=2000))
    for _ in range(1000):
        stream_id = client.h2.open_stream()
        assert stream_id is not None
        client.h2.send_head(stream_id, request(), True)
    client.exchange()
    assert all(client.ended(each) for each in range(1, 2001, 2)) and len(world.records) == 1000
    assert len(client.connection._free) <= 128 and not client.connection._streams


def test_reset_by_the_client_ends_the_exchange() -> None:
    """The application's connection is closed, the record says 499."""
    world = World()
    client = H2Client(world)
    stream = client.send(request())
    client.h2.reset(stream, 8)
    client.exchange()
    world.ended_once(499)
    assert world.app.aborted


def test_early_answer_stops_the_request() -> None:
    """RST_STREAM with NO_ERROR behind the complete answer (RFC 9113 section 8.1), and what still comes is dropped."""
    world = answering()
    client = H2Client(world)
    stream = client.send(request(b"POST"), b"x", end=False)
    assert client.ended(stream) and client.kinds(stream)[-1] == "StreamReset" and client.of(stream)[-1].code == 0
    world.ended_once(200)


def test_answer_that_breaks_resets_the_stream_alone() -> None:
    """The application closes in mid-body: this stream is reset, others go on."""
    world = World()
    client = H2Client(world)
    first, second = client.send(request()), client.send(request())
    world.attempts[0].transport.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    world.attempts[0].transport.lose()
    world.attempts[1].transport.receive(OK)
    client.exchange()
    assert client.kinds(first)[-1] == "StreamReset" and client.ended(second)


def test_errors_are_answered_on_their_stream() -> None:
    """problem+json, or a gRPC status without a body."""
    world = World()
    world.http.find_route = lambda head: None
    client = H2Client(world)
    plain = client.send(request())
    assert client.head(plain).status == RouteNotFound.status and b"no-route" in client.body(plain)
    grpc = client.send(request(b"POST", b"/s/m", (b"content-type", b"application/grpc"), (b"te", b"trailers")), b"\0\0\0\0\0")
    head = client.head(grpc)
    assert head.status == 200 and head.end_stream and head.headers.get(b"grpc-status") == b"12" and head.headers.get(b"content-type") == b"application/grpc"


def test_head_that_is_too_large_is_answered_with_431() -> None:
    """And the connection goes on."""
    world = answering()
    client = H2Client(world, server_limits=H2Limits(header_list_octets=1000))
    large = client.send(request(b"GET", b"/a", (b"x-large", b"x" * 2000)))
    assert client.head(large).status == 431
    assert client.head(client.send(request())).status == 200
    assert world.http.bad_requests == 1


def test_head_that_is_too_large_is_answered_in_the_callers_own_form() -> None:
    """A call of gRPC gets a status and no problem+json, HEAD gets no body."""
    world = answering()
    client = H2Client(world, server_limits=H2Limits(header_list_octets=1000))
    large = (b"x-large", b"x" * 2000)
    call = client.send(request(b"POST", b"/s/m", (b"content-type", b"application/grpc+proto"), (b"te", b"trailers"), large), b"\0\0\0\0\0")
    head = client.head(call)
    assert head.status == 200 and head.end_stream and head.headers.get(b"grpc-status") == b"8"
    assert b"head-too-large" in head.headers.get(b"grpc-message")
    silent = client.send(request(b"HEAD", b"/a", large))
    assert client.head(silent).status == 431 and client.head(silent).end_stream and not client.body(silent)
    records = [(each.method, each.grpc_status) for each in world.records]
    assert records == [("POST", 8), ("HEAD", None)]


def test_malformed_heads_are_recorded() -> None:
    """The client gets a reset and no answer; whoever looks for the request at night finds it with its reason, and the connection goes on."""
    world = answering()
    client = H2Client(world)
    upper = headers(101, [*PLAIN_GET, (b"X-Upper", b"1")])
    short = headers(103, [(b":method", b"POST"), *PLAIN_GET[1:], (b"content-length", b"5")])
    client.transport.protocol.dataReceived(upper + short)
    resets = [(kind, stream) for kind, _, stream, _ in frames(client.transport.take())]
    assert resets == [(RST_STREAM, 101), (RST_STREAM, 103)] and not client.transport.closing
    records = [(each.method, each.status, each.code, each.side) for each in world.records]
    assert records == [("GET", 400, "bad-request", "downstream"), ("POST", 400, "bad-request", "downstream")]
    assert "upper" in world.records[0].detail.lower() and "Content-Length" in world.records[1].detail
    assert world.http.active == 0


# -- flow control --------------------------------------------------------------------------------------------------------------------------------


def test_credit_follows_delivery() -> None:
    """While the application does not read, the client gets no more than the window; then the rest arrives whole."""
    world = World()
    client = H2Client(world)
    stream = client.send(request(b"POST", b"/a"), b"x", end=False)
    world.app.blocked = True
    body = bytes(range(256)) * 4096
    for start in range(0, len(body), 16384):
        client.h2.send_data(stream, body[start : start + 16384])
    client.h2.send_end(stream)
    client.exchange()
    assert client.h2.queued(stream) > len(body) // 2, "the window bounds what is held"
    world.app.blocked = False
    for _ in range(100):
        world.app.drain()
        client.exchange()
    assert client.h2.queued(stream) == 0
    sent = world.app.take()
    assert sent.endswith(b"0\r\n\r\n") and sent.count(b"\x00\x01\x02\x03") == 4096


def test_slow_reader_of_one_stream_does_not_stop_another() -> None:
    """Its own application is paused; the other answer comes through."""
    world = World()
    client = H2Client(world, limits=H2Limits(stream_window=65535, connection_window=1 << 20))
    client.credits = False
    slow = client.send(request(path=b"/slow"))
    app = world.app
    app.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while app.reading and len(client.body(slow)) < 100_000:
        app.receive(b"y" * 10_000)
        client.exchange()
        if app.inbox:
            break
    assert not app.reading and len(client.body(slow)) == 65535
    other = client.send(request(path=b"/other"))
    world.app.receive(OK)
    client.exchange()
    assert client.body(other) == b"ok" and client.ended(other)
    client.h2.consumed(slow, 65535)
    client.exchange()
    assert app.reading, "the window opened"


def test_streams_of_a_lost_connection_are_freed_at_once() -> None:
    """Also those that are more than the connection keeps for later: the collector leaves alone what lived long, and each would hold the whole connection."""

    def streams() -> int:
        return sum(isinstance(each, H2ServerStream) for each in gc.get_objects())

    world = World()
    gc.collect()
    before = streams()
    gc.disable()
    try:
        client = H2Client(world)
        for _ in range(FREE_STREAMS + 50):
            client.send(request(b"POST", b"/a"), b"x", end=False)
        assert streams() == before + FREE_STREAMS + 50
        client.transport.lose()
        for kept in (world.exchanges, world.dones.records, world.log.records, world.observed, world.closed):
            kept.clear()
        assert streams() == before
    finally:
        gc.enable()


def test_many_slow_readers_may_keep_less_each() -> None:
    """A client that opens no window for hundreds of streams does not get the whole watermark for each."""
    world = World(pool=PoolLimits(max_connections=1000), limits=HTTPLimits(watermark_bytes=400_000))
    client = H2Client(world, limits=H2Limits(stream_window=65535, connection_window=1 << 20))
    client.credits = False
    for _ in range(100):
        stream = client.send(request(path=b"/slow"))
        app = world.app
        app.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
        while app.reading and not app.inbox:
            app.receive(b"y" * 10_000)
            client.exchange()
    queued = [client.connection.h2.queued(each) for each in range(1, stream + 1, 2)]
    assert queued[0] > 390_000 and queued[-1] < 50_000 and sum(queued) < 20_000_000


def test_goodbye_that_does_not_fit() -> None:
    """As over HTTP/1.1."""
    world = World()
    client = H2Client(world)
    client.connection._shut()
    assert client.transport.closing and not client.transport.buffered
    world.clock.advance(STALL_SECONDS + 1)
    assert client.transport.aborted


def test_client_that_does_not_read_is_not_read_from_and_given_up() -> None:
    """Requests do not pile up answers; without progress the connection is aborted."""
    world = answering()
    client = H2Client(world)
    client.transport.blocked = True
    client.transport.high_bytes = 10
    client.send(request())
    assert not client.transport.reading
    world.clock.advance(STALL_SECONDS + 1)
    assert client.transport.aborted


def test_stalled_stream_is_reset() -> None:
    """A window that never opens does not keep an answer in memory for ever."""
    world = World()
    client = H2Client(world, limits=H2Limits(stream_window=65535))
    client.credits = False
    stream = client.send(request())
    world.app.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"y" * 100_000)
    client.exchange()
    for _ in range(8):
        world.clock.advance(STALL_SECONDS / 3)
        client.exchange()
    assert client.kinds(stream)[-1] == "StreamReset"


# -- tunnels -------------------------------------------------------------------------------------------------------------------------------------


def test_websocket_by_extended_connect() -> None:
    """Over HTTP/1.1 it is an upgrade with a key; the key's digest is checked and stays there; octets flow both ways; the end of one is the end of both."""
    world = World()
    client = H2Client(world)
    stream = client.send(request(path=b"/ws", upgrade=b"websocket"))
    client.h2.send_data(stream, b"early")
    client.exchange()
    up = world.app.take()
    assert up.startswith(b"GET /ws HTTP/1.1\r\n") and b"Upgrade: websocket\r\n" in up and b"early" not in up
    key = up.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %b\r\n\r\nhi"
    world.app.receive(switch % accept_of(key))
    client.exchange()
    head = client.head(stream)
    assert head.status == 101 and b"sec-websocket-accept" not in head.headers
    assert client.body(stream) == b"hi" and world.app.take() == b"early"
    client.h2.send_data(stream, b"more")
    client.h2.send_end(stream)
    client.exchange()
    assert world.app.take() == b"more" and world.app.write_ended
    world.app.end()
    client.exchange()
    assert client.ended(stream)
    assert [each.status for each in world.records] == [101]


def test_answer_that_opens_no_tunnel_is_no_2xx() -> None:
    """The client would take it for one (RFC 8441 section 5); a digest that does not fit the key is no success either."""
    world = World()
    client = H2Client(world)
    stream = client.send(request(path=b"/ws", upgrade=b"websocket"))
    world.app.receive(OK)
    client.exchange()
    assert client.head(stream).status == 502 and client.ended(stream)
    stream = client.send(request(path=b"/ws", upgrade=b"websocket"))
    world.app.receive(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: wrong\r\n\r\n")
    client.exchange()
    assert client.head(stream).status == 502 and client.ended(stream)
    assert [each.status for each in world.records] == [502, 502] and not world.http.tunnels_opened


def test_upgrade_that_is_not_allowed_is_refused() -> None:
    """It cannot be passed on as a plain request: the answer would be taken for a tunnel."""
    world = World(upgrades=())
    client = H2Client(world)
    stream = client.send(request(path=b"/ws", upgrade=b"websocket"))
    assert client.head(stream).status == 403 and not world.attempts
    assert [each.status for each in world.records] == [403]


# -- time and the end ----------------------------------------------------------------------------------------------------------------------------


def test_drain_in_two_steps() -> None:
    """GOAWAY for none in particular; what is on its way is served; GOAWAY with the last stream after the round trip; then it closes."""
    world = World()
    client = H2Client(world)
    first = client.send(request())
    world.http.draining = True
    client.connection.drain()
    second = client.h2.open_stream()
    assert second is not None
    client.h2.send_head(second, request(), True)
    client.exchange()
    last = [each.last_stream_id for each in client.of(0) if type(each).__name__ == "GoAwayReceived"]
    assert last == [LARGEST_STREAM_ID, second]
    assert not client.transport.closing
    for each in world.attempts:
        each.transport.receive(OK)
    client.exchange()
    assert client.ended(first) and client.ended(second) and client.transport.closing
    world.ended_once(200, 200)


def test_drain_does_not_wait_for_a_silent_client() -> None:
    """The PING's answer may not come."""
    world = World()
    client = H2Client(world)
    client.connection.drain()
    world.turn()
    world.clock.advance(DRAIN_ROUND_TRIP_SECONDS + 0.1)
    world.turn()
    assert client.transport.closing


def test_idle_connection_is_closed() -> None:
    """With GOAWAY, after the time; not while a request runs."""
    world = World(limits=HTTPLimits(idle_timeout=100.0, watermark_bytes=1000))
    world.route.idle_timeout = world.route.timeout = 0.0
    client = H2Client(world)
    client.send(request())
    for _ in range(30):
        world.clock.advance(10)
    assert not client.transport.closing
    world.app.receive(OK)
    for _ in range(13):
        world.clock.advance(10)
    client.exchange()
    assert client.transport.closing and "GoAwayReceived" in client.kinds()


def test_connection_without_a_request_is_closed_after_the_head_timeout() -> None:
    """As over HTTP/1.1."""
    world = World(limits=HTTPLimits(head_timeout=30.0))
    client = H2Client(world)
    for _ in range(4):
        world.clock.advance(10)
    assert client.transport.closing


def test_head_that_never_ends_is_not_waited_for() -> None:
    """Slowloris in frames: a connection is looked at within 15 s, and then when the time is over."""
    world = answering()
    world.limits = HTTPLimits(head_timeout=5.0)
    client = H2Client(world)
    client.send(request())
    client.transport.receive(b"\x00\x00\x10\x01")
    for second in range(22):
        assert not client.transport.closing or second >= 5
        world.clock.advance(1)
    assert client.transport.closing


def test_heads_that_are_incomplete_now_and_then_are_no_head_without_end() -> None:
    """Each look meets another one of a busy client."""
    world = answering()
    world.limits = HTTPLimits(head_timeout=5.0)
    client = H2Client(world)
    for number in range(100):
        frame = headers(2 * number + 1, PLAIN_GET)
        client.transport.receive(frame[:-3])
        world.clock.advance(1)
        client.transport.receive(frame[-3:])
        world.turn()
    assert not client.transport.closing and client.connection.requests == 100


def test_a_head_that_never_ends_does_not_live_on_other_streams() -> None:
    """Nothing can come behind it, so a stream that is open for long is no reason to wait."""
    world = World(limits=HTTPLimits(head_timeout=5.0))
    client = H2Client(world)
    client.send(request())
    block = headers(3, PLAIN_GET)[9:]
    client.transport.receive(frame(HEADERS, 0, 3, block[:2]))
    for _ in range(22):
        world.clock.advance(1)
        client.transport.receive(b"")
    client.exchange()
    assert client.transport.closing or client.transport.half_closed
    assert [record.detail for record in world.records] == ["the client began a head and did not complete it within 5 s (limits.head_timeout)"]


def test_a_body_in_slow_pieces_is_waited_for() -> None:
    """A frame of it may take longer than a head may."""
    world = World(limits=HTTPLimits(head_timeout=5.0))
    client = H2Client(world)
    client.send(request(b"POST"), end=False)
    client.transport.receive(frame(DATA, 0, 1, bytes(100))[:20])
    for _ in range(60):
        world.clock.advance(1)
    assert not client.transport.closing


def test_keep_alive_ping() -> None:
    """Sent when nothing came for the interval; no answer in time ends the connection."""
    world = answering()
    client = H2Client(world, options=HTTP2Options(keepalive_interval=10.0, keepalive_timeout=5.0))
    client.send(request())
    world.clock.advance(10.1)
    client.exchange()
    world.clock.advance(5.1)
    assert not client.transport.aborted, "it was answered"
    world.clock.advance(10.1)
    for _ in range(3):
        world.clock.advance(5.1)
    assert client.transport.aborted


def test_broken_connection_says_why_and_ends() -> None:
    """GOAWAY leaves, running exchanges are told, what still comes is thrown away, then it closes."""
    world = World()
    client = H2Client(world)
    client.send(request())
    client.transport.receive(b"\x00\x00\x00\x00\x00\x00\x00\x00\x00")
    assert client.transport.take()[3] == GOAWAY
    world.ended_once(400)
    assert client.transport.write_ended and not client.transport.closing
    client.transport.receive(b"anything")
    world.clock.advance(LINGER_SECONDS + 0.1)
    assert client.transport.aborted


def test_requests_per_connection() -> None:
    """The connection says GOAWAY after the last one."""
    world = World(limits=HTTPLimits(requests_per_connection=2))
    world.route.answer = lambda head: text_reply(200, b"text/plain", b"", head)
    client = H2Client(world)
    client.send(request())
    assert "GoAwayReceived" not in client.kinds()
    client.send(request())
    assert "GoAwayReceived" in client.kinds() and client.transport.closing


def test_while_connections_are_not_kept() -> None:
    """As overload protection wants it: GOAWAY with the next request, which is served."""
    world = World()
    world.route.answer = lambda head: text_reply(200, b"text/plain", b"", head)
    client = H2Client(world)
    client.send(request())
    assert "GoAwayReceived" not in client.kinds()
    world.http.draining = True
    client.send(request())
    assert "GoAwayReceived" in client.kinds() and client.transport.closing
    assert [each.status for each in world.records] == [200, 200]


def test_lost_connection_ends_every_exchange_and_leaves_no_timer() -> None:
    """Nothing stays."""
    world = World()
    client = H2Client(world)
    for _ in range(3):
        client.send(request())
    client.transport.lose()
    world.ended_once(499, 499, 499)
    assert world.closed == [client.connection]
    assert not any(timer.is_set for slot in world.wheel._slots.values() for timer in slot if "H2Server" in repr(timer._callback))


@implementer(IRequestHeadHook)
class Shortens:
    """A filter that gives requests a length that is not theirs."""

    def request_head(self, exchange: Any) -> None:
        exchange.request.content_length = 3


@pytest.mark.parametrize("is_held", [False, True])
def test_a_request_that_filters_made_unsendable_ends_alone(is_held: bool) -> None:
    """What the writer refuses is that stream's error, also when it is delivered late; the connection and its other streams live on."""
    world = World(Shortens(), auto=not is_held)
    client = H2Client(world)
    stream = client.send(request(b"POST"), b"he", end=False)
    client.h2.send_data(stream, b"l")
    client.h2.send_data(stream, b"lo")
    client.exchange()
    if is_held:
        world.attempts[0].succeed()
        client.exchange()
    assert client.head(stream).status == 400 and client.ended(stream)
    world.ended_once(400)
    world.accounts.clear()
    assert not client.transport.closing and client.send(request()) and len(world.exchanges) == 2
