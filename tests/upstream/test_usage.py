"""`sidecar/upstream/usage.py`: what is known of endpoints, through the connector, to the balancers and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.task import Clock
from zope.interface import implementer

from sidecar.cluster.hashing import hash64
from sidecar.cluster.least_request import LeastRequest
from sidecar.cluster.maglev import Maglev
from sidecar.cluster.peak_ewma import PeakEWMA
from sidecar.cluster.random_choice import RandomChoice
from sidecar.cluster.ring_hash import RingHash
from sidecar.cluster.round_robin import RoundRobin
from sidecar.errors import NoHealthyEndpoint
from sidecar.interfaces import IBalancer, IGradualBalancer
from sidecar.model import Cluster, Endpoint, Locality, LocalityLB, OutlierDetection, SlowStart, SubsetLB, SubsetSelector
from sidecar.testing import FakeContext
from sidecar.transport.wheel import TimerWheel
from sidecar.upstream.callers import introduce_callers
from sidecar.upstream.pool import Connector
from tests.upstream.test_members import at, ports

WEIGHTED = (RoundRobin, RandomChoice, LeastRequest, PeakEWMA)


class Spread:
    """A connector that is only asked whom it would take."""

    def __init__(self, *endpoints: Endpoint, balancer: Any = RoundRobin, own: Locality | None = None, turns: bool = False, **settings: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.made: list[Any] = []
        self.cls = balancer
        self.due: list[Any] = []
        later = self.due.append if turns else None
        wheel = TimerWheel(self.clock)
        cluster = Cluster(name="app", endpoints=endpoints, **settings)
        self.connector = Connector(cluster, self._make(), lambda *args: None, self.clock.seconds, wheel.timer, None, later, self._make, own)

    def _make(self) -> Any:
        self.made.append(self.cls(self.cls.Config(), FakeContext()) if hasattr(self.cls, "Config") else self.cls())
        return self.made[-1]

    def pool(self, port: int) -> Any:
        return next(pool for pool in self.connector.pools if pool.address.port == 8000 + port)

    def shares(self, exchange: Any = None, count: int = 4000) -> dict[int, float]:
        """Which share of requests each endpoint gets."""
        picked = Counter(self.connector.pick(exchange, ()).address.port - 8000 for _ in range(count))
        return {port: picked[port] / count for port in sorted(picked)}

    def walk(self, seconds: float) -> None:
        """Time goes on, in small steps."""
        self.clock.pump([0.1] * round(seconds * 10))


def near(expected: dict[int, float]) -> Any:
    return pytest.approx(expected, abs=0.05)


def test_plain_cluster_asks_its_balancer() -> None:
    """Nothing stands between the connector and the one balancer, whatever is configured and not needed."""
    for settings in ({}, {"slow_start_config": SlowStart(slow_start_window=1.0)}, {"locality_lb": LocalityLB(mode="weighted")}):
        spread = Spread(*at(0, 1), **settings)
        assert spread.connector.pick == spread.made[0].pick and len(spread.made) == 1
        assert spread.connector.observe is None


@pytest.mark.parametrize("balancer", WEIGHTED)
def test_priorities_within_five_percent(balancer: Any) -> None:
    """Weights within a priority, Envoy's shares between them, as endpoints become ill and well again."""
    spread = Spread(*at(0, weight=3), *at(1), *at(2, 3, priority=1), balancer=balancer)
    assert spread.shares() == near({0: 0.75, 1: 0.25})
    spread.connector.set_checked(spread.pool(0), False, "503")
    assert spread.shares() == near({1: 0.7, 2: 0.15, 3: 0.15})
    spread.connector.set_checked(spread.pool(1), False, "503")
    assert spread.shares() == near({2: 0.5, 3: 0.5})
    assert [each["share"] for each in spread.connector.snapshot()["priorities"]] == [0.0, 1.0]
    spread.connector.set_checked(spread.pool(0), True, "")
    spread.connector.set_checked(spread.pool(1), True, "")
    assert spread.shares() == near({0: 0.75, 1: 0.25})
    assert len(spread.made) == 2


def test_another_priority_for_who_tried_the_first() -> None:
    """The second priority gets nothing, except what the first one cannot do."""
    spread = Spread(*at(0), *at(1, priority=1))
    assert spread.shares() == {0: 1.0}
    assert spread.connector.pick(None, (spread.pool(0),)) is spread.pool(1)


