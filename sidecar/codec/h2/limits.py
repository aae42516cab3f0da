"""What one HTTP/2 connection may cost us. Every limit has a default, a unit and a reason; what breaks one is counted and ends the connection with
ENHANCE_YOUR_CALM.
"""

from __future__ import annotations

import attrs

from sidecar.codec.h2.tables import DEFAULT_TABLE_OCTETS

# DATA of fewer octets, END_STREAM not set, is hardly more than the 9 octets of its own head: a message of gRPC begins with 5, a client's of WebSocket has 6
# beside its text. Such frames have a budget.
SMALL_OCTETS = 8

# What one connection counts, beside its octets.
COUNTERS = (
    "resets_received",
    "resets_provoked",
    "streams_refused",
    "streams_ignored",
    "heads_too_large",
    "heads_malformed",
    "endless_heads",
    "empty_data",
    "small_data",
    "pings",
    "settings",
    "ignored_frames",
    "window_updates",
    "floods",
    "connection_errors",
)


@attrs.frozen
class H2Limits:
    """The limits of connections of one kind. Rates are per second and connection; a budget holds `*_burst` at first and refills at its rate."""

    # Streams the peer may have open at a time. RFC 9113, section 6.5.2, wants no fewer than 100; each may hold a window's worth of memory.
    concurrent_streams: int = 250
    # Octets of one head or trailers, each field counted with 32 more (RFC 9113, section 6.5.2); announced to the peer. What passes here fits the head limit of
    # HTTP/1.1.
    header_list_octets: int = 65_536
    # Fields of one head. One octet is enough to repeat a field, and what forwards a field pays for each.
    header_fields: int = 200
    # CONTINUATION frames behind one HEADERS: a head of 64 KiB in the smallest usual frames needs four. Without a limit a head would never end (CVE-2024-27316
    # and its kin).
    continuation_frames: int = 16
    # Octets of HPACK's dynamic table, for receiving (announced) and for sending (the most used, whatever the peer offers).
    table_octets: int = DEFAULT_TABLE_OCTETS
    encoder_table_octets: int = DEFAULT_TABLE_OCTETS
    # Octets of a frame that the peer may send. Larger ones cost less for each octet, and make other streams wait; a client that fetches much may set 65536.
    frame_octets: int = 16_384
    # Octets of a frame that we send, if the peer takes as much: a stream waits at most one frame of each other.
    sent_frame_octets: int = 65_536
    # Octets that a stream may send before we gave credit: at first, and after doubling while it moves much. Growing costs memory only where something flows
    # fast.
    stream_window: int = 131_072
    stream_window_most: int = 2_097_152
    # Octets by which the windows of all streams together may grow: beside `concurrent_streams` times `stream_window` this bounds what a connection can make us
    # hold.
    grown_windows: int = 8_388_608
    # Octets that all streams may send before we have read them. Those that we read are credited at once, delivered or not: slow readers of some streams must
    # not stop the others.
    connection_window: int = 1_048_576
    connection_window_most: int = 8_388_608
    # Streams reset by the peer before they ended (CVE-2023-44487): cancelled calls are normal, each costs a whole exchange.
    resets_rate: float = 200.0
    resets_burst: int = 500
    # Streams that we reset for the peer's mistakes (CVE-2025-8671: it provokes resets to have work abandoned but not counted), and those refused beyond the
    # limit.
    provoked_rate: float = 50.0
    provoked_burst: int = 200
    # DATA frames without octets that end nothing: they pass flow control for free. Some senders make a few.
    empty_data_rate: float = 20.0
    empty_data_burst: int = 100
    # DATA frames of fewer than `SMALL_OCTETS` that end nothing, from clients: single octets cost as much as whole messages. Larger ones, our answers and
    # streams refill this budget, so it is for senders who are not answered; keys typed and ticks come far below this rate, bursts for a long time above it.
    small_data_rate: float = 2_000.0
    small_data_burst: int = 20_000
    # PING, each answered; estimators of bandwidth send one for each batch of DATA, so DATA frames refill this budget too.
    pings_rate: float = 50.0
    pings_burst: int = 500
    # SETTINGS, each acknowledged and perhaps changing every stream's window.
    settings_rate: float = 5.0
    settings_burst: int = 50
    # PRIORITY and frames of unknown types: ignored, but read. Old browsers send some for each stream, so heads refill this budget.
    ignored_rate: float = 100.0
    ignored_burst: int = 500
    # WINDOW_UPDATE: one or two for each DATA frame of ours is usual, or for a few KiB of them; so frames and octets refill this budget.
    window_updates_rate: float = 500.0
    window_updates_burst: int = 1_000
    # Answers to control frames that wait because nobody takes them: a peer that does not read must not fill memory.
    answers_waiting: int = 1_000
    # A stream with octets waiting whose window lets fewer than this many out between two looks is reported as stalled (windows of one octet keep memory busy
    # forever).
    progress_octets: int = 1_024


class Budget:
    """A token bucket that can be refilled by use as well as by time."""

    __slots__ = ("_burst", "_earned", "_left", "_rate", "_since")

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._left = float(burst)
        self._earned = 0
        self._since: float | None = None

    def take(self, now: float, earned: int = 0) -> bool:
        """Is there one left? `now`: seconds; `earned`: what the peer has earned in all, a number that only grows."""
        if self._since is None:
            self._since = now
        left = self._left + (now - self._since) * self._rate + earned - self._earned
        self._since = now
        self._earned = earned
        self._left = min(left, self._burst) - 1.0
        return self._left >= 0.0

    def __repr__(self) -> str:
        return f"<Budget {self._left:.1f} of {self._burst}>"
