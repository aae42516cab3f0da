"""Whatever becomes of attempts: what may have been carried out is not sent again, each exchange ends once, and every place in pool, queue, budget and circuit
is given back.
"""

from __future__ import annotations

from typing import Any

from hypothesis import event, given, settings, strategies as st

from sidecar.errors import ConnectFailed
from sidecar.model import CircuitBreakers, Hedge, PoolLimits, RetryBudget
from tests.memory import OK, World, retry_rules
from tests.proxy.test_retrying import BAD

REQUESTS = {
    "GET": b"GET /a HTTP/1.1\r\nHost: app\r\n\r\n",
    "PUT": b"PUT /a HTTP/1.1\r\nHost: app\r\nContent-Length: 5\r\n\r\nhello",
    "POST": b"POST /a HTTP/1.1\r\nHost: app\r\nContent-Length: 5\r\n\r\nhello",
    "keyed": b"POST /a HTTP/1.1\r\nHost: app\r\nIdempotency-Key: 1\r\nContent-Length: 5\r\n\r\nhello",
    "empty POST": b"POST /a HTTP/1.1\r\nHost: app\r\nContent-Length: 0\r\n\r\n",
    "chunked": b"POST /a HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
}
UNSAFE = {"POST", "empty POST", "chunked"}
ANSWERS = {
    "good": OK,
    "bad": BAD,
    "bad and closed": BAD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
    "half": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe",
    "later": b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n",
    "nonsense": b"\x00\r\n\r\n",
    "no body": b"HTTP/1.1 204 No Content\r\n\r\n",
}


class Course(World):
    """One request at a time, with everything that may send it more than once."""

    def __init__(self, attempts: int, hedge: Hedge | None, per_try: float, body_bytes: int, attempts_max: int = 20) -> None:
        pool = PoolLimits(max_connections=3, max_pending=4)
        super().__init__(endpoints=3, auto=False, pool=pool, cluster={"circuit_breakers": CircuitBreakers(max_requests=5, max_retries=2)})
        self.route.retry = retry_rules(
            hedge, attempts=attempts, attempts_max=attempts_max, per_try_timeout=per_try, per_try_idle_timeout=2.0 * per_try, body_bytes=body_bytes,
            retry_after_max=2.0,
            budget=RetryBudget(budget_percent=100, min_retry_concurrency=3),
        )  # fmt: skip
        self.seen: list[bytes] = []

    def open(self) -> list[Any]:
        """Attempts at a connection that are neither made nor failed."""
        return [each for each in self.attempts if each.transport is None and not each.cancelled and not getattr(each, "failed", False)]

    def up(self) -> list[Any]:
        """Connections to the application that stand."""
        return [each.transport for each in self.attempts if each.transport is not None and not each.transport.closing and not each.transport.lost]

    def step(self, what: str, which: int) -> None:
        if what == "time":
            self.clock.pump([0.1] * (1 + which % 12))
        elif what in ("connect", "refuse") and self.open():
            attempt = self.open()[which % len(self.open())]
            if what == "connect":
                attempt.succeed()
            else:
                attempt.failed = True
                attempt.fail(ConnectFailed("refused"))
        elif self.up():
            transport = self.up()[which % len(self.up())]
            if what == "lose":
                transport.lose()
            elif what in ANSWERS and transport.protocol.owner is not None:
                transport.receive(ANSWERS[what])
        self.turn()

    def deliveries(self) -> int:
        """To how many connections something of a request was written."""
        return sum(1 for each in self.attempts if each.transport is not None and each.transport.written)

    def nothing_is_left(self) -> None:
        connector = self.connector
        assert (connector.pending, connector.retries, connector.circuit.running) == (0, 0, 0)
        assert connector.circuit.snapshot()["retrying"] == 0
        assert all(not pool.active and not pool.waiting for pool in connector.pools)
        assert connector.connections == sum(pool.connections for pool in connector.pools) <= 3
        for transport in self.up():
            assert transport.protocol.owner is None, "a connection is held by nobody's attempt"