def test_panic_spares_nobody_by_asking_the_absent() -> None:
    """In panic all that are there are used, well or not, and nobody where nothing listens."""
    spread = Spread(*at(0, 1, 2, 3))
    for port, is_absent in ((0, True), (1, True), (2, False)):
        spread.connector.set_checked(spread.pool(port), False, "no", is_absent)
    assert spread.shares() == near({2: 0.5, 3: 0.5})
    # It listens again, and does not say yet that it is well.
    spread.connector.set_checked(spread.pool(0), False, "503")
    assert spread.shares() == near({0: 1 / 3, 2: 1 / 3, 3: 1 / 3})
    spread.connector.set_checked(spread.pool(3), False, "refused", True)
    spread.connector.set_checked(spread.pool(2), False, "refused", True)
    spread.connector.set_checked(spread.pool(0), False, "refused", True)
    assert spread.shares() == near({port: 0.25 for port in range(4)})


def test_localities_by_weight() -> None:
    """However many endpoints each has; less for the one where too few are well."""
    one, two = Locality(region="eu", zone="a"), Locality(region="eu", zone="b")
    spread = Spread(*at(0, locality=one), *at(1, 2, 3, locality=two), locality_lb=LocalityLB(mode="weighted", weights={"eu/a": 1, "eu/b": 1}))
    assert spread.shares() == near({0: 0.5, 1: 1 / 6, 2: 1 / 6, 3: 1 / 6})
    spread.connector.set_checked(spread.pool(1), False, "503")
    spread.connector.set_checked(spread.pool(2), False, "503")
    part = 1.4 / 3
    assert spread.shares() == near({0: 1 / (1 + part), 3: part / (1 + part)})


def test_own_zone_first() -> None:
    """Farther ones only for what the near ones lack, and back again."""
    own, other = Locality(region="eu", zone="a"), Locality(region="eu", zone="b")
    spread = Spread(*at(0, 1, locality=own), *at(2, locality=other), own=own, locality_lb=LocalityLB(mode="prefer"))
    assert spread.shares() == near({0: 0.5, 1: 0.5})
    spread.connector.set_checked(spread.pool(0), False, "503")
    assert spread.shares() == near({1: 0.7, 2: 0.3})
    spread.connector.set_checked(spread.pool(0), True, "")
    assert spread.shares() == near({0: 0.5, 1: 0.5})


@pytest.mark.parametrize("balancer", WEIGHTED)
def test_slow_start(balancer: Any) -> None:
    """Those of the start have their whole share at once. A newcomer begins with a tenth and grows evenly; so does one that was ill."""
    spread = Spread(*at(0), balancer=balancer, slow_start_config=SlowStart(slow_start_window=20.0))
    spread.connector.set_endpoints(at(0, 1))
    assert spread.shares() == near({0: 1 / 1.1, 1: 0.1 / 1.1})
    spread.walk(10.1)
    assert spread.shares() == near({0: 1 / 1.5, 1: 0.5 / 1.5})
    assert [each["weight_now"] for each in spread.connector.snapshot()["endpoints"]] == [1.0, pytest.approx(0.5, abs=0.06)]
    spread.walk(11.0)
    assert spread.shares() == near({0: 0.5, 1: 0.5})
    assert spread.clock.getDelayedCalls() == []
    spread.pool(0).requests = 1
    spread.connector.set_checked(spread.pool(0), False, "503")
    spread.connector.set_checked(spread.pool(0), True, "")
    assert spread.shares() == near({0: 0.1 / 1.1, 1: 1 / 1.1})


def test_slow_start_of_a_cluster_that_begins_empty() -> None:
    """The first ones that are discovered have nobody who could spare them."""
    spread = Spread(slow_start_config=SlowStart(slow_start_window=20.0))
    spread.connector.set_endpoints(at(0, 1))
    assert {pool.weight for pool in spread.connector.pools} == {100}
    spread.connector.stop()


