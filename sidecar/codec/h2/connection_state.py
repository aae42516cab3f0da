"""What a connection knows: the peer's settings, its streams and their ids, windows, and what waits to be written: the ground that its halves stand on."""

from __future__ import annotations

from collections import deque

from sidecar.codec.h2.encoder import Encoder
from sidecar.codec.h2.frames import DEFAULT_WINDOW, LARGEST_STREAM_ID, SMALLEST_MAX_FRAME
from sidecar.codec.h2.limits import H2Limits
from sidecar.codec.h2.streams import CLOSED, IDLE, Stream
from sidecar.codec.h2.windows import ReceiveWindow

# Streams that we may open before the peer's first SETTINGS tell: what RFC 9113, section 6.5.2, recommends peers to allow at least.
_STREAMS_BEFORE_SETTINGS = 100
# Streams that were reset are remembered this long (in streams), so that late frames for them are told from frames for streams that ended.
REMEMBERED_RESETS = 1_000
# Of a frame's head. Frames cut from longer chunks are so much shorter than they might be: with its head each fills as many TLS records as its octets need, of
# 16 KiB, instead of one more with nine octets in it.
FRAME_HEAD_OCTETS = 9


class PeerSettings:
    """What the peer announced, with the defaults of RFC 9113, section 6.5.2, before that."""

    __slots__ = ("concurrent_streams", "connect_protocol", "frame_octets", "header_list_octets", "received", "stream_window", "table_octets")

    def __init__(self) -> None:
        self.received = False
        self.concurrent_streams = _STREAMS_BEFORE_SETTINGS
        self.stream_window = DEFAULT_WINDOW
        self.frame_octets = SMALLEST_MAX_FRAME
        self.header_list_octets: int | None = None  # None: not announced
        self.table_octets = 4096
        self.connect_protocol = False

    def __repr__(self) -> str:
        return f"<PeerSettings {', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)}>"


class ConnectionState:
    """See the module."""

    __slots__ = (
        "_answers",
        "_drained",
        "_encoder",
        "_ended",
        "_frame_octets",
        "_is_leaving",
        "_last_accepted",
        "_last_peer_stream",
        "_next_stream",
        "_out",
        "_ready",
        "_send_window",
        "_slice_octets",
        "_spare",
        "_streams",
        "_streams_most",
        "_window",
        "_written",
        "counters",
        "is_client",
        "is_peer_leaving",
        "is_used_up",
        "limits",
        "peer",
        "sent_data_frames",
    )

    def __init__(self, is_client: bool, limits: H2Limits) -> None:
        self.is_client = is_client
        self.limits = limits
        self.peer = PeerSettings()
        self.is_peer_leaving = False
        self.is_used_up = False  # are there no more ids for streams of ours (section 5.1.1)?
        self._streams_most = _STREAMS_BEFORE_SETTINGS  # of ours at a time; 0 when there may be no more
        self.counters: dict[str, int] = {}
        self.sent_data_frames = 0
        self._out: list[bytes] = []
        self._written = 1  # pieces in earlier batches, and one, so that no frame stands at `FIXED_TAIL`
        self._answers = 0
        self._encoder = Encoder(limits.encoder_table_octets)
        self._streams: dict[int, Stream] = {}
        self._ended: dict[int, int] = {}
        self._spare = limits.grown_windows  # octets by which streams' windows may still grow
        self._send_window = DEFAULT_WINDOW
        self._frame_octets = min(SMALLEST_MAX_FRAME, limits.sent_frame_octets)
        self._slice_octets = self._frame_octets - FRAME_HEAD_OCTETS
        self._ready: deque[Stream] = deque()
        self._drained: list[int] = []
        self._window = ReceiveWindow(max(limits.connection_window, DEFAULT_WINDOW), max(limits.connection_window_most, DEFAULT_WINDOW))
        self._next_stream = 1
        self._last_peer_stream = 0
        self._last_accepted = LARGEST_STREAM_ID  # what our last GOAWAY said
        self._is_leaving = False  # and whether it named a stream

    # -- streams -----------------------------------------------------------------------------------------------------------------------------

    @property
    def open_streams(self) -> int:
        """Streams that have not ended in both directions."""
        return len(self._streams)

    @property
    def wants_write(self) -> bool:
        """Would `data_to_send` give something? True also when only closed windows hold it back."""
        return bool(self._out or self._ready)

    def can_open_stream(self) -> bool:
        """Would `open_stream` give a stream now?"""
        return len(self._streams) < self._streams_most

    def open_stream(self) -> int | None:
        """A new stream's id, or None when the peer's limit is reached, the ids are used up, or the peer said GOAWAY. Client only.

        Send its head before opening another one: ids go out in their order (RFC 9113, section 5.1.1).
        """
        stream_id = self._next_id()
        if stream_id is not None:
            self._streams[stream_id] = Stream(stream_id, IDLE, self.peer.stream_window)
        return stream_id

    def _next_id(self) -> int | None:
        if len(self._streams) >= self._streams_most:
            return None
        stream_id = self._next_stream
        self._next_stream = stream_id + 2
        if stream_id == LARGEST_STREAM_ID:
            self._use_up()
        return stream_id

    def _use_up(self) -> None:
        """The last id is taken."""
        self.is_used_up = True
        self._limit_streams()

    def _limit_streams(self) -> None:
        """The peer's limit, or what else decides about new streams, may have changed."""
        self._streams_most = 0 if self.is_peer_leaving or self.is_used_up else min(self.peer.concurrent_streams, LARGEST_STREAM_ID // 2)

    def queued(self, stream_id: int) -> int:
        """Octets of the stream that wait for windows."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.queued

    def take_drained(self) -> list[int]:
        """The streams whose queue became empty since the last call."""
        drained = self._drained
        self._drained = []
        return drained

    def stalled(self, now: float) -> list[tuple[int, float]]:
        """(stream id, since when) of streams that have octets waiting and moved almost none since (`H2Limits.progress_octets`).

        Call it now and then, `now` in seconds; how long is too long is yours to decide. "Since" is the time of an earlier call, so it is never too long ago.
        """
        found = []
        for stream in self._streams.values():
            backlog = stream.backlog
            if backlog is None:
                continue
            if backlog.mark_since is None or backlog.sent - backlog.mark >= self.limits.progress_octets:
                backlog.mark = backlog.sent
                backlog.mark_since = now
            else:
                found.append((stream.id, backlog.mark_since))
        return found

    # -- endings ---------------------------------------------------------------------------------------------------------------------------

    def _forget(self, stream: Stream, state: int) -> None:
        """The stream is over in `state`."""
        del self._streams[stream.id]
        if stream.window is not None:
            self._spare += stream.window.grown
        if state != CLOSED:
            # Whoever closes a stream on both sides does not look at it again.
            stream.state = state
            self._remember_end(stream.id, state)
        if stream.backlog is not None:
            if stream.backlog.waits:
                self._ready.remove(stream)
            stream.backlog = None

    def _remember_end(self, stream_id: int, state: int) -> None:
        ended = self._ended
        ended[stream_id] = state
        if len(ended) > REMEMBERED_RESETS:
            del ended[next(iter(ended))]
