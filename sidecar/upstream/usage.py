"""Which of a cluster's endpoints are used now, and how their balancers are told.

The one place where everything that is known comes together: what discovery tells, active checks, ejections, priorities, localities, panic, slow start, subsets.
A cluster in which all usable endpoints are alike has one balancer, and its `pick` is what the connector calls; others have one for each group, made when the
group is first there.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from math import inf
from random import Random
from typing import Any

import attrs
from twisted.logger import Logger

from sidecar.cluster import slow_start
from sidecar.cluster.choice import Choice, Pick, SubsetChoice, nobody
from sidecar.cluster.grouping import USED, Leaf, Level, Match, is_well, leaves, levelled, matching
from sidecar.cluster.slices import Slices
from sidecar.cluster.subsets import Fallbacks
from sidecar.cluster.zones import Callers, zone_of
from sidecar.interfaces import IGradualBalancer, IOutcomeObserver
from sidecar.model import Cluster, Locality
from sidecar.upstream.endpoint import EndpointPool

_log = Logger(namespace="sidecar.upstream")

Observe = Callable[[Any, int, float], None]
_Key = tuple[Match | None, tuple[int, int, Locality | None, bool]]


@attrs.define(eq=False)
class _Group:
    """A balancer and what it was told last."""

    balancer: Any
    endpoints: list[EndpointPool] = attrs.field(factory=list)
    weights: array[int] = attrs.field(factory=lambda: array("q"))  # no list: the collector would look at each number in it


class Usage:
    """`make_balancer()`: another one like `balancer`. `own`: where this sidecar runs. `changed()`: called when time alone has changed something.
    `in_use(pick, observe)`: called with what answers from now on, and with who wants to know of outcomes (None: nobody).
    """

    def __init__(
        self,
        cluster: Cluster,
        balancer: Any,
        make_balancer: Callable[[], Any],
        own: Locality | None,
        seconds: Callable[[], float],
        timer: Callable[[Callable[[], None]], Any],
        changed: Callable[[], None],
        in_use: Callable[[Pick, Observe | None], None],
    ) -> None:
        self.levels: list[Level] = []
        # The matches of routes that go to this cluster -> how many endpoints they have.
        self.subsets: dict[Match, int] = {}
        # For zone-aware routing: what is known of the callers; and who wants to know where these endpoints are, because they are the callers.
        self.callers: Callers | None = None
        self.tell_callers: Callable[[Callers], object] | None = None
        self._told_callers: Callers | None = None
        self.weight_scale = 1 if cluster.slow_start_config is None else slow_start.WEIGHT_SCALE
        self._cluster = cluster
        self._make_balancer = make_balancer
        self._own = own
        self._seconds = seconds
        self._in_use = in_use
        self._random = Random().random
        self._spare: list[Any] = [balancer]
        self._groups: dict[_Key, _Group] = {}
        self._observers: dict[Any, list[Observe]] = {}
        self._has_begun = False
        self._has_met = False  # any endpoint
        self._timer = None if cluster.slow_start_config is None else timer(changed)
        self.fallbacks = None if cluster.lb_subset_config is None else Fallbacks(cluster.lb_subset_config)
        # A match of a route -> the one that those who serve it have; None: they are any endpoints.
        self._served: dict[Match | None, Match | None] = {}
        if self.fallbacks is not None and self.fallbacks.default_subset is not None:
            self.subsets[self.fallbacks.default_subset] = 0
        balancer.update([])

    @property
    def is_panicking(self) -> bool:
        """Is there a priority whose ill endpoints are used as well?"""
        return any(level.is_panicking for level in self.levels)

    def stop(self) -> None:
        """Time changes nothing any more."""
        if self._timer is not None:
            self._timer.clear()

    def _count_callers(self, pools: Sequence[EndpointPool], tell: Callable[[Callers], object], slices: Slices) -> Iterator[None]:
        """These endpoints are the callers of other clusters."""
        by_zone: Counter[Locality] = Counter()
        for pool in pools:
            if pool.configured.weight and is_well(pool):
                by_zone[zone_of(pool.configured.locality)] += 1
            if slices.done():
                yield
        problem = f"too few endpoints of {self._cluster.name} are healthy to tell where the callers are" if self.is_panicking else ""
        callers = Callers(dict(by_zone), problem)
        if callers != self._told_callers:
            self._told_callers = callers
            tell(callers)

    # -- working it out ------------------------------------------------------------------------------------------------------------------------------

    def regrouped(self, pools: Sequence[EndpointPool], slices: Slices) -> Iterator[None]:
        """Work out from what is known of `pools` now who is used, and tell the balancers of what changed. Until this ends what was used before is used."""
        yield from self._warmed(pools, slices)
        levels = yield from levelled(pools, self._cluster, self._own, slices, self.callers)
        kept: dict[_Key, _Group] = {}
        pick = yield from self._told(None, leaves(levels, self._cluster), kept, slices)
        if self.subsets or self.fallbacks is not None:
            pick = yield from self._with_subsets(pools, pick, kept, slices)
        observe = yield from self._observer(list(kept.values()), slices)
        gone = [group for key, group in self._groups.items() if key not in kept]
        self._groups = kept
        self._say_panic(levels)
        self._in_use(pick, observe)
        if self.tell_callers is not None:
            yield from self._count_callers(pools, self.tell_callers, slices)
        self._has_begun = True
        for group in gone:
            yield from self._update(group, [], slices)
            self._spare.append(group.balancer)

    def _warmed(self, pools: Sequence[EndpointPool], slices: Slices) -> Iterator[None]:
        """Set the weights that balancers see, and look again when they have to be set anew."""
        settings = self._cluster.slow_start_config
        if settings is None:
            return
        now = self._seconds()
        is_warming = False
        is_first, self._has_met = bool(pools) and not self._has_met, self._has_met or bool(pools)
        for pool in pools:
            if is_first:
                # Those that were there first have nobody to spare them, whenever their first health check passes.
                pool.is_new = False
            if not is_well(pool):
                pool.used_since = None
                pool.is_new |= pool.requests > 0
            elif pool.used_since is None:
                pool.used_since = now if pool.is_new else -inf
            age = inf if pool.used_since is None else now - pool.used_since
            pool.weight = slow_start.weight_at(settings, pool.configured.weight, age)
            is_warming |= age < settings.slow_start_window
            if slices.done():
                yield
        assert self._timer is not None
        if is_warming:
            self._timer.set(now + slow_start.step_seconds(settings))

    def _with_subsets(self, pools: Sequence[EndpointPool], everybody: Pick, kept: dict[_Key, _Group], slices: Slices) -> Generator[None, None, Pick]:
        picks: dict[Match | None, Pick] = {}
        for match in list(self.subsets):
            endpoints = yield from matching(pools, match, slices)
            self.subsets[match] = len(endpoints)
            levels = yield from levelled(endpoints, self._cluster, self._own, slices, self.callers)
            if levels:
                picks[match] = yield from self._told(match, leaves(levels, self._cluster), kept, slices)
        served = {match: self._served_by(match, picks) for match in (None, *self.subsets)}
        picks.update([(asked, everybody if other is None else picks.get(other, nobody)) for asked, other in served.items()])
        self._served = served
        return SubsetChoice(picks, picks[None]).pick

    def _served_by(self, match: Match | None, picks: Mapping[Match | None, Pick]) -> Match | None:
        if match in picks:
            return match
        return None if self.fallbacks is None else self.fallbacks.of(match, picks)

    def served_by(self, match: Match | None) -> Match | None:
        """What those have in common who serve requests with this `metadata_match`; None: nothing."""
        return self._served.get(match, self._served.get(None))

    def add_subset(self, match: Match) -> None:
        """A route asks for endpoints with this metadata; used with the next regrouping, as is what it falls back to."""
        for each in (match, *(() if self.fallbacks is None else self.fallbacks.towards(match))):
            self.subsets.setdefault(each, 0)

    def _told(self, match: Match | None, found: list[Leaf], kept: dict[_Key, _Group], slices: Slices) -> Generator[None, None, Pick]:
        """Balancers that know their endpoints, and who chooses among them."""
        parts: list[tuple[Pick, float]] = []
        for leaf in found:
            key = (match, leaf.key)
            group = self._groups.get(key)
            if group is None:
                group = _Group(self._spare.pop() if self._spare else self._make_balancer())
            kept[key] = group
            yield from self._update(group, leaf.endpoints, slices)
            parts.append((group.balancer.pick, leaf.share))
        if len(parts) > 1:
            return Choice(parts, self._random).pick
        return parts[0][0] if parts else nobody

    def _update(self, group: _Group, endpoints: list[EndpointPool], slices: Slices) -> Iterator[None]:
        """Tell a balancer if there is anything new for it. What a stranger's raises is logged, once it has been there at the start."""
        weights = array("q", [pool.weight for pool in endpoints])
        if endpoints == group.endpoints and weights == group.weights:
            return
        if slices.done(len(endpoints)):
            yield
        balancer = group.balancer
        try:
            if IGradualBalancer.providedBy(balancer):
                yield from balancer.updating(endpoints)
            else:
                balancer.update(endpoints)
        except Exception:
            if not self._has_begun:
                raise
            _log.failure("cluster {cluster}: the balancer {balancer!r} failed to take new endpoints", cluster=self._cluster.name, balancer=balancer)
            return
        group.endpoints, group.weights = endpoints, weights
        if slices.done(len(endpoints)):
            yield

    def _observer(self, groups: list[_Group], slices: Slices) -> Generator[None, None, Observe | None]:
        """Who is told of outcomes: the one balancer, or for each endpoint those that know it."""
        curious = [group for group in groups if IOutcomeObserver.providedBy(group.balancer)]
        if len(groups) <= 1 or not curious:
            return curious[0].balancer.observed if curious else None
        observers: dict[Any, list[Observe]] = {}
        for group in curious:
            for pool in group.endpoints:
                observers.setdefault(pool, []).append(group.balancer.observed)
                if slices.done():
                    yield
        self._observers = observers
        return self._observed

    def _observed(self, endpoint: Any, status: int, seconds: float) -> None:
        for observe in self._observers.get(endpoint, ()):
            observe(endpoint, status, seconds)

    def _say_panic(self, levels: list[Level]) -> None:
        was_panicking, self.levels = self.is_panicking, levels
        if self.is_panicking != was_panicking:
            _log.warn(
                "{cluster}: {what}",
                cluster=self._cluster.name,
                what="enough endpoints are healthy again" if was_panicking else "too few endpoints are healthy, so all are used (healthy_panic_threshold)",
            )


def why_out(pool: EndpointPool) -> str:
    """Why it gets no new requests as long as nobody panics, in words that follow a number of endpoints; "" when it does get some."""
    if not pool.configured.weight:
        return "with weight 0"
    if pool.configured.health not in USED:
        return f"{pool.configured.health} as discovery tells"
    if pool.check_failure is not None:
        return "failing their health checks"
    if pool.health is not None and pool.health.is_ejected:
        return "ejected for their answers"
    return ""