def test_slow_start_of_those_whose_first_check_passes_later() -> None:
    """The endpoints of the start are as cold as each other, whenever their first check passes; those that come later are not spared by that."""
    spread = Spread(*at(0, 1, 2), slow_start_config=SlowStart(slow_start_window=20.0), healthy_panic_threshold=0)
    for port in (0, 1, 2):
        spread.connector.set_checked(spread.pool(port), False, "not checked yet")
    for port in (1, 0):
        spread.walk(1)
        spread.connector.set_checked(spread.pool(port), True, "")
    assert spread.shares() == near({0: 0.5, 1: 0.5})
    spread.connector.set_endpoints(at(0, 1, 2, 3))
    assert spread.shares() == near({0: 1 / 2.1, 1: 1 / 2.1, 3: 0.1 / 2.1})
    spread.connector.stop()


class Asks:
    """An exchange on a route that asks for metadata."""

    def __init__(self, **metadata: str) -> None:
        self.metadata_match = tuple(sorted(metadata.items()))


@pytest.mark.parametrize(
    ("policy", "others"),
    [
        (SubsetLB(), {0: 0.25, 1: 0.25, 2: 0.25, 3: 0.25}),
        (SubsetLB(fallback_policy="no_fallback"), None),
        (SubsetLB(fallback_policy="default_subset", default_subset={"stage": "prod"}), {0: 1 / 3, 1: 1 / 3, 2: 1 / 3}),
    ],
)
def test_subsets(policy: SubsetLB, others: Any) -> None:
    """Who matches, and what becomes of those for whom there is nobody, or who ask for nothing; following the set of endpoints."""
    v1, v2 = Asks(version="v1"), Asks(version="v2")
    first = at(0, 1, metadata={"version": "v1", "stage": "prod"}), at(2, metadata={"stage": "prod"}), at(3)
    spread = Spread(*first[0], *first[1], *first[2], lb_subset_config=policy)
    for asks in (v1, v2):
        spread.connector.add_subset(asks.metadata_match)
    assert spread.shares(v1) == near({0: 0.5, 1: 0.5})
    for exchange in (v2, None):
        if others is None:
            assert spread.connector.pick(exchange, ()) is None
        else:
            assert spread.shares(exchange) == near(others)
    spread.connector.set_endpoints([*first[0], *at(7, metadata={"version": "v2"})])
    assert spread.shares(v2) == {7: 1.0}
    spread.connector.set_checked(spread.pool(0), False, "503")
    assert spread.shares(v1) == {1: 1.0}
    assert {tuple(each["metadata"].items()): each["endpoints"] for each in spread.connector.snapshot()["subsets"]}[(("version", "v2"),)] == 1


def test_nobody_for_this_metadata() -> None:
    """The sentence names what was asked for."""
    spread = Spread(*at(0), lb_subset_config=SubsetLB(fallback_policy="no_fallback"))
    spread.connector.add_subset((("version", "v9"),))
    assert "version=v9" in spread.connector.members.why_none((("version", "v9"),))


def test_all_known_states_together() -> None:
    """Told by discovery, by checks, by answers: each takes an endpoint out, and all must be gone before it is used again."""
    spread = Spread(*at(0, 1, 2, 3, 4, 5), healthy_panic_threshold=0, outlier_detection=OutlierDetection(consecutive_5xx=1, max_ejection_percent=100))
    connector = spread.connector
    assert connector.observe is not None
    connector.observe(spread.pool(0), 503, 0.0)
    connector.set_checked(spread.pool(1), False, "no answer")
    connector.set_endpoints([*at(0, 1), *at(2, health="unhealthy"), *at(3, health="draining"), *at(4, 5)])
    assert spread.shares() == near({4: 0.5, 5: 0.5})
    shown = {each["address"][-1]: each for each in connector.snapshot()["endpoints"]}
    assert [shown[number]["healthy"] for number in "012345"] == [False] * 4 + [True] * 2
    assert (shown["0"]["outlier"], shown["1"]["check"]) == ("1 failures in a row", "no answer")
    assert (shown["2"]["discovery"], shown["3"]["discovery"]) == ("unhealthy", "draining")
    connector.observe(spread.pool(1), 503, 0.0)
    connector.set_checked(spread.pool(1), False, "no answer")
    spread.walk(31)
    assert spread.shares() == near({0: 1 / 3, 4: 1 / 3, 5: 1 / 3})


