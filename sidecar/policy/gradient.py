"""How many requests may run at a time, found from how long they take: Envoy's gradient controller (adaptive_concurrency), without its timers.

From time to time only a few requests are let in, to see how long one takes when nothing is in its way (minRTT). In between, each update interval compares the
latency of its requests with that: slower means that requests queue up, so fewer are let in; as quick as at best means that there may be room for more.
Nothing happens by itself: every call carries `now`, in seconds, and does what is due by then. Without requests nothing needs to be done.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

from msgspec import Meta, Struct

from sidecar.model import Duration

Share = Annotated[float, Meta(ge=0, le=100)]
Positive = Annotated[int, Meta(ge=1)]

# A gradient beyond these would trust one window too much (Envoy: the same).
GRADIENT_MINIMUM, GRADIENT_MAXIMUM = 0.5, 2.0
# So many windows in a row at the least limit: minRTT is out of date, and is measured anew (Envoy: the same).
WINDOWS_AT_MINIMUM = 5
# Latencies are counted in buckets 2 % wide, so that a window takes the same memory however many requests it has.
_BUCKET = math.log(1.02)
_SHORTEST_SECONDS = 1e-6


class ConcurrencyLimitParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`max_concurrency_limit`: never more. `concurrency_update_interval`: how long a window of samples is."""

    max_concurrency_limit: Positive = 1000
    concurrency_update_interval: Duration = 0.1

    def __post_init__(self) -> None:
        """Raises `ValueError` for an interval of no length."""
        if self.concurrency_update_interval <= 0:
            raise ValueError("`concurrency_update_interval` is above 0 seconds")


class MinRTTParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`interval`: between two measurements of minRTT, and up to `jitter` percent more. `request_count`: samples of one. `min_concurrency`: the limit meanwhile,
    and the least at any time. `buffer`: so many percent slower than minRTT is still at its best. `fixed_value`: a minRTT that is known, instead of
    measurements."""

    interval: Duration = 60.0
    request_count: Positive = 50
    jitter: Share = 15.0
    min_concurrency: Positive = 3
    buffer: Share = 25.0
    fixed_value: Duration | None = None

    def __post_init__(self) -> None:
        """Raises `ValueError` for a time of no length."""
        if self.interval <= 0 or (self.fixed_value is not None and self.fixed_value <= 0):
            raise ValueError("`interval` and `fixed_value` are above 0 seconds")


class GradientSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`sample_aggregate_percentile`: which latency stands for a window's."""

    sample_aggregate_percentile: Share = 50.0
    concurrency_limit_params: ConcurrencyLimitParams = ConcurrencyLimitParams()
    min_rtt_calc_params: MinRTTParams = MinRTTParams()

    def __post_init__(self) -> None:
        """Raises `ValueError` when the least limit is above the greatest."""
        if self.min_rtt_calc_params.min_concurrency > self.concurrency_limit_params.max_concurrency_limit:
            raise ValueError("`min_concurrency` is above `max_concurrency_limit`")


