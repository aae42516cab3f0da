"""gRPC calls through an exchange: how they are counted, watched and ended."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st
from zope.interface import implementer

from sidecar.headers import Headers
from sidecar.interfaces import IRequestHeadHook
from sidecar.message import End
from sidecar.model import CircuitBreakers, FailureRate
from sidecar.proxy.grpc_call import GRPCCall
from sidecar.verdicts import Reply
from tests.memory import World, retry_rules
from tests.memory_h2 import H2App, H2Client, multiplexed, request, response

TYPE = (b"content-type", b"application/grpc")
HELLO = b"\0\0\0\0\5hello"


def trailers(status: int, *fields: tuple[bytes, bytes]) -> Headers:
    return Headers.of([(b"grpc-status", b"%d" % status), *fields])


def call(world: World, *chunks: bytes, end: bool = True) -> tuple[H2Client, H2App, int]:
    """A client that called and an application that got it."""
    world = multiplexed(world)
    client = H2Client(world)
    stream = client.send(request(b"POST", b"/s/m", TYPE, end=False), *chunks, end=end)
    return client, H2App(world), stream


def seen(world: World) -> list[tuple[int, int | None, int, int]]:
    return [(each.status, each.grpc_status, each.request_messages, each.response_messages) for each in world.records]


def watched(world: World) -> list[int]:
    """What observers of the cluster are told."""
    told: list[int] = []
    world.connector.observe = lambda endpoint, status, seconds: told.append(status)
    return told


@pytest.mark.parametrize(("status", "counts_as"), [(0, 200), (5, 404), (14, 503)])
def test_status_of_the_trailers(status: int, counts_as: int) -> None:
    """It is in the record, and observers hear of it once, as the HTTP status that says the same."""
    world = World()
    told = watched(world)
    client, app, stream = call(world, HELLO, HELLO)
    app.answer(1, response(200, TYPE), HELLO, HELLO, HELLO, trailers=trailers(status))
    client.exchange()
    assert seen(world) == [(200, status, 2, 3)] and told == [counts_as]
    assert client.of(stream)[-1].trailers.get(b"grpc-status") == b"%d" % status


def test_status_of_a_head_that_is_the_whole_answer() -> None:
    world = World()
    told = watched(world)
    client, app, _ = call(world, HELLO)
    app.answer(1, response(200, TYPE, (b"grpc-status", b"14"), end=True))
    client.exchange()
    assert seen(world) == [(200, 14, 1, 0)] and told == [503]


def test_answers_that_are_no_grpc() -> None:
    """Another status counts by itself; 200 without a status is UNKNOWN."""
    world = World()
    told = watched(world)
    client, app, _ = call(world, HELLO)
    app.answer(1, response(503, (b"content-type", b"text/html")), b"<html>")
    client.exchange()
    client.send(request(b"POST", b"/s/m", TYPE, end=False), HELLO)
    app.exchange()
    app.answer(3, response(200, TYPE), HELLO)
    client.exchange()
    assert [each[:2] for each in seen(world)] == [(503, 14), (200, 2)] and told == [503, 500]


def test_other_requests_are_none() -> None:
    world = World()
    client = H2Client(multiplexed(world))
    client.send(request(b"POST", b"/", (b"content-type", b"application/json"), end=False), HELLO)
    H2App(world).answer(1, response(200, (b"grpc-status", b"5"), end=True))
    client.exchange()
    assert seen(world) == [(200, None, 0, 0)]


def test_failing_calls_open_the_circuit() -> None:
    """A call's own status decides, not the 200 that carries it."""
    breakers = CircuitBreakers(failure_rate=FailureRate(minimum_requests=2))
    world = World(cluster={"circuit_breakers": breakers})
    client, app, _ = call(world, HELLO)
    for stream in (1, 3):
        if stream > 1:
            client.send(request(b"POST", b"/s/m", TYPE, end=False), HELLO)
            app.exchange()
        app.answer(stream, response(200, TYPE), trailers=trailers(13))
        client.exchange()
    refused = client.send(request(b"POST", b"/s/m", TYPE, end=False), HELLO)
    head = client.head(refused)
    assert head.headers.get(b"grpc-status") == b"14" and b"circuit-open" in head.headers.get(b"grpc-message")


def test_a_stream_that_breaks_between_messages_ends_with_a_status() -> None:
    """What came stays, and the client is told in its own terms; the application's stream is over."""
    world = World()
    told = watched(world)
    client, app, stream = call(world, HELLO, end=False)
    app.h2.send_head(1, response(200, TYPE), False)
    app.h2.send_data(1, HELLO)
    app.exchange()
    app.h2.reset(1, 2)
    app.exchange()
    client.exchange()
    end = next(each for each in client.of(stream) if isinstance(each, End))
    assert client.body(stream) == HELLO and end.trailers is not None
    assert end.trailers.get(b"grpc-status") == b"14" and b"upstream-reset" in (end.trailers.get(b"grpc-message") or b"")
    assert seen(world) == [(200, 14, 1, 1)] and told == [503]
    world.ended_once(200)
    assert world.records[0].code == "upstream-reset"


