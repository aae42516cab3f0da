"""How a health check reaches one endpoint: the cluster's own dialer, TLS and protocols, to a certain endpoint instead of a balanced one.

`ProbeConnector` is a connector beside the cluster's: its connections, counters and limits are its own, so that probes neither take the places of requests
nor are counted as such.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol
from zope.interface import implementer

from sidecar.address import Address
from sidecar.errors import UpstreamClosed, UpstreamError
from sidecar.headers import Headers
from sidecar.interfaces import IBalancer, IProbe, IProbeConnection
from sidecar.message import RequestHead
from sidecar.model import Cluster, Endpoint, HealthCheck, PoolLimits
from sidecar.upstream.call import Answer, Call, first_authority
from sidecar.upstream.endpoint import EndpointPool
from sidecar.upstream.pool import Connector
from sidecar.upstream.raw import RawConnection, dial_to
from sidecar.upstream.secure import UpstreamSecurity

# Connections kept for probes of one check: one for each endpoint of the largest cluster that is planned for, unless descriptors are scarcer. Beyond it each
# probe makes its own.
KEPT_CONNECTIONS = 10_000
# A kept connection is closed when it was not used for so many intervals; then its endpoint is asked over a new one.
KEPT_INTERVALS = 2.0
# Octets that came and that the check has not asked for; above it, nothing is read.
UNREAD_BYTES = 64 * 1024


@implementer(IBalancer)
class _NoBalancer:
    """Nobody is chosen: probes know where they go."""

    def update(self, endpoints: list[Any]) -> None:
        """See `IBalancer`."""

    def pick(self, exchange: Any, tried: tuple[Any, ...]) -> None:
        """See `IBalancer`."""
        return None


def for_probes(cluster: Cluster, check: HealthCheck, kept: int = KEPT_CONNECTIONS) -> Cluster:
    """The cluster as its probes use it: same way, no limits meant for traffic, and no judgement. `kept`: connections between probes."""
    reuses = check.reuse_connection
    longest = max(check.interval, check.unhealthy_interval or 0.0, check.no_traffic_interval, check.no_traffic_healthy_interval or 0.0)
    pool = PoolLimits(
        max_connections=kept + check.max_concurrent,
        max_idle=1 if reuses else 0,
        max_pending=check.max_concurrent + 1,
        max_requests=0 if reuses else 1,
        idle_timeout=KEPT_INTERVALS * longest,
    )
    # An attempt that outlives its probe would be the next one's as well.
    connect_timeout = min(cluster.connect_timeout or check.timeout, check.timeout)
    return replace(cluster, endpoints=(), connect_timeout=connect_timeout, pool=pool, circuit_breakers=None, outlier_detection=None, health_checks=())


class ProbeConnector(Connector):
    """See the module. `cluster`: what `for_probes` gives. `port`: the check's own, or None. `kept`: connections between probes. The rest as for `Connector`."""

    def __init__(
        self,
        cluster: Cluster,
        port: int | None,
        kept: int,
        connect: Callable[[Address, Any, Any], Any],
        seconds: Callable[[], float],
        timer: Callable[[Callable[[], None]], Any],
        security: UpstreamSecurity | None,
    ) -> None:
        super().__init__(cluster, _NoBalancer(), connect, seconds, timer, security)
        self._port = port
        self._kept = kept

    def report(self, error: UpstreamError | None) -> None:
        """The check's own log says it, once for each change."""

    def asked(self, endpoint: Endpoint) -> EndpointPool:
        """The endpoint as its probes see it: with connections of its own, and at the check's own port, if that has one."""
        address = endpoint.address
        if self._port is not None and not address.is_unix:
            address = Address(address.host, self._port)
        return EndpointPool(replace(endpoint, address=address))

    def open_at(self, asked: EndpointPool, owner: Any, fresh: bool) -> Any:
        """A stream at this endpoint; see `IConnector.open`."""
        self.counters["requests"] += 1
        return None if self.serve(asked, owner, fresh) else self.wait(asked, owner, (), fresh)

    def dial_at(self, asked: EndpointPool, side: Any) -> RawConnection:
        """A connection to this endpoint for opaque octets; see `Connector.dial`."""
        return dial_to(self, asked, side)

    def rest(self, asked: EndpointPool) -> None:
        """A probe of this endpoint is over. Who comes when enough connections are kept makes a new one each time: to close another's instead would in the end
        leave nobody's for its next probe.
        """
        if self.connections > self._kept:
            self.drop(asked)

    def drop(self, asked: EndpointPool) -> None:
        """Keep no connection to this endpoint: it did not answer on the one there is."""
        while asked.idle:
            self._discard(asked.idle.popleft())
        if self.multiplexer is not None:
            self.multiplexer.retire(asked)

    def let_go(self, asked: EndpointPool) -> None:
        """This endpoint left the cluster: a connection that is still being made is not kept either."""
        asked.is_closed = True
        self.drop(asked)


