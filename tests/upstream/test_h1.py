"""`sidecar/upstream/h1.py`: one connection to an application and the exchange that has it."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from zope.interface import implementer
from zope.interface.verify import verifyObject

from sidecar.errors import ConnectFailed
from sidecar.interfaces import IResponseBodyHook, IUpstreamStream
from sidecar.upstream.h1 import H1ClientConnection
from sidecar.verdicts import STREAM
from tests.memory import CHUNKED, GET, OK, POST, World, body_of


def test_provides_the_stream() -> None:
    """A connection is the stream of the exchange that has it."""
    world = World()
    world.send(GET)
    connection = world.attempts[0].protocol
    assert isinstance(connection, H1ClientConnection)
    verifyObject(IUpstreamStream, connection)


@pytest.mark.parametrize("together", [True, False])
def test_informational_heads_pass(together: bool) -> None:
    """100 and 103 reach the client before the final answer, whether or not they come in one piece, and the connection stays usable."""
    world = World()
    client, app = world.send(POST + b"hello")
    pieces = [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", OK]
    for piece in [b"".join(pieces)] if together else pieces:
        app.receive(piece)
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n")
    world.ended_once(200)
    client.receive(GET)
    app.receive(OK)
    world.ended_once(200, 200)
    assert len(world.attempts) == 1


def test_connection_is_reused() -> None:
    """A complete answer sends the connection back to the pool and the next request takes it."""
    world = World()
    client, app = world.send(GET)
    for _ in range(3):
        app.receive(OK)
        assert client.take().endswith(b"\r\n\r\nok")
        client.receive(GET)
    assert len(world.attempts) == 1
    assert world.connector.pools[0].active == 1


LAST = [OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), OK + b"more", OK.replace(b"HTTP/1.1", b"HTTP/1.0")]


@pytest.mark.parametrize("answer", LAST)
def test_connection_is_not_reused(answer: bytes) -> None:
    """What cannot carry another request closes."""
    world = World()
    client, app = world.send(GET)
    app.receive(answer)
    assert body_of(client.take()) == b"ok"
    assert app.closing and world.connector.connections == 0
    world.ended_once(200)


def test_unexpected_data_on_an_idle_connection() -> None:
    """An application that talks without being asked loses its connection, and nobody gets what it said."""
    world = World()
    client, app = world.send(GET)
    app.receive(OK)
    client.take()
    app.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    assert app.closing and not world.connector.pools[0].idle
    client.receive(GET)
    world.turn()
    assert world.app is not app
    world.app.receive(OK)
    assert body_of(client.take()) == b"ok"


def test_close_delimited_answer() -> None:
    """The end of the connection is the end of the body, chunked for the client."""
    world = World()
    client, app = world.send(GET)
    app.receive(b"HTTP/1.1 200 OK\r\n\r\nhello")
    app.end()
    assert body_of(client.take()) == b"5\r\nhello\r\n0\r\n\r\n"
    world.ended_once(200)


def test_early_answer_reaches_the_client_and_the_rest_is_not_sent() -> None:
    """An answer that comes while the body is being sent goes to the client; the connection to the application is of no more use."""
    world = World()
    client, app = world.send(CHUNKED + b"5\r\nhello\r\n")
    app.receive(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
    assert client.take().startswith(b"HTTP/1.1 413 ")
    assert app.aborted
    client.receive(b"5\r\nworld\r\n0\r\n\r\n")
    world.ended_once(413)
    assert client.write_ended


def test_early_answer_while_congested_is_not_pooled() -> None:
    """A connection on which request octets are still queued is not given to the next exchange."""
    world = World()
    client, app = world.send(GET)
    app.receive(OK)
    app.blocked = True
    client.receive(b"POST /a HTTP/1.1\r\nHost: app\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000)
    app.receive(OK)
    assert app.aborted and world.connector.connections == 0
    world.ended_once(200, 200)


@implementer(IResponseBodyHook)
class Slow:
    """Answers later."""

    response_body_mode = STREAM

    def __init__(self) -> None:
        self.waiting: list[Deferred[Any]] = []

    def response_body(self, exchange: Any, chunk: bytes, end: bool) -> Any:
        self.waiting.append(Deferred())
        return self.waiting[-1]


def test_pause_within_the_last_batch_does_not_stay_on_the_pooled_connection() -> None:
    """A hook that waits pauses the application; when the response is already complete the connection goes back to the pool reading."""
    slow = Slow()
    world = World(slow)
    client, app = world.send(GET)
    app.receive(OK)
    assert app.reading and len(world.connector.pools[0].idle) == 1
    for _ in range(2):
        slow.waiting.pop().callback(None)
    assert b"ok" in client.take()
    world.ended_once(200)


def test_connect_failure_is_told() -> None:
    """No connection: 503 that says why."""
    world = World(auto=False)
    client = world.client()
    client.receive(GET)
    world.attempts[0].fail(ConnectFailed("nobody there"))
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 503 ") and b"nobody there" in answer
    world.ended_once(503)
    assert world.records[0].flags == "UF"
    assert world.connector.connections == 0


@pytest.mark.parametrize("method", [b"GET", b"PUT"])
def test_stale_connection_is_tried_again_once(method: bytes) -> None:
    """A pooled connection that closes without an answer costs an idempotent request one more try, on a new connection."""
    world = World()
    client, app = world.send(GET)
    app.receive(OK)
    client.take()
    client.receive(method + GET[3:])
    app.end()
    world.turn()
    assert world.app is not app
    world.app.receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ")
    world.ended_once(200, 200)
    assert world.http.stale_retries == 1 and world.records[1].attempts == 2


@pytest.mark.parametrize("request_", [POST + b"hello", GET.replace(b"GET", b"PATCH"), GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\nx")])
def test_what_may_not_be_sent_twice_is_not(request_: bytes) -> None:
    """A request that is not idempotent, or has a body, gets 503 when its connection closes."""
    world = World()
    client, app = world.send(GET)
    app.receive(OK)
    client.take()
    client.receive(request_)
    app.end()
    world.turn()
    assert client.take().startswith(b"HTTP/1.1 503 ")
    assert len(world.attempts) == 1
    world.ended_once(200, 503)


def test_new_connection_that_closes_is_not_tried_again() -> None:
    """Only reused connections are suspected of being stale."""
    world = World()
    client, app = world.send(GET)
    app.end()
    world.turn()
    assert client.take().startswith(b"HTTP/1.1 503 ")
    assert len(world.attempts) == 1


@pytest.mark.parametrize("cut", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n"])
def test_answer_cut_short(cut: bytes) -> None:
    """The client can tell that the answer is not complete: its connection closes without the end."""
    world = World()
    client, app = world.send(GET)
    app.receive(cut)
    app.lose()
    assert client.closing and not client.take().endswith(b"0\r\n\r\n")
    world.ended_once(200)
    assert world.records[0].code == "upstream-closed"


def test_malformed_answer() -> None:
    """Nothing of a malformed answer is forwarded."""
    world = World()
    client, app = world.send(GET)
    app.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")
    assert client.take().startswith(b"HTTP/1.1 502 ")
    assert app.closing
    world.ended_once(502)
