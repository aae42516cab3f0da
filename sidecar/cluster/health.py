"""How well endpoints are, as their answers tell (Envoy: outlier detection), and which of them may be used.

Pure: what happened and `now` come in, and whether the set of usable endpoints changed comes out. An endpoint that does badly is ejected for
`base_ejection_time`, times how often that happened lately; each interval that it gets through forgives one time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf, sqrt
from typing import Any

from sidecar.model import OutlierDetection
from sidecar.outcomes import LocalOutcome

GATEWAY_STATUSES = frozenset({502, 503, 504})
Counted = tuple["Health", int, int]  # an endpoint, how many of the interval's attempts are looked at, and how many of these went wrong


class Health:
    """One endpoint's state. `ejected_until`: seconds, 0.0 while it is in use. `times`: ejections not yet forgiven. `returned_at`: end of the last
    ejection. `reason`: of the last one. `spared`: why it was not taken out though it did badly, until an interval without failures; else "". `local_...`: where
    failures of our side are told from answers, those and all attempts; what has no such name is about answers then, else about everything."""

    __slots__ = (
        "ejected_until", "ejections", "failures", "gateway_in_row", "in_row", "interval", "is_watched", "local_failures", "local_in_row",
        "local_requests", "name", "reason", "requests", "returned_at", "spared", "times",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.in_row = self.gateway_in_row = self.local_in_row = 0
        # Of the interval with this number.
        self.interval = -1
        self.requests = self.failures = 0
        self.local_requests = self.local_failures = 0
        self.ejected_until = 0.0
        self.returned_at = 0.0
        self.times = 0
        self.ejections = 0
        self.reason = self.spared = ""
        # Does its cluster still have it?
        self.is_watched = False

    @property
    def is_ejected(self) -> bool:
        """Does it get no requests for now?"""
        return self.ejected_until > 0.0

    def snapshot(self, now: float) -> dict[str, Any]:
        """What `/clusters` shows."""
        return {
            "consecutive_failures": self.in_row,
            "consecutive_local_failures": self.local_in_row,
            "ejections": self.ejections,
            "ejected_for_seconds": round(max(0.0, self.ejected_until - now), 1),
            "last_ejection": self.reason,
            "spared": self.spared,
        }


class OutlierJudge:
    """Judges the endpoints of one cluster, `count` of them. `dice()` gives a number from 0 up to 1; `ejected(health, seconds)` is told of each ejection,
    and with 0 seconds of an endpoint that `max_ejection_percent` spares. `overflows`: how often it did.
    """

    __slots__ = (
        "_busy", "_dice", "_ejected", "_interval", "_marked", "_next_return", "_settings", "_splits", "_volume", "count", "next_interval", "out",
        "overflows",
    )  # fmt: skip

    def __init__(
        self,
        settings: OutlierDetection,
        now: float,
        dice: Callable[[], float],
        ejected: Callable[[Health, float], None] = lambda health, seconds: None,
    ) -> None:
        self._settings = settings
        self._splits = settings.split_external_local_origin_errors
        self._dice = dice
        self._ejected = ejected
        self.next_interval = now + settings.interval
        self.count = 0
        self.overflows = 0
        # Those of them that are ejected: asked at each failure, and far fewer. And when the first of them comes back, or earlier.
        self.out: dict[Health, None] = {}
        self._next_return = inf
        # What the end of an interval looks at: those that were asked so often in it that a rate may be judged, and those with something to be forgiven. Of ten
        # thousand most are neither, and to look at all would stop the event loop for milliseconds; so they count anew when they are asked in the next one.
        self._interval = 0
        self._volume = _volume(settings)
        self._busy: dict[Health, None] = {}
        self._marked: dict[Health, None] = {}

    def admit(self, health: Health) -> None:
        """This endpoint is in the cluster from now on, as it was when it was there before."""
        health.is_watched = True
        self.count += 1
        if health.is_ejected:
            self.out[health] = None
            self._next_return = min(self._next_return, health.ejected_until)
        if health.times or health.spared:
            self._marked[health] = None
        if health.interval == self._interval and self._volume and max(health.requests, health.local_requests) >= self._volume:
            self._busy[health] = None

    def dismiss(self, health: Health) -> None:
        """It left. What comes in late of it says nothing any more."""
        health.is_watched = False
        self.count -= 1
        self.out.pop(health, None)
        self._busy.pop(health, None)
        self._marked.pop(health, None)

    def observe(self, health: Health, status: int, now: float) -> bool:
        """An attempt at this endpoint ended with `status`, or one of `sidecar.outcomes` where it gave none. Was it ejected for it?"""
        if not health.is_watched:
            return False
        if health.interval != self._interval:
            health.interval = self._interval
            health.requests = health.failures = health.local_requests = health.local_failures = 0
        if self._splits:
            health.local_requests += 1
            if health.local_requests == self._volume:
                self._busy[health] = None
            if status.__class__ is LocalOutcome:
                return self._observe_local(health, status, now)
            health.local_in_row = 0
        health.requests += 1
        if health.requests == self._volume:
            self._busy[health] = None
        if status < 500:
            health.in_row = health.gateway_in_row = 0
            return False
        health.failures += 1
        return self._failed_again(health, status in GATEWAY_STATUSES, now)

    def lost(self, health: Health, now: float) -> bool:
        """It had more time for a request than another endpoint, which answered first, so that its own answer will never be known. That is no failure which
        counts for rates, because it may be chance; one that never comes first is of no use to anybody. Was it ejected for it?"""
        if not health.is_watched:
            return False
        return self._local_failed_again(health, now) if self._splits else self._failed_again(health, True, now)

    def _failed_again(self, health: Health, is_gateway: bool, now: float) -> bool:
        settings = self._settings
        health.in_row += 1
        if is_gateway:
            health.gateway_in_row += 1
        else:
            health.gateway_in_row = 0
        # A count that is reached begins anew, also where nothing follows: else each further failure would throw the dice of `enforcing_...` again.
        limit = settings.consecutive_gateway_failure
        if limit and health.gateway_in_row >= limit:
            health.gateway_in_row = 0
            if self._eject(health, settings.enforcing_consecutive_gateway_failure, f"{limit} gateway failures in a row", now):
                return True
        limit = settings.consecutive_5xx
        if not limit or health.in_row < limit:
            return False
        health.in_row = 0
        return self._eject(health, settings.enforcing_consecutive_5xx, f"{limit} failures in a row", now)

    def _observe_local(self, health: Health, status: int, now: float) -> bool:
        if status < 500:
            health.local_in_row = 0
            return False
        health.local_failures += 1
        return self._local_failed_again(health, now)

    def _local_failed_again(self, health: Health, now: float) -> bool:
        settings = self._settings
        health.local_in_row += 1
        limit = settings.consecutive_local_origin_failure
        if not limit or health.local_in_row < limit:
            return False
        health.local_in_row = 0
        return self._eject(health, settings.enforcing_consecutive_local_origin_failure, f"{limit} attempts in a row without an answer", now)

    def sweep(self, now: float) -> bool:
        """Time went on: those whose time is over come back, and at the end of an interval the rates are judged. Did the usable endpoints change?"""
        changed = False
        if now >= self._next_return:
            for health in [each for each in self.out if now >= each.ejected_until]:
                self.forgive(health, now)
                changed = True
            self._next_return = min((each.ejected_until for each in self.out), default=inf)
        if now < self.next_interval:
            return changed
        self.next_interval = now + self._settings.interval
        busy, self._busy = self._busy, {}
        changed |= self._judge_rates(busy, now)
        marked, self._marked = self._marked, {}
        for health in marked:
            if health.times and not health.ejected_until and now - health.returned_at >= self._settings.interval:
                health.times -= 1
            if health.spared and (health.interval != self._interval or not (health.failures or health.local_failures)):
                health.spared = ""
            if health.times or health.spared:
                self._marked[health] = None
        self._interval += 1
        return changed

    def forgive(self, health: Health, now: float) -> None:
        """An ejected one is used again, with a clean slate: what it was out for is no reason to take it out once more at the end of the interval."""
        health.ejected_until = 0.0
        health.returned_at = now
        health.in_row = health.gateway_in_row = health.local_in_row = 0
        health.requests = health.failures = health.local_requests = health.local_failures = 0
        self.out.pop(health, None)

    def next_change(self) -> float:
        """When `sweep` is to be called next, seconds."""
        return min(self.next_interval, self._next_return)

    def _judge_rates(self, busy: Iterable[Health], now: float) -> bool:
        settings = self._settings
        answered = [(each, each.requests, each.failures) for each in busy if each.requests]
        changed = self._judge_success_rates(answered, settings.enforcing_success_rate, "of its answers good", now)
        changed |= self._judge_failure_percentages(answered, settings.enforcing_failure_percentage, "of its answers were failures", now)
        if self._splits:
            tried = [(each, each.local_requests, each.local_failures) for each in busy if each.local_requests]
            changed |= self._judge_success_rates(tried, settings.enforcing_local_origin_success_rate, "of its attempts answered", now)
            changed |= self._judge_failure_percentages(tried, settings.enforcing_failure_percentage_local_origin, "of its attempts had no answer", now)
        return changed

    def _judge_success_rates(self, counted: Iterable[Counted], enforcing: int, words: str, now: float) -> bool:
        """Those far below the others: below the mean less `success_rate_stdev_factor` thousandths of the standard deviation."""
        settings = self._settings
        if not enforcing:
            return False
        judged = [(each, 1.0 - bad / count) for each, count, bad in counted if count >= settings.success_rate_request_volume and not each.is_ejected]
        if not judged or len(judged) < settings.success_rate_minimum_hosts:
            return False
        mean = sum(rate for _, rate in judged) / len(judged)
        deviation = sqrt(sum((rate - mean) ** 2 for _, rate in judged) / len(judged))
        threshold = mean - deviation * settings.success_rate_stdev_factor / 1000.0
        changed = False
        for health, rate in judged:
            if rate < threshold:
                changed |= self._eject(health, enforcing, f"{rate:.1%} {words} where all have {mean:.1%}", now)
        return changed

    def _judge_failure_percentages(self, counted: Iterable[Counted], enforcing: int, words: str, now: float) -> bool:
        settings = self._settings
        if not enforcing:
            return False
        judged = [(each, 100.0 * bad / count) for each, count, bad in counted if count >= settings.failure_percentage_request_volume and not each.is_ejected]
        if len(judged) < settings.failure_percentage_minimum_hosts:
            return False
        changed = False
        for health, percentage in judged:
            if percentage >= settings.failure_percentage_threshold:
                changed |= self._eject(health, enforcing, f"{percentage:.0f} % {words}", now)
        return changed

    def _eject(self, health: Health, enforcing: int, reason: str, now: float) -> bool:
        """Take it out, unless that is not enforced this time or too many are out already. One may always be."""
        settings = self._settings
        if health.is_ejected or not enforcing or (enforcing < 100 and self._dice() * 100.0 >= enforcing):
            return False
        if 100.0 * len(self.out) >= settings.max_ejection_percent * self.count:
            self._spare(health, reason)
            return False
        self.out[health] = self._marked[health] = None
        longest = max(settings.base_ejection_time, settings.max_ejection_time)
        if settings.base_ejection_time * health.times < longest:
            # Beyond, it would only take longer to be forgiven.
            health.times += 1
        health.ejections += 1
        seconds = min(settings.base_ejection_time * health.times, longest)
        if settings.max_ejection_time_jitter:
            seconds += self._dice() * settings.max_ejection_time_jitter
        health.ejected_until = now + seconds
        self._next_return = min(self._next_return, health.ejected_until)
        health.reason = reason
        health.spared = ""
        health.in_row = health.gateway_in_row = health.local_in_row = 0
        self._ejected(health, seconds)
        return True

    def _spare(self, health: Health, reason: str) -> None:
        """It would be taken out if others were not (Envoy: ejections_overflow)."""
        self.overflows += 1
        is_news = not health.spared
        self._marked[health] = None
        health.spared = f"{reason}, but {len(self.out)} of {self.count} endpoints are out already (max_ejection_percent)"
        if is_news:
            self._ejected(health, 0.0)


def _volume(settings: OutlierDetection) -> int:
    """Fewer requests in an interval than these say nothing to any detector that is on; 0 when none is."""
    volumes = []
    if settings.enforcing_success_rate or (settings.split_external_local_origin_errors and settings.enforcing_local_origin_success_rate):
        volumes.append(max(1, settings.success_rate_request_volume))
    if settings.enforcing_failure_percentage or (settings.split_external_local_origin_errors and settings.enforcing_failure_percentage_local_origin):
        volumes.append(max(1, settings.failure_percentage_request_volume))
    return min(volumes, default=0)
