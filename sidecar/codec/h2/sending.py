"""The sending half of a connection: heads at once, in the order in which they come; bodies as the peer's windows allow, the streams taking turns.

A chunk that its windows let through at once goes into the batch as it is. Everything else waits in its stream's queue until `data_to_send`, which lets each
waiting stream send one frame in turn. END_STREAM is set on the stream's last frame when that has not left yet, so a short answer is HEADERS and DATA and
nothing more.
"""

from __future__ import annotations

from collections import deque

from sidecar.codec.h2.connection_state import ConnectionState
from sidecar.codec.h2.fields import write_request, write_response
from sidecar.codec.h2.frames import (
    CONTINUATION,
    DATA,
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
from sidecar.codec.h2.streams import (
    AFTER,
    CLOSED,
    FIXED_TAIL,
    HALF_LOCAL,
    IDLE,
    NO_HEAD,
    NO_TAIL,
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
from sidecar.headers import Headers
from sidecar.message import RequestHead, ResponseHead

# The flags of a head that is one frame and all of its message, or the end of it.
_LAST_HEAD = END_HEADERS | END_STREAM
_AFTER_HEAD, _AFTER_HEAD_END, _AFTER_DATA, _AFTER_END = AFTER[SEND_HEAD], AFTER[SEND_HEAD_END], AFTER[SEND_DATA], AFTER[SEND_END]

# Neither HEAD nor CONNECT, which answers depend on: one look for most requests.
_PLAIN_METHODS = frozenset((b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS"))

# A frame that the peer's window cut down to fewer octets pays for nothing that the peer sends: windows opened octet by octet would pay for themselves.
PAYING_OCTETS = 256


class SendingHalf(ConnectionState):
    """The part of `H2Connection` that makes frames. A call for a stream that is gone meanwhile is in vain, not wrong: its owner learns of it by an event.

    What is against the protocol by our own fault (a body before its head, anything after the end) raises `RuntimeError`.
    """

    __slots__ = ()

    # -- messages ----------------------------------------------------------------------------------------------------------------------------

    def send_request(self, head: RequestHead, end: bool) -> int | None:
        """`open_stream` and `send_head` in one: the stream's id, or None and nothing is sent."""
        streams = self._streams
        # `_next_id`, without the call.
        if len(streams) >= self._streams_most:
            return None
        stream_id = self._next_stream
        self._next_stream = stream_id + 2
        if stream_id == LARGEST_STREAM_ID:
            self._use_up()
        tunnel = head.upgrade
        method = head.method
        is_head = False
        if method not in _PLAIN_METHODS:
            is_head = method == b"HEAD"
            if tunnel is None and method == b"CONNECT":
                tunnel = b""
        block = write_request(head, self._encoder)
        size = len(block)
        out = self._out
        tail = self._written + len(out)
        stream = Stream(stream_id, HALF_LOCAL if end else OPEN, self.peer.stream_window, NO_HEAD, tunnel, tail, is_head)
        streams[stream_id] = stream
        if size <= SMALLEST_MAX_FRAME:
            out.append(pack_head(size << 8 | HEADERS, _LAST_HEAD if end else END_HEADERS, stream_id))
            out.append(block)
        else:
            self._write_long_block(stream, block, _LAST_HEAD if end else END_HEADERS)
        return stream_id

    def send_head(self, stream_id: int, head: RequestHead | ResponseHead, end: bool) -> None:
        """The request's head, or the final one of a response, is in the batch; `end`: nothing follows.

        A 101 with `upgrade` goes out as the 200 of RFC 8441. A request with `upgrade` needs `peer.connect_protocol`.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        state = stream.state
        after = (_AFTER_HEAD_END if end else _AFTER_HEAD)[state]
        if after == REFUSED or stream.tail != NO_TAIL:
            raise RuntimeError(f"a head is not allowed on {stream!r}, or a second final one")
        if type(head) is RequestHead:
            if head.upgrade is not None:
                stream.tunnel = head.upgrade
            elif head.method == b"CONNECT":
                stream.tunnel = b""
            else:
                stream.is_head_request = head.method == b"HEAD"
            block = write_request(head, self._encoder)
        else:
            block = write_response(head, self._encoder)  # type: ignore[arg-type]
        size = len(block)
        if size <= SMALLEST_MAX_FRAME:
            out = self._out
            stream.tail = self._written + len(out)
            out.append(pack_head(size << 8 | HEADERS, _LAST_HEAD if end else END_HEADERS, stream_id))
            out.append(block)
        else:
            self._write_long_block(stream, block, _LAST_HEAD if end else END_HEADERS)
        # To set what is so already would cost as much as a third of all this.
        if after != state:
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
        if stream.tail != NO_TAIL:
            raise RuntimeError(f"an informational head behind the final one on {stream!r}")
        self._write_block(stream, write_response(head, self._encoder), END_HEADERS)
        stream.tail = NO_TAIL

    def send_data(self, stream_id: int, chunk: bytes, end: bool = False) -> int:
        """The chunk is in the batch or in the stream's queue; the octets now queued there. More than 0: hold your source until `take_drained` names the stream.
        `end`: nothing follows, as `send_end` says.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return 0
        backlog = stream.backlog
        state = stream.state
        if _AFTER_DATA[state] == REFUSED or (backlog is not None and backlog.ending):
            raise RuntimeError(f"data behind the end of {stream!r}")
        size = len(chunk)
        window = stream.send_window
        if size <= window and size <= self._send_window and size <= self._frame_octets and backlog is None and not self._ready:
            if size:
                self._send_window -= size
                self.sent_data_frames += 1
                out = self._out
                if end:
                    out.append(pack_head(size << 8, END_STREAM, stream_id))
                    out.append(chunk)
                    after = _AFTER_END[state]
                    if after == CLOSED or stream.is_discarded:
                        self._ended_here(stream, after)
                    else:
                        stream.state = after
                    return 0
                stream.send_window = window - size
                stream.tail = self._written + len(out)
                out.append(pack_head(size << 8, 0, stream_id))
                out.append(chunk)
            elif end:
                self._write_end(stream, None)
            return 0
        if size:
            self._queue(stream, chunk)
        if end:
            self.send_end(stream_id)
        return stream.queued

    def _queue(self, stream: Stream, chunk: bytes) -> None:
        backlog = stream.backlog
        if backlog is None:
            backlog = stream.backlog = Backlog()
        backlog.chunks.append(chunk)
        backlog.octets += len(chunk)
        if not backlog.waits and stream.send_window > 0:
            backlog.waits = True
            self._ready.append(stream)

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
        self._written += len(out)
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
            stream.tail = self._written + len(out)
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
        if size > SMALLEST_MAX_FRAME:
            self._write_long_block(stream, block, flags)
            return
        stream.tail = self._written + len(out)
        out.append(pack_head(size << 8 | HEADERS, flags, stream.id))
        out.append(block)

    def _write_long_block(self, stream: Stream, block: bytes, flags: int) -> None:
        out = self._out
        most = self.peer.frame_octets
        flags &= ~END_HEADERS
        stream.tail = FIXED_TAIL  # END_STREAM cannot be set on the last of them
        kind = HEADERS
        size = len(block)
        for start in range(0, size, most):
            piece = block[start : start + most]
            out.append(frame(kind, flags | (END_HEADERS if start + most >= size else 0), stream.id, piece))
            kind = CONTINUATION
            flags = 0

    def _write_end(self, stream: Stream, trailers: Headers | None) -> None:
        out = self._out
        stream_id = stream.id
        if trailers is not None and trailers.fields and (block := self._encoder.encode(trailers.fields)):
            size = len(block)
            if size <= SMALLEST_MAX_FRAME:
                out.append(pack_head(size << 8 | HEADERS, _LAST_HEAD, stream_id))
                out.append(block)
            else:
                self._write_long_block(stream, block, _LAST_HEAD)
        else:
            tail = stream.tail - self._written
            if tail >= 0:
                head = out[tail]
                out[tail] = pack_head(len(out[tail + 1]) << 8 | head[3], head[4] | END_STREAM, stream_id)
            else:
                out.append(pack_head(DATA, END_STREAM, stream_id))
        after = _AFTER_END[stream.state]
        if after == CLOSED:
            self._forget(stream, CLOSED)
        else:
            self._ended_here(stream, after)

    def _ended_here(self, stream: Stream, state: int) -> None:
        """Our side is ended, which leads to `state`."""
        if state == CLOSED:
            self._forget(stream, CLOSED)
            return
        stream.state = state
        if stream.is_discarded:
            self._local_end(stream)

    def _local_end(self, stream: Stream) -> None:
        if stream.state == CLOSED:
            self._forget(stream, CLOSED)
        elif stream.is_discarded:
            # Section 8.1: the answer is complete, the rest of the request is not wanted.
            self.reset(stream.id, NO_ERROR)

def _take_slice(queue: deque[bytes], most: int, slice_octets: int) -> bytes:
    """The next octets of the queue: a chunk of at most `most` octets, or `slice_octets` of a longer one, as a view of it. Nothing is joined or copied."""
    chunk = queue[0]
    if len(chunk) <= most:
        queue.popleft()
        return chunk
    view = memoryview(chunk)
    queue[0] = view[slice_octets:]  # type: ignore[assignment]
    return view[:slice_octets]  # type: ignore[return-value]
