"""Token buckets by key: a bucket holds `burst` tokens at first, gains `rate` tokens a second up to `burst`, and each grant takes one.

The number of buckets is bounded; the one longest unused goes first. A forgotten caller begins with a full bucket again: the limit of one caller is
exact as long as not more than `max_keys` others come between two of its requests.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

# About 2.5 MiB when full. A caller who could invent keys at will would empty any limit by key, bounded or not.
MAX_KEYS = 10_000


class TokenBuckets:
    """Buckets of one limit. `rate`: tokens a second, > 0. `burst`: the most a bucket holds, >= 1."""

    __slots__ = ("_buckets", "burst", "evicted", "max_keys", "rate")

    def __init__(self, rate: float, burst: float, max_keys: int = MAX_KEYS) -> None:
        if rate <= 0 or burst < 1 or max_keys < 1:
            raise ValueError("a token bucket needs a rate above 0, a burst of at least 1 and room for one key")
        self.rate = rate
        self.burst = float(burst)
        self.max_keys = max_keys
        self.evicted = 0
        # key -> [tokens, time of that count]; the least recently used first
        self._buckets: OrderedDict[Hashable, list[float]] = OrderedDict()

    def take(self, key: Hashable, now: float) -> float:
        """Take one token. The number left after it (0 or more), or, negative, the seconds until one would be there.

        `now`: seconds of a clock that mostly goes forward; when it goes back, nothing is refilled for that time.
        """
        buckets = self._buckets
        bucket = buckets.get(key)
        if bucket is None:
            if len(buckets) >= self.max_keys:
                buckets.popitem(last=False)
                self.evicted += 1
            left = self.burst - 1.0
            buckets[key] = [left, now]
            return left
        buckets.move_to_end(key)
        tokens = bucket[0]
        elapsed = now - bucket[1]
        bucket[1] = now
        if elapsed > 0:
            tokens += elapsed * self.rate
            if tokens > self.burst:
                tokens = self.burst
        if tokens >= 1.0:
            bucket[0] = tokens = tokens - 1.0
            return tokens
        bucket[0] = tokens
        return (tokens - 1.0) / self.rate

    def __len__(self) -> int:
        return len(self._buckets)

    def __repr__(self) -> str:
        return f"<TokenBuckets rate={self.rate:g}/s burst={self.burst:g} keys={len(self)}>"
