"""What an exchange with a retry policy keeps of its attempts: the body, the times, the places it takes; and the attempts as its record tells them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.headers import Headers
from sidecar.message import END, End, ResponseHead
from sidecar.policy.retry import RetryRules
from sidecar.record import Try

if TYPE_CHECKING:
    from sidecar.proxy.hedging import SideAttempt

TRIES_KEPT = 24  # attempts told in one record: more than the 20 that may be made with the 4 that a plugin may reject
SPARE_TIMERS = 256  # kept of a route for later exchanges, as many as run at a time on a busy day: those of a burst are let go


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


class Retrying:
    """What an exchange with a retry policy keeps: its body up to a limit (in the place of a body flow, or behind one), its timers, its place in the budget."""

    __slots__ = (
        "attempt", "attempts", "attempts_max", "borrowed", "circuit", "connector", "delayed", "events", "exchange", "extra", "had_company", "hedge_at",
        "is_over", "is_too_long", "per_try_timeout", "rules", "sides", "size", "statuses", "timer", "try_ends",
    )  # fmt: skip

    def __init__(self, exchange: Any, rules: RetryRules) -> None:
        self.exchange = exchange
        self.rules = rules
        self.attempt = 1
        # What the caller may change where that is configured: how many, how long each, and conditions beside the policy's.
        self.attempts = rules.attempts
        self.attempts_max = rules.attempts_max
        # Saved retries that were used up for it, and are given back if it ends well.
        self.borrowed = 0
        self.per_try_timeout = rules.per_try_timeout
        self.extra: Any = None
        self.statuses = rules.statuses
        self.events: list[bytes | End] = []
        self.size = 0
        self.is_too_long = False
        # The exchange's own attempt has ended, and others run or are to come.
        self.is_over = False
        self.delayed: Any = None
        # Where this exchange counts as a running retry.
        self.connector: Any = None
        # Where it counts against `max_retries`, as `_circuit` of the exchange.
        self.circuit: Any = None
        self.sides: list[SideAttempt] = []
        # Has there ever been one?
        self.had_company = False
        self.try_ends = self.hedge_at = 0.0
        self.timer: TryTimer | None = None
        if rules.needs_timer:
            self.lend_timer()

    def lend_timer(self) -> None:
        """This exchange needs a timer."""
        if self.timer is None:
            spare = self.rules.spare_timers
            self.timer = spare.pop() if spare else TryTimer(self.exchange.http.wheel)
            self.timer.retry = self

    def data(self, chunk: bytes) -> None:
        """A chunk passed the hooks: keep it, and pass it on."""
        if not self.is_too_long:
            self.size += len(chunk)
            if self.size > self.rules.body_bytes:
                self.let_go()
            else:
                self.events.append(chunk)
        self.exchange._request_out(chunk)

    def take(self, events: list[bytes | End]) -> None:
        """This was kept so far."""
        self.events = events
        self.size = sum(len(event) for event in events if isinstance(event, bytes))

    def let_go(self) -> None:
        """The body is too long."""
        self.is_too_long = True
        self.events.clear()

    def end(self, trailers: Headers | None) -> None:
        """The end passed the hooks; the time for one attempt begins."""
        if not self.is_too_long:
            self.events.append(END if trailers is None else End(trailers))
        self.begin_try()
        self.exchange._request_out_end(trailers)

    def stop(self) -> None:
        """No more of the body matters."""
        self.events = []

    @property
    def is_whole(self) -> bool:
        """Is all of the request here, to be sent again?"""
        return not self.is_too_long and (self.exchange.request.end_stream or (bool(self.events) and self.events[-1].__class__ is End))

    # -- time --------------------------------------------------------------------------------------------------------------------------------------

    def begin_try(self) -> None:
        """The request is complete and an attempt at it begins."""
        self.is_over = False
        timer = self.timer
        if timer is None:
            return
        now = self.exchange.http.seconds()
        per_try = self.per_try_timeout
        self.try_ends = now + per_try if per_try else 0.0
        if self.rules.is_plain:
            if per_try:
                timer.set(self.try_ends)
            return
        hedge = self.rules.hedge
        if hedge is not None and hedge.delay:
            self.hedge_at = now + hedge.delay
        self._set_timer()

    def _set_timer(self) -> None:
        due = [each for each in (self.try_ends, self.hedge_at, self._idle_ends(), *(side.ends for side in self.sides)) if each]
        if due and self.timer is not None:
            self.timer.set(min(due))

    def _idle_ends(self) -> float:
        idle = self.rules.per_try_idle_timeout
        if not idle or self.is_over:
            return 0.0
        exchange = self.exchange
        if exchange._response_paused:
            # The client is the one who is slow: the endpoint could send nothing.
            base: float = exchange.http.seconds()
        else:
            base = max(exchange._last_moved, exchange._attempt_began)
        return base + idle

    def fired(self) -> None:
        """The timer: whose time is over?"""
        exchange = self.exchange
        if exchange.finished or self.delayed is not None:
            return
        now = exchange.http.seconds()
        if exchange.response is not None:
            self.try_ends = self.hedge_at = 0.0
        if self.hedge_at and now >= self.hedge_at and self.rules.hedge is not None:
            self.hedge_at = 0.0
            exchange.hedge(f"no answer within {self.rules.hedge.delay:g} s (hedge.delay)")
        for side in list(self.sides):
            if side.ends and now >= side.ends and not exchange.finished:
                side.timed_out()
        if not exchange.finished and self.delayed is None:
            if self.try_ends and now >= self.try_ends:
                self.try_ends = 0.0
                exchange.try_timed_out()
            elif 0.0 < self._idle_ends() <= now:
                exchange.try_idle()
        if not exchange.finished and self.delayed is None:
            self._set_timer()

    # -- the end -----------------------------------------------------------------------------------------------------------------------------------

    def settled(self, head: ResponseHead) -> None:
        """One of several attempts was answered, and the client gets that."""
        if head.status < 500:
            self.exchange._connector.counters["retries_succeeded"] += 1
            if self.borrowed:
                self.rules.give_back(self.borrowed)
                self.borrowed = 0
        self._leave_places()
        self.drop_sides()

    def drop_sides(self) -> None:
        """Whatever runs beside the exchange's own attempt is given up."""
        sides, self.sides = self.sides, []
        for side in sides:
            side.give_up("given up", "another attempt was answered first")

    def finish(self) -> None:
        """The exchange is over."""
        if self.sides:
            self.drop_sides()
        if self.timer is not None:
            self.timer.clear()
            self.timer.retry = None
            if len(self.rules.spare_timers) < SPARE_TIMERS:
                self.rules.spare_timers.append(self.timer)
            self.timer = None
        if self.delayed is not None:
            self.delayed.cancel()
            self.delayed = None
        self._leave_places()
        self.events = []

    def _leave_places(self) -> None:
        """It is not being retried any more."""
        if self.connector is not None:
            self.connector.retries -= 1
            self.connector = None
        if self.circuit is not None:
            circuit, _, priority = self.circuit
            circuit.leave_retry(priority)
            self.circuit = None


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
