"""The sending half of a connection: heads at once, in the order in which they come; bodies as the peer's windows allow, the streams taking turns.

A chunk that its windows let through at once goes into the batch as it is. Everything else waits in its stream's queue until `data_to_send`, which lets each
waiting stream send one frame in turn. END_STREAM is set on the stream's last frame when that has not left yet, so a short answer is HEADERS and DATA and
nothing more.
"""

from __future__ import annotations

from collections import deque

from sidecar.codec.h2.encoder import Encoder
from sidecar.codec.h2.fields import write_request, write_response
from sidecar.codec.h2.frames import (
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    LARGEST_STREAM_ID,
    NO_ERROR,
    PING,
    SMALLEST_MAX_FRAME,
    frame,
    goaway_frame,
    pack_head,
    reset_frame,
    window_update_frame,
)
from sidecar.codec.h2.limits import H2Limits
from sidecar.codec.h2.streams import (
    AFTER,
    CLOSED,
    HALF_LOCAL,
    IDLE,
    OPEN,
    REFUSED,
    RESET_SENT,
    SEND_DATA,
    SEND_END,
    SEND_HEAD,
    SEND_HEAD_END,
    Backlog,
    Stream,
)
from sidecar.codec.h2.windows import ReceiveWindow
from sidecar.headers import Headers
from sidecar.message import RequestHead, ResponseHead

# The flags of a head that is one frame and all of its message, or the end of it.
_LAST_HEAD = END_HEADERS | END_STREAM
_AFTER_HEAD, _AFTER_HEAD_END, _AFTER_DATA, _AFTER_END = AFTER[SEND_HEAD], AFTER[SEND_HEAD_END], AFTER[SEND_DATA], AFTER[SEND_END]

# Streams that we may open before the peer's first SETTINGS tell: what RFC 9113, section 6.5.2, recommends peers to allow at least.
_STREAMS_BEFORE_SETTINGS = 100
# Streams that were reset are remembered this long (in streams), so that late frames for them are told from frames for streams that ended.
REMEMBERED_RESETS = 1_000
# Of a frame's head. Frames cut from longer chunks are so much shorter than they might be: with its head each fills as many TLS records as its octets need, of
# 16 KiB, instead of one more with nine octets in it.
FRAME_HEAD_OCTETS = 9
# A frame that the peer's window cut down to fewer octets pays for nothing that the peer sends: windows opened octet by octet would pay for themselves.
PAYING_OCTETS = 256


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


