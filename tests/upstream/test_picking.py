"""A balancer that fails costs the request that asked for an endpoint, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from sidecar.address import Address
from sidecar.cluster.health import Health
from sidecar.errors import PluginFailed
from sidecar.model import Cluster, Endpoint
from sidecar.upstream.endpoint import EndpointPool
from sidecar.upstream.picking import LOOKED_AT, better_untried, has_other, observer_of
from tests.upstream.test_pool import Owner, Pools

CLUSTER = Cluster(name="app", endpoints=(Endpoint(address=Address("127.0.0.1", 8000)),))


def raising(error: BaseException) -> Any:
    def pick(exchange: Any, tried: Any) -> Any:
        raise error

    return pick


def answering(answer: object) -> Any:
    return lambda exchange, tried: answer


BAD = [raising(ValueError("x")), raising(SystemExit(3)), raising(KeyboardInterrupt()), *map(answering, (42, "a", Deferred(), object()))]


@pytest.mark.parametrize("pick", BAD)
def test_what_is_no_endpoint_is_the_plugins_failure(pick: Any) -> None:
    """500 with its name, for exchanges and for connections of opaque bytes; the next request is served."""
    pools = Pools()
    good, pools.connector.pick = pools.connector.pick, pick
    (error,) = Owner(pools).answers
    assert isinstance(error, PluginFailed) and "round-robin" in error.sentence

    class Side:
        error: Any = None

        def unavailable(self, error: Any, endpoint: Any = None) -> None:
            self.error = error

    side = Side()
    assert pools.connector.dial(side) is None and isinstance(side.error, PluginFailed)
    pools.connector.pick = good
    owner, _ = pools.busy()
    assert owner.stream is not None and pools.connector.pending == 0


def test_who_waits_for_an_endpoint_that_leaves_stays_when_the_balancer_fails() -> None:
    """Its connection may still come."""
    pools = Pools(endpoints=2)
    owner = Owner(pools)
    gone = pools.connector.pools[0]
    pools.connector.pick = raising(ValueError("x"))
    assert pools.connector.leaving.another(gone, owner, ()) is gone


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3)])
def test_what_an_observer_raises_does_not_reach_the_exchange(error: BaseException) -> None:
    seen: list[Any] = []
    observe = observer_of(CLUSTER, lambda *told: seen.append(told), raising_observer(error))
    assert observe is not None
    observe("endpoint", 200, 0.5)
    assert seen == [("endpoint", 200, 0.5)]


def raising_observer(error: BaseException) -> Any:
    def observed(endpoint: Any, status: int, seconds: float) -> None:
        raise error

    return observed


def test_nobody_is_told_when_nobody_asks() -> None:
    """It costs nothing then."""
    watch = lambda *told: None  # noqa: E731
    assert observer_of(CLUSTER, None, None) is None and observer_of(CLUSTER, watch, None) is watch


def named(*ports: int) -> Any:
    return {pool.address.port - 8000: pool for pool in Pools(endpoints=max(ports) + 1).connector.pools}


def ejected(pool: Any) -> Any:
    pool.health = Health(pool.text)
    pool.health.ejected_until = 1e9
    return pool


def failing(pool: Any) -> Any:
    pool.check_failure = "refused"
    return pool


def test_who_was_ejected_is_better_than_who_just_failed() -> None:
    """A balancer knows one endpoint, and that one broke: the other one may be well again."""
    pools = named(2)
    assert better_untried([pools[0], ejected(pools[1]), failing(pools[2])], pools[0], (pools[0],), None) is pools[1]
    assert better_untried([pools[0], failing(pools[1]), failing(pools[2])], pools[0], (pools[0],), None) is pools[0]
    assert better_untried([pools[0], pools[1]], pools[0], (pools[0], pools[1]), None) is pools[0]


def test_in_panic_who_is_well_is_better_than_who_is_not() -> None:
    """Panic spreads first attempts over all; what failed already goes where it will not fail again."""
    pools = named(3)
    everybody = [failing(pools[0]), failing(pools[1]), pools[2], ejected(pools[3])]
    assert better_untried(everybody, pools[1], (pools[0],), None) is pools[2]
    assert better_untried(everybody, pools[1], (pools[0], pools[2]), None) is pools[3]
    assert better_untried(everybody, pools[2], (pools[0],), None) is pools[2]


def test_whose_latest_attempt_failed_is_asked_later() -> None:
    """But before those that were ejected; among several such the balancer's choice stays."""
    pools = named(3)
    for index in (0, 1):
        pools[index].answered_badly()
    everybody = [pools[0], pools[1], pools[2], ejected(pools[3])]
    assert better_untried(everybody, pools[1], (pools[0],), None) is pools[2]
    assert better_untried(everybody, pools[1], (pools[0], pools[2]), None) is pools[1]
    assert better_untried(everybody, pools[2], (pools[2],), None) in (pools[0], pools[1])
    assert better_untried(everybody, pools[3], (pools[2],), None) in (pools[0], pools[1])


