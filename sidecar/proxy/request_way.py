"""A request's way: forwarded fields, route, head hooks, body hooks; from there `attempt_way` takes it up."""

from __future__ import annotations

from functools import partial
from typing import Any

from sidecar.errors import (
    BodyTooLarge,
    DownstreamError,
    Overloaded,
    PluginFailed,
    RouteNotFound,
    SidecarError,
    UpgradeRefused,
)
from sidecar.headers import Field, Headers
from sidecar.message import END, End, RequestHead, ResponseHead
from sidecar.proxy.body import BodyFlow
from sidecar.proxy.calls import PluginCalls
from sidecar.proxy.grpc_call import GRPCCall
from sidecar.proxy.head_facts import facts_of
from sidecar.proxy.http import CERTIFICATE_NAMES, new_request_id
from sidecar.proxy.mirroring import Mirroring, MirrorRuntime
from sidecar.proxy.route import RouteRuntime
from sidecar.proxy.steps import Chain, Step, is_awaitable
from sidecar.verdicts import Reroute

SINGLE_NAMES = frozenset({b"x-request-id", b"x-forwarded-proto"})
RETRY_AFTER = b"1"  # seconds: what is refused by overload protection may try again soon, elsewhere at once
REROUTES_LIMIT = 4  # plugins that send a request round in circles are stopped: more than any sensible configuration needs


