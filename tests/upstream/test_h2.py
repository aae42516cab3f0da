"""`sidecar/upstream/h2.py` and `multiplex.py`: many exchanges on one connection to an application."""

from __future__ import annotations

from typing import Any

import pytest
from zope.interface.verify import verifyObject

from sidecar.codec.h2.frames import CANCEL, HTTP_1_1_REQUIRED, LARGEST_STREAM_ID, REFUSED_STREAM
from sidecar.codec.h2.limits import H2Limits
from sidecar.codec.websocket import accept_of
from sidecar.errors import ConnectFailed, UpstreamWantsHTTP1
from sidecar.headers import Headers
from sidecar.interfaces import IUpstreamStream
from sidecar.model import HTTP2Options, PoolLimits
from sidecar.upstream.h1 import H1ClientConnection
from sidecar.upstream.h2 import STALL_SECONDS, H2ClientConnection
from tests.memory import CHUNKED, GET, OK, POST, UPGRADE, MemoryTransport, World, body_of, retry_rules
from tests.memory_h2 import H2App, H2Client, multiplexed, request, response


def begun(*data: bytes, limits: H2Limits | None = None, options: HTTP2Options | None = None, connect_protocol: bool = True, **settings: Any) -> Any:
    """(world, clients that sent this, the application on the one connection)."""
    world = multiplexed(World(**settings), options)
    clients = [world.client() for _ in data]
    for client, each in zip(clients, data, strict=True):
        client.receive(each)
    world.turn()
    return world, clients, H2App(world, limits, connect_protocol)


def test_provides_the_stream() -> None:
    """What an exchange gets."""
    world, _, _ = begun(GET)
    verifyObject(IUpstreamStream, world.exchanges[0].upstream)


def test_requests_share_one_connection() -> None:
    """Those that wait while it is made, and those that come later; answers in any order."""
    world, clients, app = begun(GET, GET, GET)
    assert len(world.attempts) == 1 and app.requests() == [1, 3, 5]
    for stream in (5, 1, 3):
        app.answer(stream, None, b"%d" % stream)
    assert [body_of(each.take())[-10:] for each in clients] == [b"1\r\n1\r\n0\r\n\r\n"[-10:], b"1\r\n3\r\n0\r\n\r\n"[-10:], b"1\r\n5\r\n0\r\n\r\n"[-10:]]
    clients[0].receive(GET)
    app.exchange()
    app.answer(7)
    assert len(world.attempts) == 1
    world.ended_once(200, 200, 200, 200)


class OneByOne:
    """An owner that takes the last chunk alone, and perhaps no more for now."""

    finished = True

    def __init__(self, stream: Any, pauses: bool) -> None:
        self.stream = stream
        self.pauses = pauses
        self.got: list[Any] = []

    def response_head(self, head: Any) -> None:
        self.got.append(head.status)

    def response_last(self, chunk: bytes) -> bool:
        self.got.append(chunk)
        if self.pauses:
            self.stream.pause_response()
        return False

    def response_end(self, trailers: Any) -> None:
        self.got.append(trailers)


@pytest.mark.parametrize("pauses", [False, True])
def test_the_end_follows_a_last_chunk_that_was_taken_alone(pauses: bool) -> None:
    """At once, or when the owner resumes; then the connection has room again."""
    world, _, app = begun(GET)
    stream = world.exchanges[0].upstream
    owner = stream.owner = OneByOne(stream, pauses)
    app.h2.send_head(1, response(200), False)
    app.h2.send_data(1, b"octets", True)
    app.exchange()
    if pauses:
        assert owner.got == [200, b"octets"] and stream.id == 1
        stream.resume_response()
    assert owner.got == [200, b"octets", None] and stream.id == 0 and stream.is_over


