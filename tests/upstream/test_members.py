"""`sidecar/upstream/members.py`: endpoints come, stay and go, and what is known of them decides who is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.logger import capturedLogs, formatEvent

from sidecar.address import Address
from sidecar.cluster.slices import STEP_PIECES
from sidecar.codec.h2.frames import REFUSED_STREAM
from sidecar.errors import NoHealthyEndpoint
from sidecar.model import Endpoint, OutlierDetection
from sidecar.upstream.health import LOGGED_AT_ONCE
from sidecar.upstream.members import REST_FACTOR
from sidecar.upstream.pool import Connector
from sidecar.upstream.shown import ENDPOINTS_SHOWN
from tests.memory import GET, World
from tests.memory_h2 import H2App, multiplexed
from tests.upstream.test_pool import CLOSE, OK, Owner, Pools


def at(*numbers: int, **more: Any) -> list[Endpoint]:
    """Endpoints at these ports."""
    return [Endpoint(address=Address("127.0.0.1", 8000 + number), **more) for number in numbers]


def ports(pools: Any) -> list[int]:
    return [pool.address.port - 8000 for pool in pools]


def test_who_stays_keeps_its_pool_and_connections() -> None:
    """The same object, its idle connection used again, with what is told of it now."""
    pools = Pools(endpoints=2)
    stays = pools.connector.pools[1]
    owner, transport = pools.busy(want=1)
    transport.receive(OK)
    pools.connector.set_endpoints([*at(5), *at(1, weight=7, metadata={"version": "2"}, hostname="b.example")])
    assert ports(pools.connector.pools) == [5, 1] and pools.connector.pools[1] is stays
    assert (stays.weight, stays.metadata, stays.hostname) == (7, {"version": "2"}, "b.example")
    assert Owner(pools, want=1).stream is owner.answers[0] and len(pools.attempts) == 1


def test_who_vanishes_drains() -> None:
    """Its idle connection closes now, its busy one after the answer; then it is forgotten."""
    pools = Pools(endpoints=2)
    _, idle = pools.busy()
    busy_owner, busy = pools.busy()
    idle.receive(OK)
    pools.connector.set_endpoints(at(1))
    assert idle.closing and not busy.closing and ports(pools.connector.members.retired.values()) == [0]
    assert [each["address"] for each in pools.connector.snapshot()["draining"]] == ["127.0.0.1:8000"]
    busy.receive(OK)
    assert busy_owner.ends == [200] and busy.closing
    assert not pools.connector.members.retired and pools.connector.connections == 0


def test_who_waits_is_moved() -> None:
    """To the endpoint that is left, and served there: by an idle connection at once, else by a new one. An attempt that then succeeds is not kept."""
    pools = Pools(endpoints=2)
    _, idle = pools.busy(want=1)
    idle.receive(OK)
    first, second = Owner(pools), Owner(pools)
    pools.connector.set_endpoints(at(1))
    assert [owner.stream is not None for owner in (first, second)] == [True, False]
    assert first.stream.endpoint is pools.connector.pools[0] and pools.attempts[-1].address.port == 8001
    late = pools.attempts[1].succeed()
    assert late.closing
    pools.attempts[-1].succeed()
    assert second.stream is not None and pools.connector.pending == 0


def test_who_waits_with_nobody_left_is_still_served() -> None:
    """The last endpoint vanished, but its connection is on the way: better than an error."""
    pools = Pools()
    owner = Owner(pools)
    pools.connector.set_endpoints([])
    assert type(Owner(pools).answers[0]) is NoHealthyEndpoint
    transport = pools.attempts[0].succeed()
    transport.receive(OK)
    assert owner.ends == [200] and transport.closing and not pools.connector.members.retired


def test_who_waits_is_moved_when_another_is_well_again() -> None:
    """Not only with the next set: who was ill when the endpoint left may serve a moment later."""
    pools = Pools(endpoints=2)
    cluster = msgspec.structs.replace(pools.connector.cluster, healthy_panic_threshold=0)
    pools.connector = Connector(cluster, pools.balancer, pools._connect, pools.clock.seconds, pools.wheel.timer, None)
    owner, ill = Owner(pools), pools.connector.pools[1]
    pools.connector.set_checked(ill, False, "ill")
    pools.connector.set_endpoints(at(1))
    assert [attempt.address.port for attempt in pools.attempts] == [8000] and owner.stream is None
    pools.connector.set_checked(ill, True, "")
    assert [attempt.address.port for attempt in pools.attempts] == [8000, 8001]
    pools.attempts[1].succeed()
    assert owner.stream.endpoint is ill


def test_nothing_is_lost_of_who_is_waited_for_after_it_was_forgotten() -> None:
    """It is shown as long as it is used, and what it answers counts; when its address is back, who waits goes there."""
    pools = Pools()
    pool, connector = pools.connector.pools[0], pools.connector
    _, transport = pools.busy()
    transport.receive(CLOSE)
    connector.set_endpoints([])
    assert not connector.members.retired and connector.successes == 1
    owner = Owner(pools)
    owner.answers.clear()
    connector.wait(pool, owner)
    assert connector.successes == 1 and list(connector.members.retired.values()) == [pool]
    pools.attempts[-1].succeed().receive(OK)
    assert owner.ends == [200] and connector.successes == 2 and not connector.members.retired
    connector.set_endpoints(at(0))
    pools.balancer.pick = lambda exchange, tried: None  # type: ignore[method-assign]
    connector.pick = pools.balancer.pick
    assert connector.wait(pool, owner).pool is connector.pools[0] is not pool


def test_who_comes_back_is_the_same() -> None:
    """While it drains: nothing of its busy connection is lost, and the pool keeps it again."""
    pools = Pools()
    pool = pools.connector.pools[0]
    _, transport = pools.busy()
    pools.connector.set_endpoints([])
    pools.connector.set_endpoints(at(0))
    assert pools.connector.pools == [pool] and not pools.connector.members.retired
    transport.receive(OK)
    assert not transport.closing and Owner(pools).stream is not None


def test_h2_leaves_with_goaway() -> None:
    """No stream is cut; after the last one the connection says goodbye, and requests go elsewhere meanwhile."""
    world = multiplexed(World(endpoints=2))
    client = world.client()
    client.receive(GET)
    world.turn()
    app = H2App(world)
    world.connector.set_endpoints([world.connector.pools[1].configured])
    app.exchange()
    assert "GoAwayReceived" not in app.kinds()
    other = world.client()
    other.receive(GET)
    world.turn()
    assert world.attempts[-1].address.port == 8081
    app.answer(1)
    assert client.take().startswith(b"HTTP/1.1 200") and "GoAwayReceived" in app.kinds() and app.transport.closing
    assert not world.connector.members.retired


def test_h2_without_streams_leaves_at_once() -> None:
    """Nothing to wait for."""
    world = multiplexed(World(endpoints=2))
    world.send(GET)
    app = H2App(world)
    app.answer(1)
    world.connector.set_endpoints([])
    app.exchange()
    assert "GoAwayReceived" in app.kinds() and app.transport.closing and world.connector.connections == 0


def test_observers() -> None:
    """Told of who comes before it is used and of who goes after; what one raises hurts nobody."""
    pools = Pools(endpoints=2)
    connector = pools.connector
    told: list[tuple[list[int], list[int], list[int]]] = []

    def observe(added: Any, removed: Any) -> None:
        told.append((ports(added), ports(removed), ports(pools.balancer.endpoints)))

    connector.membership_observers.append(lambda added, removed: 1 / 0)
    connector.membership_observers.append(observe)
    connector.set_endpoints(at(1, 2))
    assert told == [([2], [], [0, 1]), ([], [0], [1, 2])]
    connector.set_endpoints(at(1, 2))
    assert len(told) == 2


def test_balancer_is_told_only_of_changes() -> None:
    """The same set again, or a change that concerns nobody's use, is no update."""
    pools = Pools(endpoints=2)
    balancer = pools.balancer
    updates: list[list[int]] = []
    balancer.update = lambda endpoints: updates.append(ports(endpoints))
    pools.connector.set_endpoints(at(0, 1))
    pools.connector.set_endpoints(at(0, 1, metadata={"a": "b"}))
    assert updates == []
    pools.connector.set_endpoints(at(0, 1, weight=2))
    pools.connector.set_endpoints([*at(0), *at(1, health="draining")])
    assert updates == [[0, 1], [0]]


