"""What an active health check knows of one endpoint, and when it asks again (Envoy: active health checking).

Pure: results, `now` and dice come in; whether the endpoint's state changed comes out. The rules are Envoy's: the first probe decides alone, in both directions;
later `unhealthy_threshold` failures in a row take a healthy endpoint out (one, when the check says that it means it at once), and `healthy_threshold` successes
in a row bring an unhealthy one back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sidecar.model import HealthCheck

UNCHECKED, HEALTHY, UNHEALTHY = "unchecked", "healthy", "unhealthy"
# What is said against an endpoint before its first probe has ended.
NOT_YET = "not checked yet"


class CheckState:
    """One endpoint under one check. `state`: UNCHECKED, HEALTHY or UNHEALTHY, `since` then. `reason`: of the last failure, "" before one.
    `is_absent`: then nobody was there. `is_degraded`: as the last success told. `in_row`: results in a row that speak against the state. `checked_at`: end
    of the last probe, None before. All times in seconds of one clock.
    """

    __slots__ = ("checked_at", "in_row", "is_absent", "is_degraded", "is_spread", "probes", "reason", "since", "state", "succeeded_last")

    def __init__(self, now: float) -> None:
        self.state = UNCHECKED
        self.since = now
        self.reason = ""
        self.is_absent = self.is_degraded = False
        self.in_row = 0
        self.probes = 0
        self.checked_at: float | None = None
        self.succeeded_last = False
        # Has the second probe been set apart from those of endpoints that came at the same time?
        self.is_spread = False

    def succeeded(self, settings: HealthCheck, now: float, is_degraded: bool = False) -> bool:
        """A probe went well. Did the state change?"""
        self.is_absent, self.is_degraded = False, is_degraded
        self._ended(True, now)
        if self.state is HEALTHY:
            self.in_row = 0
            return False
        self.in_row += 1
        if self.state is UNHEALTHY and self.in_row < settings.healthy_threshold:
            return False
        return self._become(HEALTHY, now)

    def failed(self, settings: HealthCheck, reason: str, at_once: bool, now: float, is_absent: bool = False) -> bool:
        """A probe failed because of `reason`; `at_once`: the threshold does not matter. Did the state change?"""
        self.reason, self.is_absent = reason, is_absent
        self._ended(False, now)
        if self.state is UNHEALTHY:
            self.in_row = 0
            return False
        self.in_row += 1
        if self.state is HEALTHY and not at_once and self.in_row < settings.unhealthy_threshold:
            return False
        return self._become(UNHEALTHY, now)

    def _ended(self, succeeded: bool, now: float) -> None:
        self.probes += 1
        self.checked_at = now
        self.succeeded_last = succeeded

    def _become(self, state: str, now: float) -> bool:
        self.state = state
        self.since = now
        self.in_row = 0
        return True

    def delay(self, settings: HealthCheck, has_traffic: bool, dice: float) -> float:
        """Seconds from the end of the last probe to the next. `dice`: from 0 up to 1. `has_traffic`: has the cluster ever been used?

        The second probe comes after a random part of that time: endpoints that were found together, and so were first asked together, are then asked evenly.
        """
        base = self._interval(settings, has_traffic)
        if not self.is_spread:
            self.is_spread = True
            return base * dice
        return with_jitter(settings, base, dice)

    def _interval(self, settings: HealthCheck, has_traffic: bool) -> float:
        if not has_traffic:
            return (settings.no_traffic_healthy_interval if self.succeeded_last else None) or settings.no_traffic_interval
        if self.succeeded_last:
            return (settings.healthy_edge_interval if self.in_row else None) or settings.interval
        unhealthy = settings.unhealthy_interval or settings.interval
        return (settings.unhealthy_edge_interval or unhealthy) if self.in_row else unhealthy

    def snapshot(self, now: float) -> dict[str, Any]:
        """What `/clusters` shows."""
        return {
            "state": self.state,
            "degraded": self.is_degraded,
            "for_seconds": round(now - self.since, 1),
            "probes": self.probes,
            "last_result": "none yet" if self.checked_at is None else "success" if self.succeeded_last else "failure",
            "last_failure": self.reason,
            "last_probe_seconds_ago": None if self.checked_at is None else round(now - self.checked_at, 1),
        }

    def __repr__(self) -> str:
        return f"<CheckState {self.state} in_row={self.in_row} probes={self.probes} {self.reason!r}>"


def with_jitter(settings: HealthCheck, base: float, dice: float) -> float:
    """An interval and the random time added to it. `dice`: from 0 up to 1."""
    return base + dice * (settings.interval_jitter + base * settings.interval_jitter_percent / 100.0)


def combined(states: Sequence[tuple[str, CheckState]]) -> tuple[bool, str]:
    """Is an endpoint well under all of its checks (name, state), and if not, why: one sentence with the name of the check."""
    for name, state in states:
        if state.state is UNHEALTHY:
            return False, f"{name} check: {state.reason}"
    for name, state in states:
        if state.state is UNCHECKED:
            return False, f"{name} check: not done yet"
    return True, ""
