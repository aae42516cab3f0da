"""What one sidecar says of a request that did not reach its application: who is told, who is believed, and what becomes of a POST."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import ConnectFailed, ConnectTimeout
from sidecar.facts import TLSFacts
from sidecar.model import Hedge
from sidecar.proxy.undelivered import UNDELIVERED
from tests.memory import GET, OK, POST, World, retry_rules
from tests.proxy.test_retrying import BAD, NOTHING_SAVED, Retried

MARK = b"0123456789abcdef0123456789abcdef"
PEER = TLSFacts(version="TLSv1.3", peer_identity="spiffe://a/b", own_identity="spiffe://a/c", mark=MARK)
SAID = BAD.replace(b"\r\n\r\n", b"\r\nX-Sidecar-Undelivered: %b\r\n\r\n" % MARK)
CALL = b"POST /s/m HTTP/1.1\r\nHost: app\r\nContent-Type: application/grpc\r\nTE: trailers\r\nContent-Length: 5\r\n\r\n\0\0\0\0\0"


def secured(world: Any, facts: TLSFacts = PEER) -> Any:
    """Every endpoint is this peer."""
    connect = world.connector._connect

    def connected(address: Any, protocol: Any, tls: Any) -> Any:
        protocol.tls = facts
        return connect(address, protocol, tls)

    world.connector._connect = connected
    return world


def refused(world: World, head: bytes = POST + b"hello") -> bytes:
    """What the client gets when nobody listens for the application."""
    client = world.client()
    client.receive(head)
    world.attempts[-1].fail(ConnectFailed("refused"))
    world.clock.advance(0.3)
    return client.take()


# -- who says it -----------------------------------------------------------------------------------------------------------------------------------


def test_a_sidecar_is_told() -> None:
    """In the head of the same 503 that everybody gets; a call of gRPC likewise."""
    answer = refused(World(tls=PEER, auto=False))
    assert answer.startswith(b"HTTP/1.1 503 ") and b"x-sidecar-undelivered: %b\r\n" % MARK in answer and b'"code":"connect-failed"' in answer
    answer = refused(World(tls=PEER, auto=False), CALL)
    assert answer.startswith(b"HTTP/1.1 200 ") and b"grpc-status: 14\r\n" in answer and MARK in answer


@pytest.mark.parametrize("tls", [None, TLSFacts(version="TLSv1.3", own_identity="spiffe://a/c")])
def test_nobody_else_is_told(tls: TLSFacts | None) -> None:
    """No mark for who did not prove to be a workload."""
    answer = refused(World(tls=tls, auto=False))
    assert answer.startswith(b"HTTP/1.1 503 ") and b"undelivered" not in answer.lower()


def test_not_when_it_may_have_arrived() -> None:
    """The connection broke after the request was sent; or an earlier attempt had one, whatever the last one met."""
    world = World(tls=PEER)
    client, app = world.send(POST + b"hello")
    app.lose()
    answer = client.take()
    assert b'"code":"upstream-closed"' in answer and MARK not in answer
    world = World(tls=PEER, endpoints=2, auto=False)
    world.route.retry = retry_rules(attempts=2)
    client = world.client()
    client.receive(GET)
    world.attempts[0].succeed().receive(BAD)
    world.clock.advance(0.3)
    world.attempts[1].fail(ConnectTimeout("late"))
    answer = client.take()
    assert b'"code":"connect-timeout"' in answer and MARK not in answer


def test_not_when_an_attempt_beside_had_it() -> None:
    """The exchange's own attempt never got a connection; the one beside was sent."""
    world = World(tls=PEER, endpoints=2, auto=False)
    world.route.retry = retry_rules(Hedge(delay=0.5), attempts=2)
    client = world.client()
    client.receive(GET)
    world.clock.pump([0.1] * 6)
    world.attempts[1].succeed().receive(BAD)
    world.attempts[0].fail(ConnectTimeout("late"))
    world.clock.advance(0.3)
    answer = client.take()
    assert b'"code":"connect-timeout"' in answer and MARK not in answer


# -- who is believed -------------------------------------------------------------------------------------------------------------------------------


