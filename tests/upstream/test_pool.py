"""`sidecar/upstream/pool.py`: limits, queues, and one answer for each question."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from sidecar.address import Address
from sidecar.errors import ConnectFailed, NoHealthyEndpoint, UpstreamOverflow
from sidecar.interfaces import IConnector
from sidecar.message import RequestHead
from sidecar.model import Cluster, Endpoint, PoolLimits
from sidecar.testing import make_request
from sidecar.transport.wheel import TimerWheel
from sidecar.upstream.pool import Connector
from tests.memory import Attempt, MemoryTransport

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
CLOSE = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Owner:
    """Asks for a stream, sends a request when it gets it, and counts what it is told."""

    def __init__(self, pools: Pools, request: RequestHead | None = None, fresh: bool = False, want: int = 0) -> None:
        self.request = request or make_request()
        self.want = want
        self.finished = False
        self.downstream = self
        self.answers: list[Any] = []
        self.ends: list[Any] = []
        self.stream: Any = None
        self.ticket = pools.connector.open(self, (), fresh)

    def flush(self) -> None:
        pass

    def upstream_ready(self, stream: Any) -> None:
        self.answers.append(stream)
        self.stream = stream
        stream.send_head(self.request)
        stream.flush()

    def upstream_unavailable(self, error: Any, endpoint: Any) -> None:
        self.answers.append(error)
        self.finished = True

    def response_head(self, head: Any) -> None:
        self.ends.append(head.status)
        self.finished = True
        self.stream = None

    def response_failed(self, error: Any) -> None:
        self.ends.append(error)
        self.finished = True
        self.stream = None

    def cancel(self) -> None:
        self.finished = True
        if self.ticket is not None:
            self.ticket.cancel()
        if self.stream is not None:
            self.stream.reset(ConnectFailed("given up"))
            self.stream = None


class Chosen:
    """A balancer that takes the endpoint its owner wants."""

    def update(self, endpoints: list[Any]) -> None:
        self.endpoints = endpoints

    def pick(self, exchange: Any, tried: tuple[Any, ...]) -> Any:
        return self.endpoints[exchange.want % len(self.endpoints)] if self.endpoints else None


class Pools:
    """A connector whose connections are made by hand."""

    def __init__(self, endpoints: int = 1, **limits: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.wheel = TimerWheel(self.clock)
        self.attempts: list[Attempt] = []
        cluster = Cluster(name="app", endpoints=tuple(Endpoint(address=Address("127.0.0.1", 8000 + i)) for i in range(endpoints)), pool=PoolLimits(**limits))
        self.balancer = Chosen()
        self.connector = Connector(cluster, self.balancer, self._connect, self.clock.seconds, self.wheel.timer, None)

    def _connect(self, address: Address, protocol: Any, tls: Any) -> Attempt:
        self.attempts.append(Attempt(address, protocol))
        return self.attempts[-1]

    def busy(self, **more: Any) -> tuple[Owner, MemoryTransport]:
        """An owner with a connection of its own."""
        owner = Owner(self, **more)
        return owner, self.attempts[-1].succeed()


def test_provides_the_connector() -> None:
    """It is what exchanges ask."""
    verifyObject(IConnector, Pools().connector)


def test_no_endpoint() -> None:
    """UH, and counted."""
    pools = Pools(endpoints=0)
    owner = Owner(pools)
    assert type(owner.answers[0]) is NoHealthyEndpoint and pools.connector.counters["no_endpoint"] == 1


def test_pending_is_limited() -> None:
    """One more than may wait gets UO at once; the others are served in order."""
    pools = Pools(max_connections=1, max_pending=2)
    _, transport = pools.busy()
    second, third, fourth = Owner(pools), Owner(pools), Owner(pools)
    assert type(fourth.answers[0]) is UpstreamOverflow and len(pools.attempts) == 1
    transport.receive(OK)
    assert second.stream is not None and third.stream is None
    transport.receive(OK)
    assert third.stream is not None
    assert pools.connector.pending == 0 and pools.connector.counters["overflows"] == 1


def test_newest_idle_connection_first() -> None:
    """So that the others grow old and are closed by the idle timeout."""
    pools = Pools(idle_timeout=60.0)
    transports = [pools.busy()[1] for _ in range(3)]
    for transport in transports:
        transport.receive(OK)
        pools.clock.advance(1)
    for _ in range(10):
        Owner(pools)
        transports[2].receive(OK)
        pools.clock.advance(10)
    assert [each.closing for each in transports] == [True, True, False]
    pools.clock.advance(61)
    assert transports[2].closing and pools.connector.connections == 0


def test_idle_connections_are_limited() -> None:
    """More than `max_idle` are closed."""
    pools = Pools(max_idle=1)
    transports = [pools.busy()[1] for _ in range(3)]
    for transport in transports:
        transport.receive(OK)
    assert [each.closing for each in transports] == [False, True, True]


def test_requests_per_connection_are_limited() -> None:
    """The connection closes after its last one."""
    pools = Pools(max_requests=2)
    _, transport = pools.busy()
    transport.receive(OK)
    Owner(pools)
    assert not transport.closing
    transport.receive(OK)
    assert transport.closing and pools.connector.connections == 0


def test_idle_connection_makes_room_for_another_endpoint() -> None:
    """Under the cluster's limit an idle connection elsewhere is closed, and the limit holds whatever that sets off."""
    pools = Pools(endpoints=2, max_connections=2)
    _, first = pools.busy()
    _, second = pools.busy()
    waiting = [Owner(pools, want=1), Owner(pools, want=1)]
    first.receive(OK)
    assert first.closing and pools.connector.connections == 2
    second.receive(OK)
    assert pools.connector.connections == 2
    for attempt in pools.attempts[2:]:
        attempt.succeed()
    assert all(owner.stream for owner in waiting)


