"""The receiving half of a connection: heads, bodies and trailers, and what is done when a peer breaks a rule (RFC 9113, sections 5.4 and 8).

A rule broken on a stream resets that stream; one broken for the connection raises `Violation`, which `H2Connection.receive` turns into GOAWAY. The control
frames are taken in `connection`.
"""

from __future__ import annotations

from typing import Any

from sidecar.codec.h2 import events as happened
from sidecar.codec.h2.decoder import CompressionError, Decoder
from sidecar.codec.h2.events import JOINED_BELOW
from sidecar.codec.h2.fields import (
    Malformed,
    ResponseParts,
    lasting_request,
    lasting_response,
    outline,
    read_request,
    read_response,
    read_trailers,
    request_head,
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
    PADDED,
    PRIORITIZED,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    read_number,
    reset_frame,
    window_update_frame,
)
from sidecar.codec.h2.limits import COUNTERS, SMALL_OCTETS, Budget, H2Limits
from sidecar.codec.h2.sending import SendingHalf
from sidecar.codec.h2.streams import (
    AFTER,
    CLOSED,
    HALF_REMOTE,
    IDLE,
    IGNORE,
    NO_LENGTH,
    OPEN,
    RECV_DATA,
    RECV_DATA_END,
    RECV_HEAD,
    RECV_HEAD_END,
    REFUSE_CLOSED,
    REFUSE_IDLE,
    REFUSE_STREAM,
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

Events = list[tuple[int, Any]]

_AFTER_HEAD, _AFTER_HEAD_END, _AFTER_DATA, _AFTER_DATA_END = AFTER[RECV_HEAD], AFTER[RECV_HEAD_END], AFTER[RECV_DATA], AFTER[RECV_DATA_END]

# 1xx heads before a response's final one; more serve nobody, and each is forwarded.
INFORMATIONAL_HEADS = 32
# A block may be this many times as long as the list that we announced: it is read for the table's sake, and its stream alone is refused. A caller whose head
# is a little too large is told so, and the other streams of a connection that many share live on.
BLOCK_EXCESS = 4
# Gaps in the peer's stream ids that are remembered, to tell an id that was passed over from one that was used.
REMEMBERED_GAPS = 16


class Violation(Exception):
    """A rule broken for the whole connection."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class ReceivingHalf(SendingHalf):
    """The part of `H2Connection` that makes messages of frames."""

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_frames",
        "_block_octets",
        "_block_stream",
        "_budgets",
        "_decoder",
        "_gaps",
        "_initial_window",
        "_now",
        "_small_data",
        "_special",
        "connect_protocol",
        "received_data_frames",
        "settings_acked",
    )

    def __init__(self, is_client: bool, limits: H2Limits, connect_protocol: bool) -> None:
        super().__init__(is_client, limits)
        self.connect_protocol = connect_protocol and not is_client
        self.settings_acked = False
        self.received_data_frames = 0
        self.counters = dict.fromkeys(COUNTERS, 0)
        self._decoder = Decoder(limits.table_octets)
        self._initial_window = max(limits.stream_window, DEFAULT_WINDOW)
        self._budgets: dict[str, Budget] = {}
        self._now = 0.0
        self._small_data = 0
        self._special = True  # the next frame is not free: SETTINGS, or CONTINUATION
        self._block_stream = 0  # the stream of an unfinished head
        self._block: list[bytes] = []
        self._block_flags = self._block_frames = self._block_octets = 0
        self._gaps: list[tuple[int, int]] = []

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
            self._take_block(stream_id, flags & END_STREAM, payload, events)
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
            self._take_block(stream_id, self._block_flags & END_STREAM, block, events)

    def _take_block(self, stream_id: int, end: int, block: bytes, events: Events) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            state = stream.state
            after = (_AFTER_HEAD_END if end else _AFTER_HEAD)[state]
            if after == REFUSED or state == IDLE:
                self._decode(block)
                self._refuse(REFUSE_IDLE if state == IDLE else TABLE[state][RECV_HEAD][0], stream_id, stream, events)
                self._spend_ignored()
            elif stream.has_head:
                self._take_trailers(stream, after, end, block, events)
            else:
                self._take_response(stream, after, end, block, events)
        elif not self.is_client and stream_id & 1 and stream_id > self._last_peer_stream:
            self._take_request(stream_id, end, block, events)
        else:
            self._decode(block)
            if self._passed_over(stream_id):
                raise Violation(PROTOCOL_ERROR, "a new stream with a lower id than one before (RFC 9113 section 5.1.1)")
            self._refuse(TABLE[self._state_of(stream_id)][RECV_HEAD][0], stream_id, None, events)
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

    def _take_request(self, stream_id: int, end: int, block: bytes, events: Events) -> None:
        if stream_id > self._last_peer_stream + 2:
            self._gaps = [*self._gaps[1 - REMEMBERED_GAPS :], (self._last_peer_stream, stream_id)]
        self._last_peer_stream = stream_id
        limits = self.limits
        parts = self._decoder.recall(block, tuple)
        too_large = None
        if parts is None:
            fields = self._decode(block)
            if stream_id > self._last_accepted:
                self.counters["streams_ignored"] += 1
                self._remember_end(stream_id, RESET_SENT)
                return
            try:
                self._weigh(fields, block)
                parts = read_request(fields, self.connect_protocol)
            except Malformed as problem:
                self._refuse_head(stream_id, str(problem), outline(fields), events)
                return
            except HeadTooLarge as problem:
                too_large = problem
            else:
                self._decoder.remember(block, lasting_request(parts))
        elif stream_id > self._last_accepted:
            self.counters["streams_ignored"] += 1
            self._remember_end(stream_id, RESET_SENT)
            return
        if len(self._streams) >= limits.concurrent_streams:
            self._refuse_stream(stream_id)
            return
        stream = self._streams[stream_id] = Stream(stream_id, HALF_REMOTE if end else OPEN, self.peer.stream_window, True)
        if too_large is not None:
            self.counters["heads_too_large"] += 1
            stream.is_discarded = True
            events.append((stream_id, happened.HeadRefused(too_large, outline(fields))))
            return
        head = request_head(parts, end != 0)
        if head.upgrade is not None:
            stream.tunnel = head.upgrade
        elif head.method == b"CONNECT":
            stream.tunnel = b""
        elif head.content_length is not None:
            if end and head.content_length:
                del self._streams[stream_id]
                self._refuse_head(stream_id, "Content-Length promises a body that does not come", head, events)
                return
            stream.remaining = head.content_length
        events.append((stream_id, head))

    def _refuse_head(self, stream_id: int, reason: str, request: RequestHead, events: Events) -> None:
        self.counters["heads_malformed"] += 1
        self._reset_unknown(stream_id, PROTOCOL_ERROR, reason)
        events.append((stream_id, happened.HeadMalformed(reason, request)))

    def _refuse_stream(self, stream_id: int) -> None:
        self.counters["streams_refused"] += 1
        # Before our SETTINGS are known to have arrived the peer cannot know the limit.
        if self.settings_acked:
            self._spend("resets_provoked", self.limits.provoked_rate, self.limits.provoked_burst)
        self._out.append(reset_frame(stream_id, REFUSED_STREAM))
        self._remember_end(stream_id, RESET_SENT)

    def _take_response(self, stream: Stream, after: int, end: int, block: bytes, events: Events) -> None:
        parts = self._decoder.recall(block, tuple)
        if parts is None:
            fields = self._decode(block)
            try:
                self._weigh(fields, block)
                parts = read_response(fields)
            except Malformed as problem:
                self.counters["heads_malformed"] += 1
                self._break_stream(stream, PROTOCOL_ERROR, str(problem), events)
                return
            except HeadTooLarge as problem:
                self.counters["heads_too_large"] += 1
                self._break_stream(stream, ENHANCE_YOUR_CALM, str(problem), events)
                return
            self._decoder.remember(block, lasting_response(parts))
        if parts[0] < 200:
            stream.informational += 1
            if end or stream.informational > INFORMATIONAL_HEADS:
                self._break_stream(stream, PROTOCOL_ERROR, "a response ends with a 1xx head, or has too many of them (RFC 9113 section 8.1)", events)
                return
            events.append((stream.id, ResponseHead(parts[0], Headers(parts[1].copy()), parts[2], 20)))
            return
        head = _final_head(stream, parts, end)
        if head is None:
            self.counters["heads_malformed"] += 1
            self._break_stream(stream, PROTOCOL_ERROR, "Content-Length promises a body that does not come", events)
            return
        stream.has_head = True
        events.append((stream.id, head))
        if end:
            stream.state = after
            if after == CLOSED:
                self._forget(stream, CLOSED)

    def _take_trailers(self, stream: Stream, after: int, end: int, block: bytes, events: Events) -> None:
        trailers = self._decoder.recall(block, list)
        if trailers is None:
            fields = self._decode(block)
            try:
                self._weigh(fields, block)
                trailers = read_trailers(fields)
            except (Malformed, HeadTooLarge) as problem:
                self.counters["heads_malformed"] += 1
                self._break_stream(stream, PROTOCOL_ERROR, str(problem), events)
                return
            self._decoder.remember(block, trailers)
        if not end or stream.remaining > 0 or stream.tunnel is not None:
            self._break_stream(stream, PROTOCOL_ERROR, "a head in mid-message, or the body is shorter than Content-Length (RFC 9113 section 8.1)", events)
            return
        if not stream.is_discarded:
            events.append((stream.id, End(Headers(trailers.copy())) if trailers else END))
        stream.state = after
        if after == CLOSED:
            self._forget(stream, CLOSED)

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
        after = (_AFTER_DATA_END if end else _AFTER_DATA)[state]
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
        if not stream.has_head:
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

    # -- rules broken ------------------------------------------------------------------------------------------------------------------------

    def _state_of(self, stream_id: int) -> int:
        """The state of a stream that is not in the table."""
        if stream_id & 1:
            is_idle = stream_id >= self._next_stream if self.is_client else stream_id > self._last_peer_stream
        else:
            is_idle = True  # there is no server push: even ids are never used
        return IDLE if is_idle else self._ended.get(stream_id, CLOSED)

    def _passed_over(self, stream_id: int) -> bool:
        return self._state_of(stream_id) == IDLE or any(low < stream_id < high for low, high in self._gaps)

    def _refuse(self, action: int, stream_id: int, stream: Stream | None, events: Events) -> None:
        """Do what the table says of a frame that may not be taken."""
        if action == IGNORE:
            return
        if action == REFUSE_STREAM:
            if stream is not None:
                self._break_stream(stream, STREAM_CLOSED, "a frame behind the end of the stream", events)
            else:
                self._reset_unknown(stream_id, STREAM_CLOSED, "a frame behind the end of the stream")
        elif action == REFUSE_CLOSED:
            raise Violation(STREAM_CLOSED, f"a frame for stream {stream_id}, which is closed")
        else:
            raise Violation(PROTOCOL_ERROR, f"a frame for stream {stream_id}, which is idle")

    def _break_stream(self, stream: Stream, code: int, reason: str, events: Events) -> None:
        """The peer broke a rule on a stream that its owner knows."""
        self._spend("resets_provoked", self.limits.provoked_rate, self.limits.provoked_burst)
        self.reset(stream.id, code)
        events.append((stream.id, happened.StreamReset(code, False, reason)))

    def _reset_unknown(self, stream_id: int, code: int, reason: str) -> None:
        """The same for a stream that nobody knows (any more). `reason` is for whoever reads this."""
        self._spend("resets_provoked", self.limits.provoked_rate, self.limits.provoked_burst)
        self._out.append(reset_frame(stream_id, code))
        self._remember_end(stream_id, RESET_SENT)

    def _spend(self, counter: str, rate: float, burst: int, earned_in_all: int = 0) -> None:
        """Count what costs us and pays nothing; too much of it ends the connection. `earned_in_all`: useful frames so far, each as good as one of the budget.
        """
        self.counters[counter] += 1
        budget = self._budgets.get(counter)
        if budget is None:
            budget = self._budgets[counter] = Budget(rate, burst)
        if not budget.take(self._now, earned_in_all):
            self.counters["floods"] += 1
            raise Violation(ENHANCE_YOUR_CALM, f"too many: {counter.replace('_', ' ')}")

    def _spend_ignored(self) -> None:
        """A frame that is read and of no use. Each stream, whoever began it, pays for two: late trailers or a late end after a reset are usual."""
        self._spend("ignored_frames", self.limits.ignored_rate, self.limits.ignored_burst, self._last_peer_stream + self._next_stream)

    def _spend_small(self, octets: int) -> None:
        """DATA of hardly anything that ends nothing. Larger DATA frames, answers of ours and streams pay for it: whoever is answered is no flood."""
        limits = self.limits
        if not octets:
            self._spend("empty_data", limits.empty_data_rate, limits.empty_data_burst)
        elif self.is_client:
            self.counters["small_data"] += 1  # an application that sends octets one by one is slow, and others share its connection
        else:
            self._small_data += 1
            earned = self.received_data_frames - self._small_data + self.sent_data_frames + self._last_peer_stream
            self._spend("small_data", limits.small_data_rate, limits.small_data_burst, earned)

    def _answer(self, octets: bytes) -> None:
        self._answers += 1
        if self._answers > self.limits.answers_waiting:
            self.counters["floods"] += 1
            raise Violation(ENHANCE_YOUR_CALM, "answers to control frames are not read")
        self._out.append(octets)


def _without_padding(payload: bytes) -> bytes:
    """Section 6.1: padding as long as the payload is an error of the connection."""
    if not payload:
        raise Violation(FRAME_SIZE_ERROR, "a padded frame without octets")
    padding = payload[0]
    if padding >= len(payload):
        raise Violation(PROTOCOL_ERROR, "the padding is longer than its frame")
    return payload[1 : len(payload) - padding]


def _final_head(stream: Stream, parts: ResponseParts, end: int) -> ResponseHead | None:
    """The final head for this stream's request, and what it says about the body; None when it promises one that does not come."""
    status, fields, reason, length = parts
    headers = Headers(fields[:])
    if stream.tunnel is not None and status < 300:
        if stream.tunnel:
            return ResponseHead(101, headers, b"Switching Protocols", 20, None, end != 0, stream.tunnel)
        return ResponseHead(status, headers, reason, 20, None, end != 0)
    stream.tunnel = None
    if stream.is_head_request or status == 204 or status == 304:
        stream.remaining = 0
    elif end:
        if length:
            return None
        length = 0
    else:
        stream.remaining = NO_LENGTH if length is None else length
    return ResponseHead(status, headers, reason, 20, length, end != 0, None, fields if type(fields) is KnownFields else None)