def test_failed_check_and_back() -> None:
    """It gets nothing until it passes; said again it is no change."""
    pools = Pools(endpoints=3)
    first = pools.connector.pools[0]
    balancer = pools.balancer
    pools.connector.set_checked(first, False, "status 503")
    assert ports(balancer.endpoints) == [1, 2] and pools.connector.snapshot()["endpoints"][0]["check"] == "status 503"
    pools.connector.set_checked(first, False, "connection refused")
    assert pools.connector.snapshot()["endpoints"][0]["check"] == "connection refused"
    pools.connector.set_checked(first, True, "")
    assert ports(balancer.endpoints) == [0, 1, 2]


def test_passed_check_ends_an_ejection() -> None:
    """As in Envoy; unless switched off."""
    for uneject in (True, False):
        detection = OutlierDetection(consecutive_5xx=1, successful_active_health_check_uneject_host=uneject)
        world = World(endpoints=3, cluster={"outlier_detection": detection})
        pool = world.connector.pools[0]
        world.connector.watch.observe(pool, 503, 0.0)
        assert pool.health.is_ejected
        world.connector.set_checked(pool, True, "")
        assert pool.health.is_ejected is not uneject


def test_outlier_detection_follows_the_set() -> None:
    """Shares are those of the present set, a newcomer is judged, and who stays keeps its past."""
    world = World(endpoints=1, cluster={"outlier_detection": OutlierDetection(consecutive_5xx=2, max_ejection_percent=50), "healthy_panic_threshold": 0})
    connector = world.connector
    old = connector.pools[0]
    connector.watch.observe(old, 503, 0.0)
    connector.set_endpoints([old.configured, *at(1, 2, 3)])
    connector.watch.observe(old, 503, 0.0)
    new = connector.pools[1]
    connector.watch.observe(new, 503, 0.0)
    connector.watch.observe(new, 503, 0.0)
    assert [pool.health.is_ejected for pool in connector.pools] == [True, True, False, False]
    connector.set_endpoints(at(2, 3))
    assert connector.watch._judge.count == 2


