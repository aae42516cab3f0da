"""Clients and applications that do anything in any order, and plugins in changing moods, around `tests.memory.World`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from sidecar.address import Address
from sidecar.codec.h1.reader import RequestReader, ResponseReader
from sidecar.codec.h2.frames import CANCEL, LARGEST_STREAM_ID, REFUSED_STREAM
from sidecar.errors import ConnectFailed, Denied, SidecarError
from sidecar.headers import Headers
from sidecar.interfaces import (
    IExchangeDone,
    IRequestBodyHook,
    IRequestHeadHook,
    IRequestTrailersHook,
    IResponseBodyHook,
    IResponseHeadHook,
    IResponseTrailersHook,
)
from sidecar.message import RequestHead, ResponseHead
from sidecar.model import CircuitBreakers, Cluster, Endpoint, Hedge, HTTPLimits, Mirror, PoolLimits, RetryBudget
from sidecar.proxy.mirroring import MirrorRuntime, MirrorStats
from sidecar.upstream.pool import Connector
from sidecar.verdicts import OBSERVE, STREAM, Refuse, Repick, Reply, Reroute, Reset, buffer
from tests.memory import FirstUntried, MemoryTransport, World, retry_rules
from tests.memory_h2 import Peer, multiplexed, request, response
from tests.proxy.test_pairings import Clients1, Clients2

MODES = {"observe": OBSERVE, "stream": STREAM, "buffer": buffer(10_000_000)}
# What clients ask, one after the other.
METHODS = (b"POST", b"PUT", b"GET", b"GET", b"POST")
TUNNEL, CALL = 3, 4


def _stubborn(deferred: Deferred[Any]) -> None:
    raise RuntimeError("will not be cancelled")


def _spiteful(deferred: Deferred[Any]) -> None:
    deferred.callback(Reply(200))


MOODS: dict[str, Callable[..., Any]] = {
    "nothing": lambda: None,
    "nonsense": object,
    "octets": lambda: b"",
    "soon": lambda: succeed(None),
    "later": Deferred,
    "later, stubborn": lambda: Deferred(_stubborn),
    "later, spiteful": lambda: Deferred(_spiteful),
    "reply": lambda: Reply(299),
    "refuse": lambda: Refuse(Denied("no")),
    "reset": lambda: Reset(Denied("no")),
    "reset for nothing": lambda: Reset(None),  # type: ignore[arg-type]
    "repick": Repick,
    "reroute": Reroute,
}
ANSWERS = [None, b"", object(), Reply(299), Refuse(Denied("no")), Reset(Denied("no")), RuntimeError("later"), SystemExit()]


@implementer(IRequestHeadHook, IRequestBodyHook, IRequestTrailersHook, IResponseHeadHook, IResponseBodyHook, IResponseTrailersHook, IExchangeDone)
class Wild:
    """A plugin in changing moods: one for each call, then good ones."""

    def __init__(self, mode: str, moods: list[str]) -> None:
        self.request_body_mode = self.response_body_mode = MODES[mode]
        self.moods = moods
        self.waiting: list[Deferred[Any]] = []

    def answer(self, *args: Any) -> Any:
        mood = self.moods.pop(0) if self.moods else "nothing"
        if mood == "raise":
            raise RuntimeError("in a bad mood")
        if mood == "exit":
            raise SystemExit
        value = MOODS[mood]()
        if mood.startswith("later"):
            self.waiting.append(value)
        return value

    request_head = request_body = request_trailers = response_head = response_body = response_trailers = exchange_done = answer

    def fire(self, which: int) -> None:
        """One that waits has its answer."""
        if self.waiting:
            deferred = self.waiting.pop(0)
            value = ANSWERS[which % len(ANSWERS)]
            if deferred.called:
                return
            if isinstance(value, BaseException):
                deferred.errback(value)
            else:
                deferred.callback(value)


class One(Clients1):
    """Clients over HTTP/1.1. Request number n consists of the n-th capital letter."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.ended: set[int] = set()
        self.half_closed: set[int] = set()
        self.sent: dict[int, int] = {}

    def begin(self) -> None:
        number = len(self.transports)
        self.transports.append(self.world.client(half_close=number % 2 == 1))
        head = b"%b /%d HTTP/1.1\r\nHost: app\r\n" % (METHODS[number % 5], number)
        if number % 5 == TUNNEL:
            head += b"Connection: upgrade\r\nUpgrade: websocket\r\n"
        elif METHODS[number % 5] != b"GET":
            head += b"Transfer-Encoding: chunked\r\n"
        if number % 5 == CALL:
            head += b"Content-Type: application/grpc\r\n"
        self.transports[-1].receive(head + b"\r\n")

    def data(self, number: int, octets: bytes) -> None:
        if number % 5 == TUNNEL:
            if b" 101 " in self.transports[number].written[:20] and number not in self.ended:
                self.transports[number].receive(octets)
        elif METHODS[number % 5] != b"GET" and number not in self.ended:
            self.sent[number] = self.sent.get(number, 0) + len(octets)
            super().data(number, octets)

    def end(self, number: int) -> None:
        if METHODS[number % 5] != b"GET" and number not in self.ended:
            self.ended.add(number)
            super().end(number)

    def half_close(self, number: int) -> None:
        if number not in self.half_closed:
            self.ended.add(number)
            self.half_closed.add(number)
            super().half_close(number)

    def answer(self, number: int) -> tuple[ResponseHead | None, bytes]:
        """The final head and the body that came."""
        reader = ResponseReader(65536, 100)
        reader.expect(METHODS[number % 5])
        found = reader.receive(bytes(self.transports[number].written))
        assert not any(isinstance(each, SidecarError) for each in found), found
        heads = [each for each in found if isinstance(each, ResponseHead) and each.status not in (100, 103)]
        return (heads[0] if heads else None), b"".join(each for each in found if isinstance(each, bytes)) + reader.open_tunnel()

    def may_begin(self) -> bool:
        """Is there a connection for another request?"""
        return True

    def connections(self) -> list[Any]:
        """The sidecar's sides of those that are open."""
        return [each.protocol for each in self.transports if not each.closing and not each.lost]

    def serves_on(self, apps: Any) -> None:
        """A connection that is open and whose request was complete takes the next one."""
        for transport in self.transports:
            connection = transport.protocol
            if transport.closing or transport.lost or not connection._request_done:
                continue
            transport.written.clear()
            transport.receive(b"GET /next HTTP/1.1\r\nHost: app\r\n\r\n")
            apps.serve_next()
            assert bytes(transport.written).startswith(b"HTTP/1.1 204 "), (bytes(transport.written), connection)


