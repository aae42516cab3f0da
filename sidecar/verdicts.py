"""What hooks answer: values, never calls back. `None` always means "go on".

A hook may also return a Deferred or a coroutine of a verdict; the exchange then waits with its reading paused.
"""

from __future__ import annotations

import attrs

from sidecar.errors import SidecarError
from sidecar.headers import Headers


@attrs.frozen
class Reply:
    """Answer the client with this now; nothing more runs upstream. `body` is sent whole, Content-Length is added. `reason` goes to the decision record."""

    status: int
    headers: Headers = attrs.field(factory=Headers)
    body: bytes = b""
    reason: str = ""


@attrs.frozen
class Refuse:
    """Answer with the problem+json that `error` describes (see `sidecar.errors`)."""

    error: SidecarError
    headers: Headers = attrs.field(factory=Headers)


@attrs.frozen
class Reroute:
    """The request's head was changed so that another route may fit: ask the route table once more and run its chain from this filter's successor on. Only from `request_head`."""

    reason: str = ""


@attrs.frozen
class Repick:
    """Leave the endpoint chosen and pick another one. Only from `response_head`, before anything went to the client, and only when the request may be sent again."""

    reason: str = ""


@attrs.frozen
class Reset:
    """End the exchange without an answer: HTTP/1 closes the connection, HTTP/2 resets the stream."""

    error: SidecarError


Verdict = None | Reply | Refuse | Reroute | Repick | Reset


@attrs.frozen
class Allow:
    """The authorizer, rate limiter or connection filter lets it pass. `rule`: what decided, for the record. `remaining`: of a rate limit, None elsewhere."""

    rule: str = ""
    remaining: int | None = None


@attrs.frozen
class Deny:
    """The authorizer or connection filter says no. `reason`: one sentence for the caller; `rule`: what decided, for the record."""

    reason: str
    rule: str = ""


@attrs.frozen
class Shadow:
    """The authorizer would say no, but its rule is only being tried out: recorded and counted, then passed."""

    reason: str
    rule: str = ""


@attrs.frozen
class Limited:
    """The rate limiter says no. `retry_after_seconds`: when one more would pass."""

    retry_after_seconds: float
    rule: str = ""


@attrs.frozen
class TryAgain:
    """The retry policy wants another attempt. `reason`: what it met, for the record. `after_seconds`: how long to wait; None for the route's backoff (or the answer's Retry-After)."""

    reason: str = ""
    after_seconds: float | None = None


@attrs.frozen
class GiveUp:
    """The retry policy wants no other attempt, and `reason` says why, for the record."""

    reason: str = ""


@attrs.frozen
class Unwell:
    """The health check says that the endpoint is not well. `reason`: a few words for `/clusters` and the log. `at_once`: the endpoint itself says so, thresholds need not be waited for.
    `is_absent`: nobody is there at all, so that requests could not be served either; nothing is sent there when all endpoints are used because too few are well."""

    reason: str
    at_once: bool = False
    is_absent: bool = False


@attrs.frozen
class Degraded:
    """The health check says that the endpoint is well and can do less than others: it gets requests only where these do not suffice."""


ALLOW = Allow()
DEGRADED = Degraded()


@attrs.frozen
class BodyMode:
    """How a body hook takes part. `observe`: sees each chunk, changes nothing. `stream`: what it returns replaces the chunk, and the length is no longer announced.
    `buffer`: called once with the whole body, at most `limit_bytes` long (413 or 502 beyond)."""

    name: str
    limit_bytes: int = 0


OBSERVE = BodyMode("observe")
STREAM = BodyMode("stream")


def buffer(limit_bytes: int) -> BodyMode:
    """The buffering mode with its limit in octets."""
    if limit_bytes <= 0:
        raise ValueError("a buffering hook needs a limit of at least one octet")
    return BodyMode("buffer", limit_bytes)
