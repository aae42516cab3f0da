"""`sidecar/downstream/h1.py`: one client's connection, its requests one after the other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from sidecar.downstream.h1 import DRAIN_IDLE_SECONDS, LINGER_SECONDS, STALL_SECONDS
from sidecar.errors import Draining
from sidecar.interfaces import IDownstreamStream
from sidecar.message import RequestHead
from sidecar.model import HTTPLimits
from sidecar.proxy.replies import text_reply
from sidecar.verdicts import Reply
from tests.memory import CHUNKED, GET, OK, POST, SWITCH, UPGRADE, MemoryTransport, World, body_of
from tests.proxy.plugins import RequestHeadPlugin

CONNECT = b"CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n"


def answering(**more: Any) -> World:
    """A world that answers every request from here."""
    world = World(**more)
    world.route.answer = lambda head: text_reply(200, b"text/plain", head.path, head)
    return world


def test_provides_the_stream() -> None:
    """A connection is the downstream stream of its exchange."""
    verifyObject(IDownstreamStream, World().client().protocol)


def test_a_lost_connection_is_let_go_by_its_timer() -> None:
    """An hour of idle timeout must not keep a connection that is gone, and its TLS buffers, in memory."""
    world = answering()
    client = world.client()
    client.receive(GET)
    timer = client.protocol.timer
    assert timer.is_set
    client.lose()
    assert not timer.is_set and getattr(timer._callback, "__self__", None) is None


# -- one request after the other -----------------------------------------------------------------------------------------------------------------


def test_ten_thousand_pipelined_requests_do_not_nest() -> None:
    """All are answered, in order, from one read."""
    world = answering(limits=HTTPLimits(pipeline_bytes=1 << 20))
    client = world.client()
    client.receive(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(10_000)))
    bodies = [each.partition(b"\r\n\r\n")[2] for each in client.take().split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [b"/%d" % number for number in range(10_000)]
    assert len(world.records) == 10_000 and client.reading


def test_pipelined_requests_go_up_in_order_one_at_a_time() -> None:
    """The second request waits for the first answer."""
    world = World()
    client, app = world.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert app.take().count(b"GET") == 1
    app.receive(OK)
    assert app.take().startswith(b"GET /2 ")
    app.receive(OK)
    assert client.take().count(b"200 OK") == 2
    world.ended_once(200, 200)


def test_pipelining_is_bounded() -> None:
    """More than `pipeline_bytes` of later requests stop reading; it goes on when they are served."""
    world = World(limits=HTTPLimits(pipeline_bytes=100))
    client, app = world.send(GET)
    client.receive(GET * 10)
    assert not client.reading
    client.receive(GET)
    assert len(client.inbox) == 1
    for _ in range(12):
        app.receive(OK)
        client.pump()
    assert client.reading and not client.inbox
    assert client.take().count(b"200 OK") == 12


@pytest.mark.parametrize("behind", [b"", b"12345" * 100])
def test_pipelined_request_with_a_body_gets_all_of_it(behind: bytes) -> None:
    """Reading that stopped for pipelined octets goes on for the body of the request that they began."""
    world = World(limits=HTTPLimits(pipeline_bytes=100))
    client, app = world.send(GET)
    client.receive(b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + b"x" * 200)
    assert not client.reading
    client.receive(b"y" * 800)
    app.receive(OK)
    client.pump()
    assert app.take().endswith(b"x" * 200 + b"y" * 800)
    app.receive(OK)
    world.ended_once(200, 200)


def test_exchange_that_ended_while_paused_does_not_stop_the_next() -> None:
    """A hook that never answered leaves nothing paused behind."""
    world = World(RequestHeadPlugin(lambda exchange: Deferred()))
    world.route.idle_timeout = 10.0
    client = world.client()
    client.receive(GET + b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
    client.receive(b"0123456789")
    world.clock.advance(10.1)
    world.clock.advance(1)
    client.pump()
    world.turn()
    assert world.app.take().endswith(b"0123456789")


def test_requests_per_connection() -> None:
    """The last request that a connection may carry is answered with Connection: close."""
    world = answering(limits=HTTPLimits(requests_per_connection=2))
    client = world.client()
    client.receive(GET * 3)
    answer = client.take()
    assert answer.count(b"200 OK") == 2 and answer.count(b"Connection: close") == 1
    assert client.closing


@pytest.mark.parametrize(
    ("request_", "closes"),
    [
        (GET, False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False),
    ],
)
def test_keep_alive(request_: bytes, closes: bool) -> None:
    """As RFC 9112, section 9.3, says, for local and forwarded answers."""
    for world in (answering(), World()):
        client, app = world.send(request_)
        if app:
            app.receive(OK)
        assert client.closing is closes
        world.ended_once(200)


def test_old_client_gets_no_chunks() -> None:
    """HTTP/1.0 gets a body of unknown length up to the close; cut short it gets a reset."""
    world = World()
    client, app = world.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    app.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    assert body_of(client.take()) == b"ok" and client.closing and not client.aborted
    client, app = world.send(b"GET / HTTP/1.0\r\n\r\n")
    app.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
    app.lose()
    assert client.aborted


# -- bytes that are no request -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"x" * 70000 + b"\r\n\r\n", 431),
    ],
)
def test_unreadable_request(data: bytes, status: int) -> None:
    """It is answered, recorded once, and the connection ends after a moment of throwing away."""
    world = World()
    client = world.client()
    client.receive(data)
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 %d " % status) and b"Connection: close" in answer
    assert [each.status for each in world.records] == [status] and world.http.bad_requests == 1 and world.http.active == 0
    assert client.write_ended
    client.receive(GET)
    assert client.take() == b""
    world.clock.advance(LINGER_SECONDS + 1)
    assert client.aborted


def test_malformed_body_with_an_exchange_running() -> None:
    """The application's request is abandoned, the client gets 400 and a close."""
    world = World()
    client, app = world.send(CHUNKED + b"5\r\nhello\r\n")
    client.receive(b"zz\r\n")
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 400 ") and b"Connection: close" in answer
    assert app.aborted
    world.ended_once(400)


