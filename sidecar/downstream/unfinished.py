"""How long something of a client has been begun and not ended, found out by looking now and then."""

from __future__ import annotations

from math import inf


class Unfinished:
    """One connection's. `limit`: seconds that it may take, 0 for no limit."""

    __slots__ = ("_limit", "_requests", "_since")

    def __init__(self, limit: float) -> None:
        self._limit = limit or inf
        self._since: float | None = None
        self._requests = 0

    def is_over(self, now: float, is_begun: bool, requests: int) -> bool:
        """Did it take too long? `is_begun`: is there something now? `requests` so far: when there were some since the last look, this is another one."""
        if not is_begun:
            self._since = None
        elif self._since is None or self._requests != requests:
            self._since = now
            self._requests = requests
        return self._since is not None and now - self._since >= self._limit

    def wait(self, now: float) -> float:
        """Seconds until it would be over, infinity when nothing is begun."""
        return inf if self._since is None else max(self._since + self._limit - now, 0.0)

    def __repr__(self) -> str:
        return f"<Unfinished since {self._since}>"
