"""How long a connection may live: the configured time and a random part of it, so that connections that were made together do not end together."""

from __future__ import annotations

import random
from math import inf
from typing import Any


def end_of_life(limits: Any, now: float) -> float:
    """When a connection made at `now` has reached its age; `inf` without a limit. `limits`: `model.HTTPLimits` or `model.PoolLimits`. Clock seconds."""
    return ends_at(limits.max_connection_duration, limits.max_connection_duration_jitter, now)


def ends_at(duration: float, jitter_percent: float, now: float) -> float:
    """The same of the two numbers."""
    return now + duration * (1.0 + random.random() * jitter_percent / 100.0) if duration else inf
