"""The data path without sockets: a transport in memory, and a world of a client, a sidecar's HTTP path and an application around it, on a fake clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from sidecar.address import Address
from sidecar.downstream.h1 import H1ServerConnection
from sidecar.facts import ConnectionFacts, TLSFacts
from sidecar.interfaces import IAccessLog, IBalancer, IExchangeDone
from sidecar.model import Cluster, Endpoint, Hedge, HTTPLimits, HTTPManager, PoolLimits, Retry, RouteTable
from sidecar.policy.conditions import Conditions, conditions_of
from sidecar.policy.descriptors import compile_descriptors
from sidecar.policy.retry import RetryRules
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.http import HTTPRuntime
from sidecar.proxy.route import RouteRuntime
from sidecar.proxy.steps import Account, Step, compile_chain
from sidecar.transport.wheel import TimerWheel
from sidecar.upstream.pool import Connector

DONE = Failure(ConnectionDone())


class MemoryTransport:
    """Records what is written; what the peer does is done by `receive`, `end` and `lose`. While `blocked`, writes stay in the queue (`buffered`), and the high
    watermark pauses the producer, as a real transport does; `drain` sends what is queued.

    Data received while paused waits, and is delivered one piece at a time when reading is resumed.
    """

    def __init__(self, protocol: Any, peer: Address | None = None, high_bytes: int = 1000) -> None:
        self.protocol = protocol
        self.peer = Address("192.0.2.1", 50000) if peer is None else peer
        self.local = Address("192.0.2.9", 15006)
        self.tls = self.tls_error = None
        self.written = bytearray()
        self.queued = bytearray()
        self.high_bytes = high_bytes
        self.low_bytes = 0
        self.blocked = self.asked = False
        self.reading = True
        self.closing = self.aborted = self.write_ended = self.lost = False
        self.is_alive = True
        self.inbox: list[bytes | None] = []
        self.producer: Any = None
        self.pauses = self.resumes = 0
        self.delivered_while_paused = 0
        self.peeker: Any = None
        self.tls_started: Any = None

    # what protocols call

    @property
    def buffered(self) -> int:
        return len(self.queued)

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if self.closing or self.write_ended or self.lost:
            return
        if not self.blocked:
            self.written += data
            return
        self.queued += data
        if len(self.queued) > self.high_bytes and not self.asked:
            self.asked = True
            self.producer.pauseProducing()

    def writeSequence(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def set_write_watermarks(self, high_bytes: int, low_bytes: int) -> None:
        assert 0 <= low_bytes <= high_bytes
        self.high_bytes, self.low_bytes = high_bytes, low_bytes

    def unregisterProducer(self) -> None:
        self.producer = None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def pauseProducing(self) -> None:
        self.pauses += 1
        self.reading = False

    def resumeProducing(self) -> None:
        self.resumes += 1
        if not self.closing and not self.lost:
            self.reading = True

    def loseConnection(self) -> None:
        self.closing = True
        self.reading = False

    def abortConnection(self) -> None:
        self.closing = self.aborted = True
        self.reading = False
        self.queued.clear()

    def loseWriteConnection(self) -> None:
        self.write_ended = True

    def looks_alive(self) -> bool:
        return self.is_alive and not self.closing and not self.lost

    def start_sniffing(self, callback: Any) -> None:
        self.peeker = callback

    def stop_sniffing(self) -> None:
        self.peeker = None

    def startTLS(self, context: Any, is_client: bool) -> None:
        self.tls_started = (context, is_client)

    # what the peer and the network do

    def receive(self, data: bytes) -> None:
        """The peer sent this."""
        self.inbox.append(data)
        self.pump()

    def end(self) -> None:
        """The peer ended its sending side."""
        self.inbox.append(None)
        self.pump()

    def pump(self) -> None:
        """Deliver what waits, as long as the protocol reads."""
        while self.inbox and self.reading and not self.closing and not self.lost:
            data = self.inbox.pop(0)
            if data is not None:
                self.protocol.dataReceived(data)
            elif IHalfCloseableProtocol.providedBy(self.protocol):
                self.protocol.readConnectionLost()
            else:
                self.lose()

    def drain(self, count: int | None = None) -> None:
        """The peer took that many octets of the queue (None: all)."""
        count = len(self.queued) if count is None else count
        self.written += self.queued[:count]
        del self.queued[:count]
        if self.asked and len(self.queued) <= self.low_bytes and not self.closing and not self.lost:
            self.asked = False
            self.producer.resumeProducing()

    def lose(self, reason: Failure = DONE) -> None:
        """The connection is gone."""
        if not self.lost:
            self.lost = True
            self.reading = False
            self.protocol.connectionLost(reason)

    def settle(self) -> None:
        """A close that was asked for happens, unless something is still queued."""
        if self.closing and not self.queued:
            self.lose()

    def take(self) -> bytes:
        """What was written since the last time."""
        data = bytes(self.written)
        self.written.clear()
        return data


@implementer(IAccessLog)
class Records:
    """An access log that keeps its records."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def log(self, record: Any) -> None:
        self.records.append(record)


