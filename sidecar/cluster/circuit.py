"""A cluster's circuit: how much may run, for each routing priority, and a breaker that refuses everything for a while when too much fails.

The limits are Envoy's circuit breakers: what requests of one priority use is counted apart from what the other's do, so that what matters gets through when the
rest fills its share. The breaker looks at all of them together. Closed: traffic flows and is counted. Open: refused. Half-open: a few real requests probe; when
all of them succeed the circuit closes, when one fails it opens again. Pure: `now` comes in.
"""

from __future__ import annotations

from typing import Any

from sidecar.model import CircuitBreakers, CircuitLimits

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"
DEFAULT, HIGH = 0, 1  # routing priorities
_WHERE = ("circuit_breakers", "circuit_breakers.high")


class Circuit:
    """`enter` before a request goes up, and after each that was let in exactly one `leave`, with the same priority."""

    __slots__ = (
        "_closed_at", "_limits", "_opened_sentence", "_rate", "_retrying", "_running", "failed", "opened", "passed", "probing", "refused", "since", "state",
    )  # fmt: skip

    def __init__(self, settings: CircuitBreakers, now: float) -> None:
        self._rate = settings.failure_rate
        own = CircuitLimits(
            max_connections=settings.max_connections, max_pending=settings.max_pending, max_requests=settings.max_requests, max_retries=settings.max_retries
        )
        self._limits = (own, own if settings.high is None else settings.high)
        self._opened_sentence = ""
        self._closed_at = now
        self.state = CLOSED
        # When the state, or in it the window, began.
        self.since = now
        self._running = [0, 0]
        self._retrying = [0, 0]
        # Of this window, or of these probes.
        self.passed = self.failed = self.probing = 0
        self.opened = self.refused = 0

    @property
    def running(self) -> int:
        """Requests of both priorities."""
        return self._running[DEFAULT] + self._running[HIGH]

    def enter(self, now: float, priority: int = DEFAULT) -> str:
        """May one more request go up? "" when it may; else why not, for a person."""
        sentence = self._over_requests(priority)
        if sentence:
            return sentence
        rate = self._rate
        if rate is not None and self.state is not CLOSED:
            if self.state is OPEN and now - self.since >= rate.open_time:
                self._become(HALF_OPEN, now)
            if self.state is OPEN or self.probing + self.passed >= rate.probes:
                self.refused += 1
                return self._opened_sentence
            self.probing += 1
        self._running[priority] += 1
        return ""

    def _over_requests(self, priority: int) -> str:
        limit, running = self._limits[priority].max_requests, self._running[priority]
        if not limit or running < limit:
            return ""
        self.refused += 1
        return f"{running} requests run already ({_WHERE[priority]}.max_requests)"

    def leave(self, entered_at: float, failed: bool | None, now: float, priority: int = DEFAULT) -> None:
        """A request that entered at `entered_at` is over. `failed`: None when its end says nothing about the cluster (its client went away)."""
        self._running[priority] -= 1
        rate = self._rate
        if rate is None or self.state is OPEN:
            return
        if self.state is HALF_OPEN:
            if entered_at < self.since:
                # From before the circuit opened: no probe.
                return
            self.probing -= 1
            if failed:
                self._open(now, "a probe failed")
            elif failed is False:
                self.passed += 1
                if self.passed >= rate.probes:
                    self._become(CLOSED, now)
                    self._closed_at = now
            return
        if entered_at < self._closed_at:
            # What began before the circuit opened and ends after it closed again is old news.
            return
        if failed is None:
            return
        if now - self.since >= rate.window:
            self._become(CLOSED, now)
        if failed:
            self.failed += 1
        else:
            self.passed += 1
        count = self.passed + self.failed
        if count >= rate.minimum_requests and 100.0 * self.failed >= rate.failure_percent * count:
            self._open(now, f"{self.failed} of {count} requests failed")

    def enter_beside(self, priority: int = DEFAULT) -> str:
        """May a request that was let in have one more attempt beside its own? "" when it may; then `leave_beside` follows."""
        if self.state is not CLOSED:
            return self._opened_sentence
        sentence = self._over_requests(priority)
        if not sentence:
            self._running[priority] += 1
        return sentence

    def leave_beside(self, priority: int = DEFAULT) -> None:
        """Such an attempt is over; how it ended is told by the request's end."""
        self._running[priority] -= 1

    def enter_retry(self, priority: int = DEFAULT) -> str:
        """May one more request begin to be retried? "" when it may; then `leave_retry` follows when it is over."""
        limit, running = self._limits[priority].max_retries, self._retrying[priority]
        if limit and running >= limit:
            return f"{running} requests are being retried already ({_WHERE[priority]}.max_retries)"
        self._retrying[priority] += 1
        return ""

    def leave_retry(self, priority: int = DEFAULT) -> None:
        """A request that was retried is over."""
        self._retrying[priority] -= 1

    def why_not_wait(self, waiting: list[int]) -> str:
        """May one more request wait for a connection? `waiting`: how many do, by priority; the last number is the priority of that one. "" when it may."""
        priority = waiting[-1]
        limit = self._limits[priority].max_pending
        if not limit or waiting[priority] < limit:
            return ""
        self.refused += 1
        return f"{waiting[priority]} requests wait for a connection already ({_WHERE[priority]}.max_pending)"

    def most_pending(self, priority: int) -> int:
        """How many requests of this priority may wait for a connection; 0 for no limit."""
        return self._limits[priority].max_pending

    def most_connections(self, priority: int) -> int:
        """With how many connections in the cluster a request of this priority may have one more made; 0 for no limit."""
        return self._limits[priority].max_connections

    def _open(self, now: float, why: str) -> None:
        self._become(OPEN, now)
        self.opened += 1
        self._opened_sentence = f"the circuit is open: {why} (circuit_breakers.failure_rate)"

    def _become(self, state: str, now: float) -> None:
        self.state = state
        self.since = now
        self.passed = self.failed = self.probing = 0

    def snapshot(self) -> dict[str, Any]:
        """What `/clusters` shows."""
        return {
            "circuit": self.state,
            "running": self.running,
            "running_high": self._running[HIGH],
            "retrying": sum(self._retrying),
            "refused": self.refused,
            "opened": self.opened,
        }
