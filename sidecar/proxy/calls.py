"""How an exchange calls plugins: time counted, exceptions turned into verdicts, answers that come later waited for, verdicts acted on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred

from sidecar.errors import PluginFailed, SidecarError, UpstreamClosed, UpstreamProtocolError
from sidecar.headers import Headers
from sidecar.proxy import replies
from sidecar.proxy.attempts import note_try
from sidecar.proxy.exchange_state import IDEMPOTENT, ExchangeState
from sidecar.proxy.steps import Chain, Step
from sidecar.verdicts import Refuse, Repick, Reply, Reset

REPICKS_LIMIT = 4  # endpoints that a plugin may reject for one request, more than any sensible configuration needs


def is_sound(reply: Reply) -> bool:
    """Can this reply be sent as a final answer?"""
    return type(reply.status) is int and 200 <= reply.status <= 999 and isinstance(reply.headers, Headers) and isinstance(reply.body, bytes)


async def _awaiting(answer: Any) -> Any:
    return await answer


class PluginCalls(ExchangeState):
    """The part of `Exchange` that hooks are called through."""

    __slots__ = ()

    def call(self, step: Step, *args: Any) -> Any:
        """The hook's answer; its time is counted and an exception becomes a verdict."""
        seconds = self.http.seconds
        account = step.account
        account.calls += 1
        then = seconds()
        try:
            answer = step.hook(*args)
        except BaseException:  # whatever a plugin raises, SystemExit included, is the plugin's failure
            answer = self.raised(step)
        account.seconds += seconds() - then
        return answer

    def raised(self, step: Step) -> Refuse | None:
        """Called in an `except` block: the plugin raised. The verdict that takes its place."""
        account = step.account
        account.failures += 1
        self.http.log.failure("{kind} {name} raised", kind=account.kind, name=account.name)
        if account.fail_open:
            self.notes.append((account.name, "raised; passed because of fail_open"))
            return None
        self.notes.append((account.name, "raised"))
        return Refuse(PluginFailed(f"{account.kind} {account.name} raised an exception"))

    def _narrowed(self, chain: Chain) -> Chain:
        """The chain for this exchange: some plugins have no interest in its bodies."""
        absent = []
        for takes_part, position in chain.choosy:
            try:
                if not takes_part(self):
                    absent.append(position)
            except BaseException:  # whatever a plugin raises is the plugin's failure; its body hooks will say so themselves
                self.http.log.failure("a filter could not say whether it takes part")
        return chain.without_bodies(frozenset(absent)) if absent else chain

    def wait_for(self, answer: Any, step: Step, proceed: Callable[[Any], None]) -> None:
        """Go on with `proceed(value)` when the answer is there; both sides are paused until then. An answer that fails becomes a verdict, as if the hook
        had raised.
        """
        deferred: Deferred[Any] = answer if isinstance(answer, Deferred) else ensureDeferred(answer if inspect.iscoroutine(answer) else _awaiting(answer))
        if self._awaited is None:
            self._awaited = {}
        self._awaited[deferred] = step
        # When the whole request is here reading goes on: what comes is bounded by the pipeline limit, and a client that leaves is noticed.
        pauses_request = not self.request_complete
        if pauses_request:
            self._pause_request()
        self._pause_response()

        def answered(value: Any) -> None:
            if pauses_request:
                self._resume_request()
            self._resume_response()
            if self.finished:
                return
            if self._awaited:
                self._awaited.pop(deferred, None)
            proceed(value)
            self.flush_request()
            if not self.finished:
                self.downstream.flush()

        def failed(failure: Any) -> Any:
            if self.finished:
                return None
            account = step.account
            account.failures += 1
            self.http.log.failure("{kind} {name} failed", failure, kind=account.kind, name=account.name)
            self.notes.append((account.name, "failed; passed because of fail_open" if account.fail_open else "failed"))
            return None if account.fail_open else Refuse(PluginFailed(f"{account.kind} {account.name} failed"))

        deferred.addErrback(failed)
        deferred.addCallback(answered)
        deferred.addErrback(self._broken)

    def _broken(self, failure: Any) -> None:
        """A mistake of our own after an awaited answer (or a message that a writer refuses): the exchange must still end."""
        if isinstance(failure.value, SidecarError):
            self.fail(failure.value)
            return
        self.http.log.failure("an exchange broke", failure)
        self.fail(SidecarError("the sidecar made a mistake while serving this request"))

    def verdict(self, step: Step, value: Any) -> None:
        """Act on what a hook answered (anything but None, bytes or Reroute)."""
        account = step.account
        if self.finished:
            return
        if isinstance(value, Repick):
            self._repick(step, value)
            return
        account.verdicts += 1
        if isinstance(value, Refuse) and isinstance(value.error, SidecarError) and isinstance(value.headers, Headers):
            self.notes.append((account.name, f"refused: {value.error.sentence}"))
            self.fail(value.error, value.headers)
        elif isinstance(value, Reply) and is_sound(value):
            self.notes.append((account.name, f"replied {value.status} {value.reason}".rstrip()))
            if self._response_sent:
                self.fail(PluginFailed(f"{account.name} replied after the response had begun"))
            else:
                self._local_reply(*replies.plugin_reply(value, self.request))
        elif isinstance(value, Reset) and isinstance(value.error, SidecarError):
            self.notes.append((account.name, f"reset: {value.error.sentence}"))
            self.error = value.error
            self._abandon_upstream(value.error)
            self._stop_flows()
            self.downstream.reset(value.error)
            self._finish()
        else:
            self.http.log.error("{kind} {name} answered {value!r}, which is no verdict for this hook", kind=account.kind, name=account.name, value=value)
            account.failures += 1
            self.fail(PluginFailed(f"{account.kind} {account.name} gave an answer that is no verdict"))

    def _repick(self, step: Step, value: Repick) -> None:
        """Another endpoint, when the request may be sent again and nothing went to the client."""
        if self.response is None or step not in self.chain.response_head:
            step.account.failures += 1
            self.fail(PluginFailed(f"{step.account.name} rejected an answer where there was none yet, or some of it had passed"))
            return
        may = not self._response_sent and self.request.end_stream and self.request.method in IDEMPOTENT and len(self._tried) < REPICKS_LIMIT
        self.notes.append((step.account.name, f"repick {value.reason}" if may else f"repick refused {value.reason}"))
        if not may:
            self.fail(UpstreamProtocolError(f"{step.account.name} rejected the answer and the request cannot be sent again"))
            return
        note_try(self, f"status {self.response.status}", f"{step.account.name} rejected the answer")
        self._tried = (*self._tried, self._picked)
        self._abandon_upstream(UpstreamClosed("another endpoint was picked"))
        self.response = None
        self._response_flow = None
        self._arm()
        if self._retry is not None:
            self._retry.begin_try()
        self._dispatch()
