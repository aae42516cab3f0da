"""Another attempt for a request whose first one failed: only what is safe is sent twice, and never more often than configured."""

from __future__ import annotations

import random
from typing import Any

from sidecar.errors import SidecarError, UpstreamClosed, UpstreamTimeout
from sidecar.headers import Headers
from sidecar.message import End, ResponseHead
from sidecar.policy.retry import RetryRules, retry_after_seconds
from sidecar.proxy.calls import PluginCalls
from sidecar.proxy.exchange_state import IDEMPOTENT


class TryTimer:
    """A timer of the wheel that serves one exchange after the other: to set one that was used is far cheaper than to make one."""

    __slots__ = ("clear", "exchange", "set")

    def __init__(self, wheel: Any) -> None:
        timer = wheel.timer(self._fired)
        self.set = timer.set
        self.clear = timer.clear
        self.exchange: RetryWay | None = None

    def _fired(self) -> None:
        if self.exchange is not None:
            self.exchange.try_timed_out()


class Retrying:
    """What an exchange with a retry policy keeps: its body up to a limit (in the place of a body flow, or behind one), its timers, its place in the budget."""

    __slots__ = ("attempt", "connector", "delayed", "events", "exchange", "is_exhausted", "is_too_long", "rules", "size", "timer")

    def __init__(self, exchange: RetryWay, rules: RetryRules) -> None:
        self.exchange = exchange
        self.rules = rules
        self.attempt = 1
        self.events: list[bytes | End] = []
        self.size = 0
        self.is_too_long = False
        self.is_exhausted = False
        self.delayed: Any = None
        # Where this exchange counts as a running retry.
        self.connector: Any = None
        self.timer: TryTimer | None = None
        if rules.per_try_timeout:
            self.timer = rules.spare_timers.pop() if rules.spare_timers else TryTimer(exchange.http.wheel)
            self.timer.exchange = exchange

    def data(self, chunk: bytes) -> None:
        """A chunk passed the hooks: keep it, and pass it on."""
        if not self.is_too_long:
            self.size += len(chunk)
            if self.size > self.rules.body_bytes:
                self.is_too_long = True
                self.events.clear()
            else:
                self.events.append(chunk)
        self.exchange._request_out(chunk)

    def end(self, trailers: Headers | None) -> None:
        """The end passed the hooks; the time for one attempt begins."""
        if not self.is_too_long:
            self.events.append(End(trailers))
        self.begin_try()
        self.exchange._request_out_end(trailers)

    def stop(self) -> None:
        """No more of the body matters."""
        self.events = []

    def begin_try(self) -> None:
        """The request is complete and an attempt at it begins."""
        if self.timer is not None:
            self.timer.set(self.exchange.http.seconds() + self.rules.per_try_timeout)

    def finish(self) -> None:
        """The exchange is over."""
        if self.timer is not None:
            self.timer.clear()
            self.timer.exchange = None
            self.rules.spare_timers.append(self.timer)
            self.timer = None
        if self.delayed is not None:
            self.delayed.cancel()
            self.delayed = None
        if self.connector is not None:
            self.connector.retries -= 1
            self.connector = None
        self.events = []


