"""What a plugin is handed besides its configuration (`IPluginContext`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from sidecar.errors import SidecarError, UpstreamBodyTooLarge, UpstreamClosed, UpstreamError, UpstreamTimeout
from sidecar.headers import Headers
from sidecar.interfaces import IPluginContext, IStreamOwner
from sidecar.message import RequestHead, ResponseHead
from sidecar.model import Node
from sidecar.telemetry.metrics import Registry
from sidecar.upstream.pool import SAFE

# A plugin asks small questions (may this key in?); an answer beyond this is a mistake.
ANSWER_BYTES = 1024 * 1024


@implementer(IPluginContext)
class PluginContext:
    """See `IPluginContext`. `connector_of(cluster)` gives the cluster's connector, or raises `ValueError`."""

    def __init__(
        self,
        name: str,
        clock: Any,
        node: Node,
        registry: Registry,
        connector_of: Callable[[str], Any],
        clusters: frozenset[str] | None = None,
        entry: str = "",
    ) -> None:
        self.name = name
        self.entry = entry
        self.clock = clock
        self.node = node
        self.log = Logger(namespace=f"sidecar.plugin.{name}")
        self._registry = registry
        self._connector_of = connector_of
        # The clusters of the configuration; None: not known (tests).
        self._clusters = clusters

    def counter(self, name: str, help: str, labels: tuple[str, ...] = ()) -> PluginCounter:
        """See `IPluginContext.counter`."""
        metric = self._registry.counter(f"sidecar_plugin_{name}_total", help, ("plugin", *labels))
        return PluginCounter(metric, self.name)

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """See `IPluginContext.gauge`."""
        self._registry.gauge_function(f"sidecar_plugin_{name}", help, lambda: {(self.name, self.entry): read()}, ("plugin", "entry"))

    def http_client(self, cluster: str) -> HTTPClient:
        """See `IPluginContext.http_client`. The cluster's connector is looked up at the first request, so that plugins may ask when they are made."""
        if self._clusters is not None and cluster not in self._clusters:
            raise ValueError(f"there is no cluster {cluster!r}; there {'are ' + ', '.join(sorted(self._clusters)) if self._clusters else 'is none'}")
        return HTTPClient(cluster, self._connector_of, self.clock)


class PluginCounter:
    """A plugin's counter: `inc(*label_values, by=1)`."""

    __slots__ = ("_metric", "_plugin")

    def __init__(self, metric: Any, plugin: str) -> None:
        self._metric = metric
        self._plugin = plugin

    def inc(self, *values: str, by: int = 1) -> None:
        """Count."""
        self._metric.labels(self._plugin, *values).value += by


@attrs.frozen
class Answer:
    """What `HTTPClient.request` fires with."""

    status: int
    headers: Headers
    body: bytes


class HTTPClient:
    """Requests to one cluster, over its own connections, TLS and limits. Only a GET or the like that met a stale connection is sent again, once."""

    def __init__(self, cluster: str, connector_of: Callable[[str], Any], clock: Any) -> None:
        self.cluster = cluster
        self._connector_of = connector_of
        self._clock = clock

    def request(self, method: bytes, path: bytes, headers: Headers | None = None, body: bytes = b"", timeout_seconds: float = 5.0) -> Deferred[Answer]:
        """See `IPluginContext.http_client`. Host is the cluster's name unless `headers` has one. Cancel the Deferred to give up."""
        fields = Headers() if headers is None else headers.copy()
        authority = fields.get(b"host") or self.cluster.encode()
        head = RequestHead(method, path, authority, fields, content_length=len(body), end_stream=not body)
        if body:
            fields.set(b"Content-Length", b"%d" % len(body))
        call = _Call(self._connector_of(self.cluster), head, body, self._clock, timeout_seconds)
        return call.begin()


class _Downstream:
    """The exchange side that an upstream connection flushes: nobody."""

    def flush(self) -> None:
        """Nothing to write."""


@implementer(IStreamOwner)
class _Call:
    """One request of a plugin, in the place of an exchange."""

    downstream = _Downstream()

    def __init__(self, connector: Any, head: RequestHead, body: bytes, clock: Any, timeout_seconds: float) -> None:
        self.request = head
        self.finished = False
        self._connector = connector
        self._body = body
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._stream: Any = None
        self._ticket: Any = None
        self._head: ResponseHead | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._retried = False
        self._delayed: Any = None
        self._result: Deferred[Answer] = Deferred(self._cancelled)

    def begin(self) -> Deferred[Answer]:
        self._delayed = self._clock.callLater(self._timeout_seconds, self._late)
        self._ticket = self._connector.open(self, (), False)
        return self._result

    def upstream_ready(self, stream: Any) -> None:
        self._stream = stream
        stream.send_head(self.request)
        if self._body:
            stream.send_data(self._body)
            stream.send_end(None)
        stream.flush()

    def upstream_unavailable(self, error: UpstreamError, endpoint: Any) -> None:
        self._end(error)

    def response_head(self, head: ResponseHead) -> None:
        if head.status < 200:
            return
        self._head = head
        if head.end_stream:
            self._stream = None
            self._end(None)

    def response_data(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size > ANSWER_BYTES:
            self._end(UpstreamBodyTooLarge(f"{self._connector.name} answered a plugin with more than {ANSWER_BYTES} octets"))
        else:
            self._chunks.append(chunk)

    def response_end(self, trailers: Headers | None) -> None:
        self._stream = None
        self._end(None)

    def response_failed(self, error: UpstreamError) -> None:
        stream, self._stream = self._stream, None
        stale = stream is not None and stream.is_reused and isinstance(error, UpstreamClosed) and self._head is None
        if stale and not self._retried and self.request.method in SAFE and self.request.end_stream and not self.finished:
            self._retried = True
            self._ticket = self._connector.open(self, (), True)
            return
        self._end(error)

    def fail(self, error: SidecarError) -> None:
        self._end(error)

    def request_data(self, chunk: bytes) -> None:
        raise AssertionError("a plugin's request has no downstream")

    def request_end(self, trailers: Headers | None) -> None:
        raise AssertionError("a plugin's request has no downstream")

    def downstream_lost(self, error: SidecarError) -> None:
        raise AssertionError("a plugin's request has no downstream")

    def timed_out(self) -> None:
        raise AssertionError("a plugin's request has no downstream")

    def flush_request(self) -> None:
        """Nothing waits."""

    def downstream_congested(self) -> None:
        """Cannot happen."""

    def downstream_drained(self) -> None:
        """Cannot happen."""

    def upstream_congested(self) -> None:
        """The body is in the connection's queue already."""

    def upstream_drained(self) -> None:
        """Likewise."""

    def _late(self) -> None:
        self._end(UpstreamTimeout(f"{self._connector.name} did not answer a plugin within {self._timeout_seconds:g} s"))

    def _cancelled(self, deferred: Deferred[Answer]) -> None:
        self._end(None, silent=True)

    def _end(self, error: SidecarError | None, silent: bool = False) -> None:
        if self.finished:
            return
        self.finished = True
        if self._delayed.active():
            self._delayed.cancel()
        if self._ticket is not None:
            self._ticket.cancel()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.reset(error)
        if silent:
            return
        if error is not None:
            self._result.errback(error)
        else:
            assert self._head is not None
            self._result.callback(Answer(self._head.status, self._head.headers, b"".join(self._chunks)))