class Latencies:
    """A window's samples. `count`: how many."""

    __slots__ = ("_buckets", "count")

    def __init__(self) -> None:
        self.count = 0
        self._buckets: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        """One more."""
        self.count += 1
        bucket = int(math.log(max(seconds, _SHORTEST_SECONDS)) // _BUCKET)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    def percentile(self, percent: float) -> float:
        """The latency, within 1 %, that `percent` of the samples do not exceed; 0 without samples."""
        wanted = max(1, math.ceil(self.count * percent / 100.0))
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return math.exp((bucket + 0.5) * _BUCKET)
        return 0.0

    def clear(self) -> None:
        """A new window."""
        self.count = 0
        self._buckets.clear()


class GradientController:
    """One limit. `try_enter` for each request; after each that was let in exactly one `leave`. `dice`: numbers in [0, 1), for the jitter."""

    __slots__ = (
        "_at_minimum", "_deferred_limit", "_dice", "_epoch", "_latencies", "_next_measurement", "_next_update", "_settings", "gradient", "is_measuring",
        "limit", "measurements", "min_rtt", "running", "sample_rtt",
    )  # fmt: skip

    def __init__(self, settings: GradientSettings, now: float, dice: Callable[[], float]) -> None:
        self._settings = settings
        self._dice = dice
        self._latencies = Latencies()
        self._at_minimum = 0
        self._deferred_limit = 0
        self._epoch = now
        self._next_measurement = math.inf
        self._next_update = now + settings.concurrency_limit_params.concurrency_update_interval
        self.running = 0
        self.gradient = 0.0
        self.sample_rtt = 0.0
        # How often minRTT was measured.
        self.measurements = 0
        self.is_measuring = False
        fixed = settings.min_rtt_calc_params.fixed_value
        self.min_rtt = 0.0 if fixed is None else fixed
        self.limit = settings.min_rtt_calc_params.min_concurrency
        if fixed is None:
            self._begin_measuring(now)

    def try_enter(self, now: float) -> bool:
        """May one more request run?"""
        self._catch_up(now)
        if self.running >= self.limit:
            return False
        self.running += 1
        return True

    def leave(self, entered_at: float, now: float, counts: bool = True) -> None:
        """A request that entered at `entered_at` is over. `counts`: its time says something about the application (its client did not just go away)."""
        self.running -= 1
        if counts and entered_at >= self._epoch:
            self._latencies.add(now - entered_at)
            if self.is_measuring and self._latencies.count >= self._settings.min_rtt_calc_params.request_count:
                self._end_measuring(now)
                return
        self._catch_up(now)

    def _catch_up(self, now: float) -> None:
        """What is due by now happens."""
        if now >= self._next_update:
            self._next_update = now + self._settings.concurrency_limit_params.concurrency_update_interval
            if not self.is_measuring and self._latencies.count:
                self._update(now)
        if now >= self._next_measurement and not self.is_measuring:
            self._begin_measuring(now)

    def _begin_measuring(self, now: float) -> None:
        """Only a few requests run at a time until minRTT is known."""
        self.is_measuring = True
        self._next_measurement = math.inf
        self._at_minimum = 0
        self._deferred_limit = self.limit
        self.limit = self._settings.min_rtt_calc_params.min_concurrency
        # Requests that entered before met the others.
        self._epoch = now
        self._latencies.clear()

    def _end_measuring(self, now: float) -> None:
        params = self._settings.min_rtt_calc_params
        self.min_rtt = self._latencies.percentile(self._settings.sample_aggregate_percentile)
        self.measurements += 1
        self.is_measuring = False
        self.limit = self._deferred_limit
        self._latencies.clear()
        self._next_measurement = now + params.interval * (1.0 + params.jitter / 100.0 * self._dice())
        self._next_update = now + self._settings.concurrency_limit_params.concurrency_update_interval

    def _update(self, now: float) -> None:
        """A window is over: what does it say?"""
        params = self._settings.min_rtt_calc_params
        self.sample_rtt = self._latencies.percentile(self._settings.sample_aggregate_percentile)
        self._latencies.clear()
        raw = self.min_rtt * (1.0 + params.buffer / 100.0) / self.sample_rtt
        self.gradient = max(GRADIENT_MINIMUM, min(GRADIENT_MAXIMUM, raw))
        new = self.limit * self.gradient
        # Headroom: the limit grows only when requests may come up to it (Envoy: the same).
        new += math.sqrt(new)
        self.limit = int(max(params.min_concurrency, min(self._settings.concurrency_limit_params.max_concurrency_limit, new)))
        self._at_minimum = self._at_minimum + 1 if self.limit == params.min_concurrency else 0
        if self._at_minimum >= WINDOWS_AT_MINIMUM and params.fixed_value is None:
            self._begin_measuring(now)

    def snapshot(self) -> dict[str, Any]:
        """The numbers for a person."""
        return {
            "limit": self.limit,
            "running": self.running,
            "gradient": round(self.gradient, 3),
            "min_rtt_seconds": self.min_rtt,
            "sample_rtt_seconds": self.sample_rtt,
            "is_measuring": self.is_measuring,
            "measurements": self.measurements,
        }

    def __repr__(self) -> str:
        return f"<GradientController {self.snapshot()}>"
