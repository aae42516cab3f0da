"""When an attempt is worth another one, and how long to wait before it. Whether the request may be sent twice is the exchange's question."""

from __future__ import annotations

from typing import Any

from sidecar.errors import ConnectFailed, SidecarError, StreamIdleTimeout, UpstreamClosed, UpstreamProtocolError, UpstreamTimeout
from sidecar.model import Retry

GATEWAY_STATUSES = frozenset({502, 503, 504})


class RetryRules:
    """`Retry` of a route, compiled. Times are seconds, `attempts` counts the first one as well."""

    __slots__ = (
        "attempts",
        "backoff_base",
        "backoff_max",
        "body_bytes",
        "budget_percent",
        "conditions",
        "idempotency_headers",
        "min_retry_concurrency",
        "per_try_timeout",
        "retry_after_max",
        "spare_timers",
        "statuses",
    )

    def __init__(self, settings: Retry) -> None:
        self.conditions = frozenset(settings.on)
        statuses = set(settings.retriable_statuses)
        if "gateway-error" in self.conditions:
            statuses |= GATEWAY_STATUSES
        if "5xx" in self.conditions:
            statuses |= set(range(500, 600))
        self.statuses = frozenset(statuses)
        self.attempts = settings.attempts
        self.per_try_timeout = settings.per_try_timeout
        # Of exchanges that are over, for those to come; as many as ran at once.
        self.spare_timers: list[Any] = []
        self.backoff_base = settings.backoff.base
        self.backoff_max = settings.backoff.max
        self.retry_after_max = settings.retry_after_max
        self.idempotency_headers = tuple(name.lower().encode() for name in settings.idempotency_headers)
        self.body_bytes = settings.body_bytes
        budget = settings.budget
        self.budget_percent = None if budget is None else budget.budget_percent
        self.min_retry_concurrency = 0 if budget is None else budget.min_retry_concurrency

    def condition_of(self, error: SidecarError) -> str:
        """The condition that this error meets, if it is one of the configured ones, else ""."""
        name = ""
        if isinstance(error, ConnectFailed):
            name = "connect-failure"
        elif isinstance(error, UpstreamTimeout) and not isinstance(error, StreamIdleTimeout):
            name = "timeout"
        elif isinstance(error, UpstreamClosed) and error.retry_safe:
            name = "refused-stream"
        elif isinstance(error, UpstreamClosed | UpstreamProtocolError):
            name = "reset"
        return name if name in self.conditions else ""

    def wait_before(self, retry: int, dice: float) -> float:
        """Seconds before the `retry`-th retry (from 1): anything up to an exponentially growing bound ("full jitter"), so that callers that failed together
        do not come back together. `dice`: from 0 up to 1.
        """
        return dice * min(self.backoff_max, self.backoff_base * 2.0 ** min(retry - 1, 30))

    def is_within_budget(self, retries: int, active: int) -> bool:
        """May one more retry run beside `retries` others, with `active` requests running in the cluster?"""
        if self.budget_percent is None:
            return True
        return retries < max(self.min_retry_concurrency, active * self.budget_percent / 100.0)


def retry_after_seconds(value: bytes | None) -> float | None:
    """Seconds that Retry-After asks for; None without one, and for a date (RFC 9110, section 10.2.3), which would need the other side's clock."""
    if value is None or not value.isdigit() or len(value) > 9:
        return None
    return float(value)
