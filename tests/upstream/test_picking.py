"""A balancer that fails costs the request that asked for an endpoint, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from sidecar.address import Address
from sidecar.errors import PluginFailed
from sidecar.model import Cluster, Endpoint
from sidecar.upstream.picking import observer_of
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

        def unavailable(self, error: Any) -> None:
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
