"""HTTP/1.1 and HTTP/2 on either side, in all four pairings: bodies cut in the middle, sides half closed, and anything in any order.

Whatever happens, each exchange ends once, and no stream, pause or credit is left behind.
"""

from __future__ import annotations

import gc
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from sidecar.codec.h2.connection import H2Connection
from sidecar.codec.h2.frames import CANCEL, INTERNAL_ERROR, LARGEST_STREAM_ID, NO_ERROR, REFUSED_STREAM
from sidecar.codec.h2.streams import Stream
from sidecar.headers import Headers
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.grpc_call import GRPCCall
from sidecar.upstream.h2 import H2ClientConnection
from sidecar.upstream.h2_stream import H2ClientStream
from tests.memory import MemoryTransport, World
from tests.memory_h2 import H2App, H2Client, multiplexed, request, response

PAIRINGS = [(down, up) for down in ("h1", "h2") for up in ("h1", "h2")]


def kept(h2: H2Connection) -> tuple[int, ...]:
    """What a codec has in use: streams, octets of the connection's window, octets that streams' windows have grown by."""
    return h2.open_streams, h2._window.held, h2.limits.grown_windows - h2._spare


class Clients1:
    """Clients over HTTP/1.1, a connection for each request."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.transports: list[MemoryTransport] = []

    def begin(self) -> None:
        self.transports.append(self.world.client())
        self.transports[-1].receive(b"POST /a HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n")

    def data(self, number: int, octets: bytes) -> None:
        self.transports[number].receive(b"%x\r\n%b\r\n" % (len(octets), octets))

    def end(self, number: int) -> None:
        self.transports[number].receive(b"0\r\n\r\n")

    def reset(self, number: int) -> None:
        self.transports[number].lose()

    def half_close(self, number: int) -> None:
        self.transports[number].end()

    def stop_reading(self, number: int) -> None:
        self.transports[number].blocked = True

    def read_on(self, number: int) -> None:
        self.transports[number].blocked = False
        self.transports[number].drain()

    def go_on(self) -> None:
        """Octets go both ways."""
        for each in self.transports:
            each.pump()
            each.settle()

    def outcome(self, number: int) -> tuple[bytes, bool, bool]:
        """(status, did the answer end?, was it broken off?)."""
        transport = self.transports[number]
        answer = bytes(transport.written)
        is_whole = answer.endswith((b"\r\n0\r\n\r\n", b"\r\n0\r\nx: y\r\n\r\n")) or b"problem+json" in answer or b"Content-Length: 0" in answer
        return answer[9:12], is_whole, transport.closing and not is_whole

    def leftovers(self) -> list[Any]:
        return []


class Clients2:
    """One client over HTTP/2, a stream for each request."""

    def __init__(self, world: World) -> None:
        self.client = H2Client(world)
        self.streams: list[int] = []
        self.held: dict[int, int] = {}

    def begin(self) -> None:
        stream = self.client.h2.open_stream()
        if stream is None:
            return
        self.client.h2.send_head(stream, request(b"POST", b"/a", end=False), False)
        self.streams.append(stream)

    def data(self, number: int, octets: bytes) -> None:
        self.client.h2.send_data(self.streams[number], octets)

    def end(self, number: int) -> None:
        self.client.h2.send_end(self.streams[number], None)

    def reset(self, number: int) -> None:
        self.client.h2.reset(self.streams[number], CANCEL)

    half_close = end

    def stop_reading(self, number: int) -> None:
        self.client.credits = False

    def read_on(self, number: int) -> None:
        self.client.credits = True
        for stream in self.streams:
            self.client.h2.consumed(stream, len(self.client.body(stream)) - self.held.get(stream, 0))
            self.held[stream] = len(self.client.body(stream))

    def go_on(self) -> None:
        before = {stream: len(self.client.body(stream)) for stream in self.streams}
        self.client.exchange()
        if self.client.credits:
            for stream in self.streams:
                self.held[stream] = self.held.get(stream, 0) + len(self.client.body(stream)) - before[stream]

    def outcome(self, number: int) -> tuple[bytes, bool, bool]:
        stream = self.streams[number]
        heads = [each for each in self.client.of(stream) if hasattr(each, "status") and each.status >= 200]
        is_whole = self.client.ended(stream)
        return b"%d" % heads[0].status if heads else b"", is_whole, "StreamReset" in self.client.kinds(stream) and not is_whole

    def leftovers(self) -> list[Any]:
        """What the sidecar's side of the connection still holds."""
        connection = self.client.connection
        h2 = connection.h2
        if connection._closing or h2.failed:
            return []
        return [each for each in (*kept(h2), dict(connection._streams), set(connection.slow)) if each]


