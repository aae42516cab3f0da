"""One request's life: the only object that knows both sides.

The downstream stream feeds it (`request_data`, `request_end`), the upstream stream feeds it (`response_head`, `response_data`, `response_end`), and it
decides what
goes to the other side. The straight path (no body hooks, no answer awaited, a pooled connection free) runs through in one go without a Deferred; everything
else
leaves it and comes back.

The request passes three gates in order: the head hooks (`_inbox` holds what comes meanwhile), the body hooks (a `BodyFlow`, only when the chain has any), and
the
connector (`_outbox` holds what is ready before there is a stream). Each gate that waits pauses the client, so what is held stays small.

Whatever happens, `_finish` runs exactly once.
"""

from __future__ import annotations

import inspect
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from sidecar.codec.grpc import http_status, status_in
from sidecar.errors import (
    DownstreamClosed,
    PluginTimeout,
    RequestTimeout,
    SidecarError,
    StreamDurationExceeded,
    StreamIdleTimeout,
    UpstreamClosed,
    UpstreamError,
    UpstreamTimeout,
)
from sidecar.headers import Headers
from sidecar.interfaces import IExchange, IStreamOwner
from sidecar.message import ResponseHead
from sidecar.outcomes import BROKEN, NO_ANSWER
from sidecar.proxy import replies
from sidecar.proxy.attempt_way import AttemptWay
from sidecar.proxy.attempts import note_try
from sidecar.proxy.body import BodyFlow
from sidecar.proxy.exchange_state import IDEMPOTENT
from sidecar.proxy.record import leave_out_nonsense, likeness_of, own_fields, whole_record
from sidecar.proxy.request_way import RequestWay
from sidecar.proxy.response_way import ResponseWay
from sidecar.proxy.retrying import RetryWay
from sidecar.proxy.route import RouteRuntime
from sidecar.proxy.steps import Step, is_awaitable


