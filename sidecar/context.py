"""What a plugin is handed besides its configuration (`IPluginContext`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from sidecar.headers import Headers
from sidecar.interfaces import IPluginContext
from sidecar.message import RequestHead
from sidecar.model import Node
from sidecar.telemetry.metrics import Registry
from sidecar.upstream.call import Answer, Call, first_authority

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
        self.reactor = clock  # one object has both parts
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


class HTTPClient:
    """Requests to one cluster, over its own connections, TLS and limits. Only a GET or the like that met a stale connection is sent again, once."""

    def __init__(self, cluster: str, connector_of: Callable[[str], Any], clock: Any) -> None:
        self.cluster = cluster
        self._authority = first_authority(cluster).encode()
        self._connector_of = connector_of
        self._clock = clock

    def request(self, method: bytes, path: bytes, headers: Headers | None = None, body: bytes = b"", timeout_seconds: float = 5.0) -> Deferred[Answer]:
        """See `IPluginContext.http_client`. Host is the cluster's name unless `headers` has one. Cancel the Deferred to give up."""
        fields = Headers() if headers is None else headers.copy()
        authority = fields.get(b"host") or self._authority
        head = RequestHead(method, path, authority, fields, content_length=len(body), end_stream=not body)
        if body:
            fields.set(b"Content-Length", b"%d" % len(body))
        connector = self._connector_of(self.cluster)
        late = self._clock.callLater
        call = Call(lambda owner, fresh: connector.open(owner, (), fresh), f"{connector.name} answered a plugin", ANSWER_BYTES, head, body)
        return call.begin(late, timeout_seconds, f"{connector.name} did not answer a plugin within {timeout_seconds:g} s")
