"""What a caller asks of the sidecar in header fields (Envoy's x-envoy-..., gRPC's grpc-timeout), where that is honoured; and what each attempt is told in turn.

A route has `Hints` only when something of it is configured; without, a request costs one test.
"""

from __future__ import annotations

from collections.abc import Container
from functools import lru_cache
from typing import Any

from sidecar.headers import Headers, field
from sidecar.model import RETRY_ATTEMPTS, MaxStreamDuration, ValueMatch
from sidecar.policy.conditions import GRPC_STATUSES, HTTP_CONDITIONS, Conditions, named, statuses_in
from sidecar.policy.retry import RetryRules
from sidecar.policy.timeouts import grpc_timeout, milliseconds, stream_duration

TIMEOUT = b"x-envoy-upstream-rq-timeout-ms"
PER_TRY_TIMEOUT = b"x-envoy-upstream-rq-per-try-timeout-ms"
EXPECTED = b"x-envoy-expected-rq-timeout-ms"
RETRY_ON = b"x-envoy-retry-on"
RETRY_GRPC_ON = b"x-envoy-retry-grpc-on"
MAX_RETRIES = b"x-envoy-max-retries"
RETRIABLE_STATUSES = b"x-envoy-retriable-status-codes"
RETRIABLE_HEADERS = b"x-envoy-retriable-header-names"
ATTEMPT_COUNT = b"x-envoy-attempt-count"
GRPC_TIMEOUT = b"grpc-timeout"
# Fields that are for this hop: they end here when they are honoured or dropped.
OURS = frozenset((TIMEOUT, PER_TRY_TIMEOUT, EXPECTED, RETRY_ON, RETRY_GRPC_ON, MAX_RETRIES, RETRIABLE_STATUSES, RETRIABLE_HEADERS, ATTEMPT_COUNT))
HINT_BYTES = 1024  # of one of these fields: all conditions with all statuses fit; what was compiled is kept for the next request, so it has to be bounded
NAMES_LIMIT = 16  # of fields in x-envoy-retriable-header-names that are looked at: each is a test of every answer


class Times:
    """The time that one exchange has. `timeout`: as a route's, seconds from the complete request, 0 for none; with `ends_with_head` until the answer's head.
    `per_try`: for one attempt, None for the route's. `ends_at`: when the exchange ends whatever happens, `call_ends`: when its caller stops waiting; of the
    exchange's clock, 0.0 for never.
    """

    __slots__ = ("call_ends", "ends_at", "ends_with_head", "per_try", "timeout")

    def __init__(self, timeout: float, ends_with_head: bool) -> None:
        self.timeout = timeout
        self.ends_with_head = ends_with_head
        self.per_try: float | None = None
        self.ends_at = self.call_ends = 0.0

    def deadline(self, moved: float, is_complete: bool, has_head: bool) -> float:
        """When the exchange ends, as far as is known; 0.0 for never. `moved`: when the request's last octet came."""
        end = moved + self.timeout if self.timeout and is_complete and not (self.ends_with_head and has_head) else 0.0
        return min(end, self.ends_at) if end and self.ends_at else end or self.ends_at

    def after_head(self, deadline: float) -> float:
        """The same once the answer's head is here."""
        return self.ends_at if self.ends_with_head else deadline


