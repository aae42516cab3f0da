"""A response's way down: head hooks in reverse, body hooks, downstream stream; and tunnels."""

from __future__ import annotations

from functools import partial
from typing import Any

from sidecar.codec.grpc import from_http_status
from sidecar.errors import UpstreamBodyTooLarge, UpstreamProtocolError
from sidecar.headers import Headers
from sidecar.message import End, ResponseHead
from sidecar.proxy.body import BodyFlow
from sidecar.proxy.calls import PluginCalls
from sidecar.proxy.grpc_call import GRPCCall, outcome
from sidecar.proxy.steps import Step, is_awaitable


class ResponseWay(PluginCalls):
    """The part of `Exchange` that the response passes through."""

    __slots__ = ()

    def response_head(self, head: ResponseHead) -> None:
        """From upstream: a head, informational or final."""
        now = self._last_moved = self.http.seconds()
        status = head.status
        if status < 200:
            if status != 101:
                self.downstream.send_informational(head)
                return
            if self.request.upgrade is None or head.upgrade != self.request.upgrade:
                self._upstream_broke(UpstreamProtocolError("the application switched to a protocol that it was not asked for"))
                return
            if not self.request_complete:
                # RFC 9110, section 7.8: the request comes first; what is left of its body would be taken for the new protocol.
                self._upstream_broke(UpstreamProtocolError("the application switched protocols before the request was complete"))
                return
        if head.end_stream:
            # The connection has gone back to the pool and may already carry somebody else's request: nothing here may touch it any more.
            self.upstream = None
        grpc = self.grpc
        if grpc is not None:
            if status != 200 or head.end_stream:
                self._call_answered(grpc, head, now - self._attempt_began)
                if self._goes_elsewhere(head):
                    return
            elif grpc.status is not None:  # which an earlier attempt had
                grpc.status = None
        elif status >= 500:
            self._attempt_ended(status, now - self._attempt_began)
            if self._goes_elsewhere(head):
                return
        elif self._connector.observe is not None:
            if head.end_stream or status == 101 or self.request.method == b"CONNECT":
                self._attempt_ended(status, now - self._attempt_began)
            else:
                # An endpoint that cuts its answers off is not well, whatever their heads say.
                self._owed = status, now - self._attempt_began
        route = self.route
        retry = self._retry
        if retry is None and route is not None and route.retry is not None and status in route.retry.statuses:
            retry = self._retrying()
        if retry is not None:
            if status in retry.statuses and self._retries_response(retry, head):
                return
            if retry.attempt > 1:
                retry.settled(head)
        self.upstream_seconds = now - self.started
        self.response = head
        if route is not None:
            if route.timeout_ends_with_head and self._deadline:
                self._deadline = 0.0 if self._times is None else self._times.after_head(self._deadline)
            if route.edit_response is not None:
                route.edit_response(head.headers)
        if self._cookie is not None:
            head.headers.fields.append(self._cookie[1])
        chain = self.chain
        if chain.touches_response or status == 101 or self.request.method == b"CONNECT":
            if not chain.response_head or self._response_head_hooks(0):
                self._response_head_passed()
            return
        self.downstream.send_head(head)
        self._response_sent = True
        if head.end_stream:
            self._response_complete()

    def _attempt_ended(self, status: int, seconds: float) -> None:
        """An attempt was answered, or will not be (503: it broke, 504: no answer in time): count it, and tell who watches endpoints."""
        if status >= 500:
            self._picked.answered_badly()
        observe = self._connector.observe
        if observe is not None:
            observe(self._picked, status, seconds)

    def _tell_owed(self) -> None:
        """The answer that went well so far is over, and not by its endpoint's fault."""
        (status, seconds), self._owed = self._owed, None
        self._attempt_ended(status, seconds)

    def _call_answered(self, call: GRPCCall, head: ResponseHead, seconds: float) -> None:
        """How a call went stands in its trailers: who watches endpoints is told then. A head that is all of the answer has it, and one that is no gRPC says it
        by its status.
        """
        if head.status == 200:
            status = outcome(call, head.headers)
        else:
            status = head.status
            call.status = from_http_status(status)
        self._attempt_ended(status, seconds)

    def _response_head_hooks(self, index: int) -> bool:
        """Run response hooks from `index` on; False when the exchange went another way (or waits)."""
        steps = self.chain.response_head
        while index < len(steps):
            step = steps[index]
            answer = self.call(step, self)
            if answer is not None:
                if is_awaitable(answer):
                    if not isinstance(self._response_flow, _Held):
                        self._response_flow = _Held(self)
                    self.wait_for(answer, step, partial(self._response_head_answered, index))
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
            return
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
        if chain.response_body or chain.response_trailers:
            if chain.streams_response or chain.buffers_response:
                head.content_length = None if not head.end_stream or chain.streams_response else head.content_length
                if head.content_length is None and head.status != 304:
                    head.headers.remove(b"content-length")
            if not head.end_stream:
                self._response_flow = BodyFlow(
                    self, chain.response_body, chain.response_trailers, self._response_out, self._response_out_end, self._response_too_large, self.verdict
                )
                if chain.buffers_response:
                    return
        self.downstream.send_head(head)
        self._response_sent = True
        if head.end_stream:
            self._response_complete()

    def response_data(self, chunk: bytes) -> None:
        """From upstream: a chunk of the body or tunnel."""
        self._last_moved = self.http.seconds()
        flow = self._response_flow
        if self.grpc is not None and (flow is None or type(flow) is not _Held):
            self.grpc.goes_down(chunk)
        if flow is None:
            self.response_bytes += len(chunk)
            self.downstream.send_data(chunk)
        else:
            flow.data(chunk)

    def response_last(self, chunk: bytes) -> bool:
        """From upstream: the body's last chunk and its end, without trailers. False: the chunk alone was taken."""
        if self._response_flow is not None or self.grpc is not None or self.is_tunnel:
            self.response_data(chunk)
            return False
        self._last_moved = self.http.seconds()
        if self._owed is not None:
            self._tell_owed()
        self.response_bytes += len(chunk)
        downstream = self.downstream
        downstream.send_last(chunk)
        self.upstream = None
        downstream.flush()
        self._finish()
        downstream.release()
        return True

    def response_end(self, trailers: Headers | None) -> None:
        """From upstream: the body's end, or the application's end of a tunnel."""
        call = self.grpc
        if call is not None:
            if call.status is None:
                status = outcome(call, trailers)
                if status >= 500 or self._connector.observe is not None:
                    self._attempt_ended(status, self.started + (self.upstream_seconds or 0.0) - self._attempt_began)
        elif self._owed is not None:
            self._tell_owed()
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
            # `_response_complete`, without the call.
            self.upstream = None
            downstream = self.downstream
            downstream.send_end(trailers)
            downstream.flush()
            self._finish()
            downstream.release()

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
        self.downstream.send_head(head)
        self._response_sent = True
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
        if head.status == 101 and head.upgrade is None:
            head.upgrade = self.request.upgrade
        # First of all: what the writer refuses opens nothing.
        self.downstream.send_head(head)
        self.is_tunnel = True
        self._deadline = 0.0
        self._flow = None
        self._response_sent = True
        self.request_complete = False
        protocol = (self.request.upgrade or b"connect").decode("latin-1")
        self.notes.append(("tunnel", protocol))
        self.http.tunnel_opened(self, protocol)
        self._set_timer(self._idle_limit())
        self.downstream.flush()
        # What came behind the answer waits until the client's side is open as well.
        self._response_flow = held = _Held(self)
        self.upstream.open_tunnel()
        self.downstream.open_tunnel()
        self._response_flow = None
        held.replay()
        if not self.finished:
            self.downstream.flush()


class _Held:
    """Stands in for a response's body flow while its head waits for a hook's answer: keeps the little that arrived before the pause took hold."""

    def __init__(self, exchange: ResponseWay) -> None:
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
