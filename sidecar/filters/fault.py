"""Faults on purpose: delays, errors and slow answers, to see what callers make of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from twisted.internet.defer import Deferred
from zope.interface import alsoProvides, implementer

from sidecar.codec import grpc
from sidecar.errors import FaultInjected
from sidecar.interfaces import IExchangeDone, IRequestHeadHook, IResponseBodyHook
from sidecar.matching import compile_header_match
from sidecar.model import ValueMatch
from sidecar.policy.fault import Abort, Delay, ResponseRateLimit, abort_statuses, delay_seconds, octets_per_second
from sidecar.verdicts import OBSERVE, Refuse

DELAYED = "DI"  # Envoy's response flag


class _Slow:
    """One answer that is held to a rate. `free_at`: when the octets passed so far are paid for."""

    __slots__ = ("free_at", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.free_at = 0.0


@implementer(IRequestHeadHook)
class Fault:
    """Filter `fault`. `dice`: numbers in [0, 1), to be replaced in tests. `active`: faults that run now."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`delay`, `abort`, `response_rate_limit`: see `sidecar.policy.fault`. `headers`: only requests that match all of these. `upstream_cluster`: only those
        that go to this cluster. `max_active_faults`: how many may run at a time; beyond, requests pass untouched."""

        delay: Delay | None = None
        abort: Abort | None = None
        response_rate_limit: ResponseRateLimit | None = None
        headers: tuple[ValueMatch, ...] = ()
        upstream_cluster: str | None = None
        max_active_faults: Annotated[int, msgspec.Meta(ge=0)] | None = None

        def __post_init__(self) -> None:
            """Raises `ValueError` for a match that is none, so that `sidecar check` finds it."""
            for match in self.headers:
                compile_header_match(match)

    response_body_mode = OBSERVE

    def __init__(self, config: Config, context: Any) -> None:
        self._config = config
        self._clock = context.clock
        self._name = context.name
        self._matches = tuple(compile_header_match(match) for match in config.headers)
        self._injected = context.counter("faults_injected", "Faults injected.", ("fault",))
        self._overflowed = context.counter("faults_overflowed", "Faults left out because of max_active_faults.")
        self.dice: Callable[[], float] = random.random
        self.active = 0
        if config.response_rate_limit is not None:
            # Only then the answers' bodies pass here.
            alsoProvides(self, IResponseBodyHook)
            alsoProvides(self, IExchangeDone)

    def request_head(self, exchange: Any) -> Any:
        """See `IRequestHeadHook`. The delay comes first, then the abort, as in Envoy."""
        config = self._config
        headers = exchange.request.headers
        if config.upstream_cluster is not None and exchange.cluster_name != config.upstream_cluster:
            return None
        for matches in self._matches:
            if not matches(headers):
                return None
        delay = 0.0 if config.delay is None else delay_seconds(config.delay, headers, self.dice())
        statuses = None if config.abort is None else abort_statuses(config.abort, headers, self.dice())
        limit = config.response_rate_limit
        rate = 0.0 if limit is None or statuses is not None else octets_per_second(limit, headers, self.dice())
        if not (delay or statuses or rate):
            return None
        if config.max_active_faults is not None and self.active >= config.max_active_faults:
            self._overflowed.inc()
            exchange.note(self._name, f"no fault: {self.active} are active (max_active_faults)")
            return None
        if rate:
            self.active += 1
            self._injected.inc("response_rate_limit")
            exchange.note(self._name, f"answer held to {rate / 1024:g} KiB/s")
            exchange.state[self] = _Slow(rate)
        verdict = None if statuses is None else self._abort(*statuses)
        return self._delay(exchange, delay, verdict) if delay else verdict

    def _abort(self, status: int | None, grpc_status: int | None) -> Refuse:
        # Each is what the other means, where only one was asked for.
        if grpc_status is None:
            grpc_status = grpc.from_http_status(status or 0)
        status = grpc.http_status(grpc_status) if status is None else status
        self._injected.inc("abort")
        return Refuse(FaultInjected(f"filter {self._name} ended this request on purpose; the application was not asked", status, grpc_status))

    def _delay(self, exchange: Any, seconds: float, verdict: Refuse | None) -> Deferred[Any]:
        self.active += 1
        self._injected.inc("delay")
        exchange.add_flag(DELAYED)
        exchange.note(self._name, f"delayed by {seconds:g} s")

        def cancelled(deferred: Deferred[Any]) -> None:
            # The client is gone.
            self.active -= 1
            timer.cancel()

        def over() -> None:
            self.active -= 1
            waiting.callback(verdict)

        waiting: Deferred[Any] = Deferred(cancelled)
        timer = self._clock.callLater(seconds, over)
        return waiting

    def response_body(self, exchange: Any, chunk: bytes, end: bool) -> Deferred[None] | None:
        """See `IResponseBodyHook`. A chunk passes when the octets before it are paid for; the last ones are paid for as well."""
        slow = exchange.state.get(self)
        if slow is None:
            return None
        now = self._clock.seconds()
        due = max(slow.free_at, now)
        slow.free_at = due + len(chunk) / slow.rate
        wait = (slow.free_at if end else due) - now
        if wait <= 0.0:
            return None
        later: Deferred[None] = Deferred(lambda deferred: timer.cancel())
        timer = self._clock.callLater(wait, later.callback, None)
        return later

    def exchange_done(self, exchange: Any, record: Any) -> None:
        """See `IExchangeDone`: a slow answer is over."""
        if exchange.state.pop(self, None) is not None:
            self.active -= 1
