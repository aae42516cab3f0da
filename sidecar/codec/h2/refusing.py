"""What is done when a peer breaks a rule (RFC 9113, section 5.4), or makes work that pays nothing.

A rule broken on a stream resets that stream; one broken for the connection raises `Violation`, which `H2Connection.receive` turns into GOAWAY.
"""

from __future__ import annotations

from typing import Any

from sidecar.codec.h2 import events as happened
from sidecar.codec.h2.frames import ENHANCE_YOUR_CALM, PROTOCOL_ERROR, STREAM_CLOSED, reset_frame
from sidecar.codec.h2.limits import COUNTERS, Budget, H2Limits
from sidecar.codec.h2.sending import SendingHalf
from sidecar.codec.h2.streams import CLOSED, IDLE, IGNORE, REFUSE_CLOSED, REFUSE_STREAM, RESET_SENT, Stream

Events = list[tuple[int, Any]]

class Violation(Exception):
    """A rule broken for the whole connection."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class RefusingHalf(SendingHalf):
    """The part of `H2Connection` that knows which frames may not be taken, and counts what peers may do for nothing."""

    __slots__ = ("_budgets", "_gaps", "_now", "_small_data", "received_data_frames")

    def __init__(self, is_client: bool, limits: H2Limits) -> None:
        super().__init__(is_client, limits)
        self.counters = dict.fromkeys(COUNTERS, 0)
        self._budgets: dict[str, Budget] = {}
        self._now = 0.0
        self._small_data = 0
        self.received_data_frames = 0
        self._gaps: list[tuple[int, int]] = []

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