class Apps1:
    """An application over HTTP/1.1, a connection for each request that runs."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.headed: set[int] = set()
        self.past = 0  # exchanges before the first of `attempts`

    def transport(self, number: int) -> MemoryTransport | None:
        attempts = [each for each in self.world.attempts if each.transport is not None and each.transport.written]
        number -= self.past
        return attempts[number].transport if number < len(attempts) else None

    def head(self, number: int) -> None:
        transport = self.transport(number)
        if transport is not None and id(transport) not in self.headed:
            self.headed.add(id(transport))
            transport.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

    def data(self, number: int, octets: bytes) -> None:
        transport = self.transport(number)
        if transport is not None and id(transport) in self.headed:
            transport.receive(b"%x\r\n%b\r\n" % (len(octets), octets))

    def end(self, number: int) -> None:
        transport = self.transport(number)
        if transport is not None and id(transport) in self.headed:
            self.headed.discard(id(transport))
            transport.receive(b"0\r\n\r\n")

    def reset(self, number: int) -> None:
        transport = self.transport(number)
        if transport is not None:
            transport.lose()

    refuse = leave = reset

    def stop_reading(self, number: int) -> None:
        transport = self.transport(number)
        if transport is not None:
            transport.blocked = True

    def read_on(self, number: int) -> None:
        transport = self.transport(number)
        if transport is not None:
            transport.blocked = False
            transport.drain()

    def go_on(self) -> None:
        for attempt in self.world.attempts:
            if attempt.transport is not None:
                attempt.transport.pump()
                attempt.transport.settle()

    def sees_reset(self, number: int) -> bool:
        transport = self.transport(number)
        return transport is not None and transport.aborted

    def leftovers(self) -> list[Any]:
        return []


class Apps2:
    """An application over HTTP/2, with as many connections as are made to it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.apps: dict[int, H2App] = {}
        self.headed: set[tuple[int, int]] = set()  # those whose answer runs
        self.answered: set[tuple[int, int]] = set()
        self.held: dict[tuple[int, int], int] = {}

    def place(self, number: int) -> tuple[H2App, int] | None:
        found = [(app, stream) for app in self.apps.values() for stream in app.requests()]
        return found[number] if number < len(found) else None

    def head(self, number: int) -> None:
        place = self.place(number)
        if place is not None and (id(place[0]), place[1]) not in self.answered:
            self.headed.add((id(place[0]), place[1]))
            self.answered.add((id(place[0]), place[1]))
            place[0].h2.send_head(place[1], response(200), False)

    def data(self, number: int, octets: bytes) -> None:
        place = self.place(number)
        if place is not None and (id(place[0]), place[1]) in self.headed:
            place[0].h2.send_data(place[1], octets)

    def end(self, number: int) -> None:
        place = self.place(number)
        if place is not None and (id(place[0]), place[1]) in self.headed:
            self.headed.discard((id(place[0]), place[1]))
            place[0].h2.send_end(place[1], Headers.of([(b"x", b"y")]))

    def reset(self, number: int, code: int = INTERNAL_ERROR) -> None:
        place = self.place(number)
        if place is not None:
            self.headed.discard((id(place[0]), place[1]))
            place[0].h2.reset(place[1], code)

    def refuse(self, number: int) -> None:
        place = self.place(number)
        if place is not None and (id(place[0]), place[1]) not in self.headed:
            self.reset(number, REFUSED_STREAM)

    def leave(self, number: int) -> None:
        place = self.place(number)
        if place is not None:
            place[0].h2.goaway(NO_ERROR, LARGEST_STREAM_ID if number else None)

    def stop_reading(self, number: int) -> None:
        for app in self.apps.values():
            app.credits = False

    def read_on(self, number: int) -> None:
        for app in self.apps.values():
            app.credits = True
            for stream in app.requests():
                app.h2.consumed(stream, len(app.body(stream)) - self.held.get((id(app), stream), 0))
                self.held[id(app), stream] = len(app.body(stream))

    def go_on(self) -> None:
        for number, attempt in enumerate(list(self.world.attempts)):
            transport = attempt.transport
            if transport is None or transport.lost:
                continue
            app = self.apps.get(number)
            if app is None:
                app = self.apps[number] = H2App.__new__(H2App)
                super(H2App, app).__init__(self.world, transport, False)
            before = {stream: len(app.body(stream)) for stream in app.requests()}
            app.exchange()
            if app.credits:
                for stream in app.requests():
                    key = (id(app), stream)
                    self.held[key] = self.held.get(key, 0) + len(app.body(stream)) - before.get(stream, 0)
            transport.settle()

    def sees_reset(self, number: int) -> bool:
        place = self.place(number)
        return place is not None and "StreamReset" in place[0].kinds(place[1])

    def leftovers(self) -> list[Any]:
        found: list[Any] = []
        for attempt in self.world.attempts:
            connection = attempt.protocol
            if isinstance(connection, H2ClientConnection) and connection.state in ("ready", "leaving"):
                h2 = connection.h2
                found += [each for each in (*kept(h2), connection.reserved, set(connection.slow)) if each]
        return found


