"""What an exchange knows and where it stands, and its clock and pauses: the ground that the other parts of `Exchange` stand on.

`Exchange` is one object for one request, written in parts: `exchange_state` (this), `calls` (plugins), `request_way`, `attempt_way`, `response_way`,
`retrying`, `exchange` (endings).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from sidecar.errors import SidecarError
from sidecar.headers import Headers
from sidecar.message import End, RequestHead, ResponseHead
from sidecar.proxy.grpc_call import GRPCCall, final_status
from sidecar.proxy.head_facts import HeadFacts, learn
from sidecar.proxy.hints import Times
from sidecar.proxy.http import Caller, HTTPRuntime, new_request_id
from sidecar.proxy.route import RouteRuntime
from sidecar.proxy.steps import EMPTY_CHAIN, Chain, Step
from sidecar.record import Likeness, Try

# RFC 9110, section 9.2.2: may be sent again when nobody knows whether the first one arrived.
SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS"})  # RFC 9110, section 9.2.1, less TRACE: nothing changes however often they are carried out
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})


class ExchangeState:
    """See the module."""

    __slots__ = (
        "_attempt_began",
        "_awaited",
        "_circuit",
        "_connector",
        "_cookie",
        "_deadline",
        "_facts",
        "_flow",
        "_inbox",
        "_is_stamped",
        "_kept",
        "_last_moved",
        "_mirroring",
        "_outbox",
        "_owed",
        "_picked",
        "_request_paused",
        "_reroutes",
        "_response_flow",
        "_response_paused",
        "_response_sent",
        "_retried_stale",
        "_retry",
        "_ticket",
        "_times",
        "_tried",
        "_upstream_is_congested",
        "attempts",
        "caller",
        "chain",
        "cluster_name",
        "connection",
        "downstream",
        "endpoint",
        "endpoint_text",
        "error",
        "finished",
        "flags",
        "grpc",
        "http",
        "is_tunnel",
        "likeness",
        "notes",
        "number",
        "path",
        "principal",
        "request",
        "request_bytes",
        "request_complete",
        "request_id",
        "response",
        "response_bytes",
        "route",
        "route_name",
        "started",
        "started_ticks",
        "state_",
        "trace",
        "tries",
        "upstream",
        "upstream_seconds",
        "upstream_tls",
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
        # The path as routed, for records: a rewrite changes the request's own.
        self.path = request.path
        self.chain: Chain = EMPTY_CHAIN
        self.endpoint: Any = None
        self.endpoint_text = ""
        self.request_id = b""
        self.trace: Any = None
        self.state_: dict[object, Any] | None = None
        self.notes: list[tuple[str, str]] = []
        # What its fields say to us, as they came, or as filters left them.
        known = request.known
        self._facts: HeadFacts = learn(request) if known is None or known.facts is None else known.facts
        # What is counted of a gRPC call ("gRPC over HTTP2": the method is POST); None for any other request.
        self.grpc: GRPCCall | None = GRPCCall() if self._facts.speaks_grpc and request.method == b"POST" else None
        self.error: SidecarError | None = None
        # Once it is over, where anybody wants its record.
        self.likeness: Likeness | None = None
        # Response flags beside the error's own, comma-separated.
        self.flags = ""
        self.request_bytes = self.response_bytes = self.attempts = 0
        self.request_complete = request.end_stream
        self.finished = self.is_tunnel = False
        self.upstream: Any = None
        self.upstream_tls: Any = None
        self.upstream_seconds: float | None = None
        self._connector: Any = None
        self._picked: Any = None
        self._inbox: list[bytes | End] | None = None
        self._outbox: list[bytes | End] | None = None
        # A `BodyFlow`, a `Mirroring` or a `Retrying`.
        self._flow: Any = None
        self._response_flow: Any = None
        self._response_sent = self._retried_stale = self._is_stamped = False
        self._request_paused = self._response_paused = 0
        self._reroutes = 0
        self._ticket: Any = None
        self._tried: tuple[Any, ...] = ()
        self._awaited: dict[Deferred[Any], Step] | None = None
        self._deadline = 0.0
        # `hints.Times`, where they are not the route's own.
        self._times: Times | None = None
        # Set-Cookie for a client that a hash policy gave a cookie, and the key made of it.
        self._cookie: Any = None
        # `attempts.Retrying` where the route has a retry policy and there is something to keep; see `RetryWay._retrying`.
        self._retry: Any = None
        # What went up of the body, for another attempt, as long as nothing else is to be kept.
        self._kept: list[bytes | End] | None = None
        # Attempts that were not the last one; None while there is only one.
        self.tries: list[Try] | None = None
        # `mirroring.Mirroring` where the request has copies.
        self._mirroring: Any = None
        self._upstream_is_congested = False
        # (circuit, when it was entered, priority), to be left at the end.
        self._circuit: Any = None
        # Kept only where somebody wants to know how long attempts take.
        self._attempt_began = now
        # (status, seconds) of an attempt that was answered well so far; those who watch its endpoint are told of it when it is over.
        self._owed: Any = None

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

    @property
    def response_trailers(self) -> Headers | None:
        """What came behind the response's body; None while it is not known. For body hooks."""
        flow = self._response_flow
        return None if flow is None else flow.trailers

    @property
    def grpc_status(self) -> int | None:
        """How a gRPC call ended for its caller; None for any other request."""
        return final_status(self)

    def hash_key(self) -> int | None:
        """The number that the route's hash policies make of this request; None without any."""
        if self._cookie is not None:
            key: int = self._cookie[0]
            return key
        route = self.route
        if route is None or route.hash_key is None:
            return None
        found, cookie = route.hash_key(self.request, self.caller.peer, new_request_id)
        if cookie is not None:
            # It must not change with the next attempt.
            self._cookie = (found, cookie)
        return found

    @property
    def metadata_match(self) -> tuple[tuple[str, str], ...] | None:
        """The metadata that the route asks of endpoints in the cluster in use."""
        route = self.route
        return None if route is None or route.metadata_matches is None else route.metadata_matches.get(self.cluster_name)

    def note(self, who: str, what: str) -> None:
        """Add a line to the decision record."""
        self.notes.append((who, what))

    def add_flag(self, flag: str) -> None:
        """See `IExchange.add_flag`."""
        if flag not in self.flags.split(","):
            self.flags = f"{self.flags},{flag}" if self.flags else flag

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
        if not self._upstream_is_congested:
            self._upstream_is_congested = True
            self._pause_request()

    def upstream_drained(self) -> None:
        """From upstream: the application caught up."""
        self._last_moved = self.http.seconds()
        if self._upstream_is_congested:
            self._upstream_is_congested = False
            self._resume_request()

    def _arm(self) -> None:
        """Set the route's deadline (once the request is complete) and the timer."""
        route = self.route
        if route is None:
            return
        if self._times is not None:
            self._deadline = self._times.deadline(self._last_moved, self.request_complete, self.response is not None)
            self._set_timer(route.idle_timeout)
        elif route.timeout and self.request_complete and not (route.timeout_ends_with_head and self.response is not None):
            self._deadline = self._last_moved + route.timeout
            first = route.timeout
            if route.idle_timeout < first and route.idle_timeout:
                first = route.idle_timeout
            if route.silent_after and route.silent_after < first:
                first = route.silent_after
            self.downstream.timer.set(self._last_moved + first)
        elif self._deadline:
            self._set_timer(route.idle_timeout)
        elif route.idle_timeout:
            self.downstream.timer.set(self._last_moved + route.idle_timeout)

    def _idle_limit(self) -> float:
        """For how long nothing may move, in seconds; 0 for ever."""
        route = self.route
        if route is None:
            idle: float = self.http.settings.idle_timeout
            return idle
        return route.upgrade_idle_timeout if self.is_tunnel else route.idle_timeout

    def _set_timer(self, idle: float) -> None:
        deadline = self._deadline
        if idle and (deadline == 0.0 or self._last_moved + idle < deadline):
            deadline = self._last_moved + idle
        if deadline:
            self.downstream.timer.set(deadline)

    if TYPE_CHECKING:
        # What the parts ask of each other.
        def fail(self, error: SidecarError, extra: Headers | None = None) -> None: ...
        def flush_request(self) -> None: ...
        def verdict(self, step: Step, value: Any) -> None: ...
        def call(self, step: Step, *args: Any) -> Any: ...
        def response_failed(self, error: Any) -> None: ...
        def _upstream_broke(self, error: Any) -> None: ...
        def _dispatch(self, fresh: bool = False) -> None: ...
        def _local_reply(self, head: ResponseHead, body: bytes) -> None: ...
        def _abandon_upstream(self, error: SidecarError) -> None: ...
        def _request_out(self, chunk: bytes) -> None: ...
        def _request_out_end(self, trailers: Headers | None) -> None: ...
        def _observe(self, status: int) -> None: ...
        def _begin_retries(self, rules: Any) -> None: ...
        def looks_for_company(self, now: float) -> float: ...
        def _retrying(self) -> Any: ...
        def _keep_no_more(self) -> None: ...
        def _retries_error(self, error: SidecarError, endpoint: Any, was_sent: bool = True) -> bool: ...
        def _goes_elsewhere(self, head: ResponseHead) -> bool: ...
        def _mark_undelivered(self, head: ResponseHead) -> None: ...
        def _retries_response(self, retry: Any, head: ResponseHead, undelivered: SidecarError | None = None) -> bool: ...
        def stamp_request(self) -> None: ...
        def response_head(self, head: ResponseHead) -> None: ...
        def _stop_flows(self) -> None: ...
        def _finish(self) -> None: ...