def test_why_nobody_is_left() -> None:
    """The sentence names what is out and why; an empty cluster says so."""
    pools = Pools(endpoints=0)
    owner = Owner(pools)
    assert owner.answers[0].sentence == "cluster app has no endpoints: none is configured, and discovery has found none"
    pools.connector.set_endpoints(at(0, 1, weight=0))
    assert Owner(pools).answers[0].sentence == "none of the 2 endpoints of cluster app may be used: 2 with weight 0"


class Sliced(Pools):
    """Later things happen one turn at a time, by hand."""

    def __init__(self, endpoints: int) -> None:
        self.due: list[Callable[[], None]] = []
        super().__init__(endpoints=endpoints)
        self.connector = Connector(self.connector.cluster, self.balancer, self._connect, self.clock.seconds, self.wheel.timer, None, self.due.append)

    def turn(self) -> bool:
        """One turn of the reactor; was there something to do?"""
        due, self.due = self.due[:], self.due
        self.due.clear()
        for call in due:
            call()
        return bool(due)

    def turns(self) -> int:
        """Until nothing is left to do: how many turns that took."""
        count = 0
        while self.turn():
            count += 1
        return count


def test_large_sets_are_worked_off_in_slices() -> None:
    """Ten thousand endpoints take many turns, and in each one the old set serves; nothing looks at more than a slice."""
    pools = Sliced(endpoints=3)
    pools.connector.set_endpoints(at(*range(1, 10_001)))
    seen = []
    while pools.turn():
        seen.append(len(pools.balancer.endpoints))
        assert Owner(pools).ticket is not None
    assert seen[0] == 3 and seen[-1] == 10_000 and len(seen) >= 10_000 // STEP_PIECES
    assert len(pools.connector.pools) == 10_000


def test_the_last_set_counts() -> None:
    """What came in between is not worked off."""
    pools = Sliced(endpoints=1)
    pools.connector.set_endpoints(at(*range(2000)))
    pools.connector.set_endpoints(at(*range(5000)))
    pools.connector.set_endpoints(at(7))
    assert pools.turns() < 5 * 5000 // STEP_PIECES
    assert ports(pools.connector.pools) == [7] and not pools.connector.members.retired
    owner, transport = pools.busy()
    transport.receive(CLOSE)
    assert owner.ends == [200]


def test_nothing_is_worked_off_after_stop() -> None:
    """What was begun ends there."""
    pools = Sliced(endpoints=1)
    pools.connector.set_endpoints(at(*range(5000)))
    pools.connector.stop()
    pools.turns()
    pools.connector.set_endpoints(at(5))
    assert ports(pools.connector.pools) == [0]


def test_a_refused_stream_goes_elsewhere_when_its_endpoint_left() -> None:
    """HTTP/2: what the server did not take is sent again, and not to an endpoint that is no longer there; the balancer is asked for the exchange."""
    world = multiplexed(World(endpoints=2))
    world.send(GET)
    app = H2App(world)
    asked: list[Any] = []
    world.connector.set_endpoints([world.connector.pools[1].configured])
    pick = world.connector.pick
    world.connector.pick = lambda exchange, tried: (asked.append(exchange), pick(exchange, tried))[1]
    app.h2.reset(1, REFUSED_STREAM)
    app.exchange()
    assert asked == [world.exchanges[0]] and world.attempts[-1].address.port == 8081
    world.turn()
    other = H2App(world)
    other.answer(1)
    world.ended_once(200)
    assert not world.connector.members.retired