def test_malformed_body_behind_a_local_answer() -> None:
    """What was answered already is not answered again."""
    world = answering()
    client = world.client()
    client.receive(CHUNKED + b"zz\r\n")
    assert client.take().count(b"HTTP/1.1") == 1
    world.ended_once(200)
    assert client.write_ended


def test_malformed_body_after_the_answer_began() -> None:
    """The answer is cut."""
    world = World()
    client, app = world.send(CHUNKED)
    app.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel")
    client.receive(b"zz\r\n")
    assert client.closing and client.take().endswith(b"hel")
    world.ended_once(200)
    assert world.records[0].code == "bad-framing"


# -- answers before the request is complete -------------------------------------------------------------------------------------------------------


def test_local_answer_to_half_a_request_closes() -> None:
    """The client is told that the connection ends, and may send the rest for a moment."""
    world = answering()
    client = world.client()
    client.receive(POST + b"hel")
    assert b"Connection: close" in client.take()
    assert client.write_ended and not client.closing
    client.receive(b"lo" + GET)
    assert client.take() == b""
    client.end()
    assert client.closing and not client.aborted
    world.ended_once(200)


def test_local_answer_to_a_whole_request_keeps_the_connection() -> None:
    """When the body is already here, nothing is lost by going on."""
    world = answering()
    client = world.client()
    client.receive(POST + b"hello" + GET)
    answer = client.take()
    assert answer.count(b"200 OK") == 2 and b"Connection: close" not in answer
    assert not client.closing and not client.write_ended


