"""The built-in retry policy: Envoy's conditions (retry_on), on errors, statuses, header fields and gRPC statuses.

Whether the request may be sent twice, how often and when is not asked here: that is the exchange's.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Annotated, Any

from msgspec import Meta, Struct
from zope.interface import implementer

from sidecar.errors import ConnectFailed, SidecarError, StreamIdleTimeout, UpstreamClosed, UpstreamProtocolError, UpstreamTimeout
from sidecar.facts import AttemptFacts
from sidecar.interfaces import IRetryPolicy
from sidecar.matching import compile_header_match
from sidecar.model import Retry, RetryOn, ValueMatch
from sidecar.verdicts import GiveUp, TryAgain

ALL_STATUSES = range(100, 1000)
GATEWAY_STATUSES = frozenset({502, 503, 504})
RATE_LIMITED = b"x-envoy-ratelimited"

# "HTTP to gRPC Status Code Mapping" has no part in it: these are the codes of gRPC's statuses themselves (Envoy: x-envoy-retry-grpc-on).
GRPC_STATUSES = {"cancelled": 1, "deadline-exceeded": 4, "resource-exhausted": 8, "internal": 13, "unavailable": 14}
HTTP_CONDITIONS = frozenset(RetryOn.__args__) - GRPC_STATUSES.keys()  # type: ignore[attr-defined]

# What happened -> the conditions that it meets, the narrowest first. As in Envoy an attempt without any answer is one of "5xx" and of "gateway-error",
# because the caller would get a 503.
_ANY = ("reset", "5xx", "gateway-error")
_MEETS: dict[str, tuple[str, ...]] = {
    "connect": ("connect-failure", "reset-before-request", *_ANY),
    "unsent": ("reset-before-request", *_ANY),
    "refused": ("refused-stream", *_ANY),
    "timeout": ("timeout", *_ANY),
    "reset": _ANY,
}


def _what_happened(error: SidecarError | None, was_sent: bool) -> str:
    if isinstance(error, ConnectFailed):
        return "connect"
    if isinstance(error, UpstreamTimeout):
        return "" if isinstance(error, StreamIdleTimeout) else "timeout"
    if isinstance(error, UpstreamClosed | UpstreamProtocolError):
        return "unsent" if not was_sent else "refused" if error.retry_safe else "reset"
    return ""


@implementer(IRetryPolicy)
class Conditions:
    """See the module and `IRetryPolicy`."""

    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """What is worth another attempt. `retriable_statuses` and `retriable_headers` (tests on an answer's fields, any of them) count whether `on` names
        them or not."""

        on: tuple[RetryOn, ...] = Retry().on
        retriable_statuses: tuple[Annotated[int, Meta(ge=100, le=599)], ...] = ()
        retriable_headers: tuple[ValueMatch, ...] = ()

    def __init__(self, config: Config, context: Any = None) -> None:
        on = frozenset(config.on)
        self._on_error = {what: next((name for name in names if name in on), "") for what, names in _MEETS.items()}
        self._by_status = dict.fromkeys(config.retriable_statuses, "retriable-status-codes")
        if "retriable-4xx" in on:
            self._by_status[409] = "retriable-4xx"
        if "5xx" in on:
            self._by_status.update(dict.fromkeys(range(500, 600), "5xx"))
        if "gateway-error" in on:
            self._by_status.update(dict.fromkeys(GATEWAY_STATUSES, "gateway-error"))
        self._by_grpc_status = {GRPC_STATUSES[name]: name for name in on & GRPC_STATUSES.keys()}
        self._by_fields = tuple(compile_header_match(each) for each in config.retriable_headers)
        self._is_limit_retried = "envoy-ratelimited" in on
        needs_all = self._by_fields or self._by_grpc_status or self._is_limit_retried
        self.statuses: Container[int] = ALL_STATUSES if needs_all else frozenset(self._by_status)

    def decide(self, attempt: AttemptFacts) -> TryAgain | GiveUp | None:
        """See `IRetryPolicy`."""
        if attempt.headers is None:
            what = _what_happened(attempt.error, attempt.was_sent)
            condition = self._on_error[what] if what else ""
        elif RATE_LIMITED in attempt.headers:
            # As in Envoy: who was told by a limit to go away does not come back because of the status that says so.
            if not self._is_limit_retried:
                return GiveUp("the answer has x-envoy-ratelimited, and the condition envoy-ratelimited is not configured")
            condition = "envoy-ratelimited"
        else:
            condition = self._by_status.get(attempt.status, "") or self._of_fields(attempt)
        return TryAgain(condition) if condition else None

    def _of_fields(self, attempt: AttemptFacts) -> str:
        if attempt.grpc_status is not None and attempt.grpc_status in self._by_grpc_status:
            return self._by_grpc_status[attempt.grpc_status]
        return "retriable-headers" if any(test(attempt.headers) for test in self._by_fields) else ""  # type: ignore[arg-type]


def conditions_of(retry: Retry) -> Conditions.Config:
    """What a route's `retry` says about conditions, as this policy's configuration."""
    return Conditions.Config(on=retry.on, retriable_statuses=retry.retriable_statuses, retriable_headers=retry.retriable_headers)


def named(value: bytes, known: Iterable[str]) -> tuple[RetryOn, ...]:
    """The conditions that a header field (x-envoy-retry-on, x-envoy-retry-grpc-on) names, of those that are `known`; others are passed over, as in Envoy."""
    wanted = {part.strip().decode("latin-1") for part in value.split(b",")}
    return tuple(name for name in RetryOn.__args__ if name in wanted and name in known)  # type: ignore[attr-defined]


def statuses_in(value: bytes) -> tuple[int, ...]:
    """The statuses that x-envoy-retriable-status-codes lists; what is none is passed over."""
    numbers = (part.strip() for part in value.split(b","))
    return tuple(int(each) for each in numbers if len(each) == 3 and each.isdigit() and 100 <= int(each) <= 599)