def test_a_stream_that_breaks_within_a_message_is_reset() -> None:
    world = World()
    client, app, stream = call(world, HELLO)
    app.h2.send_head(1, response(200, TYPE), False)
    app.h2.send_data(1, HELLO[:-1])
    app.exchange()
    app.h2.reset(1, 2)
    app.exchange()
    client.exchange()
    assert client.kinds(stream)[-1] == "StreamReset" and seen(world) == [(200, 14, 1, 1)]


def test_time_limits_are_deadline_exceeded() -> None:
    """Before the answer and within it."""
    world = World()
    world.route.timeout_ends_with_head = False
    client, app, first = call(world, HELLO)
    world.clock.advance(16)
    client.exchange()
    app.exchange()
    assert client.head(first).headers.get(b"grpc-status") == b"4"
    second = client.send(request(b"POST", b"/s/m", TYPE, end=False), HELLO)
    app.exchange()
    app.h2.send_head(3, response(200, TYPE), False)
    app.h2.send_data(3, HELLO)
    app.exchange()
    world.clock.advance(16)
    client.exchange()
    app.exchange()
    assert client.of(second)[-1].trailers.get(b"grpc-status") == b"4" and app.kinds(3)[-1] == "StreamReset"
    assert [each.grpc_status for each in world.records] == [4, 4]


def test_client_that_cancels() -> None:
    world = World()
    client, app, stream = call(world, HELLO, end=False)
    client.h2.reset(stream, 8)
    client.exchange()
    app.exchange()
    assert seen(world) == [(499, 1, 1, 0)] and app.kinds(1)[-1] == "StreamReset"


@implementer(IRequestHeadHook)
class Answers:
    """Answers by itself."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply

    def request_head(self, exchange: Any) -> Reply:
        return self.reply


@pytest.mark.parametrize(
    ("reply", "status", "message"),
    [
        (Reply(403, body=b"go away"), b"7", b"go away"),
        (Reply(200, Headers.of([(b"Content-Type", b"text/plain"), (b"X-A", b"1")]), b"hi"), b"2", b"hi"),
        (Reply(200, Headers.of([TYPE, (b"grpc-status", b"9")])), b"9", None),
    ],
)
def test_a_plugins_reply_is_a_status(reply: Reply, status: bytes, message: bytes | None) -> None:
    """Unless the plugin speaks gRPC itself. Its other fields stay."""
    world = World(Answers(reply))
    client = H2Client(multiplexed(world))
    head = client.head(client.send(request(b"POST", b"/s/m", TYPE, end=False), HELLO))
    assert head.status == 200 and head.headers.get(b"grpc-status") == status and head.headers.get(b"grpc-message") == message
    assert head.headers.get(b"content-type") == TYPE[1] and head.headers.get(b"x-a") == reply.headers.get(b"x-a")


def test_a_call_that_is_tried_again() -> None:
    """The record has the status of the last attempt; each attempt is told to observers by its own."""
    world = World()
    told = watched(world)
    world.route.retry = retry_rules(on=("unavailable",), idempotency_headers=("content-type",))
    client, app, stream = call(world, HELLO)
    app.answer(1, response(200, TYPE, (b"grpc-status", b"14"), end=True))
    world.clock.advance(1)
    app.exchange()
    app.answer(3, response(200, TYPE), HELLO, trailers=trailers(0))
    client.exchange()
    assert seen(world) == [(200, 0, 1, 1)] and told == [503, 200] and world.records[0].attempts == 2
    assert client.of(stream)[-1].trailers.get(b"grpc-status") == b"0"
    world.ended_once(200)


@given(sizes=st.lists(st.integers(0, 30), max_size=12), cuts=st.lists(st.sampled_from([1, 3, 5, 7, 12, 40, 0]), min_size=1), whole=st.integers(0, 12))
def test_messages_are_counted_however_they_come(sizes: list[int], cuts: list[int], whole: int) -> None:
    """The first ones each in a chunk of its own, then cut anywhere (0: once more a whole one): the count is the messages', and at the end nothing is open."""
    messages = [b"\0" + size.to_bytes(4, "big") + b"m" * size for size in sizes]
    chunks = messages[:whole]
    rest = b"".join(messages[whole:])
    turn = 0
    while rest:
        cut = cuts[turn % len(cuts)] or 5 + int.from_bytes(rest[1:5], "big")
        chunks.append(rest[:cut])
        rest = rest[cut:]
        turn += 1
    call = GRPCCall()
    for chunk in chunks:
        call.goes_up(chunk)
        call.goes_down(chunk)
    assert (call.requests, call.responses, call.is_between) == (len(sizes), len(sizes), True)
    call.goes_down(b"\0\0")
    assert not call.is_between
