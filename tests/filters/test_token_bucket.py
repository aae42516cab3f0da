"""The token-bucket rate limiter: answers, keys and bounded memory."""

from __future__ import annotations

import pytest
from zope.interface.verify import verifyObject

from sidecar.filters.token_bucket import KEPT_ANSWERS, TokenBucketLimiter
from sidecar.interfaces import IRateLimiter
from sidecar.testing import FakeContext
from sidecar.verdicts import Allow, Limited


def limiter(**config: object) -> TokenBucketLimiter:
    return TokenBucketLimiter(TokenBucketLimiter.Config(**config), FakeContext("limit"))  # type: ignore[arg-type]


def test_what_is_left_is_told() -> None:
    """The answers count down, then tell when to come again."""
    bucket = limiter(requests=60, per=60.0, burst=2)
    assert [bucket.take((), 5.0) for _ in range(3)] == [Allow("limit", 1), Allow("limit", 0), Limited(1.0, "limit")]
    assert bucket.take((), 6.0) == Allow("limit", 0)


def test_the_burst_is_the_requests_when_unset() -> None:
    """As many at once as in one period."""
    bucket = limiter(requests=3, per=30.0)
    assert [type(bucket.take((), 0.0)) for _ in range(4)] == [Allow, Allow, Allow, Limited]


def test_each_key_has_its_own() -> None:
    """Callers do not use up each other's share; long values are told apart too."""
    bucket = limiter(requests=1, key=("path", "principal"))
    assert bucket.descriptors == ("path", "principal")
    long = "/" + "x" * 60_000
    for values in (("/a", "p"), ("/a", "q"), (long, "p"), (long + "y", "p")):
        assert bucket.take(values, 0.0) == Allow("limit", 0)
        assert bucket.take(values, 0.0) == Limited(1.0, "limit")
    assert all(len(part) < 200 for key in bucket.buckets._buckets for part in key)  # type: ignore[attr-defined]


def test_a_large_burst() -> None:
    """More left than answers are kept."""
    assert limiter(requests=KEPT_ANSWERS * 2).take((), 0.0) == Allow("limit", KEPT_ANSWERS * 2 - 1)


@pytest.mark.parametrize("config", [{"requests": 1, "per": 0.0}, {"requests": 1, "key": ("nobody",)}])
def test_what_makes_no_sense_stops_the_start(config: dict[str, object]) -> None:
    """Not the first request."""
    with pytest.raises(ValueError, match=r"per|descriptor"):
        limiter(**config)


def test_provides_its_interface() -> None:
    """It is a rate limiter."""
    assert verifyObject(IRateLimiter, limiter(requests=1))
