"""A cluster's endpoints over time: who is in it, and what is known of each. Who of them is used is worked out in `upstream.usage`.

Everything that says something about endpoints ends here: the configuration or discovery (`set`), active checks (`set_checked`), answers (`upstream.health`).
A change is worked off in steps of bounded length, one for each turn of the reactor, so that ten thousand endpoints do not stop everybody's requests; a change
that fits into one step is done when the call returns. Until a new set is in use the old one serves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from twisted.logger import Logger

from sidecar.address import Address
from sidecar.cluster.grouping import Match
from sidecar.cluster.slices import Slices
from sidecar.cluster.subsets import NOBODY
from sidecar.model import Cluster, Endpoint
from sidecar.upstream.endpoint import EndpointPool
from sidecar.upstream.health import LOGGED_AT_ONCE, EndpointWatch
from sidecar.upstream.usage import Usage, why_out

_log = Logger(namespace="sidecar.upstream")

# Endpoints that observers are told of, and whose connections are let go of, at a time: each may cost a hundred times what a look at it does.
CHUNK = 50
# After a change that took more than one step the next one waits so many times as long, so that thousands of endpoints whose health changes all the time take at
# most a fifth of the processor; at most this long (Envoy: update_merge_window). What comes meanwhile is worked off together.
REST_FACTOR = 4.0
REST_SECONDS_MAX = 1.0

# Within so long `LOGGED_AT_ONCE` endpoints are named in the log for what health checks say of them.
SAID_SECONDS = 1.0

Observer = Callable[[list[EndpointPool], list[EndpointPool]], object]


class Members:
    """`later(call)` calls in the next turn of the reactor; None does everything at once. `retire(pool)` lets go of the connections of one that left. Nothing
    is used before `begin`.
    """

    def __init__(
        self,
        cluster: Cluster,
        watch: EndpointWatch | None,
        later: Callable[[Callable[[], None]], object] | None,
        retire: Callable[[EndpointPool], None],
        seconds: Callable[[], float],
        timer: Callable[[Callable[[], None]], Any],
    ) -> None:
        self.pools: list[EndpointPool] = []
        # Left the cluster, and still have connections.
        self.retired: dict[Address, EndpointPool] = {}
        # Called with (added, removed), perhaps several times for one change: with those that come before they get their first request, with those that
        # leave after their last one was given out. What they raise is logged.
        self.observers: list[Observer] = []
        self.watch = watch
        self._cluster = cluster
        self._later = later
        self._retire = retire
        self._by_address: dict[Address, EndpointPool] = {}
        self._wanted: Sequence[Endpoint] | None = None
        self._is_stale = False
        self._steps: Iterator[None] | None = None
        self._is_stopped = False
        self._why: dict[Match | None, str] = {}
        self._slices = Slices()
        self._seconds = seconds
        self._rest = timer(self._begin)
        self._said_at, self._said, self._unsaid = 0.0, 0, timer(self._say_how_many)
        self._began = 0.0
        self._is_long = False

    def begin(self, usage: Usage) -> None:
        """Use the configured endpoints. Nothing is served yet, so nobody waits; what a balancer raises ends the start."""
        self.usage = usage
        for _ in self._adopted(self._cluster.endpoints):
            pass

    @property
    def is_changing(self) -> bool:
        """Is a change still being worked off, or does it wait for its turn?"""
        return (self._steps is not None or self._has_news) and not self._is_stopped

    @property
    def _has_news(self) -> bool:
        return self._wanted is not None or self._is_stale

    # -- what is told --------------------------------------------------------------------------------------------------------------------------------

    def set(self, endpoints: Sequence[Endpoint]) -> None:
        """These are the cluster's endpoints from now on. Of several with one address the first counts. Of several sets that come before the first is worked
        off, the last one counts.
        """
        self._wanted = endpoints
        self._begin()

    def at(self, address: Address) -> EndpointPool | None:
        """The endpoint with this address, None when it is not in the cluster."""
        return self._by_address.get(address)

    def set_checked(self, pool: EndpointPool, is_healthy: bool, reason: str, is_absent: bool = False, is_degraded: bool = False) -> None:
        """What an active check found; `is_absent`: nobody is there; `is_degraded`: it is well, but to be spared. A success also ends an ejection (Envoy:
        successful_active_health_check_uneject_host)."""
        failure = None if is_healthy else reason or "its active health check failed"
        is_changed = (pool.check_failure is None) != is_healthy
        pool.check_failure = failure
        becomes_other = pool.is_absent != is_absent or pool.is_degraded != is_degraded
        if pool.is_degraded != is_degraded:
            self._say(_log.info, pool, "is degraded, as its health check says" if is_degraded else "is not degraded any more")
        pool.is_absent, pool.is_degraded = is_absent, is_degraded
        if is_changed:
            if is_healthy:
                self._say(_log.info, pool, "passes its health checks")
            else:
                self._say(_log.warn, pool, f"fails its health checks: {failure}")
        detection = self._cluster.outlier_detection
        if is_healthy and self.watch is not None and detection is not None and detection.successful_active_health_check_uneject_host:
            is_changed |= self.watch.forgive(pool)
        if is_changed or becomes_other:
            self.changed()

    def _say(self, log: Callable[..., None], pool: EndpointPool, what: str) -> None:
        """A line about one endpoint; of more than a log can use, how many there were."""
        now = self._seconds()
        if now >= self._said_at + SAID_SECONDS:
            self._said_at, self._said = now, 0
        self._said += 1
        if self._said <= LOGGED_AT_ONCE:
            log("{cluster}: {endpoint} {what}", cluster=self._cluster.name, endpoint=pool.text, what=what)
        elif not self._unsaid.is_set:
            self._unsaid.set(self._said_at + SAID_SECONDS)

    def _say_how_many(self) -> None:
        more, self._said = self._said - LOGGED_AT_ONCE, 0
        _log.info("{cluster}: health checks said something new of {count} more endpoints, see /clusters", cluster=self._cluster.name, count=more)

    def add_subset(self, match: Match) -> None:
        """A route asks for endpoints with this metadata. Called when routes are made: the subset is there when this returns, and so is a change that was being
        worked off.
        """
        if match in self.usage.subsets:
            return
        self.usage.add_subset(match)
        steps, self._steps = self._steps, None
        for _ in steps or ():
            pass
        for _ in self.usage.regrouped(self.pools, self._slices):
            pass
        self._why.clear()
        self._begin()

    def changed(self) -> None:
        """Something is known of an endpoint that was not known before: work out anew who is used."""
        self._is_stale = True
        self._begin()

    def stop(self) -> None:
        """Nothing changes any more."""
        self._is_stopped = True
        self._rest.clear()
        self._unsaid.clear()
        self.usage.stop()
        if self.watch is not None:
            self.watch.stop()

    def why_none(self, match: Match | None) -> str:
        """Why there is nobody to send a request with this `metadata_match` to, for a person."""
        sentence = self._why.get(match)
        if sentence is None:
            # Remembered until something changes: a cluster that is down is asked for each of its requests.
            sentence = self._why[match] = self._why_none(match)
        return sentence

    def _why_none(self, match: Match | None) -> str:
        name = self._cluster.name
        if not self.pools:
            return f"cluster {name} has no endpoints: none is configured, and discovery has found none"
        fallbacks = self.usage.fallbacks
        policy, is_selectors = ("any_endpoint", False) if fallbacks is None else fallbacks.policy_of(match)
        if self.usage.served_by(match) == NOBODY:
            wanted = ", ".join(f"{name}={value}" for name, value in match or ()) or "no metadata"
            key = f"lb_subset_config.{'subset_selectors.' if is_selectors else ''}fallback_policy"
            return f"no endpoint of cluster {name} is for requests that ask for {wanted} ({key} is {policy})"
        counts = Counter(why_out(pool) or "healthy" for pool in self.pools)
        told = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        if self.usage.is_panicking and self._cluster.locality_lb is not None and self._cluster.locality_lb.fail_traffic_on_panic:
            return f"too few endpoints of cluster {name} are healthy, and then it serves nobody (locality_lb.fail_traffic_on_panic): {told}"
        return f"none of the {len(self.pools)} endpoints of cluster {name} may be used: {told}"

    # -- the work ----------------------------------------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        while self._has_news and self._steps is None and not self._is_stopped and not self._rest.is_set:
            self._began, self._is_long = self._seconds(), False
            self._slices.restart()
            self._steps = self._work()
            self._step()

    def _step(self) -> None:
        """One step now, the next one in the next turn."""
        steps = self._steps
        if steps is None or self._is_stopped:
            return
        try:
            for _ in steps:
                if self._later is not None:
                    self._is_long = True
                    self._later(self._step)
                    return
        except Exception:
            _log.failure("cluster {cluster}: a change of its endpoints failed", cluster=self._cluster.name)
        self._steps = None
        self._why.clear()
        if self._is_long:
            now = self._seconds()
            if now > self._began:
                self._rest.set(now + min(REST_SECONDS_MAX, REST_FACTOR * (now - self._began)))
            else:
                self._begin()

    def _work(self) -> Iterator[None]:
        wanted, self._wanted = self._wanted, None
        self._is_stale = False
        yield from self._regrouped() if wanted is None else self._adopted(wanted)

    def _regrouped(self) -> Iterator[None]:
        """Work out anew who is used, also for those who wait at an endpoint that left, because there was nobody else."""
        yield from self.usage.regrouped(self.pools, self._slices)
        for pool in [each for each in self.retired.values() if each.waiting]:
            self._retire(pool)

    def _adopted(self, wanted: Sequence[Endpoint]) -> Iterator[None]:
        """Compare, tell of the new ones, use them, let go of those that left."""
        done = self._slices.done
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
                    if self.watch is not None:
                        self.watch.admit(pool)
                pool.configured = endpoint
                pool.weight = endpoint.weight * self.usage.weight_scale
                after[address] = pool
            if done(2):
                yield
        for address, pool in before.items():
            if address not in after:
                removed.append(pool)
                if self.watch is not None:
                    self.watch.dismiss(pool)
            if done():
                yield
        self._by_address, self.pools = after, list(after.values())
        for start in range(0, len(added), CHUNK):
            self._tell(added[start : start + CHUNK], [])
            if done(len(added[start : start + CHUNK]) * 4):
                yield
        yield from self._regrouped()
        for start in range(0, len(removed), CHUNK):
            leaving = removed[start : start + CHUNK]
            pieces = 0
            for pool in leaving:
                pieces += 4 + 20 * (pool.connections + len(pool.waiting))
                self.retired[pool.address] = pool
                self._retire(pool)
            self._tell([], leaving)
            if done(pieces):
                yield

    def _tell(self, added: list[EndpointPool], removed: list[EndpointPool]) -> None:
        for observer in self.observers:
            try:
                observer(added, removed)
            except Exception:
                _log.failure("cluster {cluster}: {observer!r} failed", cluster=self._cluster.name, observer=observer)
