"""`sidecar/proxy/exchange*.py`, `request_way.py`, `response_way.py`, `http.py`, `record.py`: what goes up and down besides hooks' verdicts."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from sidecar.errors import DownstreamError
from sidecar.facts import TLSFacts
from sidecar.interfaces import IExchange, IStreamOwner
from sidecar.message import RequestHead
from sidecar.proxy.http import CERTIFICATE_NAMES, new_request_id
from sidecar.proxy.replies import text_reply
from tests.memory import CHUNKED, GET, OK, POST, World, body_of

PEER = TLSFacts(version="TLSv1.3", peer_identity="spiffe://a/b", forwarded_client_cert=b"URI=spiffe://a/b")


def with_fields(*lines: bytes) -> bytes:
    return GET[:-2] + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def sent_up(world: World, request: bytes) -> bytes:
    data: bytes = world.send(request)[1].take()
    return data


def test_provides_what_both_sides_and_hooks_ask_of_it() -> None:
    """One object, two promises."""
    world = World()
    world.send(GET)
    verifyObject(IExchange, world.exchanges[0])
    verifyObject(IStreamOwner, world.exchanges[0])


# -- forwarded fields ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(CERTIFICATE_NAMES))
@pytest.mark.parametrize("tls", [None, PEER])
@pytest.mark.parametrize("place", ["head", "upper", "repeated", "connection", "trailer"])
def test_forwarded_client_cert_cannot_be_forged(name: bytes, tls: TLSFacts | None, place: str) -> None:
    """In no spelling that an application might read as the field, and in no place; the verified peer is the only value."""
    line = (name.upper() if place == "upper" else name) + b": URI=spiffe://forged/x"
    if place == "trailer":
        request = CHUNKED + b"0\r\n" + line + b"\r\n\r\n"
    else:
        request = with_fields(line, *([line] if place == "repeated" else [b"Connection: " + name] if place == "connection" else []))
    client, app = World(tls=tls).send(request)
    up = app.take() if app is not None else b""
    assert b"forged" not in up
    if b"_" in name or place == "connection":
        # The codec refuses the spellings that only an attacker has a use for.
        assert client.take().startswith(b"HTTP/1.1 400 ") and not up
        return
    assert up.lower().count(b"x-forwarded-client-cert: uri=spiffe://a/b\r\n") == (tls is not None)


@pytest.mark.parametrize(("mode", "expected"), [("set", b"spiffe://a/b"), ("drop", None), ("keep", b"spiffe://given/x")])
def test_forwarded_client_cert_modes(mode: str, expected: bytes | None) -> None:
    """set, drop, keep."""
    up = sent_up(World(tls=PEER, forwarded_client_cert=mode), with_fields(b"X-Forwarded-Client-Cert: URI=spiffe://given/x"))
    assert (expected in up) if expected else (b"client-cert" not in up.lower())
    assert up.lower().count(b"client-cert") == (expected is not None)


def test_request_id() -> None:
    """Given when there is none, kept when there is one, in the record as forwarded; off means off."""
    world = World()
    up = sent_up(world, GET)
    found = re.search(rb"x-request-id: ([0-9a-f-]{36})\r\n", up)
    assert found is not None
    world.app.receive(OK)
    assert world.records[0].request_id == found[1].decode()
    up = sent_up(World(), with_fields(b"X-Request-Id: mine"))
    assert b"X-Request-Id: mine\r\n" in up and up.lower().count(b"request-id") == 1
    assert b"request-id" not in sent_up(World(request_id=False), GET)
    ids = [new_request_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(re.fullmatch(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", each) for each in ids)


def test_forwarded_for_and_proto() -> None:
    """The peer is appended where switched on."""
    up = sent_up(World(forwarded_for=True), with_fields(b"X-Forwarded-For: 1.1.1.1", b"X-Forwarded-For: 2.2.2.2"))
    assert b"X-Forwarded-For: 1.1.1.1, 2.2.2.2, 192.0.2.1\r\n" in up and up.count(b"Forwarded-For") == 1
    assert b"x-forwarded-proto: http\r\n" in up
    assert b"x-forwarded-proto: https\r\n" in sent_up(World(tls=PEER), GET)


# -- local answers -------------------------------------------------------------------------------------------------------------------------------


def test_no_route() -> None:
    """404 as problem+json that says so."""
    world = World()
    world.routes = lambda head: None
    client = world.client()
    client.receive(GET)
    answer = client.take()
    problem = json.loads(body_of(answer))
    assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n") and b"content-type: application/problem+json\r\n" in answer
    assert (problem["status"], problem["code"], problem["side"]) == (404, "no-route", "policy")
    assert set(problem) == {"type", "title", "status", "code", "side", "detail", "hint"}
    assert world.records[0].flags == "NR"


def test_path_that_cannot_be_normalized() -> None:
    """400, and no exchange goes up."""
    world = World()
    world.http.normalize_path = lambda path: None
    client = world.client()
    client.receive(GET + GET)
    assert client.take().count(b"HTTP/1.1 400 ") == 2 and world.attempts == []


@pytest.mark.parametrize("status", [200, 204, 304])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_direct_answer_and_the_next_request(status: int, method: bytes) -> None:
    """Framing is right for HEAD, 204 and 304: the next answer is where the client looks for it."""
    world = World()
    world.route.answer = lambda head: text_reply(status, b"text/plain", b"hello", head)
    client = world.client()
    client.receive((method + GET[3:]) * 2)
    has_body = method == b"GET" and status == 200
    answer = client.take()
    assert answer.count(b"HTTP/1.1 %d" % status) == 2 and answer.count(b"hello") == 2 * has_body
    assert answer.count(b"content-length: 5") == 2 * (status == 200)


# -- the body ------------------------------------------------------------------------------------------------------------------------------------


def test_body_waits_for_the_connection() -> None:
    """What comes before there is a connection is held, bounded by a pause, and sent in order."""
    world = World(auto=False)
    client = world.client()
    client.receive(CHUNKED + b"2\r\nab\r\n2\r\ncd\r\n")
    assert not client.reading
    client.receive(b"2\r\nef\r\n0\r\n\r\n")
    app = world.attempts[0].succeed()
    assert client.reading
    client.pump()
    assert body_of(app.take()) == b"2\r\nab\r\n2\r\ncd\r\n2\r\nef\r\n0\r\n\r\n"
    app.receive(OK)
    world.ended_once(200)
    assert (world.records[0].request_bytes, world.records[0].response_bytes) == (6, 2)


@pytest.mark.parametrize("split", [1, 3, 1000])
def test_trailers_pass_both_ways(split: int) -> None:
    """In any pieces."""
    request = CHUNKED + b"1\r\na\r\n0\r\nx-sum: 1\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\nx-sum: 2\r\n\r\n"
    world = World()
    client = world.client()
    for start in range(0, len(request), split):
        world.send(request[start : start + split], client)
    for start in range(0, len(answer), split):
        world.app.receive(answer[start : start + split])
    assert world.app.take().endswith(b"0\r\nx-sum: 1\r\n\r\n") and client.take().endswith(b"0\r\nx-sum: 2\r\n\r\n")
    world.ended_once(200)


def test_record_says_what_happened() -> None:
    """Times, sizes, names."""
    world = World(tls=PEER)
    _, app = world.send(POST + b"hello")
    world.clock.advance(0.25)
    app.receive(OK[:-1])
    world.clock.advance(0.25)
    app.receive(OK[-1:])
    record: Any = world.records[0]
    assert (record.method, record.path, record.authority, record.protocol, record.status) == ("POST", "/a", "app", "HTTP/1.1", 200)
    assert (record.route, record.cluster, record.endpoint, record.attempts) == ("default", "app", "127.0.0.1:8080", 1)
    assert record.duration_ms == pytest.approx(500) and record.upstream_ms == pytest.approx(250)
    assert (record.peer_identity, record.flags, record.code) == ("spiffe://a/b", "", "")


def test_a_rewrite_that_spoils_the_path_is_answered() -> None:
    """What a rewrite would make of this request is no path: the client hears so, nothing goes up."""
    world = World()

    def spoil(head: RequestHead) -> None:
        raise DownstreamError("the path is no longer in normal form after the route's rewrite")

    world.route.rewrite = spoil
    client, app = world.send(GET)
    assert client.take().startswith(b"HTTP/1.1 400 ") and app is None
    world.ended_once(400)


def test_records_show_the_path_as_routed() -> None:
    """A rewrite changes what the application gets, not what the record says of the client."""
    world = World()

    def rewrite(head: RequestHead) -> None:
        head.path = b"/inside"

    world.route.rewrite = rewrite
    _, app = world.send(b"GET /outside HTTP/1.1\r\nHost: a\r\n\r\n")
    assert app.take().startswith(b"GET /inside ")
    app.receive(OK)
    assert world.records[0].path == "/outside"


def test_the_first_of_several_request_ids_counts() -> None:
    """The record and the application must not believe different ones."""
    world = World()
    _, app = world.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: one\r\nx-request-id: two\r\n\r\n")
    sent = app.take()
    assert sent.lower().count(b"x-request-id") == 1 and b"one" in sent and b"two" not in sent
    app.receive(OK)
    assert world.records[0].request_id == "one"