class Pair:
    """A world with both sides."""

    def __init__(self, down: str, up: str) -> None:
        self.world = World() if up == "h1" else multiplexed(World())
        self.clients: Any = Clients1(self.world) if down == "h1" else Clients2(self.world)
        self.apps: Any = Apps1(self.world) if up == "h1" else Apps2(self.world)
        self.begun = 0

    def begin(self) -> None:
        self.clients.begin()
        self.begun += 1
        self.go_on()

    def go_on(self) -> None:
        for _ in range(4):
            self.world.turn()
            self.clients.go_on()
            self.apps.go_on()

    def finish(self) -> None:
        """Everybody takes what is there, then those that still run are given up by their clients."""
        for number in range(self.begun):
            self.clients.read_on(number)
            self.apps.read_on(number)
        self.go_on()
        for number in range(self.begun):
            self.clients.reset(number)
        self.go_on()
        # A client that ended its request and an application that goes on: neither keeps anything.
        self.go_on()

    def nothing_is_left(self) -> None:
        world = self.world
        assert [each.finished for each in world.exchanges] == [True] * len(world.exchanges)
        assert len(world.records) == len(world.dones.records) == len(world.observed) == len(world.exchanges)
        assert world.http.active == 0 and world.connector.pending == 0
        assert [pool.active for pool in world.connector.pools] == [0]
        assert self.clients.leftovers() == [] and self.apps.leftovers() == []


@pytest.fixture(params=PAIRINGS, ids=lambda each: "-".join(each))
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(*request.param)


def test_client_that_leaves_in_mid_request(pair: Pair) -> None:
    """The application is told by a reset."""
    pair.begin()
    pair.clients.data(0, b"x" * 500)
    pair.go_on()
    pair.clients.reset(0)
    pair.go_on()
    assert pair.apps.sees_reset(0)
    pair.world.ended_once(499)
    pair.nothing_is_left()


def test_client_that_leaves_in_mid_answer(pair: Pair) -> None:
    pair.begin()
    pair.clients.end(0)
    pair.go_on()
    pair.apps.head(0)
    pair.apps.data(0, b"y" * 500)
    pair.go_on()
    pair.clients.reset(0)
    pair.go_on()
    assert pair.apps.sees_reset(0)
    assert [each.code for each in pair.world.records] == ["downstream-closed"]
    pair.nothing_is_left()


def test_application_that_breaks_before_its_answer(pair: Pair) -> None:
    """503, while the request's body is still coming."""
    pair.begin()
    pair.clients.data(0, b"x" * 500)
    pair.go_on()
    pair.apps.reset(0)
    pair.go_on()
    assert pair.clients.outcome(0)[:2] == (b"503", True)
    pair.finish()
    pair.world.ended_once(503)
    pair.nothing_is_left()


def test_application_that_breaks_in_mid_answer(pair: Pair) -> None:
    """What came, came; the end is missing, and the client can tell."""
    pair.begin()
    pair.clients.end(0)
    pair.go_on()
    pair.apps.head(0)
    pair.apps.data(0, b"y" * 500)
    pair.go_on()
    pair.apps.reset(0)
    pair.go_on()
    assert pair.clients.outcome(0) == (b"200", False, True)
    pair.world.ended_once(200)
    assert pair.world.records[0].code in ("upstream-closed", "upstream-reset")
    pair.nothing_is_left()


