"""An attempt that runs beside the exchange's own one: the same request once more, at another endpoint, because the first is slow.

It stands between one upstream stream and the exchange for as long as the stream lives. Until it is chosen nothing of it reaches the client; then it passes
everything on. Whatever ends it gives its place in the cluster's circuit back, once.
"""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from sidecar.codec.grpc import http_status, status_in
from sidecar.errors import SidecarError, UpstreamClosed, UpstreamProtocolError, UpstreamTimeout
from sidecar.headers import Headers
from sidecar.interfaces import IStreamOwner
from sidecar.message import End, RequestHead, ResponseHead
from sidecar.outcomes import BROKEN, NO_ANSWER
from sidecar.proxy.attempts import keep_try


@implementer(IStreamOwner)
class SideAttempt:
    """`events`: the request's whole body, and its end unless the head is all of it. `ends`: when its time is over, 0 for never. `picked`: its endpoint,
    None before there is one. `is_chosen`: the exchange answers its client with it."""

    __slots__ = ("_connector", "_events", "_is_counted", "_ticket", "began", "ends", "exchange", "is_chosen", "is_over", "picked", "tls", "upstream", "why")

    def __init__(self, exchange: Any, connector: Any, events: list[bytes | End], why: str) -> None:
        self.exchange = exchange
        self.why = why
        self.picked: Any = None
        self.tls: Any = None
        self.upstream: Any = None
        self.is_chosen = self.is_over = False
        self.ends = 0.0
        self.began: float = exchange.http.seconds()
        self._connector = connector
        self._events = events
        self._ticket: Any = None
        self._is_counted = exchange._circuit is not None

    # -- what the exchange asks ----------------------------------------------------------------------------------------------------------------------

    def begin(self, tried: tuple[Any, ...]) -> None:
        """Ask for a stream, elsewhere than at `tried`."""
        self.exchange.attempts += 1
        self._ticket = self._connector.open(self, tried, False)

    @property
    def where(self) -> Any:
        """The endpoint that it runs at, or for a connection to which it waits; None when there is none."""
        return self.picked if self.picked is not None else getattr(self._ticket, "pool", None)

    def give_up(self, outcome: str, why: str = "") -> None:
        """It is not needed any more."""
        self.note(outcome, why)
        self._end(UpstreamClosed("another attempt was answered first"))

    def note(self, outcome: str, why: str) -> None:
        """A line of the record."""
        where = self.where
        endpoint = "" if where is None else where.text
        keep_try(self.exchange, endpoint, outcome, self.began, why)

    def timed_out(self) -> None:
        """Its time is over."""
        self._connector.counters["per_try_timeouts"] += 1
        if self.picked is not None:
            self.picked.per_try_timeouts += 1
            self._observe(NO_ANSWER)
        self.ends = 0.0
        if self.exchange.gets_company():
            return
        error = UpstreamTimeout(f"{self.exchange.cluster_name} did not answer within the time for one attempt (retry.per_try_timeout)")
        was_sent = self.upstream is not None
        self._end(error)
        self.exchange.side_failed(self, error, was_sent)

    def _end(self, error: SidecarError) -> None:
        self.is_over = True
        self._leave_circuit()
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            ticket.cancel()
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.reset(error)

    def _leave_circuit(self) -> None:
        if self._is_counted:
            self._is_counted = False
            circuit, _, priority = self.exchange._circuit
            circuit.leave_beside(priority)

    def _observe(self, status: int) -> None:
        if status >= 500:
            self.picked.answered_badly()
        observe = self._connector.observe
        if observe is not None:
            observe(self.picked, status, self.exchange.http.seconds() - self.began)

    # -- as connections and balancers see it ---------------------------------------------------------------------------------------------------------

    @property
    def request(self) -> RequestHead:
        """That of the exchange."""
        head: RequestHead = self.exchange.request
        return head

    @property
    def finished(self) -> bool:
        """Nothing of this attempt matters any more."""
        return bool(self.is_over or self.exchange.finished)

    @property
    def downstream(self) -> Any:
        """Where answers go."""
        return self.exchange.downstream

    def __getattr__(self, name: str) -> Any:
        # Balancers look at exchanges; to them this is the same one.
        return getattr(self.exchange, name)

    def upstream_ready(self, stream: Any) -> None:
        """See `IStreamOwner`."""
        self.upstream = stream
        self.picked = stream.endpoint
        self.tls = stream.tls
        self.exchange.stamp_request()
        try:
            stream.send_head(self.request)
            # Once: a stream that a server did not take repeats by itself what was sent on it.
            events, self._events = self._events, []
            for event in events:
                if self.upstream is not stream:
                    return
                if isinstance(event, End):
                    stream.send_end(event.trailers)
                else:
                    stream.send_data(event)
        except SidecarError as error:
            self._end(error)
            self.exchange.side_failed(self, error, True)
            return
        if self.upstream is stream:
            stream.flush()

    def upstream_unavailable(self, error: Any, endpoint: Any) -> None:
        """See `IStreamOwner`."""
        self.picked = endpoint
        self._ticket = None
        self.is_over = True
        self._leave_circuit()
        self.exchange.side_failed(self, error, False)

    def response_head(self, head: ResponseHead) -> None:
        """See `IStreamOwner`."""
        if head.status < 200:
            if head.status == 101:
                error = UpstreamProtocolError("the application switched to a protocol that it was not asked for")
                self._end(error)
                self.response_failed(error)
            return
        if head.end_stream:
            self.upstream = None
        self._leave_circuit()
        if not self.exchange.side_answered(self, head):
            status = None if self.exchange.grpc is None else status_in(head.headers)
            self._observe(head.status if status is None else http_status(status))

    def response_data(self, chunk: bytes) -> None:
        """See `IStreamOwner`."""
        self.exchange.response_data(chunk)

    def response_last(self, chunk: bytes) -> bool:
        """See `IStreamOwner`."""
        self.exchange.response_data(chunk)
        return False

    def response_end(self, trailers: Headers | None) -> None:
        """See `IStreamOwner`."""
        self.exchange.response_end(trailers)

    def response_failed(self, error: Any) -> None:
        """See `IStreamOwner`."""
        self.upstream = None
        if self.is_chosen:
            self.exchange.response_failed(error)
            return
        self.is_over = True
        self._leave_circuit()
        self._observe(BROKEN)
        self.exchange.side_failed(self, error, True)

    def fail(self, error: SidecarError) -> None:
        """A writer or a hook refused the answer."""
        self.exchange.fail(error)

    def upstream_congested(self) -> None:
        """The whole request is in the connection's queue already, and it is no longer than what is kept for such a case."""

    def upstream_drained(self) -> None:
        """Likewise."""

    def request_data(self, chunk: bytes) -> None:
        """The client speaks to the exchange."""
        raise AssertionError("an attempt has no downstream of its own")

    def request_last(self, chunk: bytes) -> bool:
        """The client speaks to the exchange."""
        raise AssertionError("an attempt has no downstream of its own")

    def request_end(self, trailers: Headers | None) -> None:
        """The client speaks to the exchange."""
        raise AssertionError("an attempt has no downstream of its own")

    def downstream_lost(self, error: SidecarError) -> None:
        """The client speaks to the exchange."""
        raise AssertionError("an attempt has no downstream of its own")

    def flush_request(self) -> None:
        """Nothing waits."""

    def downstream_congested(self) -> None:
        """The client speaks to the exchange."""

    def downstream_drained(self) -> None:
        """The client speaks to the exchange."""

    def __repr__(self) -> str:
        return f"<SideAttempt {self.picked!r} chosen={self.is_chosen} over={self.is_over}>"
