"""One request's life: the only object that knows both sides.

The downstream stream feeds it (`request_data`, `request_end`), the upstream stream feeds it (`response_head`, `response_data`, `response_end`), and it decides what goes to
the other side. The straight path (no body hooks, no answer awaited, a pooled connection free) runs through in one go without a Deferred; everything else leaves it and comes back.

The request passes three gates in order: the head hooks (`_inbox` holds what comes meanwhile), the body hooks (a `BodyFlow`, only when the chain has any), and the
connector (`_outbox` holds what is ready before there is a stream). Each gate that waits pauses the client, so what is held stays small.

Whatever happens, `_finish` runs exactly once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from zope.interface import implementer

from sidecar.errors import (
    BodyTooLarge,
    DownstreamClosed,
    DownstreamError,
    NoCluster,
    PluginFailed,
    RouteNotFound,
    SidecarError,
    StreamIdleTimeout,
    UpgradeRefused,
    UpstreamBodyTooLarge,
    UpstreamClosed,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from sidecar.headers import Field, Headers
from sidecar.interfaces import IExchange, IStreamOwner
from sidecar.message import End, RequestHead, ResponseHead
from sidecar.proxy import replies
from sidecar.proxy.body import BodyFlow
from sidecar.proxy.http import CERTIFICATE_NAMES, Caller, HTTPRuntime, new_request_id
from sidecar.proxy.record import make_record
from sidecar.proxy.route import RouteRuntime
from sidecar.proxy.steps import EMPTY_CHAIN, Chain, Step, is_awaitable
from sidecar.verdicts import Refuse, Repick, Reply, Reroute, Reset

# RFC 9110, section 9.2.2: may be sent again when nobody knows whether the first one arrived.
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
# Plugins that send a request round in circles are stopped: more than any sensible configuration needs.
REROUTES_LIMIT = 4
REPICKS_LIMIT = 4


@implementer(IExchange, IStreamOwner)
class Exchange:
    """See the module. Made by the downstream connection for each request, then `start()`ed."""

    __slots__ = (
        "_awaited", "_connector", "_deadline", "_flow", "_inbox", "_last_moved", "_outbox", "_request_paused", "_reroutes", "_response_flow", "_response_paused",
        "_response_sent", "_response_waiting", "_retried_stale", "_ticket", "_tried", "attempts", "caller", "chain", "cluster_name", "connection", "downstream", "endpoint", "error",
        "finished", "http", "is_tunnel", "notes", "number", "principal", "request", "request_bytes", "request_complete", "request_id", "response", "response_bytes",
        "route", "route_name", "started", "started_ticks", "state_", "trace", "upstream", "upstream_seconds", "upstream_tls",
    )  # fmt: skip

    def __init__(self, http: HTTPRuntime, caller: Caller, downstream: Any, request: RequestHead, now: float) -> None:
        http.number = self.number = http.number + 1
        http.active += 1
        self.http = http
        self.caller = caller
        self.connection = caller.facts
        self.downstream = downstream
        self.request = request
        self.started = self._last_moved = now
        self.response: ResponseHead | None = None
        self.principal: Any = None
        self.route: RouteRuntime | None = None
        self.route_name = self.cluster_name = ""
        self.chain: Chain = EMPTY_CHAIN
        self.endpoint: Any = None
        self.request_id = b""
        self.trace: Any = None
        self.state_: dict[object, Any] | None = None
        self.notes: list[tuple[str, str]] = []
        self.error: SidecarError | None = None
        self.request_bytes = self.response_bytes = self.attempts = 0
        self.request_complete = request.end_stream
        self.finished = self.is_tunnel = False
        self.upstream: Any = None
        self.upstream_tls: Any = None
        self.upstream_seconds: float | None = None
        self._connector: Any = None
        self._inbox: list[bytes | End] | None = None
        self._outbox: list[bytes | End] | None = None
        self._flow: BodyFlow | None = None
        self._response_flow: BodyFlow | None = None
        self._response_sent = self._response_waiting = self._retried_stale = False
        self._request_paused = self._response_paused = 0
        self._reroutes = 0
        self._ticket: Any = None
        self._tried: tuple[Any, ...] = ()
        self._awaited: list[Deferred[Any]] | None = None
        self._deadline = 0.0

    # -- what hooks may use besides the attributes ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> dict[object, Any]:
        """A plugin's memory for this exchange, made on first use."""
        if self.state_ is None:
            self.state_ = {}
        return self.state_

    @property
    def status(self) -> int:
        """The status that the client got; 499 when it went away before, 0 when nothing could be sent."""
        if self.response is not None and self._response_sent:
            return self.response.status
        return 0 if self.error is None else self.error.status

    def note(self, who: str, what: str) -> None:
        """Add a line to the decision record."""
        self.notes.append((who, what))

    # -- the request's head --------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take the request in: forwarded fields, trace context, route, hooks, connection."""
        http = self.http
        request = self.request
        self._prepare_fields(request)
        if http.tracer is not None:
            self.call(http.tracer.begin, self, http.sample)
        path = http.normalize_path(request.path)
        if path is None:
            self.fail(DownstreamError("the path cannot be normalized: it climbs above the root or holds an encoded NUL"))
            return
        request.path = path
        if (request.upgrade is not None or request.method == b"CONNECT") and not self._allow_upgrade(request):
            return
        if not self._find_route():
            self.fail(RouteNotFound(f"no route for {request.method.decode('latin-1')} {request.authority.decode('latin-1')}{request.path.decode('latin-1').partition('?')[0]}"))
            return
        self._arm()
        if self.chain.request_head:
            self._request_head_hooks(0)
        else:
            self._request_head_passed()

    def _prepare_fields(self, request: RequestHead) -> None:
        """x-request-id, x-forwarded-*: what the client may not set is dropped, what it did not set is added. One pass; nothing to drop is the usual case."""
        http = self.http
        caller = self.caller
        headers = request.headers
        special = http.special
        came: dict[bytes, bytes] = {each[0]: each[1] for each in headers.fields if each[0] in special}
        fields: list[Field] = headers.fields
        if came:
            if not http.keeps_certificate and not CERTIFICATE_NAMES.isdisjoint(came):
                headers.fields = fields = [each for each in fields if each[0] not in CERTIFICATE_NAMES]
            self.request_id = came.get(b"x-request-id", b"")
        if caller.forwarded_client_cert is not None:
            fields.append(caller.forwarded_client_cert)
        if caller.forwarded_for:
            before = b", ".join(headers.get_all(b"x-forwarded-for"))
            headers.set(b"X-Forwarded-For", before + b", " + caller.forwarded_for if before else caller.forwarded_for)
            fields = headers.fields
        if b"x-forwarded-proto" not in came:
            fields.append(caller.forwarded_proto)
        if not self.request_id and http.settings.request_id:
            self.request_id = new = new_request_id()
            fields.append((b"x-request-id", new, b"x-request-id: %b\r\n" % new))

    def _allow_upgrade(self, request: RequestHead) -> bool:
        """An upgrade that is not allowed is not asked for upstream (RFC 9110 section 7.8 lets a server ignore it); CONNECT has no other meaning and is refused."""
        if request.method == b"CONNECT":
            if b"connect" in self.http.upgrades:
                return True
            self.fail(UpgradeRefused("CONNECT is not allowed by this listener"))
            return False
        if request.upgrade not in self.http.upgrades:
            request.upgrade = None
        return True

    def _find_route(self) -> bool:
        entry = self.http.find_route(self.request)
        if entry is None:
            return False
        route: RouteRuntime = entry.compiled
        self.route = route
        self.route_name = route.name
        self.chain = route.chain
        return True

    def _request_head_hooks(self, index: int) -> None:
        """Run the head hooks from `index` on; goes on when an answer that had to be awaited is there."""
        steps = self.chain.request_head
        seconds = self.http.seconds
        then = seconds()
        while index < len(steps):
            step = steps[index]
            account = step.account
            account.calls += 1
            try:
                answer = step.hook(self)
            except Exception:
                answer = self.raised(step)
            now = seconds()
            account.seconds += now - then
            then = now
            if answer is not None:
                if is_awaitable(answer):
                    if self._inbox is None:
                        self._inbox = []
                    self.wait_for(answer, step, lambda value: self._request_head_answered(index, value))
                    return
                again = self._request_head_verdict(step, answer)
                if again is None:
                    return
                steps = self.chain.request_head
                index = again
                continue
            index += 1
        self._request_head_passed()

    def _request_head_answered(self, index: int, value: Any) -> None:
        if value is None:
            self._request_head_hooks(index + 1)
            return
        again = self._request_head_verdict(self.chain.request_head[index], value)
        if again is not None:
            self._request_head_hooks(again)

    def _request_head_verdict(self, step: Step, value: Any) -> int | None:
        """Act on a verdict. The index of the step to go on with, or None when the exchange was answered."""
        if isinstance(value, Reroute):
            self._reroutes += 1
            self.notes.append((step.account.name, f"reroute {value.reason}"))
            if self._reroutes > REROUTES_LIMIT:
                self.fail(PluginFailed(f"the request was rerouted more than {REROUTES_LIMIT} times, last by {step.account.name}"))
                return None
            if not self._find_route():
                self.fail(RouteNotFound(f"no route after {step.account.name} changed the request"))
                return None
            self._arm()
            return next((i for i, each in enumerate(self.chain.request_head) if each.position > step.position), len(self.chain.request_head))
        self.verdict(step, value)
        return None

    def _request_head_passed(self) -> None:
        """The head hooks let it pass: answer here, gather the body, or go up."""
        route = self.route
        assert route is not None
        request = self.request
        if route.answer is not None:
            self._local_reply(*route.answer(request))
            return
        if route.rewrite is not None:
            route.rewrite(request)
        if route.edit_request is not None:
            route.edit_request(request.headers)
        chain = self.chain
        if chain.request_body and not request.end_stream and request.upgrade is None:
            self._begin_request_flow(chain, request)
        inbox, self._inbox = self._inbox, None
        if self._flow is None or not chain.buffers_request:
            self._dispatch()
        if inbox:
            for event in inbox:
                if self.finished:
                    return
                if isinstance(event, End):
                    self._request_in_end(event.trailers)
                else:
                    self._request_in(event)
            self.flush_request()

    def _begin_request_flow(self, chain: Chain, request: RequestHead) -> None:
        self._flow = BodyFlow(self, chain.request_body, chain.request_trailers, self._request_out, self._request_out_end, self._request_too_large, self.verdict)
        if chain.buffers_request:
            if request.expects_continue:
                # The application is asked only when the body is whole, so nobody else can tell the client to send it.
                request.headers.remove(b"expect")
                self.downstream.send_informational(ResponseHead(100, Headers(), b"Continue"))
                self.downstream.flush()
            self._outbox = []
        if chain.streams_request or chain.buffers_request:
            request.content_length = None
            request.headers.remove(b"content-length")

    # -- the request's way up --------------------------------------------------------------------------------------------------------------------

    def _dispatch(self, fresh: bool = False) -> None:
        """Ask the connector for a stream for one attempt."""
        assert self.route is not None
        connector = self._connector
        if connector is None:
            connector = self._connector = self.route.choose_connector()
            if connector is None:
                self.fail(NoCluster(f"the cluster of route {self.route_name} does not exist"))
                return
            self.cluster_name = connector.name
        self.attempts += 1
        self._ticket = connector.open(self, self._tried, fresh)

    def upstream_ready(self, stream: Any) -> None:
        """Send the head and whatever is held."""
        try:
            self._send_up(stream)
        except SidecarError as error:
            # The writer refused what filters made of the request.
            self.fail(error)

    def _send_up(self, stream: Any) -> None:
        self.upstream = stream
        self.endpoint = stream.endpoint.address
        self.upstream_tls = stream.tls
        request = self.request
        if self.http.tracer is not None:
            self.call(self.http.tracer.inject, self)
        stream.send_head(request)
        outbox = self._outbox
        if outbox is not None:
            self._outbox = None
            for event in outbox:
                if self.upstream is not stream:
                    return
                if isinstance(event, End):
                    stream.send_end(event.trailers)
                else:
                    stream.send_data(event)
            if outbox and not self.finished:
                self._resume_request()
        if self.upstream is stream:
            stream.flush()

    def upstream_unavailable(self, error: UpstreamError, endpoint: Any) -> None:
        """No stream for this attempt."""
        if endpoint is not None:
            self.endpoint = endpoint.address
        self.notes.append(("connector", error.sentence))
        self.fail(error)

    def request_data(self, chunk: bytes) -> None:
        """From downstream: a chunk of the body or tunnel."""
        self.request_bytes += len(chunk)
        self._last_moved = self.http.seconds()
        if self._inbox is not None:
            self._inbox.append(chunk)
        else:
            self._request_in(chunk)

    def _request_in(self, chunk: bytes) -> None:
        if self._flow is not None:
            self._flow.data(chunk)
        elif self._outbox is None and self.upstream is not None:
            self.upstream.send_data(chunk)
        else:
            self._request_out(chunk)

    def request_end(self, trailers: Headers | None) -> None:
        """From downstream: the body's end, or the client's end of a tunnel."""
        self.request_complete = True
        if self.is_tunnel:
            self.upstream.send_end(None)
            self.upstream.flush()
            return
        if self._deadline == 0.0:
            self._arm()
        if self._inbox is not None:
            self._inbox.append(End(trailers))
        else:
            self._request_in_end(trailers)

    def _request_in_end(self, trailers: Headers | None) -> None:
        if self._flow is not None:
            self._flow.end(trailers)
        else:
            self._request_out_end(trailers)

    def _request_out(self, chunk: bytes) -> None:
        """A chunk passed the hooks."""
        if self.upstream is not None:
            self.upstream.send_data(chunk)
            return
        if self._outbox is None:
            self._outbox = []
        if not self._outbox and not self.chain.buffers_request:
            self._pause_request()
        self._outbox.append(chunk)

    def _request_out_end(self, trailers: Headers | None) -> None:
        """The end passed the hooks."""
        if self.upstream is not None:
            self.upstream.send_end(trailers)
            return
        if self._outbox is None:
            self._outbox = []
        if not self._outbox and not self.chain.buffers_request:
            self._pause_request()
        self._outbox.append(End(trailers))
        if self._flow is not None and self.chain.buffers_request and self._connector is None:
            self._dispatch_gathered(trailers)

    def _dispatch_gathered(self, trailers: Headers | None) -> None:
        """The whole body is here and its length known."""
        assert self._outbox is not None
        chunks = [event for event in self._outbox if isinstance(event, bytes)]
        if trailers is None:
            length = sum(map(len, chunks))
            self.request.content_length = length
            self.request.headers.set(b"Content-Length", b"%d" % length)
        self._pause_request()  # upstream_ready resumes it, as after any wait for a stream
        self._dispatch()

    def flush_request(self) -> None:
        """From downstream: a batch was delivered."""
        if self.upstream is not None:
            self.upstream.flush()

    def _request_too_large(self, step: Step) -> None:
        self.fail(BodyTooLarge(f"{step.account.name} takes bodies of at most {step.limit_bytes} octets"))

    # -- the response's way down -----------------------------------------------------------------------------------------------------------------

    def response_head(self, head: ResponseHead) -> None:
        """From upstream: a head, informational or final."""
        now = self._last_moved = self.http.seconds()
        if head.status < 200:
            if head.status != 101:
                self.downstream.send_informational(head)
                return
            if self.request.upgrade is None:
                self._upstream_broke(UpstreamProtocolError("the application switched protocols without being asked"))
                return
        self.upstream_seconds = now - self.started
        self.response = head
        if self._deadline and self.route is not None and self.route.timeout_ends_with_head:
            self._deadline = 0.0
        if self.route is not None and self.route.edit_response is not None:
            self.route.edit_response(head.headers)
        if self.chain.response_head and not self._response_head_hooks(0):
            return
        self._response_head_passed()

    def _response_head_hooks(self, index: int) -> bool:
        """Run response hooks from `index` on; False when the exchange went another way (or waits)."""
        steps = self.chain.response_head
        while index < len(steps):
            step = steps[index]
            answer = self.call(step, self)
            if answer is not None:
                if is_awaitable(answer):
                    self._response_waiting = True
                    self._response_flow = _Held(self)
                    self.wait_for(answer, step, lambda value: self._response_head_answered(index, value))
                else:
                    self.verdict(step, answer)
                return False
            index += 1
        return True

    def _response_head_answered(self, index: int, value: Any) -> None:
        if value is not None:
            self.verdict(self.chain.response_head[index], value)
            return
        held = self._response_flow
        if not self._response_head_hooks(index + 1):
            if isinstance(self._response_flow, _Held) and isinstance(held, _Held) and self._response_flow is not held:
                self._response_flow.events = held.events
            return
        self._response_waiting = False
        self._response_flow = None
        self._response_head_passed()
        if isinstance(held, _Held):
            held.replay()
        if not self.finished:
            self.downstream.flush()

    def _response_head_passed(self) -> None:
        head = self.response
        assert head is not None
        if head.status == 101 or (self.request.method == b"CONNECT" and 200 <= head.status < 300):
            self._open_tunnel(head)
            return
        chain = self.chain
        if chain.response_body:
            if chain.streams_response or chain.buffers_response:
                head.content_length = None if not head.end_stream or chain.streams_response else head.content_length
                if head.content_length is None and head.status != 304:
                    head.headers.remove(b"content-length")
            if not head.end_stream:
                self._response_flow = BodyFlow(self, chain.response_body, chain.response_trailers, self._response_out, self._response_out_end, self._response_too_large, self.verdict)
                if chain.buffers_response:
                    return
        self._response_sent = True
        self.downstream.send_head(head)
        if head.end_stream:
            self._response_complete()

    def response_data(self, chunk: bytes) -> None:
        """From upstream: a chunk of the body or tunnel."""
        self._last_moved = self.http.seconds()
        if self._response_flow is not None:
            self._response_flow.data(chunk)
        else:
            self.response_bytes += len(chunk)
            self.downstream.send_data(chunk)

    def response_end(self, trailers: Headers | None) -> None:
        """From upstream: the body's end, or the application's end of a tunnel."""
        if self.is_tunnel:
            # Nobody in the wild uses an HTTP tunnel whose far end has closed, and waiting would hold it for the idle timeout: both sides end.
            self.upstream = None
            self.downstream.flush()
            self._finish()
            self.downstream.release()
        elif self._response_flow is not None:
            self.upstream = None
            self._response_flow.end(trailers)
        else:
            self.upstream = None
            self.downstream.send_end(trailers)
            self._response_complete()

    def _response_out(self, chunk: bytes) -> None:
        if not self._response_sent:
            if self._outbox is None:
                self._outbox = []
            self._outbox.append(chunk)
            return
        self.response_bytes += len(chunk)
        self.downstream.send_data(chunk)

    def _response_out_end(self, trailers: Headers | None) -> None:
        if not self._response_sent:
            self._send_gathered(trailers)
        self.downstream.send_end(trailers)
        self._response_complete()

    def _send_gathered(self, trailers: Headers | None) -> None:
        """The response's whole body passed the buffering hooks: now its length is known and the head may go."""
        head = self.response
        assert head is not None
        chunks = [event for event in self._outbox or () if isinstance(event, bytes)]
        self._outbox = None
        if trailers is None:
            head.content_length = sum(map(len, chunks))
            head.headers.set(b"Content-Length", b"%d" % head.content_length)
        self._response_sent = True
        self.downstream.send_head(head)
        for chunk in chunks:
            self.response_bytes += len(chunk)
            self.downstream.send_data(chunk)

    def _response_too_large(self, step: Step) -> None:
        self._abandon_upstream(UpstreamBodyTooLarge("too large"))
        self.fail(UpstreamBodyTooLarge(f"{step.account.name} takes bodies of at most {step.limit_bytes} octets"))

    def _response_complete(self) -> None:
        """The last octet of the answer is with the client's connection."""
        self.upstream = None
        downstream = self.downstream
        downstream.flush()
        self._finish()
        downstream.release()

    # -- tunnels ---------------------------------------------------------------------------------------------------------------------------------

    def _open_tunnel(self, head: ResponseHead) -> None:
        self.is_tunnel = True
        self._deadline = 0.0
        self._flow = None
        self._response_sent = True
        self.request_complete = False
        if head.status == 101 and head.upgrade is None:
            head.upgrade = self.request.upgrade
        self.notes.append(("tunnel", (self.request.upgrade or b"connect").decode("latin-1")))
        self.downstream.send_head(head)
        self.downstream.flush()
        self.upstream.open_tunnel()
        self.downstream.open_tunnel()

    # -- endings ---------------------------------------------------------------------------------------------------------------------------------

    def response_failed(self, error: UpstreamError) -> None:
        """From upstream: the attempt broke."""
        stream, self.upstream = self.upstream, None
        if self.finished:
            return
        if self._response_sent or self.response is not None:
            self.error = error
            self._end_broken(error)
            return
        if self._may_try_again(stream, error):
            self.notes.append(("connector", f"a pooled connection to {self.endpoint} was stale; trying once more on a new one"))
            self.http.stale_retries += 1
            self._retried_stale = True
            self._dispatch(fresh=True)
            return
        self.fail(error)

    def _may_try_again(self, stream: Any, error: UpstreamError) -> bool:
        """A pooled connection that the application closed at the wrong moment is not the client's trouble: once, for a request that may be sent twice and has no body to replay."""
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
        idle = self.route.idle_timeout if self.route is not None else self.http.settings.idle_timeout
        if self._deadline and now >= self._deadline:
            route = self.route
            assert route is not None
            self.fail(UpstreamTimeout(f"{self.cluster_name or 'the request'} did not answer within {route.timeout:g} s (route {route.name})"))
        elif idle and now - self._last_moved >= idle:
            self.fail(StreamIdleTimeout(f"nothing moved for {idle:g} s (route {self.route_name})"))
        else:
            self._set_timer(idle)

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
            self._local_reply(head, body)

    def _end_broken(self, error: SidecarError) -> None:
        """The answer cannot be completed."""
        if not self._response_sent:
            self.response = None
            self.fail(error)
            return
        self._stop_flows()
        self.downstream.reset(error)
        self._finish()

    def verdict(self, step: Step, value: Any) -> None:
        """Act on what a hook answered (anything but None, bytes or Reroute)."""
        account = step.account
        if self.finished:
            return
        if isinstance(value, Repick):
            self._repick(step, value)
            return
        account.verdicts += 1
        if isinstance(value, Refuse):
            self.notes.append((account.name, f"refused: {value.error.sentence}"))
            self.fail(value.error, value.headers)
        elif isinstance(value, Reply):
            self.notes.append((account.name, f"replied {value.status} {value.reason}".rstrip()))
            if self._response_sent:
                self.fail(PluginFailed(f"{account.name} replied after the response had begun"))
            else:
                self._local_reply(*replies.plugin_reply(value, self.request))
        elif isinstance(value, Reset):
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
        may = not self._response_sent and self.request.end_stream and self.request.method in IDEMPOTENT and len(self._tried) < REPICKS_LIMIT and self.upstream is not None
        self.notes.append((step.account.name, f"repick {value.reason}" if may else f"repick refused {value.reason}"))
        if not may:
            self.fail(UpstreamProtocolError(f"{step.account.name} rejected the answer and the request cannot be sent again"))
            return
        self._tried = (*self._tried, self.upstream.endpoint)
        self._abandon_upstream(UpstreamClosed("another endpoint was picked"))
        self.response = None
        self._response_flow = None
        self._dispatch()

    def _local_reply(self, head: ResponseHead, body: bytes) -> None:
        """Answer the client from here."""
        self._abandon_upstream(self.error or DownstreamClosed("answered by the sidecar"))
        self._stop_flows()
        self.response = head
        for step in self.chain.response_head:
            answer = self.call(step, self)
            if is_awaitable(answer):
                # A local reply does not wait: its hooks may edit the head, not hold it up.
                _discard(answer)
        downstream = self.downstream
        self._response_sent = True
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
        if upstream is not None:
            upstream.reset(error)

    def _finish(self) -> None:
        """Exactly once: stop waiting, count, write the record, tell the plugins."""
        if self.finished:
            return
        self.finished = True
        http = self.http
        http.active -= 1
        http.requests += 1
        if self._awaited:
            for deferred in self._awaited:
                deferred.cancel()
            self._awaited = None
        self.downstream.timer.clear()
        duration = http.seconds() - self.started
        http.observe(self, duration)
        chain = self.chain
        if http.wants_record or chain.done:
            record = make_record(self, duration)
            for log in http.access_logs:
                self.call(log, record)
            for step in chain.done:
                self.call(step, self, record)
            if http.tracer is not None:
                spans = self.call(http.tracer.end, self, record)
                if spans and type(spans) is list:
                    for exporter in http.exporters:
                        self.call(exporter, spans)

    # -- calling plugins -------------------------------------------------------------------------------------------------------------------------

    def call(self, step: Step, *args: Any) -> Any:
        """The hook's answer; its time is counted and an exception becomes a verdict."""
        seconds = self.http.seconds
        account = step.account
        account.calls += 1
        then = seconds()
        try:
            answer = step.hook(*args)
        except Exception:
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

    def wait_for(self, answer: Any, step: Step, proceed: Callable[[Any], None]) -> None:
        """Go on with `proceed(value)` when the answer is there; both sides are paused until then. An answer that fails becomes a verdict, as if the hook had raised."""
        deferred: Deferred[Any] = ensureDeferred(answer) if inspect.iscoroutine(answer) else answer
        if self._awaited is None:
            self._awaited = []
        self._awaited.append(deferred)
        self._pause_request()
        self._pause_response()

        def answered(value: Any) -> None:
            self._resume_request()
            self._resume_response()
            if self.finished:
                return
            if self._awaited and deferred in self._awaited:
                self._awaited.remove(deferred)
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

    # -- flow control and time ---------------------------------------------------------------------------------------------------------------------

    def _pause_request(self) -> None:
        self._request_paused += 1
        if self._request_paused == 1:
            self.downstream.pause_request()

    def _resume_request(self) -> None:
        if self._request_paused:
            self._request_paused -= 1
            if self._request_paused == 0 and not self.finished:
                self.downstream.resume_request()

    def _pause_response(self) -> None:
        self._response_paused += 1
        if self._response_paused == 1 and self.upstream is not None:
            self.upstream.pause_response()

    def _resume_response(self) -> None:
        if self._response_paused:
            self._response_paused -= 1
            if self._response_paused == 0 and self.upstream is not None:
                self.upstream.resume_response()

    def downstream_congested(self) -> None:
        """From downstream: the client reads slowly."""
        self._pause_response()

    def downstream_drained(self) -> None:
        """From downstream: the client caught up."""
        self._last_moved = self.http.seconds()
        self._resume_response()

    def upstream_congested(self) -> None:
        """From upstream: the application reads slowly."""
        self._pause_request()

    def upstream_drained(self) -> None:
        """From upstream: the application caught up."""
        self._last_moved = self.http.seconds()
        self._resume_request()

    def _arm(self) -> None:
        """Set the route's deadline (once the request is complete) and the timer."""
        route = self.route
        if route is None:
            return
        if route.timeout and self.request_complete:
            self._deadline = self._last_moved + route.timeout
        self._set_timer(route.idle_timeout)

    def _set_timer(self, idle: float) -> None:
        deadline = self._deadline
        if idle and (deadline == 0.0 or self._last_moved + idle < deadline):
            deadline = self._last_moved + idle
        if deadline:
            self.downstream.timer.set(deadline)

    def __repr__(self) -> str:
        return f"<Exchange {self.number} {self.request.method!r} {self.request.path!r} finished={self.finished}>"


class _Held:
    """Stands in for a response's body flow while its head waits for a hook's answer: keeps the little that arrived before the pause took hold."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.events: list[bytes | End] = []

    def data(self, chunk: bytes) -> None:
        self.events.append(chunk)

    def end(self, trailers: Headers | None) -> None:
        self.events.append(End(trailers))

    def stop(self) -> None:
        self.events.clear()

    def replay(self) -> None:
        for event in self.events:
            if self.exchange.finished:
                return
            if isinstance(event, End):
                self.exchange.response_end(event.trailers)
            else:
                self.exchange.response_data(event)


def _discard(answer: Any) -> None:
    if inspect.iscoroutine(answer):
        answer.close()
    elif isinstance(answer, Deferred):
        answer.addErrback(lambda failure: None)
        answer.cancel()