def test_head_and_body_are_translated() -> None:
    """Host becomes :authority; fields of HTTP/1.1 connections stay behind; trailers and 1xx pass."""
    world, (client,), app = begun(CHUNKED.replace(b"Host: app", b"Host: app\r\nTE: trailers\r\nKeep-Alive: 5") + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")
    head, body, end = app.of(1)
    assert (head.method, head.authority, head.path) == (b"POST", b"app", b"/a") and b"keep-alive" not in head.headers and head.headers.get(b"te") == b"trailers"
    assert body == b"hello" and end.trailers.get(b"x-sum") == b"1"
    app.h2.send_informational(1, response(103))
    app.answer(1, response(200, (b"content-type", b"text/plain")), b"ok", trailers=Headers.of([(b"grpc-status", b"0")]))
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 103 Early Hints\r\n") and answer.endswith(b"2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n")
    world.ended_once(200)


def test_full_connection_makes_another_one() -> None:
    """The server's limit holds; who waits gets the first place that is free."""
    world, _clients, app = begun(GET, GET, GET, limits=H2Limits(concurrent_streams=2))
    assert app.requests() == [1, 3] and len(world.attempts) == 2
    app.answer(1)
    assert app.requests() == [1, 3, 5], "a place came free before the second connection was ready"
    app.answer(3)
    app.answer(5)
    world.ended_once(200, 200, 200)


def test_our_own_limit_on_streams() -> None:
    """`max_concurrent_streams` of the cluster counts as the server's does."""
    world, _, app = begun(GET, GET, options=HTTP2Options(max_concurrent_streams=1))
    assert app.requests() == [1] and len(world.attempts) == 2


def test_refused_stream_is_asked_for_again() -> None:
    """With its body, whatever the method: the server has not seen it. The client does not notice."""
    world, (client,), app = begun(POST + b"hello")
    app.h2.reset(1, REFUSED_STREAM)
    app.exchange()
    assert app.requests() == [1, 3] and app.body(3) == b"hello"
    app.answer(3, None, b"ok")
    assert b"200 OK" in client.take()
    world.ended_once(200)
    assert world.connector.multiplexer.counters["replays"] == 1


def test_goaway_in_mid_flight_loses_nothing() -> None:
    """Streams that the server took end where they are, later ones move, new ones go elsewhere; then the old connection closes."""
    world, _clients, app = begun(POST + b"first", POST + b"other")
    app.h2.goaway(0, last=1)
    app.exchange()
    world.turn()
    other = H2App(world)
    assert len(world.attempts) == 2 and other.requests() == [1] and other.body(1) == b"other"
    late = world.client()
    late.receive(GET)
    other.exchange()
    assert other.requests() == [1, 3]
    app.answer(1, None, b"ok")
    assert world.attempts[0].transport.closing
    other.answer(1)
    other.answer(3)
    world.ended_once(200, 200, 200)
    assert world.connector.connections == 1


def test_drain_of_the_server_in_two_steps() -> None:
    """GOAWAY for none in particular stops new streams only."""
    _world, (client,), app = begun(GET)
    app.h2.goaway(0, LARGEST_STREAM_ID)
    app.exchange()
    assert not app.transport.closing
    app.answer(1)
    assert app.transport.closing and b"200 OK" in client.take()


def test_request_too_long_to_keep_is_not_replayed() -> None:
    """Then the client is told."""
    world, (client,), app = begun(b"POST /a HTTP/1.1\r\nHost: app\r\nContent-Length: 100000\r\n\r\n" + b"x" * 70_000)
    app.h2.reset(1, REFUSED_STREAM)
    app.exchange()
    assert client.take().startswith(b"HTTP/1.1 503 ")
    world.ended_once(503)


def test_lost_connection() -> None:
    """A request that may be sent again is, on a new connection, when the old one had served others; others are told."""
    world, (client, other), app = begun(GET, POST + b"hello")
    app.answer(1)
    client.take()
    client.receive(GET)
    app.exchange()
    app.transport.lose()
    world.turn()
    assert other.take().startswith(b"HTTP/1.1 503 ")
    again = H2App(world)
    assert len(world.attempts) == 2
    again.answer(again.requests()[0])
    assert client.take().startswith(b"HTTP/1.1 200 ")
    world.ended_once(200, 503, 200)


def test_reset_by_the_application() -> None:
    """Before its answer: 503; within: the client's answer is cut short. The connection goes on."""
    world, (first, second), app = begun(GET, GET)
    app.h2.reset(1, 2)
    app.h2.send_head(3, response(200, (b"content-length", b"10")), False)
    app.h2.send_data(3, b"half")
    app.exchange()
    app.h2.reset(3, 2)
    app.exchange()
    assert first.take().startswith(b"HTTP/1.1 503 ")
    assert body_of(second.take()) == b"half" and second.closing
    assert not app.transport.closing
    assert [each.code for each in world.records] == ["upstream-reset", "upstream-reset"]


def test_client_that_goes_away_resets_its_stream_alone() -> None:
    """The other exchange ends well."""
    world, (first, second), app = begun(GET, GET)
    first.lose()
    app.exchange()
    assert app.kinds(1)[-1] == "StreamReset" and app.of(1)[-1].code == 8
    app.answer(3, None, b"ok")
    assert b"200 OK" in second.take()
    world.ended_once(499, 200)


def test_early_answer_stops_the_upload() -> None:
    """The client has its answer; the rest is not sent."""
    world, (client,), app = begun(CHUNKED + b"5\r\nhello\r\n")
    app.answer(1, response(413, end=True))
    assert client.take().startswith(b"HTTP/1.1 413 ")
    assert app.kinds(1)[-1] == "StreamReset"
    world.ended_once(413)


# -- connecting ----------------------------------------------------------------------------------------------------------------------------------


def test_failed_connection_fails_all_who_waited_for_it() -> None:
    """They would have shared it."""
    world = multiplexed(World(auto=False))
    clients = [world.client() for _ in range(3)]
    for each in clients:
        each.receive(GET)
    assert len(world.attempts) == 1
    world.attempts[0].fail(ConnectFailed("refused"))
    assert all(each.take().startswith(b"HTTP/1.1 503 ") for each in clients)
    world.ended_once(503, 503, 503)


@pytest.mark.parametrize("what", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", None])
def test_server_that_does_not_speak_http2(what: bytes | None) -> None:
    """Another protocol, a close, silence: the connection has failed, in its time."""
    world = multiplexed(World())
    client = world.client()
    client.receive(GET)
    world.turn()
    if what is None:
        world.clock.advance(5.1)
    elif what:
        world.app.receive(what)
    else:
        world.app.end()
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 503 ") and b"connect-" in answer
    world.ended_once(503)
    assert world.connector.connections == 0


@pytest.mark.parametrize(("alpn", "kind"), [(b"h2", H2ClientConnection), (b"http/1.1", H1ClientConnection), (None, H1ClientConnection)])
def test_alpn_decides(alpn: bytes | None, kind: type) -> None:
    """With `auto` each connection speaks what its endpoint chose."""

    class Security:
        def client_tls(self, address: object, is_h1_only: bool = False) -> None: ...
        def check_peer(self, transport: object, address: object) -> None: ...
        def explain(self, transport: object, reason: object, address: object) -> None: ...

    world = multiplexed(World(auto=False), negotiates=True)
    world.connector.is_secure = True
    world.connector._security = Security()  # type: ignore[assignment]
    for _ in range(2):
        world.client().receive(GET)
    attempt = world.attempts[0]
    attempt.transport = transport = MemoryTransport(attempt.protocol)
    transport.negotiatedProtocol = alpn  # type: ignore[attr-defined]
    attempt.protocol.makeConnection(transport)
    transport.protocol.handshakeCompleted()
    assert type(transport.protocol) is kind
    assert len(world.attempts) == (1 if kind is H2ClientConnection else 2), "HTTP/1.1 needs one for each"


class Offered:
    """The TLS of a cluster that remembers what was offered to endpoints; they choose HTTP/2 as long as it is."""

    def __init__(self) -> None:
        self.h1_only: list[bool] = []

    def client_tls(self, address: object, is_h1_only: bool = False) -> None:
        self.h1_only.append(is_h1_only)

    def check_peer(self, transport: object, address: object) -> None: ...
    def explain(self, transport: object, reason: object, address: object) -> None: ...


def handshake(attempt: Any, alpn: bytes) -> MemoryTransport:
    """The endpoint chose this by ALPN."""
    attempt.transport = transport = MemoryTransport(attempt.protocol)
    transport.negotiatedProtocol = alpn  # type: ignore[attr-defined]
    attempt.protocol.makeConnection(transport)
    transport.protocol.handshakeCompleted()
    return transport


def test_a_server_that_wants_http1_gets_it_where_alpn_decides() -> None:
    """HTTP_1_1_REQUIRED: the request goes over HTTP/1.1, whatever its method, and nothing else is offered to this endpoint from then on, as browsers do. What
    runs on its HTTP/2 connection ends there."""
    world = multiplexed(World(auto=False), negotiates=True)
    world.connector.is_secure = True
    world.connector._security = offered = Offered()  # type: ignore[assignment]
    poster, other = world.client(), world.client()
    poster.receive(POST + b"hello")
    other.receive(GET)
    handshake(world.attempts[0], b"h2")
    world.turn()
    app = H2App(world, transport=world.attempts[0].transport)
    world.turn()
    app.exchange()
    assert app.requests() == [1, 3]
    app.h2.reset(1, HTTP_1_1_REQUIRED)
    app.exchange()
    assert offered.h1_only == [False, True] and not poster.written
    plain = handshake(world.attempts[1], b"http/1.1")
    world.turn()
    up = plain.take()
    assert up.startswith(b"POST /a HTTP/1.1\r\nHost: app\r\n") and body_of(up) == b"hello"
    plain.receive(OK)
    app.answer(3)
    assert poster.take().startswith(b"HTTP/1.1 200 ") and other.take().startswith(b"HTTP/1.1 200 ") and app.transport.closing
    other.receive(GET)
    assert plain.take().startswith(b"GET /a HTTP/1.1\r\n") and len(world.attempts) == 2
    plain.receive(OK)
    world.ended_once(200, 200, 200)


def test_a_connection_on_its_way_is_not_used_for_what_is_wanted_over_http1() -> None:
    """Its ALPN was decided before."""
    world = multiplexed(World(auto=False, pool=PoolLimits(max_connections=10)), HTTP2Options(max_concurrent_streams=1), negotiates=True)
    world.connector.is_secure = True
    world.connector._security = Offered()  # type: ignore[assignment]
    first, second = world.client(), world.client()
    first.receive(GET)
    handshake(world.attempts[0], b"h2")
    app = H2App(world, transport=world.attempts[0].transport)
    second.receive(GET)
    assert len(world.attempts) == 2
    app.h2.reset(1, HTTP_1_1_REQUIRED)
    app.exchange()
    app.h2.reset(3, HTTP_1_1_REQUIRED)  # the place that came free
    app.exchange()
    late = handshake(world.attempts[1], b"h2")
    H2App(world, transport=late)
    assert late.closing
    plain = [handshake(attempt, b"http/1.1") for attempt in world.attempts[2:]]
    for transport in plain * 2:
        if transport.take():
            transport.receive(OK)
    assert first.take().startswith(b"HTTP/1.1 200 ") and second.take().startswith(b"HTTP/1.1 200 ")
    world.ended_once(200, 200)


def test_a_server_that_wants_http1_where_it_is_not_spoken() -> None:
    """502 in words; a policy may try it elsewhere, because the server did nothing."""
    world, (client,), app = begun(POST + b"hello")
    app.h2.reset(1, HTTP_1_1_REQUIRED)
    app.exchange()
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 502 ") and b"http-version-required" in answer and b"HTTP_1_1_REQUIRED" in answer
    assert UpstreamWantsHTTP1.retry_safe and [record.flags for record in world.records] == ["UPE"]
    assert len(world.attempts) == 1


# -- flow control --------------------------------------------------------------------------------------------------------------------------------


def test_what_waited_goes_on_by_itself() -> None:
    """Each chunk is more than a stream may keep waiting: the answer pauses and resumes with each, and nothing but the writing itself tells it to."""
    world = multiplexed(World())
    assert world.connector.multiplexer is not None
    world.connector.multiplexer.limits = H2Limits(frame_octets=65_536)
    wide = H2Limits(stream_window=10_000_000, connection_window=10_000_000)
    client = H2Client(world, wide)
    stream = client.send(request())
    app = H2App(world, H2Limits(sent_frame_octets=65_536))
    app.answer(1, response(), *[bytes([number]) * 20_000 for number in range(5)])
    client.exchange()
    assert client.ended(stream) and client.body(stream) == b"".join(bytes([number]) * 20_000 for number in range(5))
    world.ended_once(200)


def test_slow_client_is_waited_for_and_stops_nobody_else() -> None:
    """What one client does not read stays with the application, up to the window; the other answer comes through."""
    world, (slow, other), app = begun(GET, GET, limits=H2Limits())
    slow.blocked = True
    app.h2.send_head(1, response(200), False)
    body = b"y" * 1_000_000
    app.h2.send_data(1, body)
    app.h2.send_end(1)
    app.exchange()
    assert app.h2.queued(1) > 500_000
    app.answer(3, None, b"ok")
    assert b"ok" in other.take()
    slow.blocked = False
    for _ in range(200):
        slow.drain()
        app.exchange()
    assert app.h2.queued(1) == 0 and slow.take().count(b"y") == len(body)
    world.ended_once(200, 200)


def test_slow_application_is_waited_for() -> None:
    """The client is paused when the stream's window is used up, and read from again when it opens."""
    _world, (client,), app = begun(CHUNKED, limits=H2Limits(stream_window=65535))
    app.credits = False
    sent = 0
    while client.reading and sent < 1_000_000:
        client.receive(b"2710\r\n" + b"z" * 10_000 + b"\r\n")
        sent += 10_000
        app.exchange()
    assert not client.reading and sent < 200_000
    app.credits = True
    app.h2.consumed(1, 65535)
    app.exchange()
    assert client.reading
    client.receive(b"0\r\n\r\n")
    app.exchange()
    assert len(app.body(1)) == sent and app.ended(1)


def test_a_client_that_waited_is_read_from_again_after_refusals_and_retries() -> None:
    """Each stream holds it up anew; the last one's window opens, and nothing of those before holds it."""
    world, (client,), app = begun(GET, limits=H2Limits(stream_window=100))
    app.answer(1)
    world.route.retry = retry_rules(attempts=3, on=("reset",))
    client.receive(CHUNKED.replace(b"POST", b"PUT"))
    app.exchange()
    app.credits = False
    client.receive(b"1388\r\n" + b"z" * 5000 + b"\r\n")
    app.exchange()
    assert not client.reading
    app.h2.reset(3, REFUSED_STREAM)
    app.exchange()
    assert app.requests() == [1, 3, 5] and not client.reading
    other = H2App(world)
    app.h2.reset(5, CANCEL)
    app.exchange()
    world.clock.advance(0.1)
    for _ in range(5):
        app.exchange()
        other.exchange()
    app.credits = True
    if not other.requests():
        app.h2.consumed(7, 100)
    for _ in range(5):
        app.exchange()
    assert client.reading
    client.receive(b"0\r\n\r\n")
    app.exchange()
    other.exchange()
    assert 5000 in (len(app.body(7)), len(other.body(1)))


def test_application_that_opens_no_window_is_given_up() -> None:
    """The exchange fails; its window does not keep memory for ever."""
    world, (client,), app = begun(b"POST /a HTTP/1.1\r\nHost: app\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000, limits=H2Limits(stream_window=65535))
    world.route.idle_timeout = world.route.timeout = 0.0
    app.credits = False
    for _ in range(8):
        world.clock.advance(STALL_SECONDS / 3)
        app.exchange()
    assert client.take().startswith(b"HTTP/1.1 50")


def test_head_larger_than_the_server_takes_is_not_sent() -> None:
    """It might end the connection for all who share it (RFC 9113, section 10.5.1)."""
    world, (client, other), app = begun(b"GET /a HTTP/1.1\r\nHost: app\r\nX-A: " + b"a" * 1000 + b"\r\n\r\n", GET, limits=H2Limits(header_list_octets=1000))
    assert client.take().startswith(b"HTTP/1.1 431 ") and app.requests() == [1]
    app.answer(1)
    assert other.take().startswith(b"HTTP/1.1 200 ")
    world.ended_once(431, 200)


# -- tunnels -------------------------------------------------------------------------------------------------------------------------------------


def test_websocket_over_extended_connect() -> None:
    """The key stays here, its digest is added to the answer; octets flow both ways."""
    _world, (client,), app = begun(UPGRADE.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Key: AAAA\r\nSec-WebSocket-Version: 13\r\n\r\n"))
    head = app.head(1)
    assert head.upgrade == b"websocket" and b"sec-websocket-key" not in head.headers and head.headers.get(b"sec-websocket-version") == b"13"
    app.h2.send_head(1, response(101), False)
    app.h2.send_data(1, b"hi")
    app.exchange()
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 101 ") and b"Sec-WebSocket-Accept: " + accept_of(b"AAAA") in answer and body_of(answer) == b"hi"
    client.receive(b"hello")
    app.exchange()
    assert app.body(1) == b"hello"
    app.h2.send_end(1)
    app.exchange()
    assert client.closing


@pytest.mark.parametrize("asked", [UPGRADE, b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"])
def test_tunnel_that_is_over_when_it_opens(asked: bytes) -> None:
    """502, and the connection's other streams go on."""
    world, (client, other), app = begun(asked, GET, upgrades=("websocket", "connect"))
    app.answer(1, response(200, end=True))
    assert client.take().startswith(b"HTTP/1.1 502 ")
    app.answer(3, None, b"ok")
    assert other.take().startswith(b"HTTP/1.1 200 ")
    world.ended_once(502, 200)
    assert app.kinds(1)[-1] == "StreamReset" and world.attempts[0].protocol.reserved == 0


@pytest.mark.parametrize("body", [b"", b"hello"])
def test_upgrade_that_extended_connect_cannot_ask_for(body: bytes) -> None:
    """One with a method of its own or a body is asked for without the upgrade; the body is none of a tunnel's octets."""
    head = b"POST /ws HTTP/1.1\r\nHost: app\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: %d\r\n\r\n" % len(body)
    world, (client,), app = begun(head + body)
    assert app.head(1).method == b"POST" and app.head(1).upgrade is None and app.body(1) == body and app.ended(1)
    app.answer(1, None, b"ok")
    assert client.take().startswith(b"HTTP/1.1 200 ") and not client.closing
    world.ended_once(200)


def test_upgrade_that_the_server_does_not_take() -> None:
    """It is not asked for what it did not announce."""
    world, (client,), app = begun(UPGRADE, connect_protocol=False)
    assert client.take().startswith(b"HTTP/1.1 502 ") and not app.requests()
    world.ended_once(502)


def test_both_sides_http2() -> None:
    """A unary gRPC call, its trailers, and a WebSocket, through one connection on each side."""
    world = multiplexed(World())
    client = H2Client(world)
    call = client.send(request(b"POST", b"/s/m", (b"content-type", b"application/grpc"), (b"te", b"trailers")), b"\0\0\0\0\2hi")
    app = H2App(world)
    assert app.body(1) == b"\0\0\0\0\2hi" and app.head(1).headers.get(b"te") == b"trailers"
    app.answer(1, response(200, (b"content-type", b"application/grpc")), b"\0\0\0\0\2ho", trailers=Headers.of([(b"grpc-status", b"0")]))
    client.exchange()
    assert client.body(call) == b"\0\0\0\0\2ho" and client.of(call)[-1].trailers.get(b"grpc-status") == b"0"
    tunnel = client.send(request(path=b"/ws", upgrade=b"websocket"))
    app.exchange()
    assert app.head(3).upgrade == b"websocket" and b"sec-websocket-key" not in app.head(3).headers
    app.h2.send_head(3, response(101), False)
    app.exchange()
    client.exchange()
    assert client.head(tunnel).status == 101 and b"sec-websocket-accept" not in client.head(tunnel).headers


# -- time and the end ----------------------------------------------------------------------------------------------------------------------------


def test_idle_connection_is_closed_with_goaway() -> None:
    """After the pool's idle timeout."""
    world, _, app = begun(GET, pool=PoolLimits(idle_timeout=30.0))
    app.answer(1)
    for _ in range(6):
        world.clock.advance(10)
    app.exchange()
    assert app.transport.closing and "GoAwayReceived" in app.kinds() and world.connector.connections == 0


def test_max_requests() -> None:
    """Then the connection closes and the next one is made."""
    world, _clients, app = begun(GET, GET, GET, pool=PoolLimits(max_requests=2))
    assert app.requests() == [1, 3] and len(world.attempts) == 2
    app.answer(1)
    app.answer(3)
    assert app.transport.closing


def test_keep_alive_ping() -> None:
    """A dead server is found out while an answer is awaited."""
    world, (client,), app = begun(GET, options=HTTP2Options(keepalive_interval=5.0, keepalive_timeout=2.0), limits=None)
    for _ in range(2):
        world.clock.advance(2.6)
        app.exchange()
    assert not app.transport.aborted
    for _ in range(5):
        world.clock.advance(2.6)
    assert app.transport.aborted and client.take().startswith(b"HTTP/1.1 503 ")


def test_stop_closes_when_the_last_stream_ends() -> None:
    """Running exchanges end first."""
    world, (client,), app = begun(GET)
    world.connector.stop()
    assert not app.transport.closing
    app.answer(1)
    assert app.transport.closing and b"200 OK" in client.take()


def test_upgrade_to_h2c_has_no_meaning_here() -> None:
    """The server speaks HTTP/2 already: it gets a plain request, and the client a plain answer."""
    head = b"GET /a HTTP/1.1\r\nHost: app\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
    world, (client,), app = begun(head, upgrades=("h2c",))
    seen = app.head(1)
    assert seen.method == b"GET" and seen.upgrade is None and b"http2-settings" not in seen.headers
    app.answer(1, None, b"ok")
    assert client.take().startswith(b"HTTP/1.1 200 ")
    world.ended_once(200)


def test_ids_of_streams_run_out() -> None:
    """The last stream is served where it is, the next request on a new connection, and the old one closes (RFC 9113 section 5.1.1)."""
    world, (client,), app = begun(GET)
    app.answer(1)
    client.take()
    first = world.attempts[0].protocol
    first.h2._next_stream = LARGEST_STREAM_ID
    app.h2._last_peer_stream = LARGEST_STREAM_ID - 2
    client.receive(GET)
    other = world.client()
    other.receive(GET)
    world.turn()
    again = H2App(world)
    assert len(world.attempts) == 2 and again.requests() == [1]
    app.exchange()
    app.answer(LARGEST_STREAM_ID)
    assert client.take().startswith(b"HTTP/1.1 200 ") and app.transport.closing
    again.answer(1)
    assert other.take().startswith(b"HTTP/1.1 200 ")
    world.ended_once(200, 200, 200)