def test_evicting_opens_one_connection_and_not_two() -> None:
    """Closing the idle one already serves the queue; who asked for it must not open another."""
    pools = Pools(endpoints=2, max_connections=2)
    transports = [pools.busy()[1] for _ in range(2)]
    for transport in transports:
        transport.receive(OK)
    Owner(pools, want=1)
    assert [each.closing for each in transports] == [True, False]
    assert len(pools.attempts) == 3 and pools.connector.connections == 2


def test_idle_connections_stay_while_others_only_connect() -> None:
    """Below the limit a request that waits for its connection costs no idle one."""
    pools = Pools(endpoints=2)
    _, first = pools.busy()
    Owner(pools, want=1)
    first.receive(OK)
    assert not first.closing


def test_cancel_while_waiting() -> None:
    """It is never served; the connection that was being made goes to the idle ones."""
    pools = Pools()
    owner = Owner(pools)
    owner.cancel()
    assert owner.ticket is not None
    owner.ticket.cancel()
    transport = pools.attempts[0].succeed()
    assert owner.answers == [] and transport.take() == b"" and len(pools.connector.pools[0].idle) == 1
    assert pools.connector.pending == 0


def test_connect_failures() -> None:
    """Each fails one request, the longest waiting; the others keep their attempts."""
    pools = Pools()
    owners = [Owner(pools) for _ in range(3)]
    pools.attempts[2].fail(ConnectFailed("no"))
    assert [len(owner.answers) for owner in owners] == [1, 0, 0]
    pools.attempts[0].succeed()
    pools.attempts[1].fail(ConnectFailed("no"))
    assert [len(owner.answers) for owner in owners] == [1, 1, 1]
    assert pools.connector.counters["connect_failures"] == 2 and pools.connector.connections == 1


def test_fresh() -> None:
    """A fresh stream does not take an idle connection."""
    pools = Pools()
    _, transport = pools.busy()
    transport.receive(OK)
    Owner(pools, fresh=True)
    assert len(pools.attempts) == 2 and transport.take().count(b"GET") == 1


@pytest.mark.parametrize(
    ("request_", "is_checked"),
    [
        (make_request(), False),
        (make_request("HEAD"), False),
        (make_request("POST"), True),
        (make_request("DELETE"), True),
        (make_request("GET", has_body=True), True),
    ],
    ids=repr,
)
def test_dead_connection_is_seen_before_what_is_not_sent_again(request_: RequestHead, is_checked: bool) -> None:
    """An end waiting in the socket is looked for, unless the request is simply sent again."""
    pools = Pools()
    _, transport = pools.busy()
    transport.receive(OK)
    transport.is_alive = False
    Owner(pools, request=request_)
    assert transport.closing is is_checked and len(pools.attempts) == (2 if is_checked else 1)