@implementer(IProbe)
class Probe:
    """See `IProbe`. `close` ends what it began; nothing can be begun afterwards."""

    __slots__ = ("_connector", "_open", "_pool", "cluster", "hostname", "timeout_seconds")

    def __init__(self, connector: ProbeConnector, pool: Any, hostname: str, timeout_seconds: float) -> None:
        self.cluster = connector.name
        self.hostname = first_authority(hostname, connector.name, pool.address.host)
        self.timeout_seconds = timeout_seconds
        self._connector = connector
        self._pool = pool
        # What is under way: Deferreds of requests, and connections.
        self._open: list[Any] | None = []

    @property
    def address(self) -> Address:
        """See `IProbe`."""
        address: Address = self._pool.address
        return address

    def request(self, method: bytes, path: bytes, headers: Headers | None = None, body: bytes = b"", limit_bytes: int = 65536) -> Deferred[Answer]:
        """See `IProbe`."""
        if self._open is None:
            return fail(UpstreamClosed("the probe is over"))
        connector, pool = self._connector, self._pool
        fields = Headers() if headers is None else headers.copy()
        authority = fields.get(b"host") or self.hostname.encode()
        if body:
            fields.set(b"Content-Length", b"%d" % len(body))
        scheme = b"https" if connector.is_secure else b"http"
        head = RequestHead(method, path, authority, fields, scheme=scheme, content_length=len(body), end_stream=not body)
        call = Call(lambda owner, fresh: connector.open_at(pool, owner, fresh), f"{connector.describe(pool)} answered", limit_bytes, head, body, True)
        result = call.begin()
        self._open.append(result)
        return result

    def connect(self) -> Deferred[Any]:
        """See `IProbe`."""
        if self._open is None:
            return fail(UpstreamClosed("the probe is over"))
        connection = ProbeConnection(self._connector.describe(self._pool))
        self._open.append(connection)
        connection.raw = self._connector.dial_at(self._pool, connection)
        return connection.connected

    def close(self) -> None:
        """The probe is over."""
        running, self._open = self._open or [], None
        for each in running:
            if isinstance(each, Deferred):
                if not each.called:
                    each.addErrback(lambda failure: None)
                    each.cancel()
            else:
                each.close()


@implementer(IProtocol, IHalfCloseableProtocol, IProbeConnection)
class ProbeConnection:
    """See `IProbeConnection`. `connected` fires with itself, or fails with an `UpstreamError`."""

    def __init__(self, peer: str) -> None:
        self.transport: Any = None
        self.raw: Any = None
        self.connected: Deferred[ProbeConnection] = Deferred(lambda deferred: self.close())
        self._peer = peer
        self._unread = b""
        self._has_ended = False
        self._is_closed = False
        self._error: UpstreamError | None = None
        self._receiving: Deferred[bytes] | None = None

    # -- what the check calls --------------------------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """See `IProbeConnection`."""
        if not self._is_closed and self.transport is not None:
            self.transport.write(data)

    def receive(self) -> Deferred[bytes]:
        """See `IProbeConnection`."""
        if self._receiving is not None:
            raise RuntimeError("one receive at a time")
        receiving: Deferred[bytes] = Deferred(self._receive_cancelled)
        self._receiving = receiving
        self._hand_over()
        return receiving

    def close(self) -> None:
        """See `IProbeConnection`."""
        if self._is_closed:
            return
        self._is_closed = True
        if self.transport is not None:
            # Nobody waits for what may be on its way, and a check must not leave connections in TIME_WAIT at the endpoint.
            self.transport.abortConnection()
        elif self.raw is not None:
            self.raw.cancel()
        self._hand_over()

    def _receive_cancelled(self, deferred: Deferred[bytes]) -> None:
        self._receiving = None

    def _hand_over(self) -> None:
        if self._receiving is None or not (self._unread or self._has_ended or self._is_closed):
            return
        receiving, self._receiving = self._receiving, None
        data, self._unread = self._unread, b""
        if self.transport is not None and not self._is_closed and not self._has_ended:
            self.transport.resumeProducing()
        if not data and self._error is not None:
            receiving.errback(self._error)
        else:
            receiving.callback(data)

    # -- what the path calls ---------------------------------------------------------------------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:
        """Connected, the peer checked; `established` follows."""
        self.transport = transport

    def connectionMade(self) -> None:
        """Part of IProtocol; `makeConnection` does it all."""

    def established(self) -> None:
        """It is the check's now."""
        if self._is_closed:
            self.transport.abortConnection()
        elif not self.connected.called:
            self.connected.callback(self)

    def unavailable(self, error: UpstreamError, endpoint: Any = None) -> None:
        """There will be no connection."""
        self._is_closed = True
        if not self.connected.called:
            self.connected.errback(error)

    def dataReceived(self, data: bytes) -> None:
        """Kept until the check asks for it."""
        self._unread += data
        if len(self._unread) > UNREAD_BYTES:
            self.transport.pauseProducing()
        self._hand_over()

    def readConnectionLost(self) -> None:
        """The endpoint has ended its side."""
        self._has_ended = True
        self._hand_over()

    def writeConnectionLost(self) -> None:
        """Cannot happen: our side is never ended alone."""

    def connectionLost(self, reason: Any) -> None:
        """The connection is gone."""
        if self.raw is not None:
            self.raw.ended()
        if not self._has_ended and not self._is_closed:
            self._error = UpstreamClosed(f"{self._peer} closed the connection")
        self._has_ended = self._is_closed = True
        self._hand_over()
