"""One direction's body on its way through body hooks: observed, rewritten as it streams, or gathered whole.

Used only when a chain has body hooks. Chunks wait here, in order, while a hook's answer is awaited; the source is paused meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sidecar.headers import Headers
from sidecar.proxy.steps import Step, is_awaitable

if TYPE_CHECKING:
    from sidecar.proxy.calls import PluginCalls


class BodyFlow:
    """`data` and `end` put events in at the source; what has passed every hook comes out at `deliver(chunk)` and `deliver_end(trailers)`.

    `too_large(limit)` is called when a buffering hook's limit is passed; `verdict(step, value)` when a hook answers with anything but bytes or None. After
    either of them,
    or `stop()`, nothing more comes out.
    """

    __slots__ = (
        "_buffers",
        "_catching_up",
        "_deliver",
        "_deliver_end",
        "_exchange",
        "_parked",
        "_queue",
        "_steps",
        "_stopped",
        "_too_large",
        "_trailer_steps",
        "_trailers",
        "_verdict",
    )

    def __init__(
        self,
        exchange: PluginCalls,
        steps: tuple[Step, ...],
        trailer_steps: tuple[Step, ...],
        deliver: Callable[[bytes], None],
        deliver_end: Callable[[Headers | None], None],
        too_large: Callable[[Step], None],
        verdict: Callable[[Step, Any], None],
    ) -> None:
        self._exchange = exchange
        self._steps = steps
        self._trailer_steps = trailer_steps
        self._deliver = deliver
        self._deliver_end = deliver_end
        self._too_large = too_large
        self._verdict = verdict
        self._queue: deque[tuple[bytes, bool]] = deque()
        self._buffers: dict[int, list[bytes]] = {}
        self._parked = False
        self._catching_up = False
        self._stopped = False
        self._trailers: Headers | None = None

    def data(self, chunk: bytes) -> None:
        """A chunk arrived."""
        if self._parked:
            self._queue.append((chunk, False))
        elif not self._stopped:
            self._push(0, chunk, False)

    def end(self, trailers: Headers | None) -> None:
        """The body is complete."""
        self._trailers = trailers
        if self._parked:
            self._queue.append((b"", True))
        elif not self._stopped:
            self._push(0, b"", True)

    @property
    def is_ready(self) -> bool:
        """Would what comes now pass at once?"""
        return not self._parked and not self._stopped

    @property
    def trailers(self) -> Headers | None:
        """What came behind the body, once it came."""
        return self._trailers

    def stop(self) -> None:
        """Nothing more comes out."""
        self._stopped = True
        self._queue.clear()
        self._buffers.clear()

    def _push(self, index: int, chunk: bytes, end: bool) -> None:
        """Take one event through the hooks from `index` on."""
        for i in range(index, len(self._steps)):
            step = self._steps[i]
            if step.limit_bytes:
                whole = self._gather(i, step, chunk, end)
                if whole is None:
                    return
                chunk = whole
            elif not chunk and not end:
                return
            answer = self._exchange.call(step, self._exchange, chunk, end)
            if answer is None:
                continue
            if is_awaitable(answer):
                self._parked = True
                self._exchange.wait_for(answer, step, lambda value, i=i, chunk=chunk: self._answered(i, chunk, end, value))  # type: ignore[misc]
                return
            if isinstance(answer, bytes):
                if step.mode != "observe":
                    chunk = answer
            else:
                self._stop_with(step, answer)
                return
        self._out(chunk, end)

    def _gather(self, index: int, step: Step, chunk: bytes, end: bool) -> bytes | None:
        """Keep the chunk for a buffering hook: the whole body when it is complete, else None."""
        parts = self._buffers.setdefault(index, [])
        if chunk:
            parts.append(chunk)
        if sum(map(len, parts)) > step.limit_bytes:
            self.stop()
            self._too_large(step)
            return None
        if not end:
            if len(parts) > 64:  # a body of tiny chunks must not cost a list of a million of them
                parts[:] = [b"".join(parts)]
            return None
        return b"".join(self._buffers.pop(index))

    def _answered(self, index: int, chunk: bytes, end: bool, value: Any) -> None:
        """The awaited answer of hook `index` is there: go on with its event, then with what queued up."""
        if self._stopped:
            return
        self._parked = False
        step = self._steps[index]
        if isinstance(value, bytes):
            self._push(index + 1, value if step.mode != "observe" else chunk, end)
        elif value is None:
            self._push(index + 1, chunk, end)
        else:
            self._stop_with(step, value)
        if self._catching_up:
            # Called from the loop below, by an answer that was there at once: a thousand of them must not nest.
            return
        self._catching_up = True
        while self._queue and not self._parked and not self._stopped:
            self._push(0, *self._queue.popleft())
        self._catching_up = False

    def _stop_with(self, step: Step, value: Any) -> None:
        self.stop()
        self._verdict(step, value)

    def _out(self, chunk: bytes, end: bool) -> None:
        if chunk:
            self._deliver(chunk)
        if end and not self._stopped:
            trailers = self._trailers
            if trailers is not None:
                for step in self._trailer_steps:
                    answer = self._exchange.call(step, self._exchange, trailers)
                    if answer is not None:
                        self._stop_with(step, answer)
                        return
            self._deliver_end(trailers)
