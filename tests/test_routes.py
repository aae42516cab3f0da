"""`sidecar/routes.py`: where the connections of a TCP proxy go, and how long endpoints may be silent."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from sidecar.errors import ConnectFailed
from sidecar.model import Endpoint, Hedge, Retry, Route, SubsetLB, TCPProxy, WeightedCluster
from sidecar.routes import _silent_after, tcp_target
from tests.upstream.test_members import at
from tests.upstream.test_usage import Spread


class Dialled:
    """A side that is only told when there is no endpoint; `pools`: those that were dialled."""

    def __init__(self) -> None:
        self.errors: list[Any] = []

    def unavailable(self, error: Any, endpoint: Any = None) -> None:
        self.errors.append(error)


def cluster(*endpoints: Endpoint, **settings: Any) -> Any:
    connector = Spread(*endpoints, **settings).connector
    connector._connect = lambda *args: None
    return connector


def test_shares_of_connections() -> None:
    """By weight, for each connection anew."""
    clusters = {"a": cluster(*at(0)), "b": cluster(*at(1)), "c": cluster(*at(2))}
    shares = tuple(WeightedCluster(cluster=name, weight=weight) for name, weight in (("a", 3), ("b", 1), ("c", 0)))
    target = tcp_target(TCPProxy(weighted_clusters=shares, max_connect_attempts=5, idle_timeout=7.0), clusters)
    chosen = Counter(target.choose()[0] for _ in range(4000))
    assert chosen[clusters["a"]] / 4000 == pytest.approx(0.75, abs=0.05) and chosen[clusters["c"]] == 0
    assert (target.attempts, target.idle_timeout) == (5, 7.0)


def test_subsets() -> None:
    """Metadata of the proxy and of the share together; the balancers are given no exchange, and a connection that failed goes to another of the subset."""
    endpoints = (*at(0, metadata={"v": "1"}), *at(1, 2, metadata={"v": "2", "x": "y"}), *at(3, metadata={"v": "2"}))
    connector = cluster(*endpoints, lb_subset_config=SubsetLB(fallback_policy="no_fallback"))
    share = WeightedCluster(cluster="a", metadata_match={"x": "y"})
    _, match = (target := tcp_target(TCPProxy(weighted_clusters=(share,), metadata_match={"v": "2"}), {"a": connector})).choose()
    assert match == (("v", "2"), ("x", "y")) and target.choose()[0] is connector
    side = Dialled()
    first = {connector.dial(side, (), match).endpoint.address.port for _ in range(10)}
    assert first == {8001, 8002}
    one = next(pool for pool in connector.pools if pool.address.port == 8001)
    assert {connector.dial(side, (one,), match).endpoint.address.port for _ in range(10)} == {8002}
    both = tuple(pool for pool in connector.pools if pool.address.port in first)
    assert connector.dial(side, both, match) is None and not side.errors
    assert connector.dial(side, (), (("v", "9"),)) is None and "v=9" in side.errors[0].sentence
    connector.dial(side, both[:1], match).connection_failed(ConnectFailed("refused"))
    assert [pool.is_failing for pool in both] == [False, True] and both[1].failures == 1


@pytest.mark.parametrize(
    ("route", "seconds"),
    [
        ({}, 0.0),
        ({"retry": Retry()}, 5.0),
        ({"retry": Retry(), "timeout": 6.0}, 2.0),
        ({"retry": Retry(), "timeout": 0.0}, 0.0),
        ({"retry": Retry(attempts=1)}, 0.0),
        ({"retry": Retry(per_try_timeout=1.0)}, 0.0),
        ({"retry": Retry(), "hedge": Hedge(delay=1.0)}, 0.0),
        ({"retry": Retry(on=("connect-failure",))}, 0.0),
        ({"retry": Retry(silent_after=0.0)}, 0.0),
        ({"retry": Retry(silent_after=3.0, per_try_timeout=4.0, on=("connect-failure",))}, 3.0),
    ],
)
def test_how_long_an_endpoint_may_be_silent(route: dict[str, Any], seconds: float) -> None:
    """An even share of the route's time, unless the times of attempts are written, or silence is no reason for another one."""
    found = Route(cluster="a", **route)
    assert _silent_after(found, 15.0 if found.timeout is None else found.timeout) == seconds
