"""A cluster's endpoints over time: who is in it, what is known of each, and which of them the balancer may use now.

Everything that says something about endpoints ends here: the configuration or discovery (`set`), active checks (`set_checked`), answers (`upstream.health`).
A change is worked off in steps of bounded length, one for each turn of the reactor, so that ten thousand endpoints do not stop everybody's requests; a change
that fits into one step is done when the call returns. Until a new set is in use the old one serves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from twisted.logger import Logger

from sidecar.address import Address
from sidecar.cluster.health import usable
from sidecar.model import Cluster, Endpoint
from sidecar.upstream.endpoint import EndpointPool
from sidecar.upstream.health import EndpointWatch

_log = Logger(namespace="sidecar.upstream")

# Endpoints looked at in one step: about a millisecond, a twentieth of what anybody notices.
SLICE = 256

Observer = Callable[[list[EndpointPool], list[EndpointPool]], object]


class Members:
    """`later(call)` calls in the next turn of the reactor; None does everything at once. `retire(pool)` lets go of the connections of one that left."""

    def __init__(
        self,
        cluster: Cluster,
        balancer: Any,
        seconds: Callable[[], float],
        timer: Callable[[Callable[[], None]], Any],
        later: Callable[[Callable[[], None]], Any] | None,
        retire: Callable[[EndpointPool], None],
    ) -> None:
        self.pools: list[EndpointPool] = []
        # Left the cluster, and still have connections.
        self.retired: dict[Address, EndpointPool] = {}
        # Called with (added, removed), perhaps several times for one change: with those that come before they get their first request, with those that
        # leave after their last one was given out. What they raise is logged.
        self.observers: list[Observer] = []
        self.is_panicking = False
        self.pick: Callable[[Any, tuple[Any, ...]], Any] = balancer.pick
        self._balancer = balancer
        self._cluster = cluster
        self._later = later
        self._retire = retire
        self._by_address: dict[Address, EndpointPool] = {}
        self._wanted: Sequence[Endpoint] | None = None
        self._is_stale = False
        self._steps: Iterator[None] | None = None
        self._is_stopped = False
        self._left = SLICE
        self._usable: list[EndpointPool] = []
        self._weights: list[int] = []
        self.watch = None if cluster.outlier_detection is None else EndpointWatch(cluster, seconds, timer, self.changed)
        balancer.update([])
        # Nothing is served yet, so nobody waits; what a balancer raises ends the start.
        for _ in self._adopted(cluster.endpoints):
            pass

    # -- what is told --------------------------------------------------------------------------------------------------------------------------------

    def set(self, endpoints: Sequence[Endpoint]) -> None:
        """These are the cluster's endpoints from now on. Of several with one address the first counts. Of several sets that come before the first is worked
        off, the last one counts.
        """
        self._wanted = endpoints
        self._begin()

    def set_checked(self, pool: EndpointPool, is_healthy: bool, reason: str) -> None:
        """What an active check found. A success also ends an ejection (Envoy: successful_active_health_check_uneject_host)."""
        failure = None if is_healthy else reason or "its active health check failed"
        is_changed = (pool.check_failure is None) != is_healthy
        pool.check_failure = failure
        detection = self._cluster.outlier_detection
        if is_healthy and self.watch is not None and detection is not None and detection.successful_active_health_check_uneject_host:
            is_changed |= self.watch.forgive(pool)
        if is_changed:
            _log.info(
                "{cluster}: {endpoint} {what}",
                cluster=self._cluster.name,
                endpoint=pool.text,
                what="passes its health checks" if is_healthy else f"fails its health checks: {failure}",
            )
            self.changed()

    def changed(self) -> None:
        """Something is known of an endpoint that was not known before: work out anew who is used."""
        self._is_stale = True
        self._begin()

    def stop(self) -> None:
        """Nothing changes any more."""
        self._is_stopped = True
        if self.watch is not None:
            self.watch.stop()

    def why_none(self) -> str:
        """Why there is nobody to send a request to, for a person."""
        name = self._cluster.name
        if not self.pools:
            return f"cluster {name} has no endpoints: none is configured, and discovery has found none"
        counts: dict[str, int] = {}
        for pool in self.pools:
            reason = why_out(pool) or "in use"
            counts[reason] = counts.get(reason, 0) + 1
        return f"none of the {len(self.pools)} endpoints of cluster {name} may be used: {', '.join(f'{count} {reason}' for reason, count in counts.items())}"

    # -- the work ----------------------------------------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._steps is None and not self._is_stopped:
            self._steps = self._work()
            self._step()

    def _step(self) -> None:
        """One step now, the next one in the next turn."""
        steps = self._steps
        assert steps is not None
        if self._is_stopped:
            return
        try:
            for _ in steps:
                if self._later is not None:
                    self._later(self._step)
                    return
        except Exception:
            _log.failure("cluster {cluster}: a change of its endpoints failed", cluster=self._cluster.name)
        self._steps = None

    def _work(self) -> Iterator[None]:
        while self._wanted is not None or self._is_stale:
            wanted, self._wanted = self._wanted, None
            self._is_stale = False
            yield from self._regrouped() if wanted is None else self._adopted(wanted)

    def _adopted(self, wanted: Sequence[Endpoint]) -> Iterator[None]:
        """Compare, tell of the new ones, use them, let go of those that left."""
        before, after = self._by_address, {}
        added, removed = [], []
        for endpoint in wanted:
            address = endpoint.address
            if address not in after:
                pool = before.get(address)
                if pool is None:
                    pool = self.retired.pop(address, None) or EndpointPool(endpoint)
                    pool.is_closed = False
                    added.append(pool)
                pool.configured = endpoint
                pool.weight = endpoint.weight
                after[address] = pool
            if self._is_tired(1):
                yield
        for address, pool in before.items():
            if address not in after:
                removed.append(pool)
            if self._is_tired(1):
                yield
        self._by_address, self.pools = after, list(after.values())
        if self.watch is not None:
            self.watch.adopt(self.pools)
        for start in range(0, len(added), SLICE):
            self._tell(added[start : start + SLICE], [])
            if self._is_tired(min(SLICE, len(added) - start)):
                yield
        yield from self._regrouped()
        for pool in [each for each in self.retired.values() if each.waiting]:
            # Who waited there because there was nobody else.
            self._retire(pool)
        for start in range(0, len(removed), SLICE):
            leaving = removed[start : start + SLICE]
            for pool in leaving:
                self.retired[pool.address] = pool
                self._retire(pool)
            self._tell([], leaving)
            if self._is_tired(len(leaving)):
                yield

    def _tell(self, added: list[EndpointPool], removed: list[EndpointPool]) -> None:
        for observer in self.observers:
            try:
                observer(added, removed)
            except Exception:
                _log.failure("cluster {cluster}: {observer!r} failed", cluster=self._cluster.name, observer=observer)

    def _regrouped(self) -> Iterator[None]:
        endpoints, panicking = usable(self.pools, self._cluster.healthy_panic_threshold)
        weights = [pool.weight for pool in endpoints]
        if panicking != self.is_panicking:
            self.is_panicking = panicking
            _log.warn(
                "{cluster}: {what}",
                cluster=self._cluster.name,
                what="too few endpoints are healthy, so all are used (healthy_panic_threshold)" if panicking else "enough endpoints are healthy again",
            )
        if endpoints != self._usable or weights != self._weights:
            self._usable, self._weights = endpoints, weights
            self._balancer.update(endpoints)
        if self._is_tired(len(self.pools)):
            yield

    def _is_tired(self, count: int) -> bool:
        """So many more endpoints were looked at: is the step over?"""
        self._left -= count
        if self._left > 0:
            return False
        self._left = SLICE
        return True


def why_out(pool: EndpointPool) -> str:
    """Why it gets no new requests, "" when it does (panic aside)."""
    if pool.configured.health != "healthy":
        return f"{pool.configured.health} as discovery tells"
    if pool.check_failure is not None:
        return "ill as its checks tell"
    if pool.health is not None and pool.health.is_ejected:
        return "ejected for its answers"
    return "" if pool.weight else "with weight 0"