def test_a_post_goes_elsewhere() -> None:
    """Whole, once, and without a word to the client; the record says why."""
    world = secured(Retried())
    client, app = world.send(POST + b"hello")
    assert app.take().endswith(b"\r\n\r\nhello")
    app.receive(SAID)
    second = world.wait()
    assert second.take().endswith(b"\r\n\r\nhello")
    second.receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ") and world.ports == [8080, 8081]
    world.ended_once(200)
    assert world.records[0].tries[0].outcome == "upstream-undelivered"
    assert world.said().startswith("connect-failure (upstream-undelivered) from 127.0.0.1:8080; attempt 2 of 3 in ")
    assert world.connector.pools[0].errors == 1


def test_a_call_of_grpc_goes_elsewhere() -> None:
    """Whatever `on` says of gRPC statuses: this is a connection that failed."""
    world = secured(Retried())
    client, app = world.send(CALL)
    status = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\ngrpc-status: 14\r\nContent-Length: 0\r\nx-sidecar-undelivered: %b\r\n\r\n" % MARK
    app.receive(status)
    second = world.wait()
    assert second is not app and second.take().endswith(b"\0\0\0\0\0")
    second.receive(b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\ngrpc-status: 0\r\nContent-Length: 0\r\n\r\n")
    assert b"grpc-status: 0\r\n" in client.take()


@pytest.mark.parametrize(
    ("facts", "answer"),
    [
        (PEER, SAID.replace(MARK, MARK[::-1])),
        (PEER, SAID.replace(MARK, b"")),
        (PEER, SAID.replace(MARK, b"true")),
        (TLSFacts(version="TLSv1.3"), SAID),
        (TLSFacts(version="TLSv1.3"), SAID.replace(MARK, b"")),
    ],
)
def test_what_anybody_could_have_said(facts: TLSFacts, answer: bytes) -> None:
    """An application behind the other sidecar cannot know the value, and a peer that did not prove who it is has none."""
    world = secured(Retried(), facts)
    client, app = world.send(POST + b"hello")
    app.receive(answer)
    world.wait()
    assert client.take().startswith(b"HTTP/1.1 503 ") and len(world.attempts) == 1 and "may have been carried out" in world.said()


def test_without_tls_nobody_is_believed() -> None:
    """Not even with the right value."""
    world = Retried()
    client, app = world.send(POST + b"hello")
    app.receive(SAID)
    world.wait()
    assert client.take().startswith(b"HTTP/1.1 503 ") and len(world.attempts) == 1


@pytest.mark.parametrize("settings", [None, {"on": ("retriable-4xx",)}, {"attempts": 1}, {"body_bytes": 3}])
def test_where_nothing_is_retried(settings: dict[str, Any] | None) -> None:
    """The client gets the answer as it came, less the field, which is for this hop."""
    world = secured(Retried(**settings or {}))
    if settings is None:
        world.route.retry = None
    client, app = world.send(POST + b"hello")
    app.receive(SAID)
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 503 ") and answer.endswith(b"bad") and UNDELIVERED not in answer.lower() and len(world.attempts) == 1


def test_when_all_say_so() -> None:
    """Attempts and budget count as for any failure, and the last answer is the client's; a wait that the answer asks for is kept, or too long."""
    world = secured(Retried(attempts=2, **NOTHING_SAVED))
    client, app = world.send(POST + b"hello")
    app.receive(SAID)
    world.wait().receive(SAID)
    assert client.take().startswith(b"HTTP/1.1 503 ") and len(world.attempts) == 2 and world.records[0].flags == "URX"
    world = secured(Retried())
    client, app = world.send(POST + b"hello")
    app.receive(SAID.replace(b"\r\n\r\n", b"\r\nRetry-After: 60\r\n\r\n"))
    assert client.take().startswith(b"HTTP/1.1 503 ") and "Retry-After asks for 60 s" in world.said()
    world = secured(Retried())
    client, app = world.send(POST + b"hello")
    app.receive(SAID.replace(b"\r\n\r\n", b"\r\nRetry-After: 1\r\n\r\n"))
    world.clock.pump([0.3] * 3)
    assert len(world.attempts) == 1
    world.wait().receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ")
