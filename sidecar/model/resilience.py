"""What a route or a cluster does against failing endpoints: retries, circuit breakers, outlier detection. See `sidecar.model`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from sidecar.model.scalars import SAVED_RETRIES, Count, Duration, Percent, PluginRef, Size, ValueMatch

# Envoy's names (x-envoy-retry-on, x-envoy-retry-grpc-on); "timeout" alone is ours: only the time for one attempt.
RetryOn = Literal[
    "connect-failure",
    "refused-stream",
    "reset",
    "reset-before-request",
    "timeout",
    "gateway-error",
    "5xx",
    "retriable-4xx",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
]
# Of a cluster's endpoints: so many that several may be ill at the same time (of up to ten endpoints Envoy's 10 lets one go), so few that at least half are left, and no
# ejection makes the rest panic.
EJECTION_PERCENT = 33
RETRY_ATTEMPTS = 20  # of one request, whoever asks for how many: what a failing cluster is made to bear for one caller is bounded


class Backoff(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Before the n-th retry a random time up to `base` * 2^(n-1), at most `max` (Envoy: retry_back_off)."""

    base: Duration = 0.025
    max: Duration = 0.25


class RetryBudget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many retries may run in a cluster at a time: so many percent of its running requests, but at least `min_retry_concurrency`. Beyond, each retry takes one
    of those that were saved: every request of the route saves `budget_percent` of one, up to `max_saved`, so that an endpoint may die with many requests on it. It is given back when the
    request is answered well in the end.
    """

    budget_percent: Percent = 20
    min_retry_concurrency: Count = 3
    max_saved: Count = SAVED_RETRIES


class Retry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a request is sent again, to another endpoint if there is one. `attempts` counts all, the first one as well. Beyond them, up to `attempts_max` in all, it goes on to endpoints that were
    not tried: when connections were refused, and, as long as retries are saved (`RetryBudget`), when attempts failed; an `attempts_max` that is not above `attempts` makes those a hard limit.
    Only what is safe is sent twice:
    idempotent methods, a request with one of `idempotency_headers`, or one of which nothing can have reached the application. `body_bytes`: a longer
    body is not kept for it. `per_try_timeout`: from the complete request to the answer's head, `per_try_idle_timeout`: nothing moves on the attempt; 0 for none.
    `silent_after`: a GET, HEAD or OPTIONS without an answer for so long gets another attempt beside it, at another endpoint; null for the route's timeout divided by `attempts`, 0 for never.
    `retry_after_max`: an answer that asks for a longer wait is passed on. `budget`: null for none. `policy`: a plugin that decides what is worth another
    attempt in the place of `on`, `retriable_statuses` and `retriable_headers`.
    """

    on: tuple[RetryOn, ...] = ("connect-failure", "refused-stream", "reset", "timeout", "gateway-error")
    retriable_statuses: tuple[Annotated[int, Meta(ge=100, le=599)], ...] = ()
    retriable_headers: tuple[ValueMatch, ...] = ()
    policy: PluginRef | None = None
    attempts: Annotated[int, Meta(ge=1, le=RETRY_ATTEMPTS)] = 3
    attempts_max: Annotated[int, Meta(ge=0, le=RETRY_ATTEMPTS)] = RETRY_ATTEMPTS
    per_try_timeout: Duration = 0.0
    per_try_idle_timeout: Duration = 0.0
    silent_after: Duration | None = None
    backoff: Backoff = Backoff()
    retry_after_max: Duration = 1.0
    idempotency_headers: tuple[str, ...] = ("idempotency-key",)
    body_bytes: Size = 64 * 1024
    budget: RetryBudget | None = RetryBudget()


class Hedge(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another attempt beside one that is slow; the first good answer counts (Envoy: hedge_policy). `delay`: after so long without an answer, 0 for never.
    `hedge_on_per_try_timeout`: an attempt whose time is over is not given up but gets company. Only what may be sent twice, within `retry.attempts` and its budget."""

    delay: Duration = 0.0
    hedge_on_per_try_timeout: bool = False


class MaxStreamDuration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a whole exchange may take, from its first octet, tunnels excepted (Envoy: max_stream_duration). `max_stream_duration`: 0 for no limit. `grpc_timeout_header_max`: written, the
    `grpc-timeout` of a call counts instead, up to this (0: whatever it is), less `grpc_timeout_header_offset`."""

    max_stream_duration: Duration | None = None
    grpc_timeout_header_max: Duration | None = None
    grpc_timeout_header_offset: Duration = 0.0


class FailureRate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When `failure_percent` of the requests of a `window` fail, and there were `minimum_requests`, all are refused for `open_time`; then `probes` real
    requests may try, and all of them must succeed."""

    failure_percent: Annotated[int, Meta(ge=1, le=100)] = 50
    minimum_requests: Annotated[int, Meta(ge=1)] = 20
    window: Annotated[float, Meta(ge=0.01, extra={"syntax": "duration"})] = 10.0
    open_time: Duration = 5.0
    probes: Annotated[int, Meta(ge=1)] = 3


class CircuitLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What requests of one routing priority may use of a cluster; 0 for no limit (Envoy: circuit_breakers.thresholds). `max_connections`: with so many in the cluster none more is made for them.
    `max_pending`: that wait for a connection. `max_requests`: that run or wait. `max_retries`: of them retried."""

    max_connections: Count = 0
    max_pending: Count = 0
    max_requests: Count = 0
    max_retries: Count = 0


class CircuitBreakers(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits on a cluster's HTTP requests beside those of its pool, as `CircuitLimits`. `high`: those of requests of routes with `priority: high`, by default the same; either way they are
    counted apart. `failure_rate` is about all of them."""

    max_connections: Count = 0
    max_pending: Count = 0
    max_requests: Count = 0
    max_retries: Count = 0
    high: CircuitLimits | None = None
    failure_rate: FailureRate | None = None


class OutlierDetection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When an endpoint's own answers say that it is ill, it gets no requests for a while; names and defaults are Envoy's but for `max_ejection_percent` (10 there). Counts of 0 switch a detector
    off; `enforcing_...` says in how many of 100 cases it acts. `success_rate_stdev_factor` is in thousandths. `split_external_local_origin_errors`: what went wrong before there was an
    answer (no connection, broken, too late) counts apart from what endpoints answer, under the keys with `local_origin` in their names, which are nothing without it.
    `successful_active_health_check_uneject_host`: an active check that passes ends an ejection.
    """

    consecutive_5xx: Count = 5
    enforcing_consecutive_5xx: Percent = 100
    consecutive_gateway_failure: Count = 5
    enforcing_consecutive_gateway_failure: Percent = 0
    interval: Annotated[float, Meta(ge=0.01, extra={"syntax": "duration"})] = 10.0
    base_ejection_time: Duration = 30.0
    max_ejection_time: Duration = 300.0
    max_ejection_time_jitter: Duration = 0.0
    max_ejection_percent: Percent = EJECTION_PERCENT
    enforcing_success_rate: Percent = 100
    success_rate_minimum_hosts: Count = 5
    success_rate_request_volume: Count = 100
    success_rate_stdev_factor: Count = 1900
    enforcing_failure_percentage: Percent = 0
    failure_percentage_threshold: Percent = 85
    failure_percentage_minimum_hosts: Count = 5
    failure_percentage_request_volume: Count = 50
    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failure: Count = 5
    enforcing_consecutive_local_origin_failure: Percent = 100
    enforcing_local_origin_success_rate: Percent = 100
    enforcing_failure_percentage_local_origin: Percent = 0
    successful_active_health_check_uneject_host: bool = True
