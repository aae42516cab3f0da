"""What `H2Connection.receive` tells besides messages: pairs (stream id, event), the id 0 for events of the connection."""

from __future__ import annotations

from typing import Any

import msgspec

from sidecar.codec.h2.frames import REFUSED_STREAM
from sidecar.errors import SidecarError
from sidecar.message import RequestHead

# Chunks below this are joined with what came just before for the same stream, up to so many octets: what comes behind the codec costs more for each chunk than
# for its octets.
JOINED_BELOW = 256
JOINED_OCTETS = 4_096


def join(stream_id: int, chunk: bytes, events: list[tuple[int, Any]]) -> None:
    """A chunk below `JOINED_BELOW` is in `events`, whose last one is a chunk; perhaps as a part of that."""
    last, before = events[-1]
    if last == stream_id and len(before) < JOINED_OCTETS:
        events[-1] = (stream_id, before + chunk)
    else:
        events.append((stream_id, chunk))


class LastChunk(msgspec.Struct, eq=False, gc=False):
    """A chunk of the body with which the message ends, no trailers: what is a chunk and `END` otherwise. Only where `H2Connection.joins_ends` is set."""

    chunk: bytes

    def __repr__(self) -> str:
        return f"<LastChunk of {len(self.chunk)}>"


class StreamReset:
    """The stream is over: the peer reset it (`by_peer`), or broke the rules on it and we did.

    `code` as in RFC 9113, section 7; `reason`: a sentence, "" from a peer.
    """

    __slots__ = ("by_peer", "code", "reason")

    def __init__(self, code: int, by_peer: bool, reason: str = "") -> None:
        self.code = code
        self.by_peer = by_peer
        self.reason = reason

    @property
    def retry_safe(self) -> bool:
        """May the same request be sent again without harm?"""
        return self.by_peer and self.code == REFUSED_STREAM

    def __repr__(self) -> str:
        return f"<StreamReset {self.code} {'by peer' if self.by_peer else 'by us'} {self.reason!r}>"


class HeadRefused:
    """A request's head was larger than allowed. Nothing more comes for this stream; answer it with `error` (`send_head`, ...) or reset it.
    `request`: of the head, no more than the form of the answer depends on (`fields.outline`)."""

    __slots__ = ("error", "request")

    def __init__(self, error: SidecarError, request: RequestHead) -> None:
        self.error = error
        self.request = request

    def __repr__(self) -> str:
        return f"<HeadRefused {self.error}>"


class HeadMalformed:
    """What came as a request's head is none (RFC 9113, section 8.1.1). Its stream was reset and never began: this is to be recorded, not answered."""

    __slots__ = ("reason", "request")

    def __init__(self, reason: str, request: RequestHead) -> None:
        self.reason = reason
        self.request = request

    def __repr__(self) -> str:
        return f"<HeadMalformed {self.reason!r}>"


class SettingsChanged:
    """The peer's SETTINGS are in force and acknowledged; see `H2Connection.peer`. The first one ends the peer's preface."""

    __slots__ = ("settings",)

    def __init__(self, settings: list[tuple[int, int]]) -> None:
        self.settings = settings

    def __repr__(self) -> str:
        return f"<SettingsChanged {self.settings}>"


class WindowOpened:
    """These streams had octets waiting and may send again: call `data_to_send`, then `take_drained`."""

    __slots__ = ("stream_ids",)

    def __init__(self, stream_ids: list[int]) -> None:
        self.stream_ids = stream_ids

    def __repr__(self) -> str:
        return f"<WindowOpened {self.stream_ids}>"


class PingAcked:
    """The peer answered our PING with these 8 octets."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload

    def __repr__(self) -> str:
        return f"<PingAcked {self.payload.hex()}>"


class GoAwayReceived:
    """The peer takes no new streams; those of ours above `last_stream_id` were reported as `StreamReset` with REFUSED_STREAM just before this."""

    __slots__ = ("code", "debug", "last_stream_id")

    def __init__(self, last_stream_id: int, code: int, debug: bytes) -> None:
        self.last_stream_id = last_stream_id
        self.code = code
        self.debug = debug

    def __repr__(self) -> str:
        return f"<GoAwayReceived last={self.last_stream_id} code={self.code} {self.debug[:80]!r}>"


class ConnectionFailed:
    """The peer broke the rules for the whole connection. GOAWAY is in the next batch; write that, then close. Nothing more is received. All streams are over
    without own events.
    """

    __slots__ = ("code", "reason")

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason

    def __repr__(self) -> str:
        return f"<ConnectionFailed {self.code} {self.reason!r}>"