def test_a_degraded_one_is_the_better_choice_before_those_that_are_ill() -> None:
    """Who is well is better, even where the latest attempt there failed."""
    pools = named(3)
    pools[1].is_degraded = True
    pools[2].answered_badly()
    everybody = [*(pools[number] for number in range(3)), ejected(pools[3])]
    assert better_untried(everybody, pools[1], (pools[0],), None) is pools[2]
    assert better_untried(everybody, pools[1], (pools[0], pools[2]), None) is pools[1]
    assert better_untried(everybody, pools[3], (pools[0], pools[2]), None) is pools[1]


def test_a_better_one_has_the_metadata_that_is_asked_for() -> None:
    """A subset stays a subset, unless nobody is in it and the fallback chose."""
    pools = {port: EndpointPool(Endpoint(address=Address("127.0.0.1", port), metadata={"v": "1" if port < 2 else "2"})) for port in range(1, 4)}
    match = (("v", "2"),)
    assert better_untried([pools[1], pools[2]], pools[2], (pools[2],), match) is pools[2]
    assert better_untried([pools[1], pools[2], ejected(pools[3])], pools[2], (pools[2],), match) is pools[3]
    assert better_untried([pools[1], ejected(pools[2])], pools[1], (pools[1],), (("v", "3"),)) is pools[2]


def test_another_attempt_goes_to_who_was_ejected() -> None:
    """End to end in memory: the connector asks."""
    pools = Pools(endpoints=2)
    first, second = pools.connector.pools
    ejected(second)
    pools.connector.pick = answering(first)
    owner = Owner(pools)
    pools.connector.open(owner, (first,), False)
    assert len(second.connecting) == 1


def test_whether_there_is_another() -> None:
    """Who is ill, has no weight, was tried or is not what was asked for does not count; of thousands only some are looked at."""
    pools = named(2)
    assert has_other([pools[0], pools[1]], (pools[0],), None) and not has_other([pools[0], pools[1]], (pools[0], pools[1]), None)
    assert not has_other([pools[0], ejected(pools[1]), failing(pools[2])], (pools[0],), None) and not has_other([], (), None)
    assert has_other([pools[0], pools[1]], (pools[0],), None, True) and not has_other([pools[0], pools[2]], (pools[0],), None, True)
    pools = named(1)
    assert not has_other([pools[0], pools[1]], (pools[0],), (("v", "1"),))
    pools[1].weight = 0
    assert not has_other([pools[0], pools[1]], (pools[0],), None)
    looked_at: list[int] = []

    class Many:
        def __len__(self) -> int:
            return 10_000

        def __getitem__(self, index: int) -> Any:
            looked_at.append(index)
            return pools[0]

    assert not has_other(Many(), (pools[0],), None) and len(looked_at) == LOOKED_AT  # type: ignore[arg-type]
