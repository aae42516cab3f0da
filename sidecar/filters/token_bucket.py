"""How much is left, counted in this process."""

from __future__ import annotations

from hashlib import blake2b
from typing import Annotated, Any

import msgspec
from zope.interface import implementer

from sidecar.interfaces import IRateLimiter
from sidecar.model import Duration
from sidecar.policy.descriptors import compile_descriptors
from sidecar.policy.token_bucket import MAX_KEYS, TokenBuckets
from sidecar.verdicts import Allow, Limited

# Longer values (paths, header fields: up to the head's 64 KiB) are remembered as a digest, so that memory is bounded by the number of keys.
VALUE_CHARACTERS = 128
# Answers up to this count are kept, one for each number of tokens left.
KEPT_ANSWERS = 1024


@implementer(IRateLimiter)
class TokenBucketLimiter:
    """Rate limiter `token-bucket`: `requests` per `per`, in bursts of up to `burst`, for each combination of what `key` names."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`requests` are gained evenly over `per` (seconds). `burst`: how many may come at once, `requests` when unset.

        `key`: descriptors, see `IRateLimiter`; none: one bucket for all. `max_keys`: buckets kept; beyond, the one longest unused is forgotten.
        """

        requests: Annotated[int, msgspec.Meta(ge=1)]
        per: Duration = 1.0
        burst: Annotated[int, msgspec.Meta(ge=1)] | None = None
        key: tuple[str, ...] = ()
        max_keys: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = MAX_KEYS

        def __post_init__(self) -> None:
            """Raises `ValueError` for a period or descriptor that is none, so that `sidecar check` finds it."""
            if self.per <= 0:
                raise ValueError("`per` of a token bucket is above 0 seconds")
            compile_descriptors(self.key)

    def __init__(self, config: Config, context: Any) -> None:
        self.descriptors = config.key
        self.rule = context.name
        self.buckets = TokenBuckets(config.requests / config.per, config.burst or config.requests, config.max_keys)
        self._answers = tuple(Allow(self.rule, left) for left in range(min(int(self.buckets.burst), KEPT_ANSWERS)))

    def take(self, values: tuple[str, ...], now: float) -> Allow | Limited:
        """See `IRateLimiter`."""
        for value in values:
            if len(value) > VALUE_CHARACTERS:
                values = tuple([_short(each) for each in values])
                break
        left = self.buckets.take(values, now)
        if left < 0:
            return Limited(-left, self.rule)
        whole = int(left)
        return self._answers[whole] if whole < len(self._answers) else Allow(self.rule, whole)


def _short(value: str) -> str:
    if len(value) <= VALUE_CHARACTERS:
        return value
    return blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
