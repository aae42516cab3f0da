"""What a balancer may get wrong, or cannot know.

It may be a stranger's: whatever it does costs at most the request that asked, and not its connection. And it knows only the endpoints that are used now, which
for one more attempt need not be the best ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import randrange
from typing import Any

from twisted.logger import Logger

from sidecar.cluster.grouping import USED, is_degraded, is_well
from sidecar.errors import NoHealthyEndpoint, PluginFailed, SidecarError

_log = Logger(namespace="sidecar.upstream")
# Of an endpoint: how an attempt ended (its status), after so many seconds.
Observe = Callable[[Any, int, float], None]

# Endpoints looked at for one more attempt: all of an ordinary cluster, and of a very large one so few that a burst of retries costs little.
LOOKED_AT = 128


def better_untried(endpoints: Sequence[Any], chosen: Any, tried: tuple[Any, ...], match: Any) -> Any:
    """For another attempt of a request that failed at `tried`: an endpoint that may do better than the balancer's `chosen`, or `chosen`.

    The balancer knows only who is used now. When all of them were tried, one that was ejected for earlier answers may be well again, and is better than one
    that failed a moment ago; and in panic one that is well is better than one that is not, as it always is better than a degraded one. Of those that are well,
    one whose latest attempt did not fail is better: when all but one begin to fail, others' attempts have soon found out who it is. `match`: the metadata that
    the route asks for, or None.
    """
    if chosen in tried:
        best, best_rank = chosen, 5
    elif not is_well(chosen):
        best, best_rank = chosen, 4
    elif is_degraded(chosen):
        best, best_rank = chosen, 2
    elif chosen.is_failing:
        best, best_rank = chosen, 1
    else:
        return chosen
    if match is not None and not _has(chosen, match):
        match = None  # what was asked for is nowhere, and the cluster's fallback chose
    for each in _some(endpoints):
        if not each.weight or each in tried or each.configured.health not in USED or each.check_failure is not None:
            continue
        if match is not None and not _has(each, match):
            continue
        rank = 3 if not is_well(each) else 2 if is_degraded(each) else 1 if each.is_failing else 0
        if rank < best_rank or (rank == best_rank and best is not chosen and each.configured.priority < best.configured.priority):
            best, best_rank = each, rank
    return best


def has_other(endpoints: Sequence[Any], tried: tuple[Any, ...], match: Any, also_ejected: bool = False) -> bool:
    """Is there one that nobody says anything against, for requests with this `metadata_match`, beside those that were `tried`? `also_ejected`: or one that
    only its own earlier answers speak against.
    """
    return any(
        each not in tried
        and each.weight
        and (is_well(each) or (also_ejected and each.configured.health in USED and each.check_failure is None))
        and _has(each, match or ())
        for each in _some(endpoints)
    )


def _some(endpoints: Sequence[Any]) -> Iterator[Any]:
    count = len(endpoints)
    start = randrange(count) if count else 0
    return (endpoints[(start + step) % count] for step in range(min(count, LOOKED_AT)))


def _has(endpoint: Any, match: Any) -> bool:
    return all(endpoint.configured.metadata.get(name) == value for name, value in match)


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
