"""The credit we give (RFC 9113, section 5.2): a stream's follows delivery, the connection's follows receipt; in batches, and growing for what moves fast.

Octets are in one of three places: still allowed (`left`), received and not yet delivered (`held`), delivered and not yet credited (`owed`). Their sum is the
window's size, always. For the connection's window delivered means received: if octets that nobody reads counted against it, a few streams with slow readers
would stop all others. What a connection may hold is bounded by its streams' windows, and by how much these may grow together.
"""

from __future__ import annotations

# A window doubles when this many times its size was delivered: two round trips of a transfer that fills it.
_GROWS_AFTER = 2


class ReceiveWindow:
    """One stream's, or the connection's. `most`: the size it may grow to; `grown`: by how much it did."""

    __slots__ = ("_delivered", "_most", "grown", "held", "left", "owed", "size")

    def __init__(self, size: int, most: int) -> None:
        self.size = size
        self.left = size
        self.held = 0
        self.owed = 0
        self.grown = 0
        self._most = most
        self._delivered = 0

    def __repr__(self) -> str:
        return f"<ReceiveWindow {self.left} left, {self.held} held, {self.owed} owed of {self.size}>"

    def take(self, octets: int) -> bool:
        """The peer sent `octets`; was it allowed to?"""
        self.left -= octets
        self.held += octets
        return self.left >= 0

    def pass_on(self, octets: int) -> int:
        """`take` and `give` in one, for octets that count as delivered when they are here: the increment, or -1 when they were not allowed."""
        self.left -= octets
        if self.left < 0:
            return -1
        owed = self.owed + octets
        if owed + owed < self.size:
            self.owed = owed
            return 0
        self.held += octets
        return self.give(octets)

    def give(self, octets: int, spare: int = 2**31) -> int:
        """`octets` were delivered; the increment to announce now, 0 for none yet. More than `held` is never given. `spare`: octets that it may grow by."""
        if octets > self.held:
            octets = self.held
        self.held -= octets
        owed = self.owed + octets
        if owed + owed < self.size:
            self.owed = owed
            return 0
        self._delivered += owed
        if self._delivered >= self.size * _GROWS_AFTER and self.size < self._most and spare > 0:
            growth = min(self.size, self._most - self.size, spare)
            self.size += growth
            self.grown += growth
            self._delivered = 0
            owed += growth
        self.left += owed
        self.owed = 0
        return owed

    def resize(self, change: int) -> None:
        """SETTINGS changed the size by `change`; `left` may become negative (section 6.9.2)."""
        self.size += change
        self.left += change