@implementer(IExchangeDone)
class Dones:
    """A filter that counts ends."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def exchange_done(self, exchange: Any, record: Any) -> None:
        self.records.append(record)


@implementer(IBalancer)
class FirstUntried:
    """A balancer that takes the endpoints in order."""

    def __init__(self) -> None:
        self.endpoints: list[Any] = []

    def update(self, endpoints: list[Any]) -> None:
        self.endpoints = endpoints

    def pick(self, exchange: Any, tried: tuple[Any, ...]) -> Any:
        left = [each for each in self.endpoints if each not in tried] or self.endpoints
        return left[0] if left else None


class Attempt:
    """A connection that a pool asked for: `succeed()` or `fail(error)`."""

    def __init__(self, address: Address, protocol: Any) -> None:
        self.address = address
        self.protocol = protocol
        self.cancelled = False
        self.transport: Any = None

    def cancel(self) -> None:
        self.cancelled = True

    def succeed(self) -> MemoryTransport:
        self.transport = transport = MemoryTransport(self.protocol, self.address)
        self.protocol.makeConnection(transport)
        return transport

    def fail(self, error: Any) -> None:
        self.protocol.connection_failed(error)


def facts(tls: TLSFacts | None = None) -> ConnectionFacts:
    """An accepted connection."""
    return ConnectionFacts(1, "in", "inbound", Address("192.0.2.1", 50000), Address("192.0.2.9", 15006), tls=tls)


def retry_rules(hedge: Hedge | None = None, policy: Any = None, **settings: Any) -> RetryRules:
    """A route's `retry`, with the built-in policy or another one."""
    retry = Retry(**settings)
    policy = policy or Conditions(conditions_of(retry))
    return RetryRules(retry, Step(policy.decide, Account("retry-policy", type(policy).__name__), 0), policy.statuses, hedge)


class World:
    """One HTTP filter chain with one route to one cluster. `client()` connects; `attempts` are the connections asked for towards the application."""

    def __init__(
        self,
        *plugins: Any,
        fail_open: bool = False,
        pool: PoolLimits | None = None,
        endpoints: int = 1,
        limits: HTTPLimits | None = None,
        tls: TLSFacts | None = None,
        auto: bool = True,
        cluster: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.wheel = TimerWheel(self.clock)
        self.limits = limits or HTTPLimits(watermark_bytes=1000)
        self.http = HTTPRuntime("in", HTTPManager(routes=RouteTable(name="t", virtual_hosts=()), limits=self.limits, **settings), self.clock, self.wheel)
        self.log = Records()
        self.dones = Dones()
        self.observed: list[Any] = []
        self.http.access_logs = (Step(self.log.log, Account("access-log", "records"), 0),)
        self.http.wants_record = True
        self.http.observe = lambda exchange, duration: self.observed.append(exchange)
        self.accounts = [Account("filter", type(plugin).__name__, fail_open) for plugin in plugins]
        self.plugins = [*zip(plugins, self.accounts, strict=True), (self.dones, Account("filter", "dones"))]
        self.attempts: list[Attempt] = []
        self.auto = auto
        addresses = tuple(Endpoint(address=Address("127.0.0.1", 8080 + i)) for i in range(endpoints))
        configured = Cluster(name="app", endpoints=addresses, pool=pool or PoolLimits(), watermark_bytes=1000, **(cluster or {}))
        self.connector = Connector(configured, FirstUntried(), self._connect, self.clock.seconds, self.wheel.timer, None)
        self.route = self.make_route("default")
        self.routes: Callable[[Any], Any] = lambda head: self
        self.http.find_route = lambda head: self.routes(head)
        self.exchanges: list[Exchange] = []
        self.closed: list[Any] = []
        self.caller = self.http.caller(facts(tls))

    @property
    def compiled(self) -> RouteRuntime:
        return self.route

    @property
    def records(self) -> list[Any]:
        return self.log.records

    def make_route(self, name: str) -> RouteRuntime:
        route = RouteRuntime(name)
        route.connector = self.connector
        route.chain = compile_chain(self.plugins, compile_descriptors, self.clock.seconds)
        route.idle_timeout = 300.0
        route.upgrade_idle_timeout = 3600.0
        route.timeout = 15.0
        route.timeout_ends_with_head = True
        return route

    def _connect(self, address: Address, protocol: Any, tls: Any) -> Attempt:
        attempt = Attempt(address, protocol)
        self.attempts.append(attempt)
        if self.auto:
            self.clock.callLater(0, attempt.succeed)
        return attempt

    def _begin(self, connection: Any, head: Any, now: float) -> Exchange:
        exchange = Exchange(self.http, self.caller, connection, head, now)
        self.exchanges.append(exchange)
        return exchange

    def _refuse(self, connection: Any, error: Any, now: float, request: Any = None) -> Any:
        from sidecar.assembly import refuse_unread

        return refuse_unread(self.http, self.caller, connection, error, now, request)

    def client(self, half_close: bool = False) -> MemoryTransport:
        """A client connected."""
        connection = H1ServerConnection(self.http, self.limits, self._begin, self._refuse, self.closed.append, b"http", half_close)
        transport = MemoryTransport(connection)
        connection.makeConnection(transport)
        return transport

    def turn(self) -> None:
        """What is due now happens."""
        self.clock.advance(0)

    def send(self, data: bytes, client: MemoryTransport | None = None) -> tuple[MemoryTransport, Any]:
        """The client sends, and the sidecar connects: both transports."""
        client = client or self.client()
        client.receive(data)
        self.turn()
        return client, self.app

    @property
    def app(self) -> Any:
        """The newest connection to the application, None before there is one."""
        return self.attempts[-1].transport if self.attempts else None

    def ended_once(self, *statuses: int) -> None:
        """Every exchange so far ended exactly once, with these statuses."""
        assert [each.status for each in self.records] == list(statuses)
        assert [each.status for each in self.dones.records] == list(statuses)
        assert [each.finished for each in self.exchanges] == [True] * len(statuses)
        assert len(self.observed) == len(statuses)
        assert self.http.active == 0
        assert sum(pool.active for pool in self.connector.pools) == 0


GET = b"GET /a HTTP/1.1\r\nHost: app\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: app\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"POST /a HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"GET /ws HTTP/1.1\r\nHost: app\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


def body_of(message: bytes) -> bytes:
    """What stands behind the head."""
    return message.partition(b"\r\n\r\n")[2]
