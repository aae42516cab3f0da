"""The receiving half of a connection: heads, bodies and trailers (RFC 9113, section 8).

What is done when a peer breaks a rule stands in `refusing`, the control frames are taken in `connection`. Heads that were seen before take the straight way
through `_take_first_head`, `_take_response` and `_take_trailers`: one look into the decoder's memory, and the message is made.
"""

from __future__ import annotations

from sidecar.codec.h2 import events as happened
from sidecar.codec.h2.decoder import CompressionError, Decoder
from sidecar.codec.h2.events import JOINED_BELOW
from sidecar.codec.h2.fields import (
    Malformed,
    RequestParts,
    ResponseParts,
    lasting_request,
    lasting_response,
    outline,
    read_request,
    read_response,
    read_trailers,
    weigh,
)
from sidecar.codec.h2.frames import (
    COMPRESSION_ERROR,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    LARGEST_STREAM_ID,
    PADDED,
    PRIORITIZED,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    read_number,
    reset_frame,
    window_update_frame,
)
from sidecar.codec.h2.limits import SMALL_OCTETS, H2Limits
from sidecar.codec.h2.refusing import Events, RefusingHalf, Violation
from sidecar.codec.h2.streams import (
    AFTER,
    CLOSED,
    HALF_REMOTE,
    IDLE,
    NO_HEAD,
    NO_LENGTH,
    OPEN,
    RECV_DATA,
    RECV_DATA_END,
    RECV_HEAD,
    RECV_HEAD_END,
    REFUSE_IDLE,
    REFUSED,
    RESET_SENT,
    TABLE,
    Stream,
)
from sidecar.codec.h2.tables import DEFAULT_TABLE_OCTETS
from sidecar.codec.known import KnownFields
from sidecar.errors import HeadTooLarge
from sidecar.headers import Field, Headers
from sidecar.message import END, End, RequestHead, ResponseHead

_AFTER_HEAD, _AFTER_HEAD_END, AFTER_DATA, AFTER_LAST_DATA = AFTER[RECV_HEAD], AFTER[RECV_HEAD_END], AFTER[RECV_DATA], AFTER[RECV_DATA_END]

# 1xx heads before a response's final one; more serve nobody, and each is forwarded.
INFORMATIONAL_HEADS = 32
# Streams that a peer which does not know our limit yet may open beyond it: more than any client opens within the first round trip.
EARLY_REFUSALS = 1000
# A block may be this many times as long as the list that we announced: it is read for the table's sake, and its stream alone is refused. A caller whose head
# is a little too large is told so, and the other streams of a connection that many share live on.
BLOCK_EXCESS = 4
# Gaps in the peer's stream ids that are remembered, to tell an id that was passed over from one that was used.
REMEMBERED_GAPS = 16