class Two(Clients2):
    """One client over HTTP/2, likewise."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.ended_streams: set[int] = set()
        self.sent: dict[int, int] = {}

    def begin(self) -> None:
        number = len(self.streams)
        stream = self.client.h2.open_stream()
        if stream is not None:
            is_get = METHODS[number % 5] == b"GET" and number % 5 != TUNNEL
            fields = [(b"content-type", b"application/grpc")] if number % 5 == CALL else []
            upgrade = b"websocket" if number % 5 == TUNNEL else None
            self.client.h2.send_head(stream, request(METHODS[number % 5], b"/%d" % number, *fields, end=is_get, upgrade=upgrade), is_get)
            self.streams.append(stream)
            if is_get:
                self.ended_streams.add(stream)

    def data(self, number: int, octets: bytes) -> None:
        if number < len(self.streams) and self.streams[number] not in self.ended_streams:
            self.sent[number] = self.sent.get(number, 0) + len(octets)
            super().data(number, octets)

    def end(self, number: int) -> None:
        if number < len(self.streams) and self.streams[number] not in self.ended_streams:
            self.ended_streams.add(self.streams[number])
            super().end(number)

    half_close = end

    def reset(self, number: int) -> None:
        if number < len(self.streams):
            self.ended_streams.add(self.streams[number])
            super().reset(number)

    def answer(self, number: int) -> tuple[ResponseHead | None, bytes]:
        stream = self.streams[number]
        heads = [each for each in self.client.of(stream) if isinstance(each, ResponseHead) and each.status >= 200]
        return (heads[0] if heads else None), self.client.body(stream)

    def may_begin(self) -> bool:
        return self.client.h2.can_open_stream() and bool(self.connections())

    def connections(self) -> list[Any]:
        connection = self.client.connection
        return [] if connection._closing or self.client.transport.lost else [connection]

    def serves_on(self, apps: Any) -> None:
        if not self.connections() or self.client.h2.is_peer_leaving:
            return
        connection = self.client.connection
        assert not connection.h2.failed
        stream = self.client.send(request(b"GET", b"/next"))
        apps.serve_next()
        self.client.exchange()
        assert self.client.head(stream).status == 204


class Server1:
    """One connection's other side over HTTP/1.1. `begun`: the numbers of the requests that it saw."""

    def __init__(self, world: Any, transport: MemoryTransport) -> None:
        self.world = world
        self.transport = transport
        self.reader = RequestReader(65536, 100)
        self.current: int | None = None
        self.is_headed = self.is_answered = self.is_whole = self.is_tunnel = False
        self.begun: list[int] = []

    @property
    def is_up(self) -> bool:
        return not self.transport.closing and not self.transport.lost

    def look(self) -> None:
        self.transport.pump()
        data = self.transport.take()
        self.events([data] if data and self.is_tunnel else self.reader.receive(data))
        self.settle()

    def events(self, found: list[Any]) -> None:
        for each in found:
            assert not isinstance(each, SidecarError), each
            if isinstance(each, RequestHead):
                self.current = -1 if each.path == b"/next" else int(each.path[1:])
                self.begun.append(self.current)
                self.is_headed = self.is_answered = False
                self.is_whole = each.end_stream
            elif isinstance(each, bytes):
                assert set(each) == {65 + (self.current or 0)}, "octets of another request"
                self.world.got[self.current] += len(each)
            else:
                self.is_whole = True

    def settle(self) -> None:
        """Answered, and the request is complete: the next one."""
        if self.current is not None and self.is_answered and self.is_whole:
            self.current = None
            self.events(self.reader.next_message())

    def do(self, what: str, which: int) -> None:
        transport = self.transport
        if what == "lose":
            transport.lose()
        elif what == "stop reading":
            transport.blocked = True
        elif what == "read on":
            transport.blocked = False
            transport.drain()
        elif what == "nonsense" and not self.is_tunnel:
            transport.receive(b"\x00\r\n\r\n")
        elif what == "end side":
            transport.end()
        elif self.current is None or self.is_answered:
            return
        elif what == "data" and self.is_headed:
            octets = b"%c" % (97 + self.current) * self.world.size
            self.world.said[self.current] += len(octets)
            transport.receive(octets if self.is_tunnel else b"%x\r\n%b\r\n" % (len(octets), octets))
        elif what == "end" and self.is_headed and not self.is_tunnel:
            self.is_answered = True
            transport.receive(b"0\r\n\r\n")
        elif not self.is_headed:
            self.answer(what)
        self.settle()

    def finish(self) -> None:
        """Answer what is whole, to its end."""
        while self.current is not None and self.is_whole:
            self.do("head", 0)
            self.do("end", 0)

    def answer(self, what: str) -> None:
        if what == "informational":
            self.transport.receive(b"HTTP/1.1 103 Early\r\n\r\n")
        elif what == "head":
            self.is_headed = True
            self.transport.receive(b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n")
        elif what == "switch":
            # Also where nobody asked for it; that is the end of it then.
            self.is_headed = True
            self.is_tunnel = self.current is not None and self.current % 5 == TUNNEL
            self.transport.receive(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        elif what in ("whole", "error"):
            self.is_headed = self.is_answered = True
            self.transport.receive(b"HTTP/1.1 204 No\r\n\r\n" if what == "whole" else b"HTTP/1.1 503 Oh\r\nContent-Length: 0\r\n\r\n")


class Server2(Peer):
    """The same over HTTP/2, with many streams."""

    def __init__(self, world: Any, transport: MemoryTransport) -> None:
        super().__init__(world, transport, False)
        self.tallies = world
        self.numbers: dict[int, int] = {}
        self.headed: set[int] = set()
        self.answered: set[int] = set()
        self.tunnels: set[int] = set()
        self.seen = 0
        self.owed: dict[int, int] = {}

    @property
    def is_up(self) -> bool:
        return not self.transport.closing and not self.transport.lost

    @property
    def begun(self) -> list[int]:
        return list(self.numbers.values())

    def look(self) -> None:
        was_crediting = self.credits
        self.exchange()
        for stream_id, each in self.events[self.seen :]:
            if isinstance(each, RequestHead):
                self.numbers[stream_id] = -1 if each.path == b"/next" else int(each.path[1:])
            elif isinstance(each, bytes):
                assert set(each) == {65 + self.numbers[stream_id]}, "octets of another request"
                self.tallies.got[self.numbers[stream_id]] += len(each)
                if not was_crediting:
                    self.owed[stream_id] = self.owed.get(stream_id, 0) + len(each)
            elif type(each).__name__ == "StreamReset":
                self.answered.add(stream_id)
        self.seen = len(self.events)

    def do(self, what: str, which: int) -> None:
        if what == "lose":
            self.transport.lose()
        elif what == "stop reading":
            self.credits = False
        elif what == "block":
            self.transport.blocked = True
        elif what == "read on":
            self.credits = True
            self.transport.blocked = False
            self.transport.drain()
            for stream_id, octets in self.owed.items():
                self.h2.consumed(stream_id, octets)
            self.owed.clear()
        elif what == "nonsense":
            self.transport.receive(b"\0\0\1\x06\0\0\0\0\0\0")
        elif what == "end side":
            self.transport.end()
        elif what == "leave":
            self.h2.goaway(0, LARGEST_STREAM_ID if which % 2 else max(self.numbers, default=0))
        running = sorted(set(self.numbers) - self.answered)
        if running and self.is_up:
            self.answer(running[which % len(running)], what)
        if self.is_up:
            self.exchange()

    def finish(self) -> None:
        """Answer what is whole, to its end."""
        for stream_id in set(self.numbers) - self.answered:
            if self.ended(stream_id):
                self.answer(stream_id, "head")
                self.answer(stream_id, "end")

    def answer(self, stream_id: int, what: str) -> None:
        if what == "data" and stream_id in self.headed:
            octets = b"%c" % (97 + self.numbers[stream_id]) * self.tallies.size
            self.tallies.said[self.numbers[stream_id]] += len(octets)
            self.h2.send_data(stream_id, octets)
        elif what == "end" and stream_id in self.headed:
            self.answered.add(stream_id)
            self.h2.send_end(stream_id, None if stream_id in self.tunnels else Headers.of([(b"x", b"y"), (b"grpc-status", b"0")]))
        elif what == "reset":
            self.answered.add(stream_id)
            self.h2.reset(stream_id, CANCEL)
        elif stream_id in self.headed:
            return
        elif what == "refuse":
            # The request may go elsewhere: nothing was done.
            self.answered.add(stream_id)
            self.numbers[stream_id] = -2
            self.h2.reset(stream_id, REFUSED_STREAM)
        elif what == "informational":
            self.h2.send_informational(stream_id, response(103))
        elif what == "head":
            self.headed.add(stream_id)
            self.h2.send_head(stream_id, response(200), False)
        elif what == "switch" and self.numbers[stream_id] % 5 == TUNNEL:
            self.headed.add(stream_id)
            self.tunnels.add(stream_id)
            self.h2.send_head(stream_id, response(101), False)
        elif what in ("whole", "error"):
            self.answered.add(stream_id)
            self.headed.add(stream_id)
            self.h2.send_head(stream_id, response(204 if what == "whole" else 503, end=True), True)


class Switches(NamedTuple):
    """`connects`: connections towards applications are there at once. `is_tight`: there may be few of them, for few requests. `clients_leave`: at the end of
    the course; else limits of time end it.
    """

    retries: bool
    mirrors: bool
    fail_open: bool
    connects: bool
    is_tight: bool
    clients_leave: bool


class Course(World):
    """One or more requests, and whatever becomes of them. `kinds`: how many of what clients ask."""

    kinds = 5

    def __init__(self, pairing: tuple[str, str], plugins: list[Wild], hedge: Hedge | None, switches: Switches, size: int = 12) -> None:
        self.size = size  # octets of a piece of a body
        # Octets that applications got of each request, and said in answer to it.
        self.got: Counter[int | None] = Counter()
        self.said: Counter[int | None] = Counter()
        self.copies = SimpleNamespace(size=size, got=Counter(), said=Counter())
        limits = HTTPLimits(watermark_bytes=20)
        breakers = CircuitBreakers(max_requests=5, max_retries=2)
        pool = PoolLimits(max_connections=2, max_pending=2, max_requests=2) if switches.is_tight else None
        super().__init__(*plugins, endpoints=2, auto=False, fail_open=switches.fail_open, limits=limits, pool=pool, cluster={"circuit_breakers": breakers})
        self.wild = plugins
        self.connects = switches.connects
        self.stats = MirrorStats()
        configured = Cluster(name="next", endpoints=(Endpoint(address=Address("127.0.0.1", 9090)),), watermark_bytes=20, circuit_breakers=CircuitBreakers())
        self.mirror_connector = Connector(configured, FirstUntried(), self._connect, self.clock.seconds, self.wheel.timer, None)
        if pairing[1] == "h2":
            multiplexed(self)
        if switches.retries:
            budget = RetryBudget(budget_percent=100, min_retry_concurrency=3)
            # Without times to watch nothing is made for retries before there is one.
            seconds = 0.0 if switches.is_tight and hedge is None else 2.0
            self.route.retry = retry_rules(hedge, attempts=3, per_try_timeout=seconds, per_try_idle_timeout=2 * seconds, body_bytes=20, budget=budget)
            self.route.silent_after = 1.0
        if switches.mirrors:
            mirror = MirrorRuntime(Mirror(cluster="next", buffer_bytes=20), self.mirror_connector, self.stats, self.clock.seconds, self.wheel)
            mirror.dice = lambda: 0.5
            self.route.mirrors = (mirror,)
        self.route.upgrade_idle_timeout = 60.0
        self.pairing = pairing
        self.clients: Any = One(self) if pairing[0] == "h1" else Two(self)
        self.servers: dict[int, Any] = {}
        self.requests = 0

    def look(self) -> None:
        """Octets go both ways."""
        for _ in range(4):
            self.turn()
            self.clients.go_on()
            for attempt in self.open() if self.connects else ():
                attempt.succeed()
            for number, attempt in enumerate(self.attempts):
                transport = attempt.transport
                if transport is None:
                    continue
                server = self.servers.get(number)
                if server is None:
                    is_mirror = attempt.address.port == 9090
                    make = Server1 if is_mirror or self.pairing[1] == "h1" else Server2
                    server = self.servers[number] = make(self.copies if is_mirror else self, transport)
                if server.is_up:
                    server.look()
                transport.settle()

    def open(self) -> list[Any]:
        return [each for each in self.attempts if each.transport is None and not each.cancelled and not getattr(each, "failed", False)]

    def step(self, who: str, what: str, which: int) -> None:
        if who == "time":
            self.clock.pump([0.25] * (1 + which % 8))
        elif who == "client" and what == "begin":
            if self.requests < self.kinds and self.clients.may_begin():
                self.requests += 1
                self.clients.begin()
        elif who == "drain":
            # The sidecar is going.
            self.http.draining = True
            for connection in self.clients.connections():
                connection.drain()
        elif who == "client" and self.requests:
            number = which % self.requests
            octets = (b"%c" % (65 + number) * self.size,) if what == "data" else ()
            getattr(self.clients, what)(number, *octets)
        elif who == "network" and self.open():
            attempt = self.open()[which % len(self.open())]
            if what == "connect":
                attempt.succeed()
            else:
                attempt.failed = True
                attempt.fail(ConnectFailed("refused"))
        elif who == "plugin" and self.wild:
            self.wild[which % len(self.wild)].fire(which)
        elif who == "server":
            up = [each for each in self.servers.values() if each.is_up]
            if up:
                up[which % len(up)].do(what, which // len(up))
        self.look()

    def serve_next(self) -> None:
        """Somebody answers the last request of all."""
        for _ in range(8):
            self.look()
            for attempt in self.open():
                attempt.succeed()
            self.look()
            for server in [each for each in self.servers.values() if each.is_up]:
                server.do("read on", 0)
                if -1 in server.begun:
                    for which in range(8):
                        server.do("whole", which)

    def finish_answers(self) -> None:
        """Every application answers what it has, to its end."""
        for server in list(self.servers.values()):
            server.do("read on", 0)
            if server.is_up:
                server.finish()
        self.look()

    def begun(self, number: int) -> int:
        """To how many connections or streams this request went."""
        return sum(server.begun.count(number) for index, server in self.servers.items() if self.attempts[index].address.port != 9090)

    def nothing_is_left(self) -> None:
        for connector in (self.connector, self.mirror_connector):
            assert (connector.pending, connector.retries, connector.circuit.running) == (0, 0, 0), connector.name
            assert connector.circuit.snapshot()["retrying"] == 0
            assert all(not pool.active and not pool.waiting for pool in connector.pools)
            assert connector.connections == sum(pool.connections for pool in connector.pools)
        assert self.stats.active == 0 and self.http.active == 0
        assert len(self.records) == len(self.observed) == len(self.exchanges)
        assert all(each.finished for each in self.exchanges)
        assert self.clients.leftovers() == []