class RetryWay(PluginCalls):
    """The part of `Exchange` that makes further attempts."""

    __slots__ = ()

    def _begin_retries(self, rules: RetryRules) -> None:
        """The request is about to go up for the first time. Tunnels are never tried again: nobody knows what they carried."""
        request = self.request
        if request.upgrade is None and request.method != b"CONNECT":
            self._retry = retry = Retrying(self, rules)
            if request.end_stream:
                retry.begin_try()

    def _retries_error(self, error: SidecarError, endpoint: Any) -> bool:
        """An attempt broke: will there be another one? Then everything is under way."""
        retry = self._retry
        if retry is None or self.finished or self._response_sent:
            return False
        condition = retry.rules.condition_of(error)
        return bool(condition) and self._try_again(retry, endpoint, condition, error.retry_safe, None)

    def _retries_response(self, retry: Retrying, head: ResponseHead) -> bool:
        """An attempt was answered with a status that is worth another one: will there be one? Nothing of the answer has gone down yet."""
        wait = retry_after_seconds(head.headers.get(b"retry-after"))
        what = f"status {head.status}"
        if wait is not None and wait > retry.rules.retry_after_max:
            self.notes.append(("retry", f"{what}; not sent again: Retry-After asks for {wait:g} s (retry.retry_after_max)"))
            return False
        return self._try_again(retry, self._picked, what, False, wait)

    def _try_again(self, retry: Retrying, endpoint: Any, what: str, is_safe: bool, wait: float | None) -> bool:
        delay = retry.rules.wait_before(retry.attempt, random.random()) if wait is None else wait
        reason = self._why_not(retry, is_safe, delay)
        if reason:
            self.notes.append(("retry", f"{what}; not sent again: {reason}"))
            return False
        connector = self._connector
        if retry.connector is None:
            retry.connector = connector
            connector.retries += 1
        connector.counters["retries"] += 1
        retry.attempt += 1
        self.notes.append(
            ("retry", f"{what} from {self.endpoint_text or connector.name}; attempt {retry.attempt} of {retry.rules.attempts} in {delay * 1000:.0f} ms")
        )
        if endpoint is not None:
            self._tried = (*self._tried, endpoint)
        self._abandon_upstream(UpstreamClosed("another attempt is made"))
        if retry.timer is not None:
            retry.timer.clear()
        if self._outbox is None and retry.events:
            self._outbox = list(retry.events)
            self._pause_request()
        if self._upstream_is_congested:
            self._upstream_is_congested = False
            self._resume_request()
        # Never at once: the stream that failed is still being worked on by who called.
        retry.delayed = self.http.clock.callLater(delay, self._retry_now)
        return True

    def _why_not(self, retry: Retrying, is_safe: bool, delay: float) -> str:
        """Why there is no further attempt, or ""."""
        rules = retry.rules
        request = self.request
        if not is_safe and request.method not in IDEMPOTENT and not any(name in request.headers for name in rules.idempotency_headers):
            return f"{request.method.decode('latin-1')} may have been carried out, and has no idempotency key"
        if retry.attempt >= rules.attempts:
            retry.is_exhausted = True
            return f"all {rules.attempts} attempts were made"
        if retry.is_too_long and self._outbox is None:
            return f"its body is longer than {rules.body_bytes} octets (retry.body_bytes)"
        if self._deadline and self.http.seconds() + delay >= self._deadline:
            return "the route's timeout leaves no time"
        connector = self._connector
        limits = connector.cluster.circuit_breakers
        if retry.connector is None and limits is not None and 0 < limits.max_retries <= connector.retries:
            connector.counters["retries_denied"] += 1
            return f"{connector.retries} requests are being retried already (circuit_breakers.max_retries)"
        if retry.connector is None and not rules.is_within_budget(connector.retries, connector.active + connector.pending):
            connector.counters["retries_denied"] += 1
            return f"{connector.retries} retries run in the cluster already (retry.budget)"
        return ""

    def _retry_now(self) -> None:
        retry = self._retry
        assert retry is not None
        retry.delayed = None
        if self.finished:
            return
        if self.request_complete:
            retry.begin_try()
        self._dispatch()
        if not self.finished:
            self.downstream.flush()

    def try_timed_out(self) -> None:
        """The time for one attempt is over. Nothing happens when it was answered, or when none is running."""
        retry = self._retry
        if self.finished or retry is None or retry.delayed is not None or self.response is not None:
            return
        endpoint = None
        if self.upstream is not None:
            endpoint = self._picked
            self._observe(504)
        error = UpstreamTimeout(
            f"{self.cluster_name} did not answer within {retry.rules.per_try_timeout:g} s (retry.per_try_timeout of route {self.route_name})"
        )
        if not self._retries_error(error, endpoint):
            self.fail(error)
