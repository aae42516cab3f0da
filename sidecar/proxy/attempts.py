"""The attempts of one exchange as its record tells them, and the timer that they share."""

from __future__ import annotations

from typing import Any

from sidecar.record import Try

TRIES_KEPT = 24  # attempts told in one record: more than the 20 that may be made with the 4 that a plugin may reject


class TryTimer:
    """A timer of the wheel that serves one exchange after the other: to set one that was used is far cheaper than to make one."""

    __slots__ = ("clear", "retry", "set")

    def __init__(self, wheel: Any) -> None:
        timer = wheel.timer(self._fired)
        self.set = timer.set
        self.clear = timer.clear
        # `retrying.Retrying` of the exchange that has it.
        self.retry: Any = None

    def _fired(self) -> None:
        if self.retry is not None:
            self.retry.fired()


def note_try(exchange: Any, outcome: str, why: str) -> None:
    """The exchange's own attempt is over, and not the last one."""
    keep_try(exchange, exchange.endpoint_text, outcome, exchange._attempt_began, why)


def keep_try(exchange: Any, endpoint: str, outcome: str, began: float, why: str) -> None:
    """An attempt is over, and not the last one. `began`: seconds of the exchange's clock."""
    if exchange.tries is None:
        exchange.tries = []
    if len(exchange.tries) < TRIES_KEPT:
        exchange.tries.append(Try(endpoint, outcome, (exchange.http.seconds() - began) * 1000.0, why))


def tries_of(exchange: Any) -> list[Try]:
    """All attempts in the order in which they ended, when there were several; else nothing, because the record itself tells of the only one."""
    tries: list[Try] | None = exchange.tries
    if tries is None:
        return []
    retry = exchange._retry
    if retry is not None and retry.is_over:
        # It ended while no attempt of its own ran: all are told.
        return tries
    error = exchange.error
    seconds = exchange.http.seconds() - exchange._attempt_began
    if exchange.upstream_seconds is not None:
        seconds = exchange.started + exchange.upstream_seconds - exchange._attempt_began
    return [*tries, Try(exchange.endpoint_text, f"status {exchange.status}" if error is None else error.code, seconds * 1000.0, "")]
