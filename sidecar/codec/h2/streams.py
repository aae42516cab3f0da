"""The life of a stream (RFC 9113, section 5.1) as a table: (state, input) -> (action, next state).

There is no server push, so there are no reserved states. A stream that ended by RST_STREAM is told from one that ended by END_STREAM, because late frames mean
different things. PRIORITY is allowed in every state and changes none; it is not in the table.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from sidecar.codec.h2.windows import ReceiveWindow

if TYPE_CHECKING:
    from sidecar.headers import Headers

# States. HALF_LOCAL: we ended our side; HALF_REMOTE: the peer ended its side; CLOSED: both.
IDLE, OPEN, HALF_LOCAL, HALF_REMOTE, CLOSED, RESET_SENT, RESET_RECEIVED = range(7)
STATE_NAMES = ("idle", "open", "half-closed (local)", "half-closed (remote)", "closed", "closed (reset sent)", "closed (reset received)")

# Inputs.
RECV_HEAD, RECV_HEAD_END, RECV_DATA, RECV_DATA_END, RECV_RESET, RECV_WINDOW, SEND_HEAD, SEND_HEAD_END, SEND_DATA, SEND_END, SEND_RESET = range(11)
INPUT_COUNT = 11

# Actions. TAKE: go on. IGNORE: as if it had not come (or was not asked for). REFUSE_STREAM: stream error STREAM_CLOSED. REFUSE_CLOSED: connection error
# STREAM_CLOSED. REFUSE_IDLE: connection error PROTOCOL_ERROR. MISUSE: our own mistake.
TAKE, IGNORE, REFUSE_STREAM, REFUSE_CLOSED, REFUSE_IDLE, MISUSE = range(6)

Step = tuple[int, int]

_RECEIVING = {
    IDLE: {
        RECV_HEAD: (TAKE, OPEN),
        RECV_HEAD_END: (TAKE, HALF_REMOTE),
        RECV_DATA: (REFUSE_IDLE, IDLE),
        RECV_DATA_END: (REFUSE_IDLE, IDLE),
        RECV_RESET: (REFUSE_IDLE, IDLE),
        RECV_WINDOW: (REFUSE_IDLE, IDLE),
    },
    OPEN: {
        RECV_HEAD: (TAKE, OPEN),
        RECV_HEAD_END: (TAKE, HALF_REMOTE),
        RECV_DATA: (TAKE, OPEN),
        RECV_DATA_END: (TAKE, HALF_REMOTE),
        RECV_RESET: (TAKE, RESET_RECEIVED),
        RECV_WINDOW: (TAKE, OPEN),
    },
    HALF_LOCAL: {
        RECV_HEAD: (TAKE, HALF_LOCAL),
        RECV_HEAD_END: (TAKE, CLOSED),
        RECV_DATA: (TAKE, HALF_LOCAL),
        RECV_DATA_END: (TAKE, CLOSED),
        RECV_RESET: (TAKE, RESET_RECEIVED),
        RECV_WINDOW: (TAKE, HALF_LOCAL),
    },
    HALF_REMOTE: {
        RECV_HEAD: (REFUSE_STREAM, RESET_SENT),
        RECV_HEAD_END: (REFUSE_STREAM, RESET_SENT),
        RECV_DATA: (REFUSE_STREAM, RESET_SENT),
        RECV_DATA_END: (REFUSE_STREAM, RESET_SENT),
        RECV_RESET: (TAKE, RESET_RECEIVED),
        RECV_WINDOW: (TAKE, HALF_REMOTE),
    },
    CLOSED: {
        RECV_HEAD: (REFUSE_CLOSED, CLOSED),
        RECV_HEAD_END: (REFUSE_CLOSED, CLOSED),
        RECV_DATA: (REFUSE_CLOSED, CLOSED),
        RECV_DATA_END: (REFUSE_CLOSED, CLOSED),
        RECV_RESET: (IGNORE, CLOSED),
        RECV_WINDOW: (IGNORE, CLOSED),
    },
    RESET_SENT: {each: (IGNORE, RESET_SENT) for each in range(SEND_HEAD)},
    RESET_RECEIVED: {
        RECV_HEAD: (REFUSE_STREAM, RESET_SENT),
        RECV_HEAD_END: (REFUSE_STREAM, RESET_SENT),
        RECV_DATA: (REFUSE_STREAM, RESET_SENT),
        RECV_DATA_END: (REFUSE_STREAM, RESET_SENT),
        RECV_RESET: (IGNORE, RESET_RECEIVED),
        RECV_WINDOW: (IGNORE, RESET_RECEIVED),
    },
}
_SENDING = {
    IDLE: {
        SEND_HEAD: (TAKE, OPEN),
        SEND_HEAD_END: (TAKE, HALF_LOCAL),
        SEND_DATA: (MISUSE, IDLE),
        SEND_END: (MISUSE, IDLE),
        SEND_RESET: (IGNORE, IDLE),
    },
    OPEN: {
        SEND_HEAD: (TAKE, OPEN),
        SEND_HEAD_END: (TAKE, HALF_LOCAL),
        SEND_DATA: (TAKE, OPEN),
        SEND_END: (TAKE, HALF_LOCAL),
        SEND_RESET: (TAKE, RESET_SENT),
    },
    HALF_LOCAL: {
        **{each: (MISUSE, HALF_LOCAL) for each in (SEND_HEAD, SEND_HEAD_END, SEND_DATA, SEND_END)},
        SEND_RESET: (TAKE, RESET_SENT),
    },
    HALF_REMOTE: {
        SEND_HEAD: (TAKE, HALF_REMOTE),
        SEND_HEAD_END: (TAKE, CLOSED),
        SEND_DATA: (TAKE, HALF_REMOTE),
        SEND_END: (TAKE, CLOSED),
        SEND_RESET: (TAKE, RESET_SENT),
    },
    # The owner learns only from the next event that a stream is gone; what it asks for until then is in vain, not wrong.
    **{state: {each: (IGNORE, state) for each in range(SEND_HEAD, INPUT_COUNT)} for state in (CLOSED, RESET_SENT, RESET_RECEIVED)},
}

# TABLE[state][input]: tuples, because the straight path looks here for every frame.
TABLE: tuple[tuple[Step, ...], ...] = tuple(
    tuple({**_RECEIVING[state], **_SENDING[state]}[each] for each in range(INPUT_COUNT)) for state in range(len(STATE_NAMES))
)

# AFTER[input][state]: the next state where TABLE says TAKE, REFUSED for anything else. The straight path looks here, and into TABLE for what is wrong.
REFUSED = -1
AFTER: tuple[tuple[int, ...], ...] = tuple(tuple(steps[each][1] if steps[each][0] == TAKE else REFUSED for steps in TABLE) for each in range(INPUT_COUNT))

# What is known of the message coming in on a stream (section 8.1), where no Content-Length tells how much of its body is to come: nothing does; its final
# head is awaited.
NO_LENGTH = -1
NO_HEAD = -2
# What went out: no final head yet; a frame that has left, or cannot take END_STREAM.
NO_TAIL = -1
FIXED_TAIL = 0


class Backlog:
    """What of a stream no window let out yet, and what follows it. There is one only while octets wait."""

    __slots__ = ("chunks", "ending", "mark", "mark_since", "octets", "sent", "trailers", "waits")

    def __init__(self) -> None:
        self.chunks: deque[bytes] = deque()
        self.octets = 0  # in `chunks`
        self.waits = False  # in the scheduler's turn
        self.ending = False  # END_STREAM follows
        self.trailers: Headers | None = None  # and these, with it
        self.sent = 0  # octets that left from here
        self.mark = 0  # `sent` at the last look for stalled streams, and when
        self.mark_since: float | None = None


class Stream(msgspec.Struct, eq=False, gc=False):
    """One stream. Window and backlog exist from the first octet that needs them: most requests have neither. A struct as heads are: there are two of these for
    each request, and nothing in them points back.
    """

    id: int
    state: int
    send_window: int
    remaining: int = NO_HEAD  # octets of body that Content-Length still promises, or one of the above
    tunnel: bytes | None = None  # the protocol of an extended CONNECT, b"" for CONNECT: its data is not a message's body
    tail: int = NO_TAIL  # where our last frame stands among all that was written (`SendingHalf._written`): END_STREAM can still be set on it; or as above
    is_head_request: bool = False
    is_discarded: bool = False  # what comes in is dropped: the head was refused and is being answered
    informational: int = 0  # 1xx heads that came in
    window: ReceiveWindow | None = None
    taken: int = 0  # without a window: octets of DATA that came (but for the last frame), and of these those that were consumed
    given: int = 0
    backlog: Backlog | None = None

    @property
    def queued(self) -> int:
        """Octets that wait for windows."""
        return 0 if self.backlog is None else self.backlog.octets

    def open_window(self, size: int, most: int) -> ReceiveWindow:
        """The stream has more to come than needs no counting: a window of `size` that knows of the octets so far, and may grow to `most`."""
        self.window = window = ReceiveWindow(size, most)
        window.left -= self.taken
        window.owed = min(self.given, self.taken)
        window.held = self.taken - window.owed
        return window

    def __repr__(self) -> str:
        return f"<Stream {self.id} {STATE_NAMES[self.state]}, {self.queued} queued, may send {self.send_window}>"
