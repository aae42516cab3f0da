"""Another attempt for a request whose first one failed: only what is safe is sent twice, and never more often than configured.

The retry policy says what is worth it; `_why_not` says whether it may be, and nobody gets around that. With hedging further attempts run beside the exchange's
own one (`hedging.SideAttempt`); whichever is answered well first becomes it, and the others are given up.
"""

from __future__ import annotations

import math
import random
from typing import Any

from sidecar.codec.grpc import http_status, status_in
from sidecar.errors import ConnectFailed, SidecarError, UpstreamClosed, UpstreamOverflow, UpstreamTimeout
from sidecar.facts import AttemptFacts
from sidecar.message import End, ResponseHead
from sidecar.outcomes import NO_ANSWER
from sidecar.policy.retry import RetryRules, retry_after_seconds
from sidecar.proxy.attempts import Retrying, note_try
from sidecar.proxy.exchange_state import IDEMPOTENT, SAFE
from sidecar.proxy.hedging import SideAttempt
from sidecar.proxy.undelivered import UndeliveredWay
from sidecar.verdicts import GiveUp, Refuse, TryAgain


class RetryWay(UndeliveredWay):
    """The part of `Exchange` that makes further attempts."""

    __slots__ = ()

    def _begin_retries(self, rules: RetryRules) -> None:
        """The request is about to go up for the first time. Tunnels are never tried again: nobody knows what they carried."""
        request = self.request
        if request.upgrade is None and request.method != b"CONNECT":
            if rules.saved < rules.save_limit:
                rules.saved += rules.save_share
            times = self._times
            if not rules.needs_timer and (times is None or times.per_try is None) and rules is self.route.retry:  # type: ignore[union-attr]
                # There is no time to watch: `_retrying` makes it when an attempt fails.
                if request.end_stream:
                    return
                chain = self.chain
                if not chain.request_body and not chain.request_trailers and self.route.mirrors is None:  # type: ignore[union-attr]
                    # And nobody stands between the client's body and what is kept of it.
                    self._kept = []
                    return
            self._retry = retry = Retrying(self, rules)
            if times is not None and times.per_try is not None:
                retry.per_try_timeout = times.per_try
                if times.per_try:
                    retry.lend_timer()
            if request.end_stream:
                retry.begin_try()

    def _retrying(self) -> Retrying | None:
        """What is kept of this exchange's attempts, made now when nothing of it was needed so far; None when there is but one attempt."""
        retry: Retrying | None = self._retry
        rules = None if self.route is None else self.route.retry
        if retry is None and rules is not None and not self.finished and self.request.upgrade is None and self.request.method != b"CONNECT":
            self._retry = retry = Retrying(self, rules)
            kept, self._kept = self._kept, None
            if kept is not None:
                retry.take(kept)
                if not kept or kept[-1].__class__ is not End:
                    # What is still to come of the body.
                    self._flow = retry
        return retry

    def _keep_no_more(self) -> None:
        """The body is too long to be sent again."""
        retry = self._retrying()
        if retry is not None:
            retry.let_go()

    # -- what an attempt ended with ----------------------------------------------------------------------------------------------------------------

    def _retries_error(self, error: SidecarError, endpoint: Any, was_sent: bool = True) -> bool:
        """The exchange's own attempt broke: will there be another one, or does one run already? `was_sent`: something of the request was given to a
        connection.
        """
        retry = None if self.finished or self._response_sent else self._retrying()
        if retry is None:
            return False
        if retry.sides:
            self._leave_to_sides(retry, endpoint, error.code)
            return True
        verdict = self._ask(retry, error, None, was_sent)
        if verdict is None:
            return False
        is_failure = not isinstance(error, UpstreamOverflow)  # which is no endpoint's
        return self._try_again(retry, endpoint, verdict, error.code, error.retry_safe or not was_sent, verdict.after_seconds, error, is_failure)

    def _retries_response(self, retry: Retrying, head: ResponseHead, undelivered: SidecarError | None = None) -> bool:
        """The exchange's own attempt was answered with a status that the policy wants to see: is it passed over? Nothing of the answer has gone down yet.
        `undelivered`: what it is known to stand for.
        """
        verdict = self._ask(retry, undelivered, head if undelivered is None else None, undelivered is None)
        if verdict is None:
            return False
        outcome = f"status {head.status}" if undelivered is None else undelivered.code
        if retry.sides:
            self._leave_to_sides(retry, self._picked, outcome)
            return True
        wait = verdict.after_seconds
        if wait is None:
            wait = retry_after_seconds(head.headers.get(b"retry-after"), head.headers.get(b"date"), self.http.seconds())
            if wait is not None and wait > retry.rules.retry_after_max:
                self.notes.append(("retry", f"{outcome}; not sent again: Retry-After asks for {wait:g} s (retry.retry_after_max)"))
                retry.borrowed = 0
                return False
        status = status_in(head.headers)
        is_failure = (head.status if self.grpc is None or status is None else http_status(status)) >= 500
        return self._try_again(retry, self._picked, verdict, outcome, undelivered is not None, wait, undelivered, is_failure)

    def _ask(self, retry: Retrying, error: SidecarError | None, head: ResponseHead | None, was_sent: bool) -> TryAgain | None:
        """What the policy says; None for no."""
        now = self.http.seconds()
        headers = None if head is None else head.headers
        facts = AttemptFacts(
            number=retry.attempt,
            request=self.request,
            endpoint=self.endpoint_text,
            error=error,
            status=0 if head is None else head.status,
            headers=headers,
            trailers=headers if head is not None and head.end_stream and headers is not None and b"grpc-status" in headers else None,
            grpc_status=status_in(headers),
            was_sent=was_sent,
            elapsed=now - self.started,
            remaining=self._deadline - now if self._deadline else None,
        )
        step = retry.rules.decide
        verdict = self.call(step, facts)
        if verdict is None and retry.extra is not None:
            verdict = retry.extra.decide(facts)
        if verdict is None or isinstance(verdict, Refuse):
            # A policy that raised has said no; that is counted, logged and noted already.
            return None
        if isinstance(verdict, GiveUp):
            self.notes.append(("retry", f"{step.account.name}: not sent again: {verdict.reason}"))
            return None
        if isinstance(verdict, TryAgain) and _is_wait(verdict.after_seconds):
            return verdict
        step.account.failures += 1
        self.http.log.error("retry-policy {name} answered {value!r}, which is no verdict of that kind", name=step.account.name, value=verdict)
        self.notes.append((step.account.name, "gave an answer that is no verdict"))
        return None

    # -- another one -------------------------------------------------------------------------------------------------------------------------------

    def _try_again(
        self,
        retry: Retrying,
        endpoint: Any,
        verdict: TryAgain,
        outcome: str,
        is_safe: bool,
        wait: float | None,
        error: SidecarError | None = None,
        is_failure: bool = False,
    ) -> bool:
        """`is_failure`: by the endpoint's fault, as who watches endpoints sees it."""
        delay = retry.rules.wait_before(retry.attempt, random.random()) if wait is None else wait
        what = f"{verdict.reason} ({outcome})" if verdict.reason else outcome
        is_free = type(error) is ConnectFailed and self._has_other(retry, endpoint)
        is_beyond = retry.attempt >= retry.attempts and not is_free and is_failure and self._may_search(retry, endpoint)
        reason = self._why_not(retry, is_safe, delay, is_free, is_beyond)
        if reason:
            self.notes.append(("retry", f"{what}; not sent again: {reason}"))
            retry.borrowed = 0
            return False
        if is_beyond:
            self.notes.append(("retry", f"{retry.attempts} attempts failed, and an endpoint is left that was not tried (retry.attempts_max)"))
        self._count_try(retry, "retries", is_free, is_beyond)
        note_try(self, outcome, verdict.reason or outcome)
        if endpoint is not None:
            endpoint.retries += 1
        self.notes.append(
            ("retry", f"{what} from {self.endpoint_text or self._connector.name}; attempt {retry.attempt} of {retry.attempts} in {delay * 1000:.0f} ms")
        )
        self._leave_attempt(retry, endpoint)
        if self._outbox is None and retry.events:
            self._outbox = list(retry.events)
            self._pause_request()
        # Never at once: the stream that failed is still being worked on by who called.
        retry.delayed = self.http.clock.callLater(delay, self._retry_now)
        return True

    def _has_other(self, retry: Retrying, endpoint: Any) -> bool:
        """Nobody was burdened by an attempt that found no connection: as long as there is an endpoint that may be well and was not tried, the next one counts
        neither in `attempts` nor in the budget. Else callers would be refused while somebody is there who could serve them.
        """
        if endpoint is None or retry.attempts < 2 or retry.attempts >= retry.attempts_max:
            return False
        has_other: bool = self._connector.has_other((*self._tried, endpoint), self.metadata_match)
        return has_other

    def _may_search(self, retry: Retrying, endpoint: Any) -> bool:
        """All attempts failed, and an endpoint is left that was not asked and may be well, whatever is thought of it. Where one can serve, this finds it, and
        what was saved for it is given back; where none can, the savings are soon used up, and an overload is not multiplied by the number of endpoints.
        """
        if endpoint is None or retry.attempts < 2 or retry.attempts >= retry.attempts_max or not retry.rules.may_search:
            return False
        has_other: bool = self._connector.has_other((*self._tried, endpoint), self.metadata_match, True)
        return has_other

    def _count_try(self, retry: Retrying, counter: str, is_free: bool = False, is_beyond: bool = False) -> None:
        """One more attempt is going to be made, in the cluster's budget unless `is_free`, for a saved retry if `is_beyond`."""
        connector = self._connector
        if is_beyond and retry.rules.take_saved():
            retry.borrowed += 1
        if is_free or is_beyond:
            retry.attempts += 1
        if not is_free and retry.connector is None:
            retry.connector = connector
            connector.retries += 1
        connector.counters[counter] += 1
        retry.attempt += 1

    def _leave_attempt(self, retry: Retrying, endpoint: Any) -> None:
        """The exchange's own attempt is over."""
        if endpoint is not None:
            self._tried = (*self._tried, endpoint)
        self._abandon_upstream(UpstreamClosed("another attempt is made"))
        retry.is_over = True
        retry.try_ends = retry.hedge_at = 0.0
        if self._upstream_is_congested:
            self._upstream_is_congested = False
            self._resume_request()

    def _why_not(self, retry: Retrying, is_safe: bool, delay: float, is_free: bool = False, is_beyond: bool = False) -> str:
        """Why there is no further attempt, or "". `is_free`: see `_has_other`; `is_beyond`: see `_may_search`."""
        rules = retry.rules
        request = self.request
        if not is_safe and request.method not in IDEMPOTENT and not any(name in request.headers for name in rules.idempotency_headers):
            return f"{request.method.decode('latin-1')} may have been carried out, and has no idempotency key"
        connector = self._connector
        if retry.attempt >= retry.attempts and not is_free and not is_beyond:
            if retry.attempts > 1:
                self.add_flag("URX")
                connector.counters["retries_exhausted"] += 1
            return f"all {retry.attempts} attempts were made"
        if retry.is_too_long and self._outbox is None:
            return f"its body is longer than {rules.body_bytes} octets (retry.body_bytes)"
        if self._deadline and self.http.seconds() + delay >= self._deadline:
            return "the route's timeout leaves no time"
        if retry.connector is None and not is_free and not rules.is_within_share(connector.retries, connector.active + connector.pending):
            if not rules.take_saved():
                connector.counters["retries_denied"] += 1
                return f"{connector.retries} retries run in the cluster already (retry.budget)"
            retry.borrowed += 1
        if retry.circuit is None and self._circuit is not None:
            circuit, _, priority = self._circuit
            sentence: str = circuit.enter_retry(priority)
            if sentence:
                connector.counters["retries_denied"] += 1
                return sentence
            retry.circuit = self._circuit
        return ""

    def _retry_now(self) -> None:
        retry = self._retry
        assert retry is not None
        retry.delayed = None
        if self.finished:
            return
        retry.is_over = False
        if self.request_complete:
            retry.begin_try()
        self._dispatch()
        if not self.finished:
            self.downstream.flush()

    def try_timed_out(self) -> None:
        """The time for one attempt is over."""
        retry = self._retry
        assert retry is not None
        seconds = retry.per_try_timeout
        self._time_over(retry, f"{self.cluster_name} did not answer within {seconds:g} s (retry.per_try_timeout of route {self.route_name})")

    def try_idle(self) -> None:
        """Nothing moved on the attempt for too long."""
        retry = self._retry
        assert retry is not None
        seconds = retry.rules.per_try_idle_timeout
        sentence = f"nothing came from {self.cluster_name} for {seconds:g} s (retry.per_try_idle_timeout of route {self.route_name})"
        if self.response is not None:
            self._observe(NO_ANSWER)
            self.fail(UpstreamTimeout(sentence))
        else:
            self._time_over(retry, sentence)

    def _time_over(self, retry: Retrying, sentence: str) -> None:
        endpoint = self._connector_picked()
        self._connector.counters["per_try_timeouts"] += 1
        if endpoint is not None:
            endpoint.per_try_timeouts += 1
            # It may have had no stream yet, and the record would name the one before.
            self.endpoint, self.endpoint_text = endpoint.address, endpoint.text
        if self.upstream is not None:
            self._observe(NO_ANSWER)
        if self.gets_company():
            return
        error = UpstreamTimeout(sentence)
        if not self._retries_error(error, endpoint):
            self.fail(error)

    def looks_for_company(self, now: float) -> float:
        """A safe request whose endpoint is silent, perhaps for ever, begins another attempt beside it before all of its time is over. When to look again,
        seconds; 0.0 for never.
        """
        route = self.route
        wait: float = 0.0 if route is None else route.silent_after
        if not wait or self.request.method not in SAFE or self.response is not None or not self.request_complete:
            return 0.0
        retry = self._retrying()
        if retry is None or retry.attempt >= retry.attempts:
            return 0.0
        began: float = max([self._attempt_began, *(each.began for each in retry.sides)])
        if retry.delayed is not None or now < began + wait:
            return max(began, now) + wait if retry.delayed is not None else began + wait
        running = (self._connector_picked(), *(each.where for each in retry.sides))
        if self._connector.has_other((*self._tried, *running), self.metadata_match):
            self.hedge(f"no answer within {wait:g} s (retry.silent_after)")
        return now + wait

    def gets_company(self) -> bool:
        """The time for an attempt is over: does it go on, with another one beside it? When there may be none the route's timeout ends it."""
        retry = self._retry
        assert retry is not None
        hedge = retry.rules.hedge
        if hedge is None or not hedge.hedge_on_per_try_timeout:
            return False
        self.hedge("the time for one attempt is over (retry.per_try_timeout)")
        return True

    def _connector_picked(self) -> Any:
        """The endpoint of the attempt that runs or waits, None when there is none."""
        return self._picked if self.upstream is not None else getattr(self._ticket, "pool", None)

    # -- beside it -----------------------------------------------------------------------------------------------------------------------------------

    def hedge(self, why: str) -> None:
        """Begin one more attempt beside those that run, if that may be."""
        retry = self._retry
        assert retry is not None
        if self.finished or self.response is not None or self._connector is None:
            return
        if retry.attempt >= retry.attempts:
            reason = f"all {retry.attempts} attempts were made"
        elif not retry.is_whole:
            reason = "its body is not kept whole (retry.body_bytes)"
        else:
            reason = self._enter_beside()
            if not reason:
                reason = self._why_not(retry, False, 0.0)
                if reason:
                    self._leave_beside()
        if reason:
            self.notes.append(("hedge", f"{why}; no other attempt: {reason}"))
            return
        self._count_try(retry, "hedges")
        self.notes.append(("hedge", f"{why}; attempt {retry.attempt} of {retry.attempts} runs beside"))
        side = SideAttempt(self, self._connector, retry.events, why)
        side.ends = self.http.seconds() + retry.per_try_timeout if retry.per_try_timeout else 0.0
        running = (self._connector_picked(), *(each.where for each in retry.sides))
        retry.sides.append(side)
        retry.had_company = True
        side.begin((*self._tried, *(each for each in running if each is not None)))

    def _enter_beside(self) -> str:
        """Does the cluster's circuit let one more request of this exchange up?"""
        if self._circuit is None:
            return ""
        circuit, _, priority = self._circuit
        sentence: str = circuit.enter_beside(priority)
        return sentence

    def _leave_beside(self) -> None:
        if self._circuit is not None:
            circuit, _, priority = self._circuit
            circuit.leave_beside(priority)

    def _leave_to_sides(self, retry: Retrying, endpoint: Any, outcome: str) -> None:
        """The exchange's own attempt failed while others run: one of them may do better."""
        note_try(self, outcome, "another attempt runs")
        self._leave_attempt(retry, endpoint)
        self._outbox = None
        self._replace(retry, outcome)

    def _replace(self, retry: Retrying, outcome: str) -> None:
        """One of several attempts failed. Those that run may be silent for ever, so another one takes its place as long as there may be any."""
        if retry.attempt < retry.attempts and not self.finished:
            self.hedge(f"an attempt failed ({outcome})")

    def side_failed(self, side: SideAttempt, error: SidecarError, was_sent: bool) -> None:
        """An attempt beside broke. The last one that runs decides how the exchange goes on."""
        retry = self._retry
        assert retry is not None
        if side in retry.sides:
            retry.sides.remove(side)
        if not retry.is_over or retry.sides:
            side.note(error.code, "another attempt runs")
            if side.picked is not None:
                self._tried = (*self._tried, side.picked)
            self._replace(retry, error.code)
            return
        self._take_over(retry, side)
        if not self._retries_error(error, side.picked, was_sent):
            self.fail(error)

    def side_answered(self, side: SideAttempt, head: ResponseHead) -> bool:
        """An attempt beside was answered: well, then it is the exchange's own from here; badly, then only when no other one runs. Is it?"""
        retry = self._retry
        assert retry is not None
        retry.sides.remove(side)
        if not retry.is_over or retry.sides:
            verdict = self._ask(retry, None, head, True) if head.status in retry.statuses else None
            if verdict is not None:
                side.give_up(f"status {head.status}", verdict.reason)
                self._tried = (*self._tried, side.picked)
                self._replace(retry, f"status {head.status}")
                return False
            retry.statuses = ()
            if not retry.is_over:
                note_try(self, "given up", "another attempt was answered first")
                if self.upstream is not None:  # else it waits for a connection, and what becomes of that is told by itself
                    self._tell_of_loser(retry, self, retry.try_ends)
                self._leave_attempt(retry, self._connector_picked())
            for each in retry.sides:
                if each.began < side.began and each.upstream is not None:
                    self._tell_of_loser(retry, each, each.ends)
        self._take_over(retry, side)
        self._connector.counters["hedges_won"] += 1
        self.response_head(head)
        return True

    def _tell_of_loser(self, retry: Retrying, loser: Any, ends: float) -> None:
        """An attempt that began later was answered first. `loser`: a side or the exchange; `ends`: when its time is over; if it is, that was told then."""
        if retry.per_try_timeout and not ends:
            return
        if retry.rules.hedge is None:
            # It was silent for long, and somebody else was not.
            loser._observe(NO_ANSWER)
        elif self._connector.watch is not None:
            self._connector.watch.lost(self._picked if loser is self else loser.picked)

    def _take_over(self, retry: Retrying, side: SideAttempt) -> None:
        """From here on this attempt is the exchange's own."""
        retry.is_over = False
        self._outbox = None
        self._attempt_began = side.began
        side.is_chosen = True
        self.upstream = side.upstream
        if side.picked is not None:
            self._picked = side.picked
            self.endpoint = side.picked.address
            self.endpoint_text = side.picked.text
            self.upstream_tls = side.tls
        if self._response_paused and self.upstream is not None:
            self.upstream.pause_response()


def _is_wait(seconds: object) -> bool:
    return seconds is None or (isinstance(seconds, int | float) and math.isfinite(seconds) and seconds >= 0)
