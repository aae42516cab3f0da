"""A cluster's circuit: how many requests may run, and a breaker that refuses them all for a while when too many fail.

Closed: traffic flows and is counted. Open: refused. Half-open: a few real requests probe; when all of them succeed the circuit closes, when one fails it opens
again. Pure: `now` comes in.
"""

from __future__ import annotations

from typing import Any

from sidecar.model import CircuitBreakers

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"


class Circuit:
    """`enter` before a request goes up, and after each that was let in exactly one `leave`."""

    __slots__ = ("_closed_at", "_opened_sentence", "_settings", "failed", "opened", "passed", "probing", "refused", "running", "since", "state")

    def __init__(self, settings: CircuitBreakers, now: float) -> None:
        self._settings = settings
        self._opened_sentence = ""
        self._closed_at = now
        self.state = CLOSED
        # When the state, or in it the window, began.
        self.since = now
        self.running = 0
        # Of this window, or of these probes.
        self.passed = self.failed = self.probing = 0
        self.opened = self.refused = 0

    def enter(self, now: float) -> str:
        """May one more request go up? "" when it may; else why not, for a person."""
        settings = self._settings
        if settings.max_requests and self.running >= settings.max_requests:
            self.refused += 1
            return f"{self.running} requests run already (circuit_breakers.max_requests)"
        rate = settings.failure_rate
        if rate is not None and self.state is not CLOSED:
            if self.state is OPEN and now - self.since >= rate.open_time:
                self._become(HALF_OPEN, now)
            if self.state is OPEN or self.probing + self.passed >= rate.probes:
                self.refused += 1
                return self._opened_sentence
            self.probing += 1
        self.running += 1
        return ""

    def leave(self, entered_at: float, failed: bool | None, now: float) -> None:
        """A request that entered at `entered_at` is over. `failed`: None when its end says nothing about the cluster (its client went away)."""
        self.running -= 1
        rate = self._settings.failure_rate
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

    def enter_beside(self) -> str:
        """May a request that was let in have one more attempt beside its own? "" when it may; then `leave_beside` follows."""
        settings = self._settings
        if self.state is not CLOSED:
            return self._opened_sentence
        if settings.max_requests and self.running >= settings.max_requests:
            self.refused += 1
            return f"{self.running} requests run already (circuit_breakers.max_requests)"
        self.running += 1
        return ""

    def leave_beside(self) -> None:
        """Such an attempt is over; how it ended is told by the request's end."""
        self.running -= 1

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
        return {"circuit": self.state, "running": self.running, "refused": self.refused, "opened": self.opened}