def test_answer_that_is_complete_before_the_request(pair: Pair) -> None:
    """The client has its answer; what it still sends goes nowhere."""
    pair.begin()
    pair.clients.data(0, b"x" * 500)
    pair.go_on()
    pair.apps.head(0)
    pair.apps.data(0, b"no")
    pair.apps.end(0)
    pair.go_on()
    assert pair.clients.outcome(0)[:2] == (b"200", True)
    pair.clients.data(0, b"x" * 500)
    pair.finish()
    pair.world.ended_once(200)
    pair.nothing_is_left()


def test_answer_that_begins_before_the_request_is_complete(pair: Pair) -> None:
    """Both bodies flow at the same time; each side ends by itself."""
    pair.begin()
    for _ in range(3):
        pair.clients.data(0, b"x" * 300)
        pair.go_on()
        pair.apps.head(0)
        pair.apps.data(0, b"y" * 300)
        pair.go_on()
    pair.clients.end(0)
    pair.go_on()
    pair.apps.data(0, b"z")
    pair.apps.end(0)
    pair.go_on()
    assert pair.clients.outcome(0)[:2] == (b"200", True)
    pair.world.ended_once(200)
    assert (pair.world.records[0].request_bytes, pair.world.records[0].response_bytes) == (900, 901)
    pair.nothing_is_left()


OPERATIONS = (
    "begin", "client data", "client end", "client reset", "client half_close", "client stop_reading", "client read_on", "app head", "app data", "app end",
    "app reset", "app refuse", "app leave", "app stop_reading", "app read_on", "go on", "wait",
)  # fmt: skip
STEPS = st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 2), st.sampled_from([1, 300, 3_000, 70_000])), max_size=40)


@pytest.mark.parametrize(("down", "up"), PAIRINGS)
@given(steps=STEPS)
@settings(max_examples=150, deadline=None)
def test_anything_in_any_order(down: str, up: str, steps: list[tuple[str, int, int]]) -> None:
    """Each exchange ends exactly once, with one record, and all that was lent is back."""
    pair = Pair(down, up)
    ended: set[int] = set()
    for what, number, size in steps:
        side, _, name = what.partition(" ")
        if what == "begin" and pair.begun < 3:
            pair.begin()
        elif what == "go on":
            pair.go_on()
        elif what == "wait":
            pair.world.clock.advance(1.0)
        elif side == "client" and number < pair.begun and not (number in ended and name in ("data", "end", "half_close", "reset")):
            if name in ("end", "reset", "half_close"):
                ended.add(number)
            getattr(pair.clients, name)(*((number, b"x" * size) if name == "data" else (number,)))
        elif side == "app":
            getattr(pair.apps, name)(*((number, b"y" * size) if name == "data" else (number,)))
    for number in range(pair.begun):
        pair.clients.read_on(number)
        pair.apps.read_on(number)
    pair.finish()
    pair.nothing_is_left()
    assert len(pair.world.exchanges) <= pair.begun
    assert all(isinstance(each.status, int) for each in pair.world.records)


KEPT = (Exchange, Stream, H2ClientStream, GRPCCall)


def alive() -> int:
    gc.collect()
    return sum(isinstance(each, KEPT) for each in gc.get_objects())


def test_a_storm_leaves_nothing(pair: Pair) -> None:
    """Exchanges that break in each way there is, on connections that stay where they can: what is alive afterwards does not grow with their number."""
    before = alive()
    for number in range(60):
        pair.begin()
        pair.clients.data(number, b"x" * 300)
        pair.go_on()
        if number % 4 == 0:
            pair.clients.reset(number)
        elif number % 4 == 1:
            pair.apps.reset(number)
        else:
            pair.apps.head(number)
            pair.apps.data(number, b"y" * 300)
            pair.go_on()
            if number % 4 == 2:
                pair.apps.reset(number)
            else:
                pair.clients.end(number)
                pair.apps.end(number)
        pair.go_on()
        if isinstance(pair.apps, Apps1):
            pair.world.attempts.clear()  # a connection each; those that are lost are in nobody's way
            pair.apps.headed.clear()
            pair.apps.past = number + 1
    assert len(pair.world.records) == 60
    for kept in (pair.world.exchanges, pair.world.observed, pair.world.records, pair.world.dones.records):
        kept.clear()
    # A finished stream object of the last exchange may wait for the next one.
    assert alive() - before < 20