def test_counts_outlive_endpoints() -> None:
    """A cluster's successes and failures never go back, whoever leaves."""
    pools = Pools(endpoints=2)
    for number in range(6):
        owner, transport = pools.busy(want=number % 2)
        transport.receive(CLOSE)
        assert owner.ends == [200]
    pools.connector.pools[0].errors = 2
    assert (pools.connector.successes, pools.connector.failures) == (4, 2)
    pools.connector.set_endpoints(at(1))
    assert (pools.connector.successes, pools.connector.failures) == (4, 2)
    pools.connector.set_endpoints(at(0, 1))
    assert (pools.connector.successes, pools.connector.failures) == (4, 2)


def test_a_page_shows_a_part_of_many() -> None:
    """And how many it does not show."""
    connector = Pools(endpoints=ENDPOINTS_SHOWN + 5).connector
    first, last = connector.snapshot(), connector.snapshot(ENDPOINTS_SHOWN)
    assert (len(first["endpoints"]), first["endpoints_not_shown"]) == (ENDPOINTS_SHOWN, 5)
    assert [each["address"] for each in last["endpoints"]] == [f"127.0.0.1:{8000 + ENDPOINTS_SHOWN + number}" for number in range(5)]


def test_why_is_worked_out_once() -> None:
    """A cluster that is down answers many; the sentence follows what is known."""
    pools = Pools(endpoints=0)
    members = pools.connector.members
    assert members.why_none(None) is members.why_none(None)
    pools.connector.set_endpoints(at(0, weight=0))
    assert members.why_none(None).endswith("1 with weight 0")


def test_h2_connection_that_comes_too_late_is_not_kept() -> None:
    """Its endpoint left while it was being made, and who waited for it is served elsewhere."""
    world = multiplexed(World(endpoints=2))
    world.auto = False
    client = world.client()
    client.receive(GET)
    world.connector.set_endpoints([world.connector.pools[1].configured])
    late, used = world.attempts
    late.succeed()
    app = H2App(world, transport=late.transport)
    assert app.transport.closing and app.requests() == []
    used.succeed()
    other = H2App(world)
    other.answer(1)
    world.ended_once(200)
    assert world.connector.connections == 1 and not world.connector.members.retired


def test_large_changes_rest() -> None:
    """After a change that took many turns the next one waits several times as long, and what comes meanwhile is one change; small ones never wait."""
    pools = Sliced(endpoints=3)
    members = pools.connector.members

    def turns() -> int:
        count = 0
        while pools.turn():
            pools.clock.advance(0.001)
            count += 1
        return count

    pools.connector.set_endpoints(at(*range(1, 10_001)))
    took = turns()
    for pool in members.pools[:5]:
        pools.connector.set_checked(pool, False, "503")
    assert turns() == 0 and members.is_changing and len(pools.balancer.endpoints) == 10_000
    pools.clock.advance(took * 0.001 * REST_FACTOR / 2)
    assert turns() == 0
    pools.clock.advance(took * 0.001 * REST_FACTOR / 2 + 0.1)
    assert 0 < turns() < took and not members.is_changing and len(pools.balancer.endpoints) == 9_995
    pools.clock.advance(5.0)
    pools.connector.set_endpoints(at(8, 9))
    turns()
    pools.clock.advance(5.0)
    for health in (False, True, False):
        pools.connector.set_checked(members.pools[0], health, "503")
        assert len(pools.balancer.endpoints) == (2 if health else 1)


def test_the_log_names_some_and_counts_the_rest() -> None:
    """When a thousand endpoints fail their checks in one second nobody reads a thousand lines; the next second has its own."""
    world = World(endpoints=2 * LOGGED_AT_ONCE + 5)
    with capturedLogs() as events:
        for pool in world.connector.pools:
            world.connector.set_checked(pool, False, "status 503")
        world.clock.pump([0.05] * 25)
        world.connector.set_checked(world.connector.pools[0], True, "")
    told = [formatEvent(event) for event in events if "health checks" in formatEvent(event)]
    assert len(told) == LOGGED_AT_ONCE + 2 and told[0] == "app: 127.0.0.1:8080 fails its health checks: status 503"
    assert told[-2:] == [
        f"app: health checks said something new of {LOGGED_AT_ONCE + 5} more endpoints, see /clusters", "app: 127.0.0.1:8080 passes its health checks",
    ]  # fmt: skip