class Hints:
    """Of one route. `mode`: "pass", "drop" or "honor", what becomes of the caller's x-envoy-... fields; `rules`: for retries that only a caller asked for;
    `tells_time`: each attempt hears how much is left, `counts`: which one it is.
    """

    __slots__ = ("_counts", "_duration", "_ends_with_head", "_honors", "_rules", "_tells_time", "_timeout", "_told", "_whole", "is_plain", "settles")

    def __init__(
        self, timeout: float, ends_with_head: bool, mode: str, duration: MaxStreamDuration | None, rules: RetryRules | None, tells_time: bool, counts: bool
    ) -> None:
        self._timeout = timeout
        # What an attempt has whose request is not complete; None for no limit.
        self._whole = timeout if timeout and not ends_with_head else None
        self._ends_with_head = ends_with_head
        # Do the caller's fields end here?
        self.settles = mode != "pass"
        self._honors = mode == "honor"
        self._duration = duration
        # Only calls of gRPC that say how long they may take have times of their own here.
        self.is_plain = duration is None and mode != "honor"
        self._rules = rules
        self._tells_time = tells_time
        # What an attempt was told last, milliseconds and the field: most have nearly all of the timeout, so it serves many.
        self._told = 0, field(EXPECTED, b"1")
        self._counts = counts

    def times(self, exchange: Any) -> Times | None:
        """Once the route is known: what is different from the route's own times, None for nothing."""
        if self.is_plain and exchange.grpc is None:
            return None
        headers = exchange.request.headers
        times: Times | None = None
        asked = exchange._facts.call_timeout if exchange.grpc is not None else None
        duration = 0.0 if self._duration is None else stream_duration(self._duration, asked)
        if asked is not None or duration:
            times = Times(self._timeout, self._ends_with_head)
            times.call_ends = exchange.started + asked if asked is not None else 0.0
            if duration:
                times.ends_at = exchange.started + duration
                if asked is not None and self._ends_with_head and self._duration is not None and self._duration.grpc_timeout_header_max is not None:
                    # The caller said how long; the timeout that nobody configured does not cut it short.
                    times.timeout = 0.0
        if self._honors:
            times = self._honoured(headers, times)
        return times

    def _honoured(self, headers: Headers, times: Times | None) -> Times | None:
        whole = milliseconds(headers.get(TIMEOUT))
        if whole is None:
            whole = milliseconds(headers.get(EXPECTED))
        one = milliseconds(headers.get(PER_TRY_TIMEOUT))
        if whole is None and one is None:
            return times
        if times is None:
            times = Times(self._timeout, self._ends_with_head)
        if whole is not None:
            times.timeout = whole
            times.ends_with_head = False
        # As in Envoy: an attempt that may take as long as all of them has no time of its own.
        times.per_try = 0.0 if one is not None and times.timeout and one >= times.timeout else one
        return times

    def settle(self, exchange: Any) -> None:
        """The head hooks passed the request: take up what it asks about retries, and end here what is for us alone. Only where that `settles` anything."""
        headers = exchange.request.headers
        if self._honors:
            self._ask_retries(exchange, headers)
        if not OURS.isdisjoint([each[0] for each in headers.fields]):
            headers.fields = [each for each in headers.fields if each[0] not in OURS]

    def _ask_retries(self, exchange: Any, headers: Headers) -> None:
        times = exchange._times
        on, grpc_on, statuses, names = (_bounded(headers.get(name)) for name in (RETRY_ON, RETRY_GRPC_ON, RETRIABLE_STATUSES, RETRIABLE_HEADERS))
        most = headers.get(MAX_RETRIES)
        retry = exchange._retrying()
        if retry is None:
            if on is None and grpc_on is None and (times is None or not times.per_try):
                return
            exchange._begin_retries(self._rules)
            retry = exchange._retry
            if retry is None:
                # A tunnel.
                return
        if on is not None or grpc_on is not None or statuses is not None:
            retry.extra = extra = _conditions(on or b"", grpc_on or b"", statuses or b"", names or b"")
            retry.statuses = _Either(retry.statuses, extra.statuses)
        if most is not None and most.isdigit() and len(most) < 4:
            # A caller who counts gets no more than that.
            retry.attempts = retry.attempts_max = min(int(most) + 1, RETRY_ATTEMPTS)

    def stamp(self, exchange: Any, now: float) -> None:
        """An attempt is about to go up: tell it which one it is, and how much time is left."""
        headers = exchange.request.headers
        if self._counts:
            _set(headers, ATTEMPT_COUNT, b"%d" % exchange.attempts)
        times = exchange._times
        if not self._tells_time and (times is None or not times.call_ends):
            return
        left: float | None
        if exchange.request.upgrade is not None or exchange.request.method == b"CONNECT":
            left = None
        elif times is None and exchange._retry is None:
            # `_left`, without the call
            left = exchange._deadline - now if exchange._deadline else self._whole
        else:
            left = self._left(exchange, now)
        if left is not None and self._tells_time:
            told = int(left * 1000)
            last, same = self._told
            if told != last:
                # 0 would be taken for no limit.
                same = field(EXPECTED, b"%d" % (told if told > 1 else 1))
                self._told = told, same
            if exchange._is_stamped or exchange._facts.expects_time:
                headers.remove(EXPECTED)
            headers.fields.append(same)
        if times is not None and times.call_ends:
            call_left = times.call_ends - now
            _set(headers, GRPC_TIMEOUT, grpc_timeout(call_left if left is None else min(left, call_left)))

    def _left(self, exchange: Any, now: float) -> float | None:
        """Seconds for this attempt, None for no limit."""
        deadline = exchange._deadline
        left: float | None
        if deadline:
            left = deadline - now
        else:
            times = exchange._times
            left = self._whole if times is None else times.timeout if times.timeout and not self._ends_with_head else None
        retry = exchange._retry
        if retry is not None and retry.per_try_timeout and (retry.rules.hedge is None or not retry.rules.hedge.hedge_on_per_try_timeout):
            left = retry.per_try_timeout if left is None else min(left, retry.per_try_timeout)
        return left


class _Either:
    """Statuses that one of two policies wants to see."""

    __slots__ = ("_first", "_second")

    def __init__(self, first: Container[int], second: Container[int]) -> None:
        self._first = first
        self._second = second

    def __contains__(self, status: object) -> bool:
        return status in self._first or status in self._second


def _set(headers: Headers, name: bytes, value: bytes) -> None:
    """As `Headers.set`, for fields that are ours and sound: most requests have none of the name yet."""
    if name in headers:
        headers.set(name, value)
    else:
        headers.fields.append((name, value, b"%b: %b\r\n" % (name, value)))


def _bounded(value: bytes | None) -> bytes | None:
    return value if value is None or len(value) <= HINT_BYTES else None


@lru_cache(maxsize=64)
def _conditions(on: bytes, grpc_on: bytes, statuses: bytes, names: bytes) -> Conditions:
    wanted = named(on, HTTP_CONDITIONS) + named(grpc_on, GRPC_STATUSES)
    tests = _names_in(names) if "retriable-headers" in wanted else ()
    # As in Envoy: the list of statuses counts only where it is asked for.
    codes = statuses_in(statuses) if "retriable-status-codes" in wanted else ()
    return Conditions(Conditions.Config(on=wanted, retriable_statuses=codes, retriable_headers=tests))


def _names_in(value: bytes) -> tuple[ValueMatch, ...]:
    tests = []
    for part in value.split(b",")[:NAMES_LIMIT]:
        try:
            field(part.strip(), b"")
        except ValueError:
            continue
        tests.append(ValueMatch(name=part.strip().decode("ascii")))
    return tuple(tests)
