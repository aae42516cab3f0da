"""One HTTP/2 connection, either side: bytes come in and events go out, messages come in and bytes go out (RFC 9113).

    connection = H2Connection(is_client=False, limits=H2Limits())
    connection.start()
    for stream_id, event in connection.receive(data, now): ...
    transport.writeSequence(connection.data_to_send())

Heads and bodies are taken in `receiving`, made in `sending`; here are the octets, and the frames about the connection. Frames are taken by one function for
each type. Everything a peer may send for nothing draws on a budget (`limits`), and is counted in `counters`.
"""

from __future__ import annotations

from collections.abc import Callable

from sidecar.codec.h2 import events as happened
from sidecar.codec.h2.connection_state import FRAME_HEAD_OCTETS
from sidecar.codec.h2.events import JOINED_BELOW, LastChunk
from sidecar.codec.h2.frames import (
    ACK,
    CONTINUATION,
    DEFAULT_WINDOW,
    ENABLE_CONNECT_PROTOCOL,
    ENABLE_PUSH,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    LARGEST_MAX_FRAME,
    LARGEST_STREAM_ID,
    LARGEST_WINDOW,
    LAST_DATA,
    LAST_HEAD,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    NO_RFC7540_PRIORITIES,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    SETTINGS,
    SMALLEST_MAX_FRAME,
    WHOLE_HEAD,
    frame,
    goaway_frame,
    pack_head,
    read_head,
    read_number,
    read_settings,
    settings_frame,
    window_update_frame,
)
from sidecar.codec.h2.limits import SMALL_OCTETS, H2Limits
from sidecar.codec.h2.receiving import AFTER_DATA, AFTER_LAST_DATA, ReceivingHalf
from sidecar.codec.h2.refusing import Events, Violation
from sidecar.codec.h2.streams import CLOSED, NO_HEAD, NO_LENGTH, RECV_RESET, RECV_WINDOW, REFUSED, RESET_RECEIVED, TABLE, TAKE, Stream
from sidecar.codec.h2.tables import DEFAULT_TABLE_OCTETS
from sidecar.message import END

# For each so many octets of ours the peer may give credit once more: Go's client does so for each 4 KiB that are read, twice.
CREDITED_OCTETS = 1_024