def test_panic_is_logged_and_shown() -> None:
    """Half of them gone is none, more is."""
    spread = Spread(*at(0, 1, 2, 3))
    for port in (0, 1):
        spread.connector.set_checked(spread.pool(port), False, "503")
    assert spread.connector.snapshot()["panicking"] is False and spread.shares() == near({2: 0.5, 3: 0.5})
    spread.connector.set_checked(spread.pool(2), False, "503")
    assert spread.connector.snapshot()["panicking"] is True and len(spread.shares()) == 4


def test_balancers_of_groups_that_are_gone_serve_again() -> None:
    """As many are made as were in use at a time, and none keeps endpoints that it has no use for."""
    spread = Spread(*at(0), *at(1, priority=1))
    for number in range(20):
        spread.connector.set_endpoints([*at(0), *at(1, priority=number + 1)])
    spread.connector.set_endpoints(at(0))
    assert len(spread.made) <= 3
    assert [len(each.endpoints) for each in spread.made].count(0) == len(spread.made) - 1


def test_outcomes_reach_who_chose() -> None:
    """Each endpoint's go to the balancer of its group, and to outlier detection."""
    spread = Spread(*at(0), *at(1, priority=1), balancer=PeakEWMA)
    observe = spread.connector.observe
    assert observe is not None
    observe(spread.pool(1), 200, 0.5)
    assert [list(each._costs) for each in spread.made] == [[], [spread.pool(1)]]


def test_a_balancer_that_raises() -> None:
    """At the start that ends the start; later it keeps what it had, and the others are told."""

    @implementer(IBalancer)
    class Moody:
        def __init__(self) -> None:
            self.endpoints: list[Any] = []

        def update(self, endpoints: list[Any]) -> None:
            if len(endpoints) == 3:
                raise ValueError("three")
            self.endpoints = endpoints

        def pick(self, exchange: Any, tried: Any) -> Any:
            return self.endpoints[0] if self.endpoints else None

    with pytest.raises(ValueError, match="three"):
        Spread(*at(0, 1, 2), balancer=Moody)
    spread = Spread(*at(0, 1), balancer=Moody)
    spread.connector.set_endpoints(at(0, 1, 2))
    assert ports(spread.made[0].endpoints) == [0, 1]
    spread.connector.set_endpoints([*at(0, 1, 2), *at(5, 6, priority=1)])
    assert ports(spread.made[1].endpoints) == [5, 6]


def test_no_exchange_waits_for_a_gradual_balancer() -> None:
    """One step for each turn of the reactor; until the last one the old endpoints are used."""

    @implementer(IBalancer, IGradualBalancer)
    class Slow(RoundRobin):
        def updating(self, endpoints: list[Any]) -> Iterator[None]:
            for _ in range(10):
                yield
            self.update(endpoints)

    spread = Spread(*at(0), balancer=Slow, turns=True)
    spread.connector.set_endpoints(at(1))
    turns = 0
    while spread.due:
        assert ports(spread.made[0].endpoints) == [0] and turns <= 10
        spread.due.pop()()
        turns += 1
    assert turns == 10 and ports(spread.made[0].endpoints) == [1]


@pytest.mark.parametrize("balancer", [RingHash, Maglev])
def test_large_tables_are_built_in_steps(balancer: Any) -> None:
    """A change of ten thousand endpoints takes many turns, none of which looks at more than a few thousand places, and the old table serves meanwhile."""
    spread = Spread(*at(*range(100)), balancer=balancer, turns=True)
    spread.connector.set_endpoints(at(*range(50, 10_050)))
    turns = 0
    while spread.due:
        spread.due.pop()()
        turns += 1
        assert spread.connector.pick(None, ()) is not None
    assert turns >= 30
    assert spread.connector.pick(None, ()).address.port >= 8050


def test_no_endpoint_at_all() -> None:
    """An empty cluster answers at once."""
    spread = Spread()
    assert spread.connector.pick(None, ()) is None
    told: list[Any] = []

    class Owner:
        def upstream_unavailable(self, error: Any, endpoint: Any) -> None:
            told.append(error)

    spread.connector.open(Owner(), (), False)
    assert type(told[0]) is NoHealthyEndpoint and "has no endpoints" in told[0].sentence


class Keyed:
    """An exchange with a key."""

    def __init__(self, key: int) -> None:
        self.key = key

    def hash_key(self) -> int:
        return self.key


