"""Which request gets which fault: shares, header fields, statuses."""

from __future__ import annotations

import pytest

from sidecar.headers import Headers
from sidecar.policy.fault import (
    HEADER_DELAY_LIMIT_SECONDS,
    Abort,
    Delay,
    ResponseRateLimit,
    abort_statuses,
    delay_seconds,
    is_hit,
    octets_per_second,
)


def head(**fields: str) -> Headers:
    return Headers.of([(f"x-envoy-fault-{name.replace('_', '-')}".encode(), value.encode()) for name, value in fields.items()])


@pytest.mark.parametrize(
    ("percentage", "die", "hit"),
    [(0.0, 0.0, False), (100.0, 0.999999, True), (50.0, 0.499, True), (50.0, 0.5, False), (0.01, 0.00009, True), (0.01, 0.0001, False)],
)
def test_shares_are_fine(percentage: float, die: float, hit: bool) -> None:
    """0 is never, 100 is always, and a hundredth of a percent is one in ten thousand."""
    assert is_hit(percentage, die) is hit


@pytest.mark.parametrize(
    ("settings", "headers", "die", "seconds"),
    [
        (Delay(fixed_delay=2.0), head(), 0.99, 2.0),
        (Delay(fixed_delay=2.0, percentage=10), head(), 0.1, 0.0),
        # Without header_delay nobody can ask for more or for less.
        (Delay(fixed_delay=2.0), head(delay_request="9000", delay_request_percentage="0"), 0.5, 2.0),
        (Delay(header_delay=True), head(), 0.0, 0.0),
        (Delay(header_delay=True), head(delay_request="250"), 0.5, 0.25),
        (Delay(header_delay=True), head(delay_request="250", delay_request_percentage="40"), 0.5, 0.0),
        (Delay(header_delay=True, percentage=20), head(delay_request="250", delay_request_percentage="100"), 0.3, 0.0),
        (Delay(header_delay=True), head(delay_request="-5"), 0.0, 0.0),
        (Delay(header_delay=True), head(delay_request="soon"), 0.0, 0.0),
        (Delay(header_delay=True), head(delay_request="999999999"), 0.0, HEADER_DELAY_LIMIT_SECONDS),
        (Delay(header_delay=True), head(delay_request="9" * 5000), 0.0, 0.0),
    ],
)
def test_delays(settings: Delay, headers: Headers, die: float, seconds: float) -> None:
    """A fixed time, or what the request asks for, within the configured share."""
    assert delay_seconds(settings, headers, die) == seconds


@pytest.mark.parametrize(
    ("settings", "headers", "die", "statuses"),
    [
        (Abort(http_status=503), head(), 0.5, (503, None)),
        (Abort(http_status=418), head(), 0.5, (418, None)),
        (Abort(grpc_status=5), head(), 0.5, (None, 5)),
        (Abort(http_status=503, percentage=50), head(), 0.5, None),
        (Abort(http_status=503), head(abort_request="404"), 0.5, (503, None)),
        (Abort(header_abort=True), head(), 0.0, None),
        (Abort(header_abort=True), head(abort_request="404"), 0.5, (404, None)),
        (Abort(header_abort=True), head(abort_grpc_request="7"), 0.5, (None, 7)),
        (Abort(header_abort=True), head(abort_request="429", abort_grpc_request="8"), 0.5, (429, 8)),
        (Abort(header_abort=True), head(abort_request="404", abort_request_percentage="50"), 0.5, None),
        (Abort(header_abort=True), head(abort_request="600"), 0.0, None),
        (Abort(header_abort=True), head(abort_request="100", abort_grpc_request="17"), 0.0, None),
    ],
)
def test_aborts(settings: Abort, headers: Headers, die: float, statuses: tuple[int | None, int | None] | None) -> None:
    """With what was configured or asked for; nonsense in a field is no abort."""
    assert abort_statuses(settings, headers, die) == statuses


@pytest.mark.parametrize(
    ("settings", "headers", "octets"),
    [
        (ResponseRateLimit(limit_kbps=4), head(), 4096.0),
        (ResponseRateLimit(limit_kbps=4, percentage=10), head(), 0.0),
        (ResponseRateLimit(header_limit=True), head(), 0.0),
        (ResponseRateLimit(header_limit=True), head(throughput_response="2"), 2048.0),
        (ResponseRateLimit(header_limit=True), head(throughput_response="2", throughput_response_percentage="10"), 0.0),
        (ResponseRateLimit(header_limit=True), head(throughput_response="0"), 0.0),
    ],
)
def test_rates(settings: ResponseRateLimit, headers: Headers, octets: float) -> None:
    """KiB each second."""
    assert octets_per_second(settings, headers, 0.5) == octets


@pytest.mark.parametrize(
    ("kind", "more"), [(Delay, {"fixed_delay": 1.0, "header_delay": True}), (Abort, {"http_status": 500, "grpc_status": 5}), (ResponseRateLimit, {})]
)
@pytest.mark.parametrize("is_empty", [True, False])
def test_one_of_each(kind: type, more: dict[str, object], is_empty: bool) -> None:
    """What says nothing, or two things, is found when the configuration is read."""
    with pytest.raises(ValueError, match=r"either|exactly one"):
        kind(**({} if is_empty else more))
