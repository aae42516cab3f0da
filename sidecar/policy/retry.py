"""The limits of a route's retries: how many, how long to wait, how many at a time. What is worth another attempt is the retry policy's question, whether the
request may be sent twice the exchange's.
"""

from __future__ import annotations

from collections.abc import Container
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from sidecar.model import Hedge, Retry

_DATE_LENGTH = 64  # octets of an HTTP date at most; the longest form has 33


class RetryRules:
    """`Retry` of a route, compiled. Times are seconds, `attempts` counts the first one as well. `decide`: the policy's, as the exchange calls it; `statuses`:
    what it wants to see."""

    __slots__ = (
        "attempts", "attempts_max", "backoff_base", "backoff_max", "body_bytes", "budget_percent", "decide", "hedge", "idempotency_headers", "is_plain",
        "min_retry_concurrency", "needs_timer", "per_try_idle_timeout", "per_try_timeout", "retry_after_max", "save_limit", "save_share", "saved",
        "spare_timers", "statuses",
    )  # fmt: skip

    def __init__(self, settings: Retry, decide: Any, statuses: Container[int], hedge: Hedge | None = None) -> None:
        self.decide = decide
        self.statuses = statuses
        self.attempts = settings.attempts
        self.attempts_max = settings.attempts_max
        self.per_try_timeout = settings.per_try_timeout
        self.per_try_idle_timeout = settings.per_try_idle_timeout
        self.hedge = hedge
        # Nothing but the time for one attempt is watched.
        self.is_plain = not settings.per_try_idle_timeout and hedge is None
        self.needs_timer = bool(settings.per_try_timeout or settings.per_try_idle_timeout or (hedge is not None and hedge.delay))
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
        # Retries that earlier requests did not need; each request adds its share. Full at first: an endpoint may be dead when we start.
        self.save_limit = self.saved = 0.0 if budget is None else float(budget.max_saved)
        self.save_share = 0.0 if budget is None else budget.budget_percent / 100.0

    def wait_before(self, retry: int, dice: float) -> float:
        """Seconds before the `retry`-th retry (from 1): anything up to an exponentially growing bound ("full jitter"), so that callers that failed together
        do not come back together. `dice`: from 0 up to 1.
        """
        return dice * min(self.backoff_max, self.backoff_base * 2.0 ** min(retry - 1, 30))

    def is_within_share(self, retries: int, active: int) -> bool:
        """May one more retry run beside `retries` others, with `active` requests running in the cluster, without a saved one?"""
        return self.budget_percent is None or retries < max(self.min_retry_concurrency, active * self.budget_percent / 100.0)

    def take_saved(self) -> bool:
        """Use up a saved retry. Was there one?"""
        if self.saved < 1.0:
            return False
        self.saved -= 1.0
        return True

    def give_back(self, count: int) -> None:
        """So many saved ones helped. While an overload lasts requests fail whatever is tried, and nothing comes back; where somebody is there who can
        serve them retries cost nobody anything.
        """
        self.saved = min(self.save_limit, self.saved + count)

    @property
    def may_search(self) -> bool:
        """Are there so many saved ones that a request may go on beyond its attempts? The other half is for ordinary retries, which do not depend on how many
        endpoints there are.
        """
        return self.saved >= max(1.0, self.save_limit / 2.0)


def retry_after_seconds(value: bytes | None, date: bytes | None, now: float) -> float | None:
    """Seconds that Retry-After asks for (RFC 9110, section 10.2.3): a number, or a date, which is compared with the answer's own `Date`, so that the two
    clocks need not agree; with `now` (POSIX seconds) when it has none. None for no value, and for one that is neither. A date that is over is 0.
    """
    if value is None or len(value) > _DATE_LENGTH:
        return None
    if value.isdigit():
        return float(value) if len(value) < 10 else None
    at = _posix(value)
    if at is None:
        return None
    asked = None if date is None or len(date) > _DATE_LENGTH else _posix(date)
    return max(0.0, at - (now if asked is None else asked))


def _posix(value: bytes) -> float | None:
    """An HTTP date (RFC 9110, section 5.6.7), any of its three forms."""
    try:
        moment = parsedate_to_datetime(value.decode("ascii"))
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, UnicodeDecodeError):
        return None
