"""Envoy's conditions: what each error and answer meets, and that only what is configured counts."""

from __future__ import annotations

from typing import Any

import pytest
from zope.interface.verify import verifyObject

from sidecar.errors import (
    ConnectFailed,
    ConnectTimeout,
    NoHealthyEndpoint,
    SidecarError,
    StreamIdleTimeout,
    UpstreamClosed,
    UpstreamHandshakeFailed,
    UpstreamOverflow,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from sidecar.facts import AttemptFacts
from sidecar.headers import Headers
from sidecar.interfaces import IRetryPolicy
from sidecar.message import RequestHead
from sidecar.model import Retry, RetryOn, ValueMatch
from sidecar.policy.conditions import HTTP_CONDITIONS, Conditions, conditions_of, named, statuses_in
from sidecar.verdicts import GiveUp, TryAgain

REQUEST = RequestHead(b"GET", b"/", b"app", Headers())
EVERY: tuple[RetryOn, ...] = RetryOn.__args__  # type: ignore[attr-defined]


def attempt(
    error: SidecarError | None = None, status: int = 0, fields: dict[bytes, bytes] | None = None, grpc: int | None = None, sent: bool = True
) -> AttemptFacts:
    headers = None if error is not None else Headers.of(list((fields or {}).items()))
    return AttemptFacts(1, REQUEST, "", error, status, headers, None, grpc, sent, 0.0, None)


def policy(*on: Any, **settings: Any) -> Conditions:
    return Conditions(Conditions.Config(on=on, **settings))


def reason(verdict: object) -> str:
    assert verdict is None or isinstance(verdict, TryAgain)
    return "" if verdict is None else verdict.reason


def refused() -> UpstreamClosed:
    error = UpstreamClosed("refused")
    error.retry_safe = True
    return error


# The error, whether something was sent, and every condition that it meets, the narrowest first.
ERRORS: list[tuple[SidecarError, bool, tuple[str, ...]]] = [
    (ConnectFailed("x"), False, ("connect-failure", "reset-before-request", "reset", "5xx", "gateway-error")),
    (ConnectTimeout("x"), False, ("connect-failure", "reset-before-request", "reset", "5xx", "gateway-error")),
    (UpstreamHandshakeFailed("x"), False, ("connect-failure", "reset-before-request", "reset", "5xx", "gateway-error")),
    (UpstreamClosed("x"), False, ("reset-before-request", "reset", "5xx", "gateway-error")),
    (UpstreamTimeout("x"), True, ("timeout", "reset", "5xx", "gateway-error")),
    (UpstreamClosed("x"), True, ("reset", "5xx", "gateway-error")),
    (UpstreamProtocolError("x"), True, ("reset", "5xx", "gateway-error")),
    (refused(), True, ("refused-stream", "reset", "5xx", "gateway-error")),
    (StreamIdleTimeout("x"), True, ()),
    (NoHealthyEndpoint("x"), False, ()),
    (UpstreamOverflow("x"), False, ()),
]


@pytest.mark.parametrize(("error", "sent", "meets"), ERRORS, ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None)
def test_errors(error: SidecarError, sent: bool, meets: tuple[str, ...]) -> None:
    """Each error meets its conditions and no others; with several the narrowest is told."""
    for name in EVERY:
        assert reason(policy(name).decide(attempt(error, sent=sent))) == (name if name in meets else "")
    assert reason(policy(*EVERY).decide(attempt(error, sent=sent))) == (meets[0] if meets else "")


STATUSES: list[tuple[int, tuple[str, ...]]] = [
    (200, ()),
    (404, ()),
    (409, ("retriable-4xx",)),
    (429, ()),
    (500, ("5xx",)),
    (502, ("gateway-error", "5xx")),
    (503, ("gateway-error", "5xx")),
    (504, ("gateway-error", "5xx")),
    (599, ("5xx",)),
]


@pytest.mark.parametrize(("status", "meets"), STATUSES)
def test_statuses(status: int, meets: tuple[str, ...]) -> None:
    """Each status meets its conditions, and the policy asks to see no other."""
    for name in EVERY:
        one = policy(name)
        assert reason(one.decide(attempt(status=status))) == (name if name in meets else "")
        assert status in one.statuses or name not in meets
    assert set(policy("5xx").statuses) == set(range(500, 600))  # type: ignore[call-overload]
    assert reason(policy(retriable_statuses=(429,)).decide(attempt(status=429))) == "retriable-status-codes"


@pytest.mark.parametrize(("name", "status"), [("cancelled", 1), ("deadline-exceeded", 4), ("resource-exhausted", 8), ("internal", 13), ("unavailable", 14)])
def test_grpc_statuses(name: Any, status: int) -> None:
    """Only the configured one counts, and 200 is looked at for it."""
    one = policy(name)
    assert 200 in one.statuses
    assert [each for each in range(17) if reason(one.decide(attempt(status=200, grpc=each))) == name] == [status]


def test_headers() -> None:
    """Any of the tests on the answer's fields."""
    one = policy(retriable_headers=(ValueMatch(name="x-try", exact="again"), ValueMatch(name="x-later")))
    assert reason(one.decide(attempt(status=200, fields={b"X-Try": b"again"}))) == "retriable-headers"
    assert reason(one.decide(attempt(status=404, fields={b"X-Later": b""}))) == "retriable-headers"
    assert one.decide(attempt(status=503, fields={b"X-Try": b"no"})) is None


def test_rate_limits() -> None:
    """Who was told by a limit to go away comes back only where that is configured, whatever the status."""
    limited = attempt(status=503, fields={b"X-Envoy-RateLimited": b"true"})
    assert isinstance(policy("5xx").decide(limited), GiveUp)
    assert reason(policy("5xx", "envoy-ratelimited").decide(limited)) == "envoy-ratelimited"


def test_configuration() -> None:
    """The keys beside a route's limits are the policy's own; a policy is one."""
    retry = Retry(on=("reset",), retriable_statuses=(409,), retriable_headers=(ValueMatch(name="a"),))
    assert conditions_of(retry) == Conditions.Config(on=("reset",), retriable_statuses=(409,), retriable_headers=(ValueMatch(name="a"),))
    assert conditions_of(Retry()) == Conditions.Config()
    assert verifyObject(IRetryPolicy, Conditions(Conditions.Config()))


def test_names_in_fields() -> None:
    """What is known is taken, what is not is passed over."""
    assert named(b"5xx, gateway-error,nonsense,unavailable", HTTP_CONDITIONS) == ("gateway-error", "5xx")
    assert named(b"", HTTP_CONDITIONS) == ()
    assert statuses_in(b"429, 503,abc,99,1000,600, +12") == (429, 503)