class H2Connection(ReceivingHalf):
    """See the module. `counters` maps each name of `COUNTERS` to how often it happened. `joins_ends`: give a usual last frame of a body as one `LastChunk`."""

    __slots__ = ("_credited", "_held", "_held_octets", "_needed", "_opened", "_preface", "failed", "joins_ends")

    def __init__(self, is_client: bool, limits: H2Limits | None = None, connect_protocol: bool = True) -> None:
        """Nothing is sent before `start`. `connect_protocol`: a server that takes extended CONNECT (RFC 8441)."""
        super().__init__(is_client, limits or H2Limits(), connect_protocol)
        self.failed = self.joins_ends = False
        self._preface = b"" if is_client else PREFACE  # what of it is still to come
        self._held: list[bytes] = []  # pieces of an unfinished frame
        self._held_octets = 0
        self._needed = 0
        self._opened: list[int] = []
        self._credited = 0  # octets by which the peer opened the connection's window: with what is left of it they tell what was sent

    def __repr__(self) -> str:
        side = "client" if self.is_client else "server"
        return f"<H2Connection {side} {len(self._streams)} streams, may send {self._send_window}{' failed' if self.failed else ''}>"

    @property
    def is_mid_head(self) -> bool:
        """Is a frame, a head or the preface begun and not complete?"""
        return bool(self._held or self._block_stream or self._preface)

    @property
    def is_mid_block(self) -> bool:
        """Is a head begun whose CONTINUATION is awaited? Nothing else may come before that."""
        return self._block_stream != 0

    def start(self) -> None:
        """The connection preface is in the batch (section 3.4), with the credit for the connection."""
        limits = self.limits
        settings = {
            MAX_CONCURRENT_STREAMS: limits.concurrent_streams,
            INITIAL_WINDOW_SIZE: limits.stream_window,
            MAX_FRAME_SIZE: limits.frame_octets,
            MAX_HEADER_LIST_SIZE: limits.header_list_octets,
            NO_RFC7540_PRIORITIES: 1,
        }
        if self.is_client:
            self._out.append(PREFACE)
            del settings[MAX_CONCURRENT_STREAMS]
            settings[ENABLE_PUSH] = 0
        if self.connect_protocol:
            settings[ENABLE_CONNECT_PROTOCOL] = 1
        if limits.table_octets != DEFAULT_TABLE_OCTETS:
            settings[HEADER_TABLE_SIZE] = limits.table_octets
        self._out.append(settings_frame(settings))
        if self._window.size > DEFAULT_WINDOW:
            self._out.append(window_update_frame(0, self._window.size - DEFAULT_WINDOW))

    # -- bytes -------------------------------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> Events:
        """What `data` says: (stream id, RequestHead | ResponseHead | bytes | End | StreamReset | HeadRefused) and (0, an event of the connection), in order.

        `data`: any octets as read; `now`: seconds of any steady clock. There may be answers to write afterwards. Nothing is raised for what a peer does.
        """
        events: Events = []
        if self.failed:
            return events
        self._now = now
        position = 0
        try:
            if self._held:
                missing = self._needed - self._held_octets
                if len(data) < missing:
                    self._held.append(data)
                    self._held_octets += len(data)
                    return events
                if self._needed > FRAME_HEAD_OCTETS:
                    # What is missing of the frame, not all that came: only that is copied.
                    self._held.append(data[:missing])
                    position = missing
                    self._read_held(events)
                else:
                    self._held.append(data)
                    data = b"".join(self._held)
                    self._held = []
            if self._preface:
                position = self._read_preface(data)
            position = self._read_frames(data, position, events)
        except Violation as violation:
            self._fail(violation.code, str(violation), events)
            return events
        if position < len(data):
            self._held = [data[position:]]
            self._held_octets = len(data) - position
        if self._opened:
            events.append((0, happened.WindowOpened(self._opened)))
            self._opened = []
        return events

    def _read_held(self, events: Events) -> None:
        """The frame that came in several pieces is whole."""
        whole = b"".join(self._held)
        self._held = []
        self._read_frames(whole, 0, events)

    def _read_preface(self, data: bytes) -> int:
        expected = self._preface
        if data[: len(expected)] != expected[: len(data)]:
            raise Violation(PROTOCOL_ERROR, "the client's preface is wrong (RFC 9113 section 3.4)")
        self._preface = expected[len(data) :]
        return min(len(expected), len(data))

    def _read_frames(self, data: bytes, position: int, events: Events) -> int:
        """Take every whole frame; the position of the first octet not taken. Usual DATA is taken here, because a call would cost as much as the taking."""
        largest = self.limits.frame_octets
        most = -1 if self._special else largest
        start = position + 9  # of the next frame's payload
        end = len(data)
        self._needed = 9
        streams = self._streams
        uncounted = self._uncounted
        joins = self.joins_ends
        # What the connection's window allows in any case needs no looking at it for each frame.
        is_allowed = end <= self._window.left
        frames = octets = 0  # of DATA, to be counted at the end
        while start <= end:
            large, size, kind, stream_id = read_head(data, start - 9)
            stop = start + size
            if stop > end or size > most or large:
                size += large << 16
                stop = start + size
                if size > largest:
                    raise Violation(FRAME_SIZE_ERROR, f"a frame of {size} octets, more than the {largest} announced")
                if self._special:
                    self._check_special(kind >> 8, kind & 0xFF, stream_id & LARGEST_STREAM_ID)
                if stop > end:
                    self._needed = size + 9
                    break
                most = largest
            stream = streams.get(stream_id)
            after = REFUSED
            if kind <= LAST_DATA:
                if stream is not None and is_allowed and stream.window is None and (taken := stream.taken + size) <= uncounted:
                    remaining = stream.remaining
                    if kind == LAST_DATA:
                        if remaining == NO_LENGTH or remaining == size:  # noqa: SIM109 - a tuple would be made for each frame
                            after = AFTER_LAST_DATA[stream.state]
                    elif remaining == NO_LENGTH and size >= SMALL_OCTETS:
                        after = AFTER_DATA[stream.state]
            elif kind == WHOLE_HEAD or kind == LAST_HEAD:  # noqa: SIM109
                if stream is None:
                    self._take_first_head(stream_id, kind == LAST_HEAD, data[start:stop], events)
                elif stream.remaining == NO_HEAD and self.is_client:
                    self._take_response(stream, kind == LAST_HEAD, data[start:stop], events)
                else:
                    self._take_trailers(stream, kind == LAST_HEAD, data[start:stop], events)
                start = stop + 9
                continue
            if after == REFUSED:
                # Anything else. It may ask how many frames came before.
                self.received_data_frames += frames
                frames = 0
                self._take_frame(kind >> 8, kind & 0xFF, stream_id & LARGEST_STREAM_ID, data[start:stop], events)
                uncounted = self._uncounted
                if self._special:
                    most = -1
            else:
                assert stream is not None
                frames += 1
                octets += size
                if not size:
                    pass
                elif kind == LAST_DATA and joins:
                    events.append((stream_id, LastChunk(data[start:stop])))
                elif size < JOINED_BELOW and events and type(events[-1][1]) is bytes:
                    happened.join(stream_id, data[start:stop], events)
                else:
                    events.append((stream_id, data[start:stop]))
                if kind == LAST_DATA:
                    if not (size and joins):
                        events.append((stream_id, END))
                    if after == CLOSED:
                        self._forget(stream, CLOSED)
                    else:
                        stream.state = after
                else:
                    stream.taken = taken
            start = stop + 9
        self.received_data_frames += frames
        if octets and (increment := self._window.pass_on(octets)):
            self._out.append(window_update_frame(0, increment))
        return start - 9

    def _take_frame(self, kind: int, flags: int, stream_id: int, payload: bytes, events: Events) -> None:
        if kind < len(_TAKERS):
            _TAKERS[kind](self, flags, stream_id, payload, events)
        else:
            self._spend_ignored()  # section 5.5

    def _check_special(self, kind: int, flags: int, stream_id: int) -> None:
        if self._block_stream:
            if kind != CONTINUATION or stream_id != self._block_stream:
                raise Violation(PROTOCOL_ERROR, "a head is interrupted by another frame (RFC 9113 section 6.10)")
        else:
            if kind != SETTINGS or flags & ACK:
                raise Violation(PROTOCOL_ERROR, "the first frame is not SETTINGS (RFC 9113 section 3.4)")
            self._special = False

    # -- the rest of the frames --------------------------------------------------------------------------------------------------------------

    def _take_priority(self, flags: int, stream_id: int, payload: bytes, events: Events) -> None:
        if stream_id == 0:
            raise Violation(PROTOCOL_ERROR, "PRIORITY on stream 0")
        self._spend_ignored()
        if len(payload) != 5:
            stream = self._streams.get(stream_id)
            if stream is None:  # section 5.4.2 allows it, and RST_STREAM is not allowed for an idle stream
                raise Violation(FRAME_SIZE_ERROR, "PRIORITY has 5 octets")
            self._break_stream(stream, FRAME_SIZE_ERROR, "PRIORITY has 5 octets", events)
        elif read_number(payload) == stream_id:
            raise Violation(PROTOCOL_ERROR, "a stream that depends on itself")

    def _take_reset(self, flags: int, stream_id: int, payload: bytes, events: Events) -> None:
        if stream_id == 0:
            raise Violation(PROTOCOL_ERROR, "RST_STREAM on stream 0")
        if len(payload) != 4:
            raise Violation(FRAME_SIZE_ERROR, "RST_STREAM has 4 octets")
        stream = self._streams.get(stream_id)
        state = self._state_of(stream_id) if stream is None else stream.state
        action = TABLE[state][RECV_RESET][0]
        if action != TAKE:
            self._refuse(action, stream_id, stream, events)
            self._spend_ignored()
            return
        assert stream is not None
        if self.is_client:
            self.counters["resets_received"] += 1  # a failing application resets much, and costs us nothing new
        else:
            self._spend("resets_received", self.limits.resets_rate, self.limits.resets_burst)
        self._forget(stream, RESET_RECEIVED)
        events.append((stream_id, happened.StreamReset(int.from_bytes(payload, "big"), True)))

    def _take_settings(self, flags: int, stream_id: int, payload: bytes, events: Events) -> None:
        if stream_id:
            raise Violation(PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise Violation(FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS has no octets")
            self._take_settings_ack()
            return
        if len(payload) % 6:
            raise Violation(FRAME_SIZE_ERROR, "SETTINGS has 6 octets for each")
        self._spend("settings", self.limits.settings_rate, self.limits.settings_burst)
        settings = read_settings(payload)
        for name, value in settings:
            self._check_setting(name, value)
            if name == HEADER_TABLE_SIZE:
                # Each one, because the encoder has to tell the smallest (RFC 7541, section 4.2).
                self.peer.table_octets = value
                self._encoder.resize(value)
        self._apply(dict(settings))
        self._answer(pack_head(SETTINGS, ACK, 0))
        events.append((0, happened.SettingsChanged(settings)))

    def _take_settings_ack(self) -> None:
        if self.settings_acked:
            self._spend_ignored()
            return
        self.settings_acked = True
        self._decoder.announced(self.limits.table_octets)
        change = self.limits.stream_window - self._initial_window
        if change < 0:
            self._initial_window += change
            self._uncounted = (self._initial_window - 1) // 2
            for stream in self._streams.values():
                if stream.window is not None:
                    stream.window.resize(change)

    def _check_setting(self, name: int, value: int) -> None:
        if name == INITIAL_WINDOW_SIZE:
            if value > LARGEST_WINDOW:
                raise Violation(FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE beyond 2^31-1")
        elif name == MAX_FRAME_SIZE:
            if not SMALLEST_MAX_FRAME <= value <= LARGEST_MAX_FRAME:
                raise Violation(PROTOCOL_ERROR, "MAX_FRAME_SIZE out of its range")
        elif name == ENABLE_PUSH:
            if value > 1 or (value and self.is_client):
                raise Violation(PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1, and 0 from a server")
        elif name == ENABLE_CONNECT_PROTOCOL and (value > 1 or (not value and self.peer.connect_protocol)):
            raise Violation(PROTOCOL_ERROR, "ENABLE_CONNECT_PROTOCOL is 0 or 1, and stays 1 (RFC 8441 section 3)")

    def _apply(self, settings: dict[int, int]) -> None:
        peer = self.peer
        if not peer.received:
            peer.received = True
            peer.concurrent_streams = LARGEST_WINDOW  # no limit unless it says so
        peer.concurrent_streams = settings.get(MAX_CONCURRENT_STREAMS, peer.concurrent_streams)
        self._limit_streams()
        peer.header_list_octets = settings.get(MAX_HEADER_LIST_SIZE, peer.header_list_octets)
        peer.frame_octets = settings.get(MAX_FRAME_SIZE, peer.frame_octets)
        peer.connect_protocol = bool(settings.get(ENABLE_CONNECT_PROTOCOL, peer.connect_protocol))
        self._frame_octets = min(peer.frame_octets, self.limits.sent_frame_octets)
        self._slice_octets = self._frame_octets - FRAME_HEAD_OCTETS
        change = settings.get(INITIAL_WINDOW_SIZE, peer.stream_window) - peer.stream_window
        if change:
            peer.stream_window += change
            for stream in self._streams.values():
                self._widen(stream, change)

    def _widen(self, stream: Stream, change: int) -> None:
        if stream.send_window + change > LARGEST_WINDOW:
            raise Violation(FLOW_CONTROL_ERROR, "a stream's window beyond 2^31-1")
        stream.send_window += change
        backlog = stream.backlog
        if backlog is not None and not backlog.waits and stream.send_window > 0:
            backlog.waits = True
            self._ready.append(stream)
            self._opened.append(stream.id)

    def _take_push(self, flags: int, stream_id: int, payload: bytes, events: Events) -> None:
        raise Violation(PROTOCOL_ERROR, "PUSH_PROMISE, which clients never send and servers were told not to")

    def _take_ping(self, flags: int, stream_id: int, payload: bytes, events: Events) -> None:
        if stream_id:
            raise Violation(PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise Violation(FRAME_SIZE_ERROR, "PING has 8 octets")
        self._spend("pings", self.limits.pings_rate, self.limits.pings_burst, self.received_data_frames)
        if flags & ACK:
            events.append((0, happened.PingAcked(payload)))
        else:
            self._answer(frame(PING, ACK, 0, payload))

    def _take_goaway(self, flags: int, stream_id: int, payload: bytes, events: Events) -> None:
        if stream_id:
            raise Violation(PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise Violation(FRAME_SIZE_ERROR, "GOAWAY has at least 8 octets")
        self._spend_ignored()
        self.is_peer_leaving = True
        self._limit_streams()
        last = read_number(payload)
        if self.is_client:
            for each in [stream for stream in self._streams.values() if stream.id > last]:
                self._forget(each, RESET_RECEIVED)
                events.append((each.id, happened.StreamReset(REFUSED_STREAM, True, "beyond the last stream of GOAWAY")))
        events.append((0, happened.GoAwayReceived(last, int.from_bytes(payload[4:8], "big"), payload[8:])))

    def _take_window_update(self, flags: int, stream_id: int, payload: bytes, events: Events) -> None:
        if len(payload) != 4:
            raise Violation(FRAME_SIZE_ERROR, "WINDOW_UPDATE has 4 octets")
        increment = read_number(payload)
        sent = DEFAULT_WINDOW + self._credited - self._send_window
        earned = 2 * self.sent_data_frames + sent // CREDITED_OCTETS
        self._spend("window_updates", self.limits.window_updates_rate, self.limits.window_updates_burst, earned)
        if stream_id == 0:
            if increment == 0:
                raise Violation(PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
            if self._send_window + increment > LARGEST_WINDOW:
                raise Violation(FLOW_CONTROL_ERROR, "the connection's window beyond 2^31-1")
            if self._send_window <= 0:
                self._opened += [stream.id for stream in self._ready]
            self._send_window += increment
            self._credited += increment
            return
        stream = self._streams.get(stream_id)
        action = TABLE[self._state_of(stream_id) if stream is None else stream.state][RECV_WINDOW][0]
        if action != TAKE:
            self._refuse(action, stream_id, stream, events)
            return
        assert stream is not None
        if increment == 0:
            self._break_stream(stream, PROTOCOL_ERROR, "WINDOW_UPDATE of nothing", events)
        elif stream.send_window + increment > LARGEST_WINDOW:
            self._break_stream(stream, FLOW_CONTROL_ERROR, "the stream's window beyond 2^31-1", events)
        else:
            self._widen(stream, increment)

    def _fail(self, code: int, reason: str, events: Events) -> None:
        self.counters["connection_errors"] += 1
        self.failed = True
        self._out.append(goaway_frame(self._last_peer_stream, code, reason.encode()))
        self._streams.clear()
        self._ready.clear()
        self._held = []
        self._block = []
        events.append((0, happened.ConnectionFailed(code, reason)))


# In the order of the types' numbers.
_TAKERS: tuple[Callable[[H2Connection, int, int, bytes, Events], None], ...] = (
    H2Connection._take_data,
    H2Connection._take_headers,
    H2Connection._take_priority,
    H2Connection._take_reset,
    H2Connection._take_settings,
    H2Connection._take_push,
    H2Connection._take_ping,
    H2Connection._take_goaway,
    H2Connection._take_window_update,
    H2Connection._take_continuation,
)
