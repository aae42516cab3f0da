"""The way of each attempt: a cluster, a stream of it, and the head that it gets."""

from __future__ import annotations

from typing import Any

from sidecar.errors import CircuitOpen, NoCluster, SidecarError, UpstreamClosed, UpstreamError, UpstreamOverflow
from sidecar.message import End
from sidecar.proxy.calls import PluginCalls


class AttemptWay(PluginCalls):
    """The part of `Exchange` that asks for streams."""

    __slots__ = ()

    def _dispatch(self, fresh: bool = False) -> None:
        """Ask the connector for a stream for one attempt."""
        route: Any = self.route
        connector = self._connector
        if connector is None:
            connector = self._connector = route.connector if route.pick_connector is None else route.choose_connector()
            if connector is None:
                self.fail(NoCluster(f"the cluster of route {self.route_name} does not exist"))
                return
            self.cluster_name = connector.name
            if connector.h2_twin is not None:
                connector = self._connector = connector.of(self.request.version)
            if connector.circuit is not None and not self._enter(connector.circuit):
                return
        self.attempts += 1
        if connector.observe is not None or self._retry is not None or route.retry is not None:
            self._attempt_began = self.http.seconds()
        self._ticket = connector.open(self, self._tried, fresh)

    def _enter(self, circuit: Any) -> bool:
        """Does the cluster's circuit let the request up? If not, it is answered."""
        now = self.http.seconds()
        is_closed = circuit.state == "closed"
        sentence = circuit.enter(now, self.route.priority)  # type: ignore[union-attr]
        if sentence:
            self.fail((UpstreamOverflow if is_closed else CircuitOpen)(f"cluster {self.cluster_name}: {sentence}"))
            return False
        self._circuit = (circuit, now, self.route.priority)  # type: ignore[union-attr]
        return True

    def upstream_ready(self, stream: Any) -> None:
        """Send the head and whatever is held."""
        self.upstream = stream
        self._picked = endpoint = stream.endpoint
        self.endpoint = endpoint.address
        self.endpoint_text = endpoint.text
        self.upstream_tls = stream.tls
        if self._response_paused:
            # Since an earlier attempt, or while a hook is thinking.
            stream.pause_response()
        if self.http.tracer is not None or self.route.hints is not None:  # type: ignore[union-attr]
            self.stamp_request()
        try:
            stream.send_head(self.request)
            if self._outbox is not None:
                self._send_outbox(stream, self._outbox)
        except UpstreamClosed as error:
            # The connection takes no more, so nothing was sent.
            self._abandon_upstream(error)
            if not self._retries_error(error, endpoint, False):
                self.fail(error)
            return
        except SidecarError as error:
            # The writer refused what filters made of the request.
            self.fail(error)
            return
        if self.upstream is stream:
            stream.flush()

    def stamp_request(self) -> None:
        """What each attempt says anew in the request's head: the trace context, and what is left of time."""
        http = self.http
        now = http.seconds()
        tracer = http.tracer
        if tracer is not None:
            step = tracer.inject
            account = step.account
            account.calls += 1
            then = now
            try:
                step.hook(self)
            except BaseException:  # whatever a plugin raises, SystemExit included, is the plugin's failure
                self.raised(step)
            now = http.seconds()
            account.seconds += now - then
        route = self.route
        if route is not None and route.hints is not None:
            route.hints.stamp(self, now)
        self._is_stamped = True

    def _send_outbox(self, stream: Any, outbox: list[bytes | End]) -> None:
        self._outbox = None
        for event in outbox:
            if self.upstream is not stream:
                self._resume_request()
                return
            if isinstance(event, End):
                stream.send_end(event.trailers)
            else:
                stream.send_data(event)
        if outbox and not self.finished:
            self._resume_request()

    def upstream_unavailable(self, error: UpstreamError, endpoint: Any) -> None:
        """No stream for this attempt."""
        if endpoint is not None:
            self.endpoint = endpoint.address
            self.endpoint_text = endpoint.text
        self.notes.append(("connector", error.sentence))
        if not self._retries_error(error, endpoint, False):
            self.fail(error)