def test_lingering_waits_for_the_answer_to_leave() -> None:
    """A slow reader gets the whole of an early answer, as long as it reads."""
    world = answering()
    client = world.client()
    client.blocked = True
    client.receive(POST)
    world.clock.advance(LINGER_SECONDS + 1)
    assert not client.aborted
    client.drain(1)
    world.clock.advance(STALL_SECONDS + 1)
    assert not client.aborted
    world.clock.advance(STALL_SECONDS + 1)
    assert client.aborted


def test_goodbye_that_does_not_fit() -> None:
    """Over TLS the connection closes with octets of its own: when the client does not read them it is aborted all the same."""
    world = answering()
    client = world.client()
    client.receive(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert client.closing and not client.buffered
    world.clock.advance(STALL_SECONDS + 1)
    assert client.aborted


def test_expect_continue() -> None:
    """The application is asked, and its 100 comes through; the body follows."""
    world = World()
    client, app = world.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert b"100-continue" in app.take()
    app.receive(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.receive(b"hello")
    app.receive(OK)
    world.ended_once(200)
    assert not client.closing


# -- time ----------------------------------------------------------------------------------------------------------------------------------------


def test_connection_that_sends_nothing_is_closed() -> None:
    """Without a word, after the head timeout."""
    client = (world := World(limits=HTTPLimits(head_timeout=5.0))).client()
    world.clock.advance(5.2)
    assert client.closing and client.take() == b"" and world.records == []


def test_slow_head() -> None:
    """A head that trickles in is answered with 408, however often a byte comes."""
    world = World(limits=HTTPLimits(head_timeout=5.0))
    client = world.client()
    for octet in b"GET / HT":
        client.receive(bytes([octet]))
        world.clock.advance(0.9)
    assert client.take().startswith(b"HTTP/1.1 408 ") and client.write_ended
    assert [each.status for each in world.records] == [408]


def test_idle_timeout_between_requests() -> None:
    """An idle connection closes after the idle timeout, counted from the last answer."""
    world = answering(limits=HTTPLimits(idle_timeout=20.0, head_timeout=5.0))
    client = world.client()
    for _ in range(3):
        client.receive(GET)
        world.clock.advance(15)
        assert not client.closing
    world.clock.advance(6)
    assert client.closing


def test_head_timeout_off() -> None:
    """Without a head timeout nothing ends a slow head."""
    world = answering(limits=HTTPLimits(idle_timeout=20.0, head_timeout=0.0))
    client = world.client()
    client.receive(GET)
    client.take()
    client.receive(b"GET")
    world.clock.advance(1000)
    assert client.take() == b"" and not client.closing


def test_stall_while_closing() -> None:
    """A client that does not take its last answer is not waited for."""
    world = answering()
    client = world.client()
    client.blocked = True
    client.receive(b"GET / HTTP/1.0\r\n\r\n")
    assert client.closing and not client.aborted
    for _ in range(2):
        world.clock.advance(STALL_SECONDS + 1)
    assert client.aborted


@pytest.mark.parametrize("kind", ["cut", "reset"])
def test_stall_after_a_cut_answer(kind: str) -> None:
    """Likewise when the answer was cut."""
    world = World()
    client, app = world.send(GET)
    client.blocked = True
    app.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel")
    app.lose()
    assert client.closing
    for _ in range(2):
        world.clock.advance(STALL_SECONDS + 1)
    assert client.aborted


def test_client_that_reads_nothing_between_pipelined_requests() -> None:
    """The next request waits until the answers before have left; in the end the connection is given up."""
    world = answering()
    client = world.client()
    client.blocked = True
    client.receive(GET * 100)
    assert client.buffered < 1500 and not client.reading
    client.drain()
    assert client.buffered < 1500
    for _ in range(100):
        client.drain()
    assert client.take().count(b"200 OK") == 100 and client.reading
    client.receive(GET * 100)
    for _ in range(3):
        world.clock.advance(STALL_SECONDS + 1)
    assert client.aborted


# -- half-close ----------------------------------------------------------------------------------------------------------------------------------


def test_half_close_aborts() -> None:
    """By default the client that ends its side is gone."""
    world = World()
    client, app = world.send(GET)
    client.end()
    assert app.aborted and client.closing
    world.ended_once(499)


@pytest.mark.parametrize("pipelined", [1, 3])
def test_half_close_is_answered(pipelined: int) -> None:
    """With `half_close: answer` everything asked for before is answered, then the connection closes."""
    world = World()
    client = world.client(half_close=True)
    world.send(GET * pipelined, client)
    client.end()
    for _ in range(pipelined):
        assert not client.closing
        world.app.receive(OK)
    answer = client.take()
    assert answer.count(b"200 OK") == pipelined and client.closing and not client.aborted
    assert answer.count(b"Connection: close") == (pipelined > 1)
    world.ended_once(*[200] * pipelined)


def test_half_close_in_mid_request() -> None:
    """An incomplete request is not answered."""
    for half_close in (False, True):
        world = World()
        client = world.client(half_close)
        world.send(POST + b"hel", client)
        client.end()
        assert client.closing and world.app.aborted
        world.ended_once(499)


# -- draining ------------------------------------------------------------------------------------------------------------------------------------


def drain(world: World, client: MemoryTransport) -> None:
    world.http.draining = True
    client.protocol.drain()


def test_drain_closes_idle_connections_after_a_moment() -> None:
    """Not at once, because a request may be on its way; not much later either."""
    world = answering()
    client = world.client()
    client.receive(GET)
    client.take()
    drain(world, client)
    assert not client.closing
    world.clock.advance(DRAIN_IDLE_SECONDS + 0.2)
    assert client.closing


def test_drain_serves_the_request_that_was_on_its_way() -> None:
    """It is answered with Connection: close."""
    world = answering()
    client = world.client()
    drain(world, client)
    world.clock.advance(DRAIN_IDLE_SECONDS / 2)
    client.receive(GET)
    assert b"Connection: close" in client.take() and client.closing
    world.ended_once(200)


def test_drain_with_an_exchange_running() -> None:
    """Its answer says close; one that has begun before is followed by an idle moment only."""
    world = World()
    client, app = world.send(GET)
    drain(world, client)
    app.receive(OK)
    assert b"Connection: close" in client.take() and client.closing
    world = World()
    client, app = world.send(GET)
    app.receive(OK[:-1])
    drain(world, client)
    app.receive(OK[-1:])
    assert not client.closing
    world.clock.advance(DRAIN_IDLE_SECONDS + 0.2)
    assert client.closing


# -- tunnels -------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [False, True])
def test_upgrade_becomes_a_tunnel(wait: bool) -> None:
    """Early octets of both sides pass, then everything, both ways."""
    world = World()
    client, app = world.send(UPGRADE + b"early")
    assert app.take().startswith(b"GET /ws HTTP/1.1\r\n")
    for piece in [SWITCH, b"server-first"] if wait else [SWITCH + b"server-first"]:
        app.receive(piece)
    head, _, rest = client.take().partition(b"\r\n\r\n")
    assert b"Upgrade: websocket" in head and rest == b"server-first"
    assert app.take() == b"early"
    client.receive(b"GET / HTTP/1.1\r\n\r\n\x00")
    app.receive(b"\x01" * 10)
    assert app.take() == b"GET / HTTP/1.1\r\n\r\n\x00" and client.take() == b"\x01" * 10
    client.end()
    assert app.write_ended and not app.closing
    app.receive(b"bye")
    app.end()
    assert client.take() == b"bye" and client.closing and not client.aborted
    world.ended_once(101)


def test_tunnel_survives_the_response_timeout_and_ends_when_idle() -> None:
    """Only silence ends it."""
    world = World()
    client, app = world.send(UPGRADE)
    app.receive(SWITCH)
    for _ in range(5):
        world.clock.advance(200)
        client.receive(b"x")
    assert not client.closing
    # The idle timeout of answers is 300 s.
    world.clock.advance(3590)
    app.receive(b"y")
    world.clock.advance(3590)
    assert not client.closing
    world.clock.advance(11)
    world.clock.advance(1)
    assert client.closing and app.aborted
    world.ended_once(101)
    assert world.records[0].code == "stream-idle-timeout"


@pytest.mark.parametrize("seconds", [0.0, 20.0])
def test_a_tunnels_own_idle_timeout(seconds: float) -> None:
    """May be shorter than that of answers, or none."""
    world = World()
    world.route.upgrade_idle_timeout = seconds
    client, app = world.send(UPGRADE)
    app.receive(SWITCH)
    for _ in range(30):
        world.clock.advance(1)
    assert client.closing is (seconds == 20.0)
    world.clock.advance(100_000)
    assert client.closing is (seconds == 20.0)


def test_tunnels_are_counted() -> None:
    """How many are open, how many there were, and their octets, those of open ones included."""
    world = World()
    first, app = world.send(UPGRADE)
    app.receive(SWITCH + b"hello")
    second, other = world.send(UPGRADE)
    other.receive(SWITCH)
    second.receive(b"abc")
    assert len(world.http.tunnels) == 2 and world.http.octets_of_tunnels() == (3, 5)
    first.lose()
    second.receive(b"d")
    assert len(world.http.tunnels) == 1 and world.http.octets_of_tunnels() == (4, 5)
    other.lose()
    assert not world.http.tunnels and world.http.tunnels_opened == {"websocket": 2} and world.http.octets_of_tunnels() == (4, 5)


H2C = b"GET / HTTP/1.1\r\nHost: app\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"


def test_upgrade_to_h2c_is_passed_over_or_on() -> None:
    """As configured (RFC 7540 section 3.2): the application sees nothing of it, or all that it needs."""
    world = World()
    client, app = world.send(H2C)
    seen = app.take().lower()
    assert b"upgrade" not in seen and b"http2-settings" not in seen and b"connection" not in seen
    app.receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ")
    world = World(upgrades=("h2c",))
    client, app = world.send(H2C)
    seen = app.take().lower()
    assert b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\n" in seen and b"http2-settings: aamaaabk\r\n" in seen
    app.receive(SWITCH.replace(b"websocket", b"h2c") + b"\0\0\0\4\0\0\0\0\0")
    assert body_of(client.take()) == b"\0\0\0\4\0\0\0\0\0"
    client.receive(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert app.take().startswith(b"PRI * ")


@pytest.mark.parametrize("gone", ["client", "app"])
def test_tunnel_ends_with_either_side(gone: str) -> None:
    """When one side is lost the other is closed, and there is one record."""
    world = World()
    client, app = world.send(UPGRADE)
    app.receive(SWITCH)
    (client if gone == "client" else app).lose()
    assert (app if gone == "client" else client).closing
    world.ended_once(101)
    assert world.records[0].code == ""


def test_upgrade_that_is_not_allowed_is_not_asked_for() -> None:
    """The request goes up without Upgrade; a 101 nonetheless is refused."""
    world = World()
    client, app = world.send(UPGRADE.replace(b"websocket", b"h2c"))
    assert b"pgrade" not in app.take()
    app.receive(SWITCH)
    assert client.take().startswith(b"HTTP/1.1 502 ") and app.aborted
    world.ended_once(502)


def test_application_must_not_switch_to_something_else() -> None:
    """A 101 for another protocol, or before the request is complete, is a 502."""
    world = World()
    client, app = world.send(UPGRADE)
    app.receive(SWITCH.replace(b"websocket", b"h2c"))
    assert client.take().startswith(b"HTTP/1.1 502 ")
    client, app = world.send(UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: 9\r\n\r\nhel"))
    app.receive(SWITCH)
    assert client.take().startswith(b"HTTP/1.1 502 ")
    world.ended_once(502, 502)


def test_refused_upgrade_is_an_ordinary_answer() -> None:
    """The connection goes on."""
    world = World()
    client, app = world.send(UPGRADE + GET)
    app.receive(OK)
    app.receive(OK)
    assert client.take().count(b"200 OK") == 2
    world.ended_once(200, 200)


def test_connect() -> None:
    """Refused unless the listener allows it; then a tunnel after 2xx."""
    world = World()
    client = world.client()
    client.receive(CONNECT)
    assert client.take().startswith(b"HTTP/1.1 403 ")
    assert [each.status for each in world.records] == [403] and world.dones.records == []  # no chain was entered
    world = World(upgrades=("connect",))
    client, app = world.send(CONNECT + b"early")
    assert app.take().startswith(b"CONNECT db:5432 HTTP/1.1\r\n")
    app.receive(b"HTTP/1.1 200 OK\r\n\r\nhello")
    assert body_of(client.take()) == b"hello" and app.take() == b"early"
    client.lose()
    world.ended_once(200)


# -- flow control --------------------------------------------------------------------------------------------------------------------------------


def test_slow_client_pauses_the_application() -> None:
    """Nothing more is read from the application than the batch in hand, until the client caught up."""
    world = World()
    client, app = world.send(GET)
    client.blocked = True
    app.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + b"x" * 3000)
    assert not app.reading
    app.receive(b"y" * 6000)
    assert client.buffered < 4000
    client.drain()
    assert app.reading
    app.pump()
    client.drain()
    assert body_of(client.take()) == b"x" * 3000 + b"y" * 6000
    world.ended_once(200)


def test_slow_application_pauses_the_client() -> None:
    """And the other way round."""
    world = World()
    client, app = world.send(POST.replace(b" 5", b" 9000"))
    app.blocked = True
    client.receive(b"x" * 3000)
    assert not client.reading
    client.receive(b"y" * 6000)
    assert app.buffered < 4000
    app.drain()
    client.pump()
    app.drain()
    assert app.take().endswith(b"x" * 3000 + b"y" * 6000)


STEPS = st.lists(st.tuples(st.sampled_from(["client", "app", "drain client", "drain app"]), st.integers(1, 3000)), max_size=60)


@given(STEPS, st.booleans())
def test_any_schedule_keeps_order_and_bounds(steps: list[tuple[str, int]], tunnel: bool) -> None:
    """However the four ends move: memory is bounded, nothing is lost or reordered, and everything is read again at the end."""
    world = World()
    client, app = world.send(UPGRADE if tunnel else CHUNKED)
    app.receive(SWITCH if tunnel else b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.take()
    app.take()
    client.blocked = app.blocked = True
    sent = {"client": b"", "app": b""}
    for number, (step, count) in enumerate(steps):
        if step.startswith("drain"):
            (client if step == "drain client" else app).drain(count)
            client.pump()
            app.pump()
        else:
            data = bytes([number % 256]) * count
            sent[step] += data
            (client if step == "client" else app).receive(data if tunnel else b"%x\r\n%b\r\n" % (count, data))
        # high watermark, and the batch that passed it
        assert client.buffered <= 1000 + 3100 and app.buffered <= 1000 + 3100
    for _ in range(len(steps) + 2):
        for transport in (client, app):
            transport.drain()
            transport.pump()
    assert client.reading and app.reading and not client.inbox and not app.inbox
    assert unchunked(client.take(), tunnel) == sent["app"]
    assert unchunked(app.take(), tunnel) == sent["client"]


def unchunked(data: bytes, tunnel: bool) -> bytes:
    if tunnel:
        return data
    out = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        out += data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]
    return out


# -- endings -------------------------------------------------------------------------------------------------------------------------------------

STAGES = {
    "before a connection": (GET, False, None),
    "request sent": (GET, True, None),
    "in the request's body": (POST + b"he", True, None),
    "after 1xx": (GET, True, b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "in the answer's body": (GET, True, OK[:-1]),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("end", ["lose", "end", "timeout"])
def test_client_gone_at_every_stage(stage: str, end: str) -> None:
    """One record, one exchange_done, nothing left behind."""
    request, connected, answer = STAGES[stage]
    world = World(auto=connected)
    client, app = world.send(request)
    if answer:
        app.receive(answer)
    if end == "timeout":
        world.clock.advance(301)
        world.clock.advance(1)
    else:
        getattr(client, end)()
    sent = answer is not None and answer.startswith(b"HTTP/1.1 200")
    timed_out = 408 if stage == "in the request's body" else 504
    world.ended_once(200 if sent else timed_out if end == "timeout" else 499)
    if not connected:
        late = world.attempts[0].succeed()
        assert late.take() == b""
    else:
        assert app.aborted
    assert world.connector.pending == 0


@pytest.mark.parametrize("stage", [each for each in STAGES if each != "before a connection"])
@pytest.mark.parametrize("end", ["lose", "end", "garbage"])
def test_application_fails_at_every_stage(stage: str, end: str) -> None:
    """Likewise when the application goes."""
    request, _, answer = STAGES[stage]
    world = World()
    _, app = world.send(request)
    if answer:
        app.receive(answer)
    if end == "garbage":
        app.receive(b"\x00\x01\x02 garbage\r\n\r\n")
    else:
        getattr(app, end)()
    if stage == "in the answer's body":
        world.ended_once(200)
    else:
        world.ended_once(502 if end == "garbage" else 503)
    assert world.connector.connections == 0


def test_route_timeout() -> None:
    """504 with UT, from the end of the request; the default one does not cut a long download."""
    world = World()
    client, app = world.send(GET)
    world.clock.advance(15.2)
    assert client.take().startswith(b"HTTP/1.1 504 ")
    world.ended_once(504)
    assert world.records[0].flags == "UT"
    world = World()
    client, app = world.send(CHUNKED)
    app.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.receive(b"0\r\n\r\n")
    for _ in range(5):
        world.clock.advance(10)
        app.receive(b"1\r\nx\r\n")
    app.receive(b"0\r\n\r\n")
    world.ended_once(200)


def test_admin_like_owner_without_upstream() -> None:
    """An owner that is no exchange may stand in for one."""

    class Visit:
        status = 0

        def __init__(self, connection: Any, head: RequestHead) -> None:
            self.connection = connection
            self.head = head

        def start(self) -> None:
            head, body = text_reply(200, b"text/plain", b"x", self.head)
            self.connection.send_head(head)
            self.connection.send_data(body)
            self.connection.send_end(None)
            self.connection.flush()
            self.connection.release()

    world = World()
    world._begin = lambda connection, head, now: Visit(connection, head)  # type: ignore[method-assign, assignment, return-value]
    client = world.client()
    client.receive(POST + GET)
    assert b"Connection: close" in client.take()


def test_reply_to_connect_is_no_tunnel() -> None:
    """A plugin's 200 to CONNECT closes: nothing behind it is taken for HTTP or tunnelled."""
    world = World(RequestHeadPlugin(Reply(200, body=b"x")), upgrades=("connect",))
    client = world.client()
    client.receive(CONNECT + GET)
    assert client.closing
    world.ended_once(200)


def test_a_cut_of_our_own_is_not_recorded_as_the_clients() -> None:
    """At the end of the drain time the record says who cut the exchange short."""
    world = World()
    client, _ = world.send(GET)
    client.protocol.abort(Draining("the drain time was over"))
    assert client.aborted
    assert (world.records[0].code, world.records[0].side, world.records[0].flags) == ("draining", "sidecar", "")
