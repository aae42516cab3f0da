"""What a balancer may get wrong. It may be a stranger's: whatever it does costs at most the request that asked, and not its connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from sidecar.errors import NoHealthyEndpoint, PluginFailed, SidecarError

_log = Logger(namespace="sidecar.upstream")
# Of an endpoint: how an attempt ended (its status), after so many seconds.
Observe = Callable[[Any, int, float], None]


def picking_failed(cluster: Any) -> PluginFailed:
    """Called in an `except` block: the balancer of `cluster` (a `model.Cluster`) raised. What to answer in place of an endpoint."""
    _log.failure("balancer {balancer} of cluster {cluster} raised", balancer=cluster.balancer.name, cluster=cluster.name)
    return PluginFailed(f"balancer {cluster.balancer.name} raised an exception")


def why_not_picked(connector: Any, answer: object, match: Any) -> SidecarError:
    """`answer` is no endpoint: what its exchange is told. `match`: the metadata that the route asks for, or None."""
    if answer is None:
        connector.counters["no_endpoint"] += 1
        return NoHealthyEndpoint(connector.members.why_none(match))
    if isinstance(answer, PluginFailed):
        return answer
    name = connector.cluster.balancer.name
    _log.error("balancer {balancer} of cluster {cluster} answered {answer!r}, which is no endpoint", balancer=name, cluster=connector.name, answer=answer)
    return PluginFailed(f"balancer {name} gave an answer that is no endpoint")


def observer_of(cluster: Any, watch: Observe | None, balancer: Observe | None) -> Observe | None:
    """One function for those who want to know how attempts end; None for nobody."""
    if balancer is None:
        return watch

    def observe(endpoint: Any, status: int, seconds: float) -> None:
        if watch is not None:
            watch(endpoint, status, seconds)
        try:
            balancer(endpoint, status, seconds)
        except BaseException:
            _log.failure("balancer {balancer} of cluster {cluster} raised when it was told of an answer", balancer=cluster.balancer.name, cluster=cluster.name)

    return observe