@implementer(IExchange, IStreamOwner)
class Exchange(RequestWay, AttemptWay, ResponseWay, RetryWay):
    """See the module. Made by the downstream connection for each request, then `start()`ed."""

    __slots__ = ()

    def response_failed(self, error: UpstreamError) -> None:
        """From upstream: the attempt broke."""
        stream, self.upstream = self.upstream, None
        if self.finished:
            return
        if self._response_sent or self.response is not None:
            self._observe(BROKEN)
            self.error = error
            self._end_broken(error)
            return
        if self._may_try_again(stream, error):
            self.notes.append(("connector", f"a pooled connection to {self.endpoint} was stale; trying once more on a new one"))
            self.http.stale_retries += 1
            note_try(self, error.code, "a pooled connection was stale")
            self._retried_stale = True
            self._dispatch(fresh=True)
            return
        self._observe(BROKEN)
        if not self._retries_error(error, self._picked):
            self.fail(error)

    def _observe(self, status: int) -> None:
        """Tell the cluster how the attempt that was running ended, whatever was owed to it."""
        self._owed = None
        self._attempt_ended(status, self.http.seconds() - self._attempt_began)

    def _may_try_again(self, stream: Any, error: UpstreamError) -> bool:
        """A pooled connection that the application closed at the wrong moment is not the client's trouble: once, for a request that may be sent twice and
        has no body to replay.
        """
        return (
            stream is not None
            and stream.is_reused
            and not self._retried_stale
            and isinstance(error, UpstreamClosed)
            and (self.request.method in IDEMPOTENT and self.request.end_stream)
            and self.request.upgrade is None
        )

    def _upstream_broke(self, error: UpstreamError) -> None:
        self._abandon_upstream(error)
        self.response_failed(error)

    def downstream_lost(self, error: SidecarError) -> None:
        """From downstream: the client is gone or broke the rules."""
        if self.finished:
            return
        if not (self.is_tunnel and self.request_complete) and self.error is None:
            self.error = error if not self.is_tunnel else None
        self._abandon_upstream(error)
        self._finish()

    def timed_out(self) -> None:
        """From downstream: look which deadline passed, if any."""
        if self.finished:
            return
        now = self.http.seconds()
        idle = self._idle_limit()
        if self._deadline and now >= self._deadline:
            route = self.route
            assert route is not None
            if self.upstream is not None and not self._awaited:
                self._observe(NO_ANSWER)
            self.fail(self._too_late(route, now))
        elif idle and now - self._last_moved >= idle and not self.request_complete and not self._request_paused and not self.is_tunnel:
            self.fail(RequestTimeout(f"nothing of the request's body came for {idle:g} s (route {self.route_name})"))
        elif idle and now - self._last_moved >= idle:
            self.fail(StreamIdleTimeout(f"nothing moved for {idle:g} s (route {self.route_name})"))
        else:
            # First of all: whatever goes wrong while another attempt is begun, the request still has its end.
            self._set_timer(idle)
            looks = self.looks_for_company(now)
            if looks and not self.finished and looks < self.downstream.timer.deadline:
                self.downstream.timer.set(looks)

    def _too_late(self, route: RouteRuntime, now: float) -> SidecarError:
        times = self._times
        if times is not None and times.ends_at and now >= times.ends_at:
            whose = " and the call's grpc-timeout" if times.call_ends else ""
            seconds = times.ends_at - self.started
            return StreamDurationExceeded(f"the exchange took longer than {seconds:.6g} s (max_stream_duration of route {route.name}{whose})")
        whose = f"route {route.name}" if times is None or times.timeout == route.timeout else "asked for by the caller"
        seconds = route.timeout if times is None else times.timeout
        if self._awaited:  # not by the application's fault, which may not even have been asked
            account = next(iter(self._awaited.values())).account
            account.failures += 1
            return PluginTimeout(f"{account.kind} {account.name} did not answer within {seconds:g} s ({whose})")
        return UpstreamTimeout(f"{self.cluster_name or 'the request'} did not answer within {seconds:g} s ({whose})")

    def fail(self, error: SidecarError, extra: Headers | None = None) -> None:
        """End with an error: a local reply if nothing was sent yet, else the connection or stream breaks so that the client can tell."""
        if self.finished:
            return
        self.error = error
        if self._response_sent:
            self._abandon_upstream(error)
            self._end_broken(error)
        else:
            head, body = replies.error_reply(error, self.request, extra)
            if error.retry_safe:
                self._mark_undelivered(head)
            self._local_reply(head, body)

    def _end_broken(self, error: SidecarError) -> None:
        """The answer cannot be completed."""
        if not self._response_sent:
            self.response = None
            self.fail(error)
            return
        if self.grpc is not None and self._end_call(error):
            return
        self._stop_flows()
        self.downstream.reset(error)
        self._finish()

    def _end_call(self, error: SidecarError) -> bool:
        """A call that breaks off between two messages ends with a status, as its server would have ended it. False when the client cannot be told so."""
        call, flow, head = self.grpc, self._response_flow, self.response
        if call is None or not call.is_between or head is None or head.content_length is not None or self.request.version == 10:
            return False
        if flow is not None and not (type(flow) is BodyFlow and flow.is_ready):
            return False
        if self._flow is not None:
            self._flow.stop()
            self._flow = None
        self._inbox = self._outbox = None
        call.status = error.grpc_status
        self.response_end(replies.grpc_trailers(error))
        return True

    def _local_reply(self, head: ResponseHead, body: bytes) -> None:
        """Answer the client from here."""
        self._abandon_upstream(self.error or DownstreamClosed("answered by the sidecar"))
        self._stop_flows()
        self.response = head
        for step in self.chain.response_head:
            answer = self.call(step, self)
            if is_awaitable(answer):
                # A local reply does not wait: its hooks may edit the head, not hold it up.
                self._call_off(answer, step)
        if self.grpc is not None:
            self.grpc.status = status_in(head.headers)
        downstream = self.downstream
        self._response_sent = True
        try:
            downstream.send_head(head)
        except SidecarError as error:
            # A hook made of the head what cannot be sent; nothing was.
            self.error = error
            head, body = replies.error_reply(error, self.request)
            self.response = head
            downstream.send_head(head)
        if not head.end_stream:
            self.response_bytes += len(body)
            downstream.send_data(body)
            downstream.send_end(None)
        downstream.flush()
        self._finish()
        downstream.release()

    def _stop_flows(self) -> None:
        if self._flow is not None:
            self._flow.stop()
            self._flow = None
        if self._response_flow is not None:
            self._response_flow.stop()
            self._response_flow = None
        self._inbox = self._outbox = None

    def _abandon_upstream(self, error: SidecarError) -> None:
        if self._ticket is not None:
            self._ticket.cancel()
            self._ticket = None
        upstream, self.upstream = self.upstream, None
        if self._owed is not None:
            self._tell_owed()
        if upstream is not None:
            upstream.reset(error)

    def _finish(self) -> None:
        """Exactly once: stop waiting, count, write the record, tell the plugins."""
        if self.finished:
            return
        self.finished = True
        http = self.http
        http.active -= 1
        if self._retry is not None:
            self._retry.finish()
        if self._mirroring is not None:
            self._mirroring.finish()
        if self._circuit is not None:
            self._leave_circuit()
        if self.is_tunnel:
            http.tunnel_closed(self)
        http.requests += 1
        if self._awaited:
            awaited, self._awaited = self._awaited, None
            for deferred, step in awaited.items():
                self._call_off(deferred, step)
        duration = http.seconds() - self.started
        if http.line_logs or http.wants_record or self.chain.done:
            self._tell(duration)
        else:
            http.observe(self, duration)
        retry = self._retry
        if retry is not None:
            # It points back here, and two objects that hold each other are the collector's work, for every request.
            if self._flow is retry:
                self._flow = None
            self._retry = None

    def _tell(self, duration: float) -> None:
        """Count it, and tell all who want to know of it."""
        http = self.http
        try:
            likeness, own = likeness_of(self), own_fields(self, duration)
        except Exception:
            http.log.failure("a plugin assigned what cannot be recorded")
            leave_out_nonsense(self)
            likeness, own = likeness_of(self), own_fields(self, duration)
        self.likeness = likeness
        http.observe(self, duration)
        for log in http.line_logs:
            # As `call` does, which is one call more for each request.
            account = log.account
            account.calls += 1
            then = http.seconds()
            try:
                log.hook(likeness, own)
            except BaseException:  # whatever a plugin raises, SystemExit included, is the plugin's failure
                self.raised(log)
            account.seconds += http.seconds() - then
        if not http.wants_record and not self.chain.done:
            return
        record = whole_record(likeness.fields, own)
        for log in http.access_logs:
            self.call(log, record)
        for step in self.chain.done:
            self.call(step, self, record)
        if http.exporters:
            spans = self.call(http.tracer.end, self, record)
            if spans and type(spans) is list:
                for exporter in http.exporters:
                    self.call(exporter, spans)

    def _call_off(self, answer: Any, step: Step) -> None:
        """Nobody waits for this answer any more. What a plugin does about that is its own affair, and a failure of its own."""
        try:
            if inspect.iscoroutine(answer):
                answer.close()
            elif isinstance(answer, Deferred):
                answer.addErrback(lambda failure: None)
                answer.cancel()
        except BaseException:
            self.raised(step)

    def _leave_circuit(self) -> None:
        circuit, entered_at, priority = self._circuit
        error = self.error
        failed: bool | None = None
        if isinstance(error, UpstreamError):
            failed = True
        elif self.response is not None and error is None:
            call = self.grpc
            failed = (self.response.status if call is None or call.status is None else http_status(call.status)) >= 500
        circuit.leave(entered_at, failed, self.http.seconds(), priority)

    def __repr__(self) -> str:
        return f"<Exchange {self.number} {self.request.method!r} {self.request.path!r} finished={self.finished}>"
