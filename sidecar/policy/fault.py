"""Which fault a request gets, decided from configured shares, its own header fields and dice that come in as arguments. Names are Envoy's (HTTPFault).

A header may ask for a fault only where the configuration allows it, and never more often than the configured percentage.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from sidecar.headers import Headers
from sidecar.model import Duration, FinePercent

DELAY_FIELD = b"x-envoy-fault-delay-request"  # milliseconds
DELAY_PERCENTAGE_FIELD = b"x-envoy-fault-delay-request-percentage"
ABORT_FIELD = b"x-envoy-fault-abort-request"  # an HTTP status
ABORT_GRPC_FIELD = b"x-envoy-fault-abort-grpc-request"  # a gRPC status
ABORT_PERCENTAGE_FIELD = b"x-envoy-fault-abort-request-percentage"
THROUGHPUT_FIELD = b"x-envoy-fault-throughput-response"  # KiB/s
THROUGHPUT_PERCENTAGE_FIELD = b"x-envoy-fault-throughput-response-percentage"
# A header must not hold a request for longer than any client waits.
HEADER_DELAY_LIMIT_SECONDS = 300.0
DIGITS_LIMIT = 9  # of a number in a header field


class Delay(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`fixed_delay`, or with `header_delay` as many milliseconds as the request's own field asks for; for `percentage` of the requests."""

    fixed_delay: Duration | None = None
    header_delay: bool = False
    percentage: FinePercent = 100.0

    def __post_init__(self) -> None:
        """Raises `ValueError` unless there is exactly one of the two."""
        if (self.fixed_delay is None) is not self.header_delay:
            raise ValueError("a delay has either `fixed_delay` or `header_delay: true`")


class Abort(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`http_status` or `grpc_status`, or with `header_abort` the status that the request's own field asks for; for `percentage` of the requests."""

    http_status: Annotated[int, Meta(ge=200, le=599)] | None = None
    grpc_status: Annotated[int, Meta(ge=1, le=16)] | None = None
    header_abort: bool = False
    percentage: FinePercent = 100.0

    def __post_init__(self) -> None:
        """Raises `ValueError` unless there is exactly one of the three."""
        if (self.http_status is not None) + (self.grpc_status is not None) + self.header_abort != 1:
            raise ValueError("an abort has exactly one of `http_status`, `grpc_status` and `header_abort: true`")


class ResponseRateLimit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`limit_kbps` KiB of the answer's body each second, or with `header_limit` what the request's own field asks for; for `percentage` of the requests."""

    limit_kbps: Annotated[int, Meta(ge=1)] | None = None
    header_limit: bool = False
    percentage: FinePercent = 100.0

    def __post_init__(self) -> None:
        """Raises `ValueError` unless there is exactly one of the two."""
        if (self.limit_kbps is None) is not self.header_limit:
            raise ValueError("a response_rate_limit has either `limit_kbps` or `header_limit: true`")


def is_hit(percentage: float, die: float) -> bool:
    """Does `die`, in [0, 1), fall within `percentage` of 100?"""
    return die * 100.0 < percentage


def delay_seconds(settings: Delay, headers: Headers, die: float) -> float:
    """How long this request is to be delayed; 0 for not at all."""
    if not is_hit(_share(settings.percentage, headers, DELAY_PERCENTAGE_FIELD, settings.header_delay), die):
        return 0.0
    if settings.fixed_delay is not None:
        return settings.fixed_delay
    return min((_number(headers, DELAY_FIELD) or 0) / 1000.0, HEADER_DELAY_LIMIT_SECONDS)


def abort_statuses(settings: Abort, headers: Headers, die: float) -> tuple[int | None, int | None] | None:
    """(HTTP status, gRPC status) that this request is to be aborted with, at least one of them; None for not at all."""
    if not is_hit(_share(settings.percentage, headers, ABORT_PERCENTAGE_FIELD, settings.header_abort), die):
        return None
    http, grpc = settings.http_status, settings.grpc_status
    if settings.header_abort:
        http, grpc = _number(headers, ABORT_FIELD), _number(headers, ABORT_GRPC_FIELD)
        http = http if http is not None and 200 <= http <= 599 else None
        grpc = grpc if grpc is not None and 1 <= grpc <= 16 else None
    return None if http is None and grpc is None else (http, grpc)


def octets_per_second(settings: ResponseRateLimit, headers: Headers, die: float) -> float:
    """What the answer's body is to be held to; 0 for nothing."""
    if not is_hit(_share(settings.percentage, headers, THROUGHPUT_PERCENTAGE_FIELD, settings.header_limit), die):
        return 0.0
    kibibytes: Any = settings.limit_kbps if settings.limit_kbps is not None else _number(headers, THROUGHPUT_FIELD)
    return (kibibytes or 0) * 1024.0


def _share(configured: float, headers: Headers, name: bytes, is_asked: bool) -> float:
    """The configured percentage, or less when the request asks for less."""
    asked = _number(headers, name) if is_asked else None
    return configured if asked is None else min(configured, float(asked))


def _number(headers: Headers, name: bytes) -> int | None:
    value = headers.get(name)
    return int(value) if value is not None and value.isdigit() and len(value) <= DIGITS_LIMIT else None