class ReceivingHalf(RefusingHalf):
    """The part of `H2Connection` that makes messages of frames."""

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_frames",
        "_block_octets",
        "_block_stream",
        "_decoder",
        "_initial_window",
        "_special",
        "_uncounted",
        "connect_protocol",
        "settings_acked",
    )

    def __init__(self, is_client: bool, limits: H2Limits, connect_protocol: bool) -> None:
        super().__init__(is_client, limits)
        self.connect_protocol = connect_protocol and not is_client
        self.settings_acked = False
        self._decoder = Decoder(limits.table_octets)
        self._initial_window = max(limits.stream_window, DEFAULT_WINDOW)
        # A body of less than half a window needs no credit.
        self._uncounted = (self._initial_window - 1) // 2
        self._special = True  # the next frame is not free: SETTINGS, or CONTINUATION
        self._block_stream = 0  # the stream of an unfinished head
        self._block: list[bytes] = []
        self._block_flags = self._block_frames = self._block_octets = 0

    # -- heads -------------------------------------------------------------------------------------------------------------------------------

    def _take_headers(self, flags: int, stream_id: int, payload: bytes, events: Events) -> None:
        if stream_id == 0:
            raise Violation(PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & PADDED:
            payload = _without_padding(payload)
        if flags & PRIORITIZED:
            if len(payload) < 5:
                raise Violation(FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            if read_number(payload) == stream_id:
                raise Violation(PROTOCOL_ERROR, "a stream that depends on itself")
            payload = payload[5:]
        if flags & END_HEADERS:
            self._take_block(stream_id, flags & END_STREAM != 0, payload, events)
            return
        self._special = True
        self._block_stream = stream_id
        self._block_flags = flags
        self._block_frames = 0
        self._block_octets = len(payload)
        self._block = [payload]

    def _take_continuation(self, flags: int, stream_id: int, payload: bytes, events: Events) -> None:
        if not self._block_stream:
            raise Violation(PROTOCOL_ERROR, "CONTINUATION behind no head")
        self._block.append(payload)
        self._block_frames += 1
        self._block_octets += len(payload)
        # The block could not be skipped without losing the table, so the connection is lost.
        if self._block_frames > self.limits.continuation_frames or self._block_octets > BLOCK_EXCESS * self.limits.header_list_octets:
            self.counters["endless_heads"] += 1
            self.counters["floods"] += 1
            raise Violation(ENHANCE_YOUR_CALM, "a head without end: too many CONTINUATION frames, or octets in them")
        if flags & END_HEADERS:
            block = b"".join(self._block)
            self._block = []
            self._block_stream = 0
            self._special = False
            self._take_block(stream_id, self._block_flags & END_STREAM != 0, block, events)

    def _take_block(self, stream_id: int, end: bool, block: bytes, events: Events) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            self._take_first_head(stream_id, end, block, events)
        elif stream.remaining == NO_HEAD and self.is_client:
            self._take_response(stream, end, block, events)
        else:
            self._take_trailers(stream, end, block, events)

    def _refuse_block(self, stream_id: int, stream: Stream | None, block: bytes, events: Events) -> None:
        """A head where none may be; it is read for the table's sake."""
        self._decode(block)
        if stream is not None:
            state = stream.state
        elif self._passed_over(stream_id):
            raise Violation(PROTOCOL_ERROR, "a new stream with a lower id than one before (RFC 9113 section 5.1.1)")
        else:
            state = self._state_of(stream_id)
        self._refuse(REFUSE_IDLE if state == IDLE else TABLE[state][RECV_HEAD][0], stream_id, stream, events)
        self._spend_ignored()

    def _decode(self, block: bytes) -> list[Field]:
        try:
            return self._decoder.decode(block)
        except CompressionError as problem:
            raise Violation(COMPRESSION_ERROR, str(problem)) from None

    def _weigh(self, fields: list[Field], block: bytes) -> None:
        """Raise `HeadTooLarge` when the list is. A few fields need no adding up: one from the table is no larger than the table; literals are in the block."""
        limits = self.limits
        if len(fields) * max(limits.table_octets, DEFAULT_TABLE_OCTETS) + 2 * len(block) > limits.header_list_octets or len(fields) > limits.header_fields:
            weigh(fields, limits.header_list_octets, limits.header_fields)

    def _take_first_head(self, stream_id: int, end: bool, block: bytes, events: Events) -> None:
        """The head of a request, unless no stream may begin with this id."""
        if stream_id != self._last_peer_stream + 2 or not 2 < stream_id <= LARGEST_STREAM_ID or self.is_client:
            stream_id &= LARGEST_STREAM_ID  # the reserved bit (section 4.1)
            if stream_id == 0:
                raise Violation(PROTOCOL_ERROR, "HEADERS on stream 0")
            if stream_id in self._streams:
                self._take_block(stream_id, end, block, events)
                return
            if self.is_client or not stream_id & 1 or stream_id <= self._last_peer_stream:
                self._refuse_block(stream_id, None, block, events)
                return
            if stream_id > self._last_peer_stream + 2:
                self._gaps = [*self._gaps[1 - REMEMBERED_GAPS :], (self._last_peer_stream, stream_id)]
        self._last_peer_stream = stream_id
        decoder = self._decoder
        parts = decoder.memory.get(block)
        if type(parts) is tuple:
            decoder.was_used = True
        else:
            parts = decoder.recall(block, tuple) or self._read_request(stream_id, end, block, events)
            if parts is None:
                return
        if self._is_leaving and stream_id > self._last_accepted:
            self._ignore_stream(stream_id)
            return
        streams = self._streams
        if len(streams) >= self.limits.concurrent_streams:
            self._refuse_stream(stream_id)
            return
        method, path, authority, scheme, fields, length, upgrade, expects = parts
        if length is None and end:
            length = 0
        known = fields if type(fields) is KnownFields else None
        head = RequestHead(method, path, authority, Headers(fields.copy()), 20, scheme, length, end, upgrade, expects, known)
        tunnel = upgrade
        remaining = NO_LENGTH
        if not path:
            tunnel = b""  # CONNECT alone has no path
        elif length is not None and upgrade is None:
            if end and length:
                self._refuse_head(stream_id, "Content-Length promises a body that does not come", head, events)
                return
            remaining = length
        streams[stream_id] = Stream(stream_id, HALF_REMOTE if end else OPEN, self.peer.stream_window, remaining, tunnel)
        events.append((stream_id, head))

    def _read_request(self, stream_id: int, end: bool, block: bytes, events: Events) -> RequestParts | None:
        """The parts of a head that is not remembered; None when it is no request, or answered already."""
        fields = self._decode(block)
        if stream_id > self._last_accepted:
            self._ignore_stream(stream_id)
            return None
        try:
            self._weigh(fields, block)
            parts = read_request(fields, self.connect_protocol)
        except Malformed as problem:
            self._refuse_head(stream_id, str(problem), outline(fields), events)
            return None
        except HeadTooLarge as problem:
            if len(self._streams) >= self.limits.concurrent_streams:
                self._refuse_stream(stream_id)
                return None
            self.counters["heads_too_large"] += 1
            self._streams[stream_id] = Stream(stream_id, HALF_REMOTE if end else OPEN, self.peer.stream_window, is_discarded=True)
            events.append((stream_id, happened.HeadRefused(problem, outline(fields))))
            return None
        self._decoder.remember(block, lasting_request(parts))
        return parts

    def _ignore_stream(self, stream_id: int) -> None:
        self.counters["streams_ignored"] += 1
        self._remember_end(stream_id, RESET_SENT)

    def _refuse_head(self, stream_id: int, reason: str, request: RequestHead, events: Events) -> None:
        self.counters["heads_malformed"] += 1
        self._reset_unknown(stream_id, PROTOCOL_ERROR, reason)
        events.append((stream_id, happened.HeadMalformed(reason, request)))

    def _refuse_stream(self, stream_id: int) -> None:
        self.counters["streams_refused"] += 1
        # Before our SETTINGS are known to have arrived the peer cannot know the limit; but one that never acknowledges them would be refused without end.
        if self.settings_acked or self.counters["streams_refused"] > EARLY_REFUSALS:
            self._spend("resets_provoked", self.limits.provoked_rate, self.limits.provoked_burst)
        self._out.append(reset_frame(stream_id, REFUSED_STREAM))
        self._remember_end(stream_id, RESET_SENT)

    def _take_response(self, stream: Stream, end: bool, block: bytes, events: Events) -> None:
        state = stream.state
        after = (_AFTER_HEAD_END if end else _AFTER_HEAD)[state]
        if after == REFUSED or state == IDLE:
            self._refuse_block(stream.id, stream, block, events)
            return
        decoder = self._decoder
        parts = decoder.memory.get(block)
        if type(parts) is tuple:
            decoder.was_used = True
        else:
            parts = decoder.recall(block, tuple) or self._read_response(stream, block, events)
            if parts is None:
                return
        status, fields, reason, length = parts
        if status < 200:
            self._take_informational(stream, end, parts, events)
            return
        remaining = NO_LENGTH if length is None else length
        upgrade: bytes | None = None
        known = fields if type(fields) is KnownFields else None
        if stream.is_head_request or status == 204 or status == 304:
            remaining = 0
        elif stream.tunnel is not None and status < 300:
            remaining = NO_LENGTH
            length = known = None
            if stream.tunnel:
                status, reason, upgrade = 101, b"Switching Protocols", stream.tunnel
        elif end:
            if length:
                self.counters["heads_malformed"] += 1
                self._break_stream(stream, PROTOCOL_ERROR, "Content-Length promises a body that does not come", events)
                return
            length = 0
        events.append((stream.id, ResponseHead(status, Headers(fields.copy()), reason, 20, length, end, upgrade, known)))
        if not end:
            stream.remaining = remaining
            if stream.tunnel is not None and status >= 300:
                stream.tunnel = None
            return
        stream.state = after
        if after == CLOSED:
            self._forget(stream, CLOSED)

    def _read_response(self, stream: Stream, block: bytes, events: Events) -> ResponseParts | None:
        """The parts of a head that is not remembered; None when it is no response, and the stream is over."""
        fields = self._decode(block)
        try:
            self._weigh(fields, block)
            parts = read_response(fields)
        except Malformed as problem:
            self.counters["heads_malformed"] += 1
            self._break_stream(stream, PROTOCOL_ERROR, str(problem), events)
            return None
        except HeadTooLarge as problem:
            self.counters["heads_too_large"] += 1
            self._break_stream(stream, ENHANCE_YOUR_CALM, str(problem), events)
            return None
        self._decoder.remember(block, lasting_response(parts))
        return parts

    def _take_informational(self, stream: Stream, end: bool, parts: ResponseParts, events: Events) -> None:
        stream.informational += 1
        if end or stream.informational > INFORMATIONAL_HEADS:
            self._break_stream(stream, PROTOCOL_ERROR, "a response ends with a 1xx head, or has too many of them (RFC 9113 section 8.1)", events)
            return
        events.append((stream.id, ResponseHead(parts[0], Headers(parts[1].copy()), parts[2], 20)))

    def _take_trailers(self, stream: Stream, end: bool, block: bytes, events: Events) -> None:
        state = stream.state
        after = (_AFTER_HEAD_END if end else _AFTER_HEAD)[state]
        if after == REFUSED or state == IDLE:
            self._refuse_block(stream.id, stream, block, events)
            return
        decoder = self._decoder
        trailers = decoder.memory.get(block)
        if type(trailers) is list:
            decoder.was_used = True
        else:
            trailers = decoder.recall(block, list)
            if trailers is None:
                fields = self._decode(block)
                try:
                    self._weigh(fields, block)
                    trailers = read_trailers(fields)
                except (Malformed, HeadTooLarge) as problem:
                    self.counters["heads_malformed"] += 1
                    self._break_stream(stream, PROTOCOL_ERROR, str(problem), events)
                    return
                decoder.remember(block, trailers)
        if not end or stream.remaining > 0 or stream.tunnel is not None:
            self._break_stream(stream, PROTOCOL_ERROR, "a head in mid-message, or the body is shorter than Content-Length (RFC 9113 section 8.1)", events)
            return
        if not stream.is_discarded:
            events.append((stream.id, End(Headers(trailers.copy())) if trailers else END))
        if after == CLOSED:
            self._forget(stream, CLOSED)
        else:
            stream.state = after

    # -- bodies ------------------------------------------------------------------------------------------------------------------------------

    def _take_data(self, flags: int, stream_id: int, payload: bytes, events: Events) -> None:
        self.received_data_frames += 1
        octets = len(payload)
        window = self._window
        left = window.left - octets
        owed = window.owed + octets
        if left >= 0 and owed + owed < window.size:
            # Nothing is due yet: `pass_on`, without the call.
            window.left = left
            window.owed = owed
        elif increment := window.pass_on(octets):
            if increment < 0:
                raise Violation(FLOW_CONTROL_ERROR, "DATA beyond the connection's window")
            self._out.append(window_update_frame(0, increment))
        end = flags & END_STREAM
        stream = self._streams.get(stream_id)
        if stream is None:
            if stream_id == 0:
                raise Violation(PROTOCOL_ERROR, "DATA on stream 0")
            self._refuse(TABLE[self._state_of(stream_id)][RECV_DATA][0], stream_id, None, events)
            if not octets:
                self._spend_ignored()
            return
        state = stream.state
        after = (AFTER_LAST_DATA if end else AFTER_DATA)[state]
        if after == REFUSED:
            self._refuse(TABLE[state][RECV_DATA][0], stream_id, stream, events)
            return
        if octets:
            own = stream.window
            taken = stream.taken + octets
            size = self._initial_window
            # A body that has come whole needs no credit, and one of less than half a window none yet: both do without a window of their own.
            if own is None and (taken + taken < size or (end and taken <= size)):
                stream.taken = taken
            else:
                if own is None:
                    own = stream.open_window(size, max(self.limits.stream_window_most, size))
                if not own.take(octets):
                    self._break_stream(stream, FLOW_CONTROL_ERROR, "DATA beyond the stream's window", events)
                    return
            if flags & PADDED:
                payload = _without_padding(payload)
                self.consumed(stream_id, octets - len(payload))
                octets = len(payload)
        elif flags & PADDED:
            raise Violation(FRAME_SIZE_ERROR, "padded DATA without octets")
        remaining = stream.remaining
        if remaining >= 0:
            stream.remaining = remaining = remaining - octets
            if remaining < 0 or (end and remaining):
                self._break_stream(stream, PROTOCOL_ERROR, "the body is not as long as Content-Length says (RFC 9113 section 8.1.1)", events)
                return
        if remaining == NO_HEAD and not stream.is_discarded:
            self._break_stream(stream, PROTOCOL_ERROR, "DATA before the head", events)
            return
        if octets < SMALL_OCTETS and not end:
            self._spend_small(octets)
        if stream.is_discarded:
            self.consumed(stream_id, octets)
        else:
            if octets:
                if octets < JOINED_BELOW and events and type(events[-1][1]) is bytes:
                    happened.join(stream_id, payload, events)
                else:
                    events.append((stream_id, payload))
            if end:
                events.append((stream_id, END))
        if end:
            stream.state = after
            if after == CLOSED:
                self._forget(stream, CLOSED)


def _without_padding(payload: bytes) -> bytes:
    """Section 6.1: padding as long as the payload is an error of the connection."""
    if not payload:
        raise Violation(FRAME_SIZE_ERROR, "a padded frame without octets")
    padding = payload[0]
    if padding >= len(payload):
        raise Violation(PROTOCOL_ERROR, "the padding is longer than its frame")
    return payload[1 : len(payload) - padding]