@pytest.mark.parametrize("balancer", [RingHash, Maglev])
@pytest.mark.parametrize("settings", [{}, {"locality_lb": LocalityLB(mode="weighted")}])
def test_keys_stay_when_an_endpoint_leaves(balancer: Any, settings: dict[str, Any]) -> None:
    """Only those of the one that left move (with Maglev a few more), also where its locality is one of several."""
    zones = [Locality(region="eu", zone=zone) for zone in "ab"]
    endpoints = [at(number, locality=zones[number % 2])[0] for number in range(20)]
    spread = Spread(*endpoints, balancer=balancer, **settings)
    keys = [Keyed(hash64(b"%d" % number)) for number in range(2000)]
    before = [spread.connector.pick(key, ()) for key in keys]
    gone = spread.pool(7)
    spread.connector.set_endpoints([each for each in endpoints if each.address != gone.address])
    moved = [old for old, key in zip(before, keys, strict=True) if spread.connector.pick(key, ()) is not old]
    assert gone in moved and len(moved) < len(keys) * 0.10
    assert balancer is Maglev or set(moved) == {gone}


def test_a_subset_that_comes_while_endpoints_change() -> None:
    """It is there at once, and the change is not lost."""
    spread = Spread(*at(0), lb_subset_config=SubsetLB(fallback_policy="no_fallback"), turns=True)
    spread.connector.set_endpoints([*at(*range(1, 3000)), *at(5000, metadata={"version": "v2"})])
    assert spread.connector.members.is_changing
    spread.connector.add_subset((("version", "v2"),))
    assert spread.shares(Asks(version="v2")) == {5000: 1.0} and not spread.connector.members.is_changing
    while spread.due:
        spread.due.pop()()
    assert len(spread.connector.pools) == 3000 and spread.shares(Asks(version="v2")) == {5000: 1.0}


def test_callers_tell_those_that_go_by_zone() -> None:
    """One cluster is the callers' own: who comes, goes and becomes ill there moves what our zone keeps of another cluster's requests."""
    a, b = Locality(region="eu", zone="a"), Locality(region="eu", zone="b")
    zones = LocalityLB(mode="zone_aware", min_cluster_size=2)
    spread = Spread(*at(0, locality=a), *at(1, 2, locality=b), own=a, locality_lb=zones, outlier_detection=OutlierDetection(consecutive_5xx=1))
    other = Spread(*at(7, locality=a), locality_lb=LocalityLB(mode="weighted"))
    callers = Spread(*at(10, 11, locality=b), outlier_detection=OutlierDetection(consecutive_5xx=1, max_ejection_percent=100))
    assert spread.shares() == pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 1 / 3}, abs=0.05)
    assert spread.connector.snapshot()["priorities"][0]["zone_routing"].startswith("no: nothing is known")
    introduce_callers({"app": spread.connector, "other": other.connector, "orders": callers.connector}, "orders")
    assert spread.shares() == {0: 1.0}
    callers.connector.set_endpoints([*at(10, 11, locality=a), *at(12, locality=b)])
    assert spread.shares() == pytest.approx({0: 0.5, 1: 0.25, 2: 0.25}, abs=0.05)
    level = spread.connector.snapshot()["priorities"][0]
    assert level["localities"]["eu/a"] == {"healthy": 1, "endpoints": 1, "share": 0.5} and level["zone_routing"].startswith("50% stay")
    callers.connector.watch.observe(callers.pool(10), 503, 0.0)
    assert spread.shares() == pytest.approx({0: 2 / 3, 1: 1 / 6, 2: 1 / 6}, abs=0.05)
    callers.connector.watch.observe(callers.pool(11), 503, 0.0)
    assert callers.connector.members.usage.is_panicking
    assert "too few endpoints of app are healthy to tell where the callers are" in spread.connector.snapshot()["priorities"][0]["zone_routing"]
    spread.connector.set_endpoints([])
    assert "no endpoints" in spread.connector.members.why_none(None)
    assert other.connector.members.usage.callers is None


