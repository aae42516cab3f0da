"""Frames as octets: their types, flags, settings and error codes (RFC 9113, sections 4, 6, 7 and 11), and the few that are written often."""

from __future__ import annotations

from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # section 3.4

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20

# Section 7. Unknown codes from a peer have no meaning and are passed on as numbers.
NO_ERROR = 0x0
PROTOCOL_ERROR = 0x1
INTERNAL_ERROR = 0x2
FLOW_CONTROL_ERROR = 0x3
SETTINGS_TIMEOUT = 0x4
STREAM_CLOSED = 0x5
FRAME_SIZE_ERROR = 0x6
REFUSED_STREAM = 0x7
CANCEL = 0x8
COMPRESSION_ERROR = 0x9
CONNECT_ERROR = 0xA
ENHANCE_YOUR_CALM = 0xB
INADEQUATE_SECURITY = 0xC
HTTP_1_1_REQUIRED = 0xD

# Section 6.5.2; RFC 8441, section 3; RFC 9218, section 2.1.
HEADER_TABLE_SIZE = 0x1
ENABLE_PUSH = 0x2
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4
MAX_FRAME_SIZE = 0x5
MAX_HEADER_LIST_SIZE = 0x6
ENABLE_CONNECT_PROTOCOL = 0x8
NO_RFC7540_PRIORITIES = 0x9

HEAD_OCTETS = 9
SMALLEST_MAX_FRAME = 16_384  # section 6.5.2: the value before any SETTINGS, and the least a peer may announce
LARGEST_MAX_FRAME = 16_777_215
DEFAULT_WINDOW = 65_535
LARGEST_WINDOW = 2**31 - 1
LARGEST_STREAM_ID = 2**31 - 1

# A frame's head, to be written, as (length << 8 | type, flags, stream id): there are no integers of 24 bits.
pack_head = Struct(">IBI").pack
# And to be read, as (length >> 16, length & 0xFFFF, type << 8 | flags, stream id): nothing has to be taken apart of a frame of usual size.
read_head = Struct(">BHHI").unpack_from
# Types with their flags as `read_head` gives them: DATA and its last frame, a head in one frame and the same with the message's end.
PLAIN_DATA, LAST_DATA = DATA << 8, DATA << 8 | END_STREAM
WHOLE_HEAD, LAST_HEAD = HEADERS << 8 | END_HEADERS, HEADERS << 8 | END_HEADERS | END_STREAM

_SETTING = Struct(">HI")
_WITH_NUMBER = Struct(">IBII")
_TWO_NUMBERS = Struct(">II")


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One whole frame. Nothing is checked: tests make broken ones with it."""
    return pack_head(len(payload) << 8 | kind, flags, stream_id) + payload


def window_update_frame(stream_id: int, increment: int) -> bytes:
    """WINDOW_UPDATE; `stream_id` 0 for the connection."""
    return _WITH_NUMBER.pack(4 << 8 | WINDOW_UPDATE, 0, stream_id, increment)


def reset_frame(stream_id: int, code: int) -> bytes:
    """RST_STREAM."""
    return _WITH_NUMBER.pack(4 << 8 | RST_STREAM, 0, stream_id, code)


def settings_frame(settings: dict[int, int]) -> bytes:
    """SETTINGS that announces `settings`, in their order."""
    return frame(SETTINGS, 0, 0, b"".join([_SETTING.pack(*each) for each in settings.items()]))


def goaway_frame(last_stream_id: int, code: int, debug: bytes) -> bytes:
    """GOAWAY."""
    return frame(GOAWAY, 0, 0, _TWO_NUMBERS.pack(last_stream_id, code) + debug)


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """(identifier, value) pairs in order. `payload` has a length that is a multiple of 6."""
    return list(_SETTING.iter_unpack(payload))


def read_number(payload: bytes) -> int:
    """The first 31 bits of `payload`, the reserved bit ignored."""
    return int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