class RequestWay(PluginCalls):
    """The part of `Exchange` that the request passes through."""

    __slots__ = ()

    def start(self) -> None:
        """Take the request in: forwarded fields, trace context, route, hooks, connection."""
        http = self.http
        request = self.request
        if self._facts.forwarded:
            self._prepare_fields(request)
        else:
            # The client told nothing of other hops.
            fields = request.headers.fields
            fields += self.caller.added
            if http.settings.request_id:
                self.request_id = new = new_request_id()
                fields.append((b"x-request-id", new, b"x-request-id: %b\r\n" % new))
        if http.gate is not None:
            sentence = http.gate.refusal(self.connection)
            if sentence:
                self.fail(Overloaded(sentence), Headers.of([(b"Retry-After", RETRY_AFTER)]))
                return
        tracer = http.tracer
        if tracer is not None:
            # As `call` does, which is one call more for each request.
            step = tracer.begin
            account = step.account
            account.calls += 1
            then = http.seconds()
            try:
                step.hook(self, http.sample)
            except BaseException:  # whatever a plugin raises, SystemExit included, is the plugin's failure
                self.raised(step)
            account.seconds += http.seconds() - then
        path = http.normalize_path(request.path)
        if path is None:
            self.fail(DownstreamError("the path cannot be normalized: it climbs above the root or holds an encoded NUL"))
            return
        self.path = path
        if path is not request.path:
            request.path = path
        if (request.upgrade is not None or request.method == b"CONNECT") and not self._allow_upgrade(request):
            return
        if not self._find_route():
            self.fail(
                RouteNotFound(
                    f"no route for {request.method.decode('latin-1')} {request.authority.decode('latin-1')}{request.path.decode('latin-1').partition('?')[0]}"
                )
            )
            return
        if self.request_complete or self._times is not None:
            self._arm()
        elif self.route.idle_timeout:  # type: ignore[union-attr]
            # What `_arm` does with a request whose body is still to come, without the call.
            self.downstream.timer.set(self._last_moved + self.route.idle_timeout)  # type: ignore[union-attr]
        if self.chain.request_head:
            self._request_head_hooks(0)
        else:
            self._request_head_passed()

    def _prepare_fields(self, request: RequestHead) -> None:
        """x-request-id, x-forwarded-*: what the client may not set is dropped, what it did not set is added."""
        http = self.http
        caller = self.caller
        headers = request.headers
        found = self._facts.forwarded
        came = {each[0]: each[1] for each in found}
        fields: list[Field] = headers.fields
        if len(found) != len(came):
            # Of several ids or protocols each reader would believe another one.
            for name in SINGLE_NAMES & came.keys():
                headers.set(name, headers.get_all(name)[0])
                came[name] = headers.get_all(name)[0]
            fields = headers.fields
        if not http.keeps_certificate and not CERTIFICATE_NAMES.isdisjoint(came):
            headers.fields = fields = [each for each in fields if each[0] not in CERTIFICATE_NAMES]
        self.request_id = came.get(b"x-request-id", b"")
        if caller.forwarded_client_cert is not None:
            fields.append(caller.forwarded_client_cert)
        forwarded_for = caller.forwarded_for
        if forwarded_for is not None:
            if b"x-forwarded-for" in came:
                headers.set(b"X-Forwarded-For", b", ".join((*headers.get_all(b"x-forwarded-for"), forwarded_for[1])))
                fields = headers.fields
            else:
                fields.append(forwarded_for)
        if b"x-forwarded-proto" not in came:
            fields.append(caller.forwarded_proto)
        if not self.request_id and http.settings.request_id:
            self.request_id = new = new_request_id()
            fields.append((b"x-request-id", new, b"x-request-id: %b\r\n" % new))

    def _allow_upgrade(self, request: RequestHead) -> bool:
        """An upgrade that is not allowed is not asked for upstream (RFC 9110 section 7.8 lets a server ignore it); CONNECT has no other meaning and is
        refused.
        """
        if request.method == b"CONNECT":
            if b"connect" in self.http.upgrades:
                return True
            self.fail(UpgradeRefused("CONNECT is not allowed by this listener"))
            return False
        if request.upgrade not in self.http.upgrades:
            if request.upgrade == b"h2c":
                request.headers.remove(b"http2-settings")
            request.upgrade = None
        return True

    def _find_route(self) -> bool:
        entry = self.http.find_route(self.request)
        if entry is None:
            return False
        route: RouteRuntime = entry.compiled
        self.route = route
        self.route_name = route.name
        # Weighted clusters are chosen when the request goes up; descriptors and records know the fixed one from here.
        self.cluster_name = route.cluster_name
        self.chain = route.chain
        hints = route.hints
        self._times = None if hints is None or (hints.is_plain and self._facts.call_timeout is None) else hints.times(self)
        return True

    def _request_head_hooks(self, index: int) -> None:
        """Run the head hooks from `index` on; goes on when an answer that had to be awaited is there."""
        steps = self.chain.request_head
        seconds = self.http.seconds
        then = seconds()
        for step in steps[index:] if index else steps:
            account = step.account
            account.calls += 1
            try:
                answer = step.hook(self)
            except BaseException:  # whatever a plugin raises, SystemExit included, is the plugin's failure
                answer = self.raised(step)
            now = seconds()
            account.seconds += now - then
            then = now
            if answer is not None:
                if is_awaitable(answer):
                    if self._inbox is None:
                        self._inbox = []
                    self.wait_for(answer, step, partial(self._request_head_answered, index))
                    return
                again = self._request_head_verdict(step, answer)
                if again is not None:
                    self._request_head_hooks(again)
                return
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
            self._facts = facts_of(self.request.headers.fields)
            before = self.chain
            if not self._find_route():
                self.fail(RouteNotFound(f"no route after {step.account.name} changed the request"))
                return None
            self.chain = self.chain.after(before)
            self._arm()
            return next((i for i, each in enumerate(self.chain.request_head) if each.position > step.position), len(self.chain.request_head))
        self.verdict(step, value)
        return None

    def _request_head_passed(self) -> None:
        """The head hooks let it pass: answer here, gather the body, or go up."""
        route: Any = self.route
        request = self.request
        if route.answer is not None or route.rewrite is not None or route.edit_request is not None:
            try:
                if route.answer is not None:
                    head, body = route.answer(request)
                    if route.edit_response is not None:
                        route.edit_response(head.headers)
                    self._local_reply(head, body)
                    return
                if route.rewrite is not None:
                    route.rewrite(request)
                if route.edit_request is not None:
                    route.edit_request(request.headers)
            except SidecarError as error:
                # What a rewrite or redirect would make of this path is no path any more.
                self.fail(error)
                return
        if route.retry is not None:
            self._begin_retries(route.retry)
        if route.hints is not None and route.hints.settles:
            route.hints.settle(self)
        if self.chain.choosy:
            self.chain = self._narrowed(self.chain)
        chain = self.chain
        if chain.edits_request or route.edit_request is not None:
            self._facts = facts = facts_of(request.headers.fields)
            if request.method == b"POST" and facts.speaks_grpc != (self.grpc is not None):
                # A filter made a call of it, or something else of a call.
                self.grpc = GRPCCall() if facts.speaks_grpc else None
        sink: Any = self._retry
        mirroring: Mirroring | None = None
        if route.mirrors is not None:
            mirroring = self._begin_mirrors(route.mirrors, sink)
            sink = mirroring or sink
        if (chain.request_body or chain.request_trailers) and not request.end_stream:
            self._begin_request_flow(chain, request, sink)
        elif sink is not None and not request.end_stream:
            self._flow = sink
        if mirroring is not None:
            mirroring.prepare(request)
        inbox, self._inbox = self._inbox, None
        if self._flow is None or not chain.buffers_request:
            self._dispatch()
        if mirroring is not None:
            mirroring.begin()
        if inbox:
            for event in inbox:
                if self.finished:
                    return
                if isinstance(event, End):
                    self._request_in_end(event.trailers)
                else:
                    self._request_in(event)
            self.flush_request()

    def _begin_mirrors(self, mirrors: tuple[MirrorRuntime, ...], sink: Any) -> Mirroring | None:
        """The copies of this request, behind its body hooks and in front of `sink`; None when there are none. What becomes a tunnel is not copied."""
        request = self.request
        if request.upgrade is not None or request.method == b"CONNECT":
            return None
        wanted = [mirror for mirror in mirrors if mirror.wants(request)]
        if not wanted:
            return None
        self.notes.extend([("mirror", f"copied to {mirror.connector.name}") for mirror in wanted])
        out, out_end = (self._request_out, self._request_out_end) if sink is None else (sink.data, sink.end)
        self._mirroring = mirroring = Mirroring(wanted, out, out_end)
        return mirroring

    def _begin_request_flow(self, chain: Chain, request: RequestHead, sink: Any) -> None:
        out, out_end = (self._request_out, self._request_out_end) if sink is None else (sink.data, sink.end)
        self._flow = BodyFlow(self, chain.request_body, chain.request_trailers, out, out_end, self._request_too_large, self.verdict)
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

    def request_data(self, chunk: bytes) -> None:
        """From downstream: a chunk of the body or tunnel."""
        self.request_bytes += len(chunk)
        self._last_moved = self.http.seconds()
        if self._inbox is not None:
            self._inbox.append(chunk)
            return
        try:
            self._request_in(chunk)
        except SidecarError as error:
            # The writer refused what filters made of the message.
            self.fail(error)

    def _request_in(self, chunk: bytes) -> None:
        if self._flow is not None:
            self._flow.data(chunk)
            return
        kept = self._kept
        if kept is not None:
            kept.append(chunk)
            if self.request_bytes > self.route.retry.body_bytes:  # type: ignore[union-attr]
                self._keep_no_more()
        # `_request_out`, without the call.
        if self.grpc is not None:
            self.grpc.goes_up(chunk)
        if self.upstream is not None:
            self.upstream.send_data(chunk)
        else:
            self._hold(chunk)

    def request_last(self, chunk: bytes) -> bool:
        """From downstream: the body's last chunk and its end, without trailers, and the batch's end for this exchange. False: something holds the end back, and
        the chunk alone was taken.
        """
        upstream = self.upstream
        if upstream is None or self._flow is not None or self._inbox is not None or self.is_tunnel:
            self.request_data(chunk)
            return False
        self.request_bytes += len(chunk)
        self._last_moved = self.http.seconds()
        self.request_complete = True
        if self._deadline == 0.0 or self._times is not None:
            self._arm()
        kept = self._kept
        if kept is not None:
            kept += (chunk, END)
            if self.request_bytes > self.route.retry.body_bytes:  # type: ignore[union-attr]
                self._keep_no_more()
        if self.grpc is not None:
            self.grpc.goes_up(chunk)
        try:
            upstream.send_last(chunk)
            upstream.flush()
        except SidecarError as error:
            self.fail(error)
        return True

    def request_end(self, trailers: Headers | None) -> None:
        """From downstream: the body's end, or the client's end of a tunnel."""
        self.request_complete = True
        if trailers is not None and not self.http.keeps_certificate:
            # Applications that merge trailers into the head must not read a caller's identity from them.
            trailers.fields = [each for each in trailers.fields if each[0] not in CERTIFICATE_NAMES]
        if self.is_tunnel:
            self.upstream.send_end(None)
            self.upstream.flush()
            return
        if self._deadline == 0.0 or self._times is not None:
            self._arm()
        if self._inbox is not None:
            self._inbox.append(End(trailers))
            return
        try:
            self._request_in_end(trailers)
        except SidecarError as error:
            self.fail(error)

    def _request_in_end(self, trailers: Headers | None) -> None:
        if self._flow is not None:
            self._flow.end(trailers)
            return
        if self._kept is not None:
            self._kept.append(END if trailers is None else End(trailers))
        if self.upstream is not None:
            self.upstream.send_end(trailers)
        else:
            self._request_out_end(trailers)

    def _request_out(self, chunk: bytes) -> None:
        """A chunk passed the hooks."""
        if self.grpc is not None:
            self.grpc.goes_up(chunk)
        if self.upstream is not None:
            self.upstream.send_data(chunk)
            return
        self._hold(chunk)

    def _hold(self, event: bytes | End) -> None:
        """Nobody takes it yet, or any more: then the whole answer is here."""
        if self.response is not None:
            return
        if self._outbox is None:
            self._outbox = []
        if not self._outbox and not self.chain.buffers_request:
            self._pause_request()
        self._outbox.append(event)

    def _request_out_end(self, trailers: Headers | None) -> None:
        """The end passed the hooks."""
        if self.upstream is not None:
            self.upstream.send_end(trailers)
            return
        self._hold(End(trailers))
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