def test_a_cluster_that_would_rather_fail_says_so() -> None:
    """With too few healthy endpoints nobody is used, and the sentence tells which key does that."""
    spread = Spread(*at(0, 1, 2), locality_lb=LocalityLB(mode="weighted", fail_traffic_on_panic=True))
    for port in (0, 1):
        spread.connector.set_checked(spread.pool(port), False, "status 503")
    assert spread.connector.pick(None, ()) is None
    assert spread.connector.members.why_none(None) == (
        "too few endpoints of cluster app are healthy, and then it serves nobody (locality_lb.fail_traffic_on_panic): 2 failing their health checks, 1 healthy"
    )


def test_fewer_keys_serve_where_all_of_them_have_nobody() -> None:
    """A canary that is not there is served by its version; the subset it falls back to is made with its own, also when endpoints come later."""
    selectors = (SubsetSelector(keys=("stage", "version"), fallback_policy="keys_subset", fallback_keys_subset=("version",)),)
    spread = Spread(
        *at(0, metadata={"version": "v1"}), *at(1, metadata={"version": "v2"}),
        lb_subset_config=SubsetLB(fallback_policy="no_fallback", subset_selectors=selectors),
    )  # fmt: skip
    spread.connector.add_subset((("stage", "canary"), ("version", "v2")))
    canary = Asks(stage="canary", version="v2")
    assert spread.shares(canary) == {1: 1.0}
    subsets = spread.connector.snapshot()["subsets"]
    assert subsets == [
        {"metadata": {"stage": "canary", "version": "v2"}, "endpoints": 0, "served_by": {"version": "v2"}},
        {"metadata": {"version": "v2"}, "endpoints": 1, "served_by": {"version": "v2"}},
    ]
    spread.connector.set_endpoints([*at(0, metadata={"version": "v1"}), *at(2, metadata={"version": "v2", "stage": "canary"})])
    assert spread.shares(canary) == {2: 1.0} and spread.shares(Asks(version="v2")) == {2: 1.0}
    spread.connector.set_endpoints(at(0, metadata={"version": "v1"}))
    assert spread.connector.pick(canary, ()) is None
    assert spread.connector.members.why_none((("stage", "canary"), ("version", "v2"))) == (
        "no endpoint of cluster app is for requests that ask for stage=canary, version=v2 (lb_subset_config.fallback_policy is no_fallback)"
    )


def test_selectors_say_otherwise_than_the_cluster() -> None:
    """Who asks for a version gets any endpoint, who asks for a stage nobody else's."""
    selectors = (SubsetSelector(keys=("version",), fallback_policy="any_endpoint"), SubsetSelector(keys=("stage",), fallback_policy="no_fallback"))
    config = SubsetLB(fallback_policy="default_subset", default_subset={"version": "v1"}, subset_selectors=selectors)
    spread = Spread(*at(0, metadata={"version": "v1"}), *at(1, metadata={"version": "v2"}), lb_subset_config=config)
    for match in ({"version": "v9"}, {"stage": "x"}):
        spread.connector.add_subset(tuple(match.items()))
    assert spread.shares(Asks(version="v9")) == pytest.approx({0: 0.5, 1: 0.5}, abs=0.05)
    assert spread.connector.pick(Asks(stage="x"), ()) is None and spread.shares(Asks(other="x")) == spread.shares() == {0: 1.0}
    assert "lb_subset_config.subset_selectors.fallback_policy is no_fallback" in spread.connector.members.why_none((("stage", "x"),))
    assert [each["served_by"] for each in spread.connector.snapshot()["subsets"]] == [{"version": "v1"}, "any endpoint", "nobody"]


def test_another_attempt_stays_with_those_who_serve() -> None:
    """A default subset is one for retries as well, and where any endpoint serves any other one may be tried."""
    spread = Spread(
        *at(0, 1, metadata={"stage": "stable"}), *at(2, 3),
        lb_subset_config=SubsetLB(fallback_policy="default_subset", default_subset={"stage": "stable"}),
    )  # fmt: skip
    connector = spread.connector
    first, second = spread.pool(0), spread.pool(1)
    assert connector.has_other((first,), None) and not connector.has_other((first, second), None)
    assert connector.members.usage.served_by(None) == (("stage", "stable"),)
    anybody = Spread(*at(0, 1), lb_subset_config=SubsetLB())
    anybody.connector.add_subset((("stage", "x"),))
    assert anybody.connector.has_other((anybody.pool(0),), (("stage", "x"),))