steps = st.lists(st.tuples(st.sampled_from(["time", "connect", "connect", "connect", "refuse", "lose", *ANSWERS]), st.integers(0, 11)), min_size=4, max_size=30)
hedges = st.sampled_from([None, None, Hedge(delay=0.3), Hedge(hedge_on_per_try_timeout=True), Hedge(delay=0.3, hedge_on_per_try_timeout=True)])


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(sorted(REQUESTS)),
    st.integers(1, 4),
    st.sampled_from([0, 20]),
    hedges,
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([4, 1000]),
    steps,
    st.sampled_from(["stays", "leaves"]),
)
def test_any_course(
    kind: str, attempts: int, attempts_max: int, hedge: Hedge | None, per_try: float, body_bytes: int, course: list[tuple[str, int]], client_does: str
) -> None:
    """See the file."""
    world = Course(attempts, hedge, per_try, body_bytes, attempts_max)
    client = world.client()
    client.receive(REQUESTS[kind])
    for what, which in course:
        if world.records:
            break
        world.step(what, which)
    if client_does == "leaves" and not client.closing:
        client.lose()
    # Whatever is still open: nobody answers any more.
    for _ in range(400):
        world.clock.advance(1.0)
        if world.records:
            break
    world.turn()
    event(f"{world.deliveries()} deliveries, {len(world.records[0].tries)} tries")
    assert [each.finished for each in world.exchanges] == [True]
    assert len(world.records) == len(world.dones.records) == len(world.observed) == 1
    assert world.http.active == 0
    record = world.records[0]
    if kind in UNSAFE:
        assert world.deliveries() <= 1, record.notes
    # One more for a pooled connection that turned out to be stale; there is none before the first request.
    # Those that found nobody do not count.
    goes_on = attempts > 1 and attempts_max > attempts
    refused = sum(each.outcome == "connect-failed" for each in record.tries) if goes_on else 0
    # Beyond `attempts` each of the three endpoints is asked once.
    most = max(attempts, 3) if goes_on else attempts
    assert world.deliveries() <= most and record.attempts <= most + refused
    assert len(record.tries) in (0, record.attempts)
    assert bytes(client.written).count(b"HTTP/1.1 ") <= 1
    world.nothing_is_left()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(REQUESTS)), steps), min_size=2, max_size=4), hedges)
def test_one_after_the_other(requests: list[tuple[str, list[tuple[str, int]]]], hedge: Hedge | None) -> None:
    """The same on connections that were used before, where an application may close at the wrong moment."""
    world = Course(3, hedge, 0.5, 1000)
    delivered = 0
    for number, (kind, course) in enumerate(requests, 1):
        client = world.client()
        for each in world.up():
            each.take()
        before = {id(each.transport): bytes(each.transport.written) for each in world.attempts if each.transport is not None}
        client.receive(REQUESTS[kind])
        for what, which in course:
            if len(world.records) == number:
                break
            world.step(what, which)
        for _ in range(400):
            if len(world.records) == number:
                break
            world.clock.advance(1.0)
        touched = [each for each in world.attempts if each.transport is not None and bytes(each.transport.written) != before.get(id(each.transport), b"")]
        if kind in UNSAFE:
            assert len(touched) <= 1, world.records[-1].notes
        delivered += len(touched)
        assert len(world.records) == number
        world.nothing_is_left()
    assert world.http.active == 0


def test_the_world_can_do_it_all() -> None:
    """The courses above are not empty: a request is answered by the third of three attempts, two of which ran at once."""
    world = Course(3, Hedge(delay=0.3), 0.0, 1000)
    client = world.client()
    client.receive(REQUESTS["keyed"])
    world.step("connect", 0)
    world.step("bad", 0)
    world.step("time", 3)
    world.step("connect", 0)
    world.step("time", 4)
    world.step("connect", 0)
    assert world.deliveries() == 3
    world.step("good", 2)
    assert client.take().startswith(b"HTTP/1.1 200 ") and len(world.records[0].tries) == 3
    world.nothing_is_left()