def test_stop() -> None:
    """Idle ones close, attempts are cancelled, busy ones close when they are done."""
    pools = Pools()
    _, idle = pools.busy()
    _, busy = pools.busy()
    idle.receive(OK)
    Owner(pools, fresh=True)
    pools.connector.stop()
    assert idle.closing and pools.attempts[2].cancelled and not busy.closing
    busy.receive(OK)
    assert busy.closing


class PoolMachine(RuleBasedStateMachine):
    """Any order of requests, answers, failures and cancellations."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = Pools(endpoints=3, max_connections=2, max_idle=2, max_pending=5, max_requests=7, idle_timeout=5.0)
        self.owners: list[Owner] = []
        self.open: list[Attempt] = []

    def _pending(self) -> list[Attempt]:
        return [each for each in self.pools.attempts if each not in self.open]

    @rule(want=st.integers(0, 2), fresh=st.booleans(), method=st.sampled_from(["GET", "POST"]))
    def ask(self, want: int, fresh: bool, method: str) -> None:
        self.owners.append(Owner(self.pools, make_request(method), fresh, want))

    @precondition(lambda self: self._pending())
    @rule(data=st.data(), ok=st.booleans())
    def connect(self, data: Any, ok: bool) -> None:
        attempt = data.draw(st.sampled_from(self._pending()))
        self.open.append(attempt)
        if ok:
            attempt.succeed()
        else:
            attempt.fail(ConnectFailed("no"))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), event=st.sampled_from([OK, CLOSE, OK + b"x", b"nonsense", "end", "lose", "dead"]))
    def answer(self, data: Any, event: Any) -> None:
        transport = data.draw(st.sampled_from(self.open)).transport
        if transport is None or transport.lost:
            return
        if event == "dead":
            transport.is_alive = False
        elif isinstance(event, bytes):
            transport.receive(event)
        else:
            getattr(transport, event)()
        transport.settle()

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        data.draw(st.sampled_from(self.owners)).cancel()

    @rule(numbers=st.lists(st.integers(0, 3), unique=True))
    def change(self, numbers: list[int]) -> None:
        """Endpoints come, go and come back."""
        self.pools.connector.set_endpoints([Endpoint(address=Address("127.0.0.1", 8000 + number)) for number in numbers])

    @rule(seconds=st.sampled_from([0.1, 6.0]))
    def wait(self, seconds: float) -> None:
        self.pools.clock.advance(seconds)

    @invariant()
    def limits_hold(self) -> None:
        connector = self.pools.connector
        alive = [each for each in self.open if each.transport is not None and not each.transport.closing and not each.transport.lost]
        assert connector.connections == len(alive) + len(self._pending()) <= 2
        known = [*connector.pools, *connector.members.retired.values()]
        assert len(known) == len(set(known)) and connector.connections == sum(pool.connections for pool in known)
        assert set(connector.open_pools) == {pool for pool in known if pool.connections}
        for pool in connector.members.retired.values():
            assert not pool.idle and (pool.connections or pool.waiting)
            # It is waited for only while there is nobody else.
            assert not pool.waiting or not connector.pools
        assert 0 <= connector.pending <= 5
        assert connector.pending == sum(1 for owner in self.owners if not owner.answers and not owner.finished)
        for pool in connector.pools:
            assert len(pool.idle) <= 2
        streams = [owner.stream for owner in self.owners if owner.stream is not None]
        assert len(streams) == len(set(streams)) == connector.active
        assert all(stream.owner is owner for owner in self.owners if (stream := owner.stream) is not None)

    @invariant()
    def each_is_answered_once(self) -> None:
        assert all(len(owner.answers) <= 1 and len(owner.ends) <= 1 for owner in self.owners)

    def teardown(self) -> None:
        """Nobody is forgotten: once every attempt is made and every answer given, nobody waits."""
        for _ in range(100):
            for attempt in self._pending():
                self.open.append(attempt)
                attempt.succeed()
            for attempt in self.open:
                if attempt.transport is not None and not attempt.transport.lost and attempt.protocol.owner is not None:
                    attempt.transport.receive(OK)
        self.limits_hold()
        assert all(owner.answers or owner.finished for owner in self.owners)


TestPoolMachine = PoolMachine.TestCase
