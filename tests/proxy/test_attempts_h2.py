"""As `test_attempts`, over HTTP/2: what a server says that it did not begin with may go again, whatever it is; what it may have begun may not."""

from __future__ import annotations

from typing import Any

from hypothesis import event, given, settings, strategies as st

from sidecar.codec.h2.frames import CANCEL, REFUSED_STREAM
from sidecar.message import RequestHead
from sidecar.model import CircuitBreakers, Hedge, RetryBudget
from tests.memory import World, retry_rules
from tests.memory_h2 import Peer, multiplexed, response
from tests.proxy.test_attempts import REQUESTS, UNSAFE

DOINGS = ["time", "refuse", "reset", "good", "bad", "half", "leave", "leave and finish", "lose"]


class Server(Peer):
    """One connection's other side. `begun`: the streams of requests that it may have begun with: all that it did not refuse and was not done with."""

    def __init__(self, world: World, transport: Any) -> None:
        super().__init__(world, transport, False)
        self.begun: set[int] = set()
        self.done: set[int] = set()
        self.seen: set[int] = set()
        self.halves: set[int] = set()
        self.exchange()

    def look(self) -> None:
        self.exchange()
        for stream_id, each in self.events:
            if isinstance(each, RequestHead) and stream_id not in self.seen:
                self.seen.add(stream_id)
                self.begun.add(stream_id)

    @property
    def open(self) -> list[int]:
        return sorted(self.seen - self.done)

    @property
    def is_up(self) -> bool:
        return not self.transport.closing and not self.transport.lost

    def do(self, what: str, which: int) -> None:
        """To one of its open streams, or to all."""
        if what == "lose":
            self.done |= self.seen
            self.transport.lose()
            return
        if not self.open or not self.is_up:
            return
        stream_id = self.open[which % len(self.open)]
        if stream_id in self.halves and what in ("good", "bad", "half", "refuse", "leave"):
            # It has answered: a server that says now that it did not begin lies.
            return
        if what in ("good", "bad", "half"):
            head = response(503 if what == "bad" else 200, end=what != "half")
            self.h2.send_head(stream_id, head, head.end_stream)
            (self.halves if what == "half" else self.done).add(stream_id)
        elif what in ("refuse", "reset"):
            self.h2.reset(stream_id, REFUSED_STREAM if what == "refuse" else CANCEL)
            self.done.add(stream_id)
            if what == "refuse":
                self.begun.discard(stream_id)
        elif what == "leave":
            # Nothing above 0 was begun with, unless it was answered already.
            if not self.done and not self.halves:
                self.h2.goaway(0, 0)
                self.begun -= set(self.open)
                self.done |= self.seen
        elif what == "leave and finish":
            self.h2.goaway(0, max(self.seen))
        self.exchange()


class Course(World):
    """One request over HTTP/2 and whatever becomes of it."""

    def __init__(self, hedge: Hedge | None, attempts: int) -> None:
        super().__init__(endpoints=2, cluster={"circuit_breakers": CircuitBreakers(max_requests=5, max_retries=2)})
        multiplexed(self)
        budget = RetryBudget(budget_percent=100, min_retry_concurrency=3)
        self.route.retry = retry_rules(hedge, attempts=attempts, per_try_timeout=0.5, budget=budget)
        self.servers: list[Server] = []

    def look(self) -> None:
        """New connections get a server, and everything that waits goes its way."""
        for _ in range(3):
            self.turn()
            known = {id(each.transport) for each in self.servers}
            for attempt in self.attempts:
                if attempt.transport is not None and id(attempt.transport) not in known and not attempt.transport.closing:
                    self.servers.append(Server(self, attempt.transport))
            for server in self.servers:
                if server.is_up:
                    server.look()


steps = st.lists(st.tuples(st.sampled_from(DOINGS), st.integers(0, 3)), min_size=1, max_size=14)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(REQUESTS)), st.sampled_from([None, Hedge(delay=0.3), Hedge(hedge_on_per_try_timeout=True)]), st.integers(1, 3), steps)
def test_any_course(kind: str, hedge: Hedge | None, attempts: int, course: list[tuple[str, int]]) -> None:
    """See the file."""
    world = Course(hedge, attempts)
    client = world.client()
    client.receive(REQUESTS[kind])
    world.look()
    for what, which in course:
        if world.records:
            break
        if what == "time":
            world.clock.pump([0.1] * (1 + which))
        else:
            busy = [each for each in world.servers if each.is_up and each.open]
            if busy:
                busy[which % len(busy)].do(what, which)
        world.look()
    for _ in range(400):
        world.clock.advance(1.0)
        if world.records:
            break
    world.look()
    begun = sum(len(each.begun) for each in world.servers)
    event(f"{begun} begun, {len(world.records[0].tries)} tries")
    assert len(world.records) == len(world.dones.records) == len(world.observed) == 1 and world.http.active == 0
    if kind in UNSAFE:
        assert begun <= 1, world.records[0].notes
    assert bytes(client.written).count(b"HTTP/1.1 ") <= 1
    connector = world.connector
    assert (connector.pending, connector.retries, connector.circuit.running, connector.circuit.snapshot()["retrying"]) == (0, 0, 0, 0)
    assert all(not pool.active and not pool.waiting for pool in connector.pools)
    for attempt in world.attempts:
        assert not attempt.protocol.reserved and not attempt.protocol.streams, "a stream is held by nobody's attempt"
