"""Peak EWMA: of two endpoints taken by chance the one whose answers cost less: the time they took lately, times the requests that it has now.

The average over time forgets with `decay_time`, but a slower answer than the average counts at once ("peak"), so that an endpoint that becomes slow is avoided
at its first slow answer and tried again as the memory fades.
"""

from __future__ import annotations

from math import exp
from random import Random
from typing import Annotated, Any

import msgspec
from zope.interface import implementer

from sidecar.cluster.shares import Shares
from sidecar.interfaces import IBalancer, IOutcomeObserver
from sidecar.model import Duration

DECAY_SECONDS = 10.0  # Finagle's and Linkerd's default
FAILURE_PENALTY_SECONDS = 1.0  # an endpoint that fails at once must not look quick


@implementer(IBalancer, IOutcomeObserver)
class PeakEWMA:
    """Balancer `peak-ewma`. `random()` gives a number from 0 up to 1; tests replace it."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`decay_time` and `failure_penalty` in seconds: how fast is forgotten, and what a failed attempt is taken to have cost at least."""

        decay_time: Annotated[float, msgspec.Meta(gt=0, extra={"syntax": "duration"})] = DECAY_SECONDS
        failure_penalty: Duration = FAILURE_PENALTY_SECONDS

    __slots__ = ("_config", "_costs", "_now", "random", "shares")

    def __init__(self, config: Config, context: Any) -> None:
        self._config = config
        self._now = context.clock.seconds
        self.random = Random().random
        self.shares = Shares([])
        # endpoint -> (seconds an answer costs, as of when)
        self._costs: dict[Any, tuple[float, float]] = {}

    def update(self, endpoints: list[Any]) -> None:
        """Use these from now on; what is known of those that stay is kept."""
        self.shares = Shares(endpoints)
        self._costs = {endpoint: self._costs[endpoint] for endpoint in endpoints if endpoint in self._costs}

    def observed(self, endpoint: Any, status: int, seconds: float) -> None:
        """See `IOutcomeObserver.observed`."""
        config = self._config
        if status >= 500:
            seconds = max(seconds, config.failure_penalty)
        now = self._now()
        cost, then = self._costs.get(endpoint, (0.0, now))
        if seconds < cost:
            kept = exp((then - now) / config.decay_time)
            seconds = cost * kept + seconds * (1.0 - kept)
        self._costs[endpoint] = (seconds, now)

    def pick(self, exchange: object, tried: tuple[object, ...]) -> Any:
        """See `IBalancer.pick`. Between equals the first taken wins, so that idle endpoints get their shares by weight."""
        shares = self.shares
        if not shares.endpoints:
            return None
        first, second = shares.untried(self.random, tried), shares.untried(self.random, tried)
        if first is second:
            return first
        now = self._now()
        return second if self._load(second, now) * first.weight < self._load(first, now) * second.weight else first

    def _load(self, endpoint: Any, now: float) -> float:
        cost, then = self._costs.get(endpoint, (0.0, now))
        if cost == 0.0:
            # Nothing known: worth trying, but not by everybody at once.
            return float(endpoint.active) * 0.001
        kept: float = exp((then - now) / self._config.decay_time)
        return cost * kept * (int(endpoint.active) + 1)