class SendingHalf:
    """The part of `H2Connection` that makes frames. A call for a stream that is gone meanwhile is in vain, not wrong: its owner learns of it by an event.

    What is against the protocol by our own fault (a body before its head, anything after the end) raises `RuntimeError`.
    """

    __slots__ = (
        "_answers",
        "_batch",
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
        "_window",
        "counters",
        "is_client",
        "is_peer_leaving",
        "limits",
        "peer",
        "sent_data_frames",
    )

    def __init__(self, is_client: bool, limits: H2Limits) -> None:
        self.is_client = is_client
        self.limits = limits
        self.peer = PeerSettings()
        self.is_peer_leaving = False
        self.counters: dict[str, int] = {}
        self.sent_data_frames = 0
        self._out: list[bytes] = []
        self._batch = 0
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

    @property
    def is_used_up(self) -> bool:
        """Are there no more ids for streams of ours (section 5.1.1)?"""
        return self._next_stream > LARGEST_STREAM_ID

    def can_open_stream(self) -> bool:
        """Would `open_stream` give a stream now?"""
        return len(self._streams) < self.peer.concurrent_streams and self._next_stream <= LARGEST_STREAM_ID and not self.is_peer_leaving

    def open_stream(self) -> int | None:
        """A new stream's id, or None when the peer's limit is reached, the ids are used up, or the peer said GOAWAY. Client only.

        Send its head before opening another one: ids go out in their order (RFC 9113, section 5.1.1).
        """
        stream_id = self._next_stream
        # `can_open_stream`, once more.
        if len(self._streams) >= self.peer.concurrent_streams or stream_id > LARGEST_STREAM_ID or self.is_peer_leaving:
            return None
        self._next_stream += 2
        self._streams[stream_id] = Stream(stream_id, IDLE, self.peer.stream_window)
        return stream_id

    def send_request(self, head: RequestHead, end: bool) -> int | None:
        """`open_stream` and `send_head` in one: the stream's id, or None and nothing is sent."""
        stream_id = self._next_stream
        peer = self.peer
        # `can_open_stream`, once more.
        if len(self._streams) >= peer.concurrent_streams or stream_id > LARGEST_STREAM_ID or self.is_peer_leaving:
            return None
        self._next_stream = stream_id + 2
        stream = self._streams[stream_id] = Stream(stream_id, HALF_LOCAL if end else OPEN, peer.stream_window, head_sent=True)
        if head.upgrade is not None:
            stream.tunnel = head.upgrade
        elif head.method == b"CONNECT":
            stream.tunnel = b""
        else:
            stream.is_head_request = head.method == b"HEAD"
        self._write_block(stream, write_request(head, self._encoder), _LAST_HEAD if end else END_HEADERS)
        return stream_id

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

    # -- messages ----------------------------------------------------------------------------------------------------------------------------

    def send_head(self, stream_id: int, head: RequestHead | ResponseHead, end: bool) -> None:
        """The request's head, or the final one of a response, is in the batch; `end`: nothing follows.

        A 101 with `upgrade` goes out as the 200 of RFC 8441. A request with `upgrade` needs `peer.connect_protocol`.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        after = (_AFTER_HEAD_END if end else _AFTER_HEAD)[stream.state]
        if after == REFUSED or stream.head_sent:
            raise RuntimeError(f"a head is not allowed on {stream!r}, or a second final one")
        if isinstance(head, RequestHead):
            if head.upgrade is not None:
                stream.tunnel = head.upgrade
            elif head.method == b"CONNECT":
                stream.tunnel = b""
            else:
                stream.is_head_request = head.method == b"HEAD"
            block = write_request(head, self._encoder)
        else:
            block = write_response(head, self._encoder)
        stream.head_sent = True
        self._write_block(stream, block, _LAST_HEAD if end else END_HEADERS)
        stream.state = after
        if end:
            self._local_end(stream)

    def send_informational(self, stream_id: int, head: ResponseHead) -> None:
        """A 1xx head is in the batch. Server only."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if _AFTER_HEAD[stream.state] == REFUSED:
            raise RuntimeError(f"not allowed on {stream!r}")
        if stream.head_sent:
            raise RuntimeError(f"an informational head behind the final one on {stream!r}")
        self._write_block(stream, write_response(head, self._encoder), END_HEADERS)

    def send_data(self, stream_id: int, chunk: bytes) -> int:
        """The chunk is in the batch or in the stream's queue; the octets now queued there. More than 0: hold your source until `take_drained` names the stream.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return 0
        backlog = stream.backlog
        if _AFTER_DATA[stream.state] == REFUSED or (backlog is not None and backlog.ending):
            raise RuntimeError(f"data behind the end of {stream!r}")
        size = len(chunk)
        window = stream.send_window
        if size <= window and size <= self._send_window and size <= self._frame_octets and backlog is None and not self._ready:
            if size:
                stream.send_window = window - size
                self._send_window -= size
                self.sent_data_frames += 1
                out = self._out
                stream.batch = self._batch
                stream.tail = len(out)
                out.append(pack_head(size << 8, 0, stream_id))
                out.append(chunk)
            return 0
        if not size:
            return stream.queued
        if backlog is None:
            backlog = stream.backlog = Backlog()
        backlog.chunks.append(chunk)
        backlog.octets += size
        if not backlog.waits and window > 0:
            backlog.waits = True
            self._ready.append(stream)
        return backlog.octets

    def send_end(self, stream_id: int, trailers: Headers | None = None) -> None:
        """The stream's message ends behind what was sent so far. Our side of a tunnel ends so, too."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        backlog = stream.backlog
        if _AFTER_END[stream.state] == REFUSED or (backlog is not None and backlog.ending):
            raise RuntimeError(f"an end is not allowed on {stream!r}, or a second one")
        if backlog is None:
            self._write_end(stream, trailers)
        else:
            backlog.ending = True
            backlog.trailers = trailers

    def reset(self, stream_id: int, code: int) -> None:
        """The stream is over, what it had queued is dropped, and RST_STREAM is in the batch. Nothing more comes from it; its octets not yet consumed are
        credited.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if stream.state != IDLE:
            self._out.append(reset_frame(stream_id, code))
        self._forget(stream, RESET_SENT)

    def ping(self, payload: bytes) -> None:
        """A PING with these 8 octets is in the batch; `PingAcked` tells of its answer."""
        if len(payload) != 8:
            raise ValueError("a PING has 8 octets")
        self._out.append(frame(PING, 0, 0, payload))

    def goaway(self, code: int = NO_ERROR, last: int | None = None, debug: bytes = b"") -> None:
        """GOAWAY is in the batch; streams above `last` (None: the last one that came) are ignored from now on.

        To drain: once with `LARGEST_STREAM_ID`, and after a round trip (a PING's answer) once more with None (RFC 9113, section 6.8).
        """
        last = min(self._last_peer_stream if last is None else last, self._last_accepted)
        self._last_accepted = last
        self._is_leaving = last < LARGEST_STREAM_ID
        self._out.append(goaway_frame(last, code, debug))

    def consumed(self, stream_id: int, octets: int) -> None:
        """`octets` of the stream's DATA have left on the other side: its credit, in the batch when half a window is due. After its end this may be left out."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        window = stream.window
        if window is None:
            stream.given += octets
            return
        grown = window.grown
        increment = window.give(octets, self._spare)
        if increment:
            self._spare -= window.grown - grown
            if stream.state in (OPEN, HALF_LOCAL):
                self._out.append(window_update_frame(stream_id, increment))

    # -- the batch ---------------------------------------------------------------------------------------------------------------------------

    def data_to_send(self, most_octets: int | None = None) -> list[bytes]:
        """Everything produced since the last call, in pieces to be written in their order. `most_octets`: bound for DATA taken from queues (frames are not cut
        for it).
        """
        if self._ready:
            self._pump(LARGEST_STREAM_ID if most_octets is None else most_octets)
        out = self._out
        self._out = []
        self._batch += 1
        self._answers = 0
        return out

    def _pump(self, most: int) -> None:
        """Each waiting stream sends a frame in turn, while there is credit."""
        ready = self._ready
        out = self._out
        while ready and self._send_window > 0 and most > 0:
            stream = ready.popleft()
            backlog = stream.backlog
            assert backlog is not None
            allowed = min(stream.send_window, self._send_window, self._frame_octets)
            if allowed <= 0:
                backlog.waits = False
                continue
            chunk = _take_slice(backlog.chunks, allowed, min(allowed, self._slice_octets))
            size = len(chunk)
            backlog.octets -= size
            backlog.sent += size
            stream.send_window -= size
            self._send_window -= size
            if size >= PAYING_OCTETS or not backlog.octets:
                self.sent_data_frames += 1
            most -= size
            stream.batch = self._batch
            stream.tail = len(out)
            out += (pack_head(size << 8 | DATA, 0, stream.id), chunk)
            if backlog.octets:
                if stream.send_window > 0:
                    ready.append(stream)
                else:
                    backlog.waits = False
                continue
            stream.backlog = None
            self._drained.append(stream.id)
            if backlog.ending:
                self._write_end(stream, backlog.trailers)

    def _write_block(self, stream: Stream, block: bytes, flags: int) -> None:
        """A head, with these flags if it is one frame."""
        out = self._out
        size = len(block)
        if size <= SMALLEST_MAX_FRAME:
            stream.batch = self._batch
            stream.tail = len(out)
            out.append(pack_head(size << 8 | HEADERS, flags, stream.id))
            out.append(block)
            return
        most = self.peer.frame_octets
        flags &= ~END_HEADERS
        stream.batch = -1  # END_STREAM cannot be set on the last of them
        kind = HEADERS
        for start in range(0, size, most):
            piece = block[start : start + most]
            out.append(frame(kind, flags | (END_HEADERS if start + most >= size else 0), stream.id, piece))
            kind = CONTINUATION
            flags = 0

    def _write_end(self, stream: Stream, trailers: Headers | None) -> None:
        if trailers is not None and trailers.fields and (block := self._encoder.encode(trailers.fields)):
            self._write_block(stream, block, _LAST_HEAD)
        elif stream.batch == self._batch:
            out = self._out
            tail = stream.tail
            head = out[tail]
            out[tail] = pack_head(len(out[tail + 1]) << 8 | head[3], head[4] | END_STREAM, stream.id)
        else:
            self._out.append(pack_head(DATA, END_STREAM, stream.id))
        stream.state = after = _AFTER_END[stream.state]
        if after == CLOSED:
            self._forget(stream, CLOSED)
        elif stream.is_discarded:
            self._local_end(stream)

    def _local_end(self, stream: Stream) -> None:
        if stream.state == CLOSED:
            self._forget(stream, CLOSED)
        elif stream.is_discarded:
            # Section 8.1: the answer is complete, the rest of the request is not wanted.
            self.reset(stream.id, NO_ERROR)

    # -- endings and credit ------------------------------------------------------------------------------------------------------------------

    def _forget(self, stream: Stream, state: int) -> None:
        """The stream is over in `state`."""
        del self._streams[stream.id]
        if stream.window is not None:
            self._spare += stream.window.grown
        if state != CLOSED:
            self._remember_end(stream.id, state)
        if stream.backlog is not None:
            if stream.backlog.waits:
                self._ready.remove(stream)
            stream.backlog = None
        stream.state = state

    def _remember_end(self, stream_id: int, state: int) -> None:
        ended = self._ended
        ended[stream_id] = state
        if len(ended) > REMEMBERED_RESETS:
            del ended[next(iter(ended))]


def _take_slice(queue: deque[bytes], most: int, slice_octets: int) -> bytes:
    """The next octets of the queue: a chunk of at most `most` octets, or `slice_octets` of a longer one, as a view of it. Nothing is joined or copied."""
    chunk = queue[0]
    if len(chunk) <= most:
        queue.popleft()
        return chunk
    view = memoryview(chunk)
    queue[0] = view[slice_octets:]  # type: ignore[assignment]
    return view[:slice_octets]  # type: ignore[return-value]
