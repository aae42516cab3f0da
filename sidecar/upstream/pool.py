"""A cluster, ready to give streams: the balancer chooses an endpoint, its pool gives a connection, limits say when to wait and when to refuse.

The decisions are simple enough to read in `Connector.open`: an idle connection (the last one used, so that the others can grow old and go), else a new one,
else a place in the
queue. Each waiting request has a connection attempt of its own; whichever connection is free first serves the request that waited longest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectionLost
from twisted.logger import Logger
from zope.interface import implementer

from sidecar.address import Address
from sidecar.cluster.circuit import Circuit
from sidecar.cluster.grouping import Match
from sidecar.errors import ConnectFailed, UpstreamClosed, UpstreamError, UpstreamHandshakeFailed, UpstreamOverflow
from sidecar.facts import TLSFacts
from sidecar.interfaces import IConnector
from sidecar.model import Cluster, Endpoint, Locality
from sidecar.naming.places import at_once
from sidecar.outcomes import BROKEN
from sidecar.transport.lifetime import end_of_life
from sidecar.upstream.endpoint import EndpointPool, Ticket
from sidecar.upstream.h1 import READY, H1ClientConnection
from sidecar.upstream.health import EndpointWatch
from sidecar.upstream.idling import Idling
from sidecar.upstream.leaving import Leaving
from sidecar.upstream.members import Members, Observer
from sidecar.upstream.picking import better_untried, has_other, observer_of, picking_failed, why_not_picked
from sidecar.upstream.priorities import most_connections, why_not_wait
from sidecar.upstream.raw import RawConnection, dial
from sidecar.upstream.replay import is_sent_again
from sidecar.upstream.secure import UpstreamSecurity
from sidecar.upstream.shown import shown
from sidecar.upstream.usage import Usage

if TYPE_CHECKING:
    from sidecar.upstream.multiplex import Multiplexer

_log = Logger(namespace="sidecar.upstream")


@implementer(IConnector)
class Connector:
    """See the module. `connect(address, protocol, tls)` starts a connection attempt and returns something with `cancel()`. `later` as for `Members`;
    `make_balancer()` gives another one like `balancer`, None when there can be only that one; `locality`: where this sidecar runs.
    """

    def __init__(
        self,
        cluster: Cluster,
        balancer: Any,
        connect: Callable[[Address, Any, Any], Any],
        seconds: Callable[[], float],
        timer: Callable[[Callable[[], None]], Any],
        security: UpstreamSecurity | None,
        later: Callable[[Callable[[], None]], Any] | None = None,
        make_balancer: Callable[[], Any] | None = None,
        locality: Locality | None = None,
    ) -> None:
        self.name = cluster.name
        self.cluster = cluster
        self.is_secure = security is not None
        self.connections = 0
        self.pending = 0
        # Exchanges that are being retried now; their part keeps count.
        self.retries = 0
        self.counters = {
            "requests": 0,
            "connections_opened": 0,
            "connect_failures": 0,
            "overflows": 0,
            "no_endpoint": 0,
            "evicted": 0,
            "max_duration_reached": 0,
            "retries": 0,
            "retries_denied": 0,
            "retries_exhausted": 0,
            "retries_succeeded": 0,
            "per_try_timeouts": 0,
            "hedges": 0,
            "hedges_won": 0,
        }
        # Those that have connections; far fewer than there may be endpoints.
        self.open_pools: dict[EndpointPool, None] = {}
        self._queues: dict[EndpointPool, None] = {}  # those where requests wait, or did lately
        self.leaving = Leaving(self)
        self._connect = connect
        self.seconds = seconds
        self._security = security
        self._timer = timer
        self._idling = Idling(cluster.pool.idle_timeout, self.open_pools, self._discard, seconds, timer)
        self._stopped = False
        self.multiplexer: Multiplexer | None = None  # for a cluster that may speak HTTP/2
        self.h2_twin: Connector | None = None  # see `by_version`
        self.h1_twin: Connector | None = None  # of a twin: the other one
        self.checks: Any = None  # `probing.ClusterChecks` of a cluster with active health checks
        # Asked and told by exchanges; None without limits on requests.
        self.circuit = None if cluster.circuit_breakers is None else Circuit(cluster.circuit_breakers, seconds())
        # observe(endpoint, status, seconds): how an attempt ended; None when nobody asks.
        self.observe: Callable[[Any, int, float], None] | None = None
        # The balancer's, or that of who chooses a balancer; see `Usage`.
        self.pick: Callable[[Any, tuple[Any, ...]], EndpointPool | None] = balancer.pick
        self.watch = None if cluster.outlier_detection is None else EndpointWatch(cluster, seconds, timer, self._health_changed)
        self.members = Members(cluster, self.watch, later, self.leaving.retire, seconds, timer)
        self.members.begin(Usage(cluster, balancer, make_balancer or _only_one, locality, seconds, timer, self._health_changed, self._in_use))

    # -- who is in the cluster -----------------------------------------------------------------------------------------------------------------------

    @property
    def pools(self) -> list[EndpointPool]:
        """The cluster's endpoints; not to be changed."""
        return self.members.pools

    @property
    def membership_observers(self) -> list[Observer]:
        """See `Members.observers`."""
        return self.members.observers

    @property
    def active(self) -> int:
        """Requests that run now."""
        return sum(pool.active for pool in self.open_pools)

    @property
    def successes(self) -> int:
        """Attempts so far that were answered with a status below 500, or given up by who asked."""
        return self.leaving.successes + sum(pool.successes for pool in (*self.pools, *self.members.retired.values()))

    @property
    def failures(self) -> int:
        """Attempts so far that were answered with 500 or above, broke, or were not answered in time."""
        return self.leaving.failures + sum(pool.errors for pool in (*self.pools, *self.members.retired.values()))

    def set_endpoints(self, endpoints: Sequence[Endpoint]) -> None:
        """These are the cluster's endpoints from now on. One whose address stays keeps its `EndpointPool` and connections; one that vanished drains: what
        runs on its connections ends there, idle ones close, and who waits for it is moved to another endpoint. Of several with one address the first counts.
        """
        self.members.set(endpoints)

    def set_checked(self, pool: EndpointPool, is_healthy: bool, reason: str, is_absent: bool = False, is_degraded: bool = False) -> None:
        """An active check of this endpoint is over. Called after each check, also when nothing changed: a success ends an ejection by outlier detection,
        too. `reason`: for a person, of a failure; `is_absent`: which was that nobody is there.
        """
        self.members.set_checked(pool, is_healthy, reason, is_absent, is_degraded)

    def of(self, version: int) -> Connector:
        """Who serves requests that came in this version of HTTP (11, 20)."""
        return self if self.h2_twin is None or version < 20 else self.h2_twin

    def add_subset(self, match: Match) -> None:
        """A route asks for endpoints with this metadata; see `Members.add_subset`."""
        self.members.add_subset(match)

    def _health_changed(self) -> None:
        self.members.changed()

    def _in_use(self, pick: Callable[[Any, tuple[Any, ...]], Any], observe: Callable[[Any, int, float], None] | None) -> None:
        """The balancers know another set of endpoints."""
        self.pick = pick
        self.observe = observer_of(self.cluster, None if self.watch is None else self.watch.observe, observe)

    # -- what the exchange asks ----------------------------------------------------------------------------------------------------------------------

    def open(self, owner: Any, tried: tuple[Any, ...], fresh: bool) -> Ticket | None:
        """See `IConnector`."""
        try:
            pool: Any = self.pick(owner, tried)
        except BaseException:
            pool = picking_failed(self.cluster)
        counters = self.counters
        counters["requests"] += 1
        if type(pool) is not EndpointPool:
            owner.upstream_unavailable(why_not_picked(self, pool, getattr(owner, "metadata_match", None)), None)
            return None
        if tried:
            pool = better_untried(self.pools, pool, tried, self.members.usage.served_by(getattr(owner, "metadata_match", None)))
        multiplexer = self.multiplexer
        # `serve`, without the call, where a stream is all that is wanted.
        if multiplexer is not None and not fresh and not pool.idle and multiplexer.serve(pool, owner):
            return None
        if self.serve(pool, owner, fresh):
            return None
        sentence = ""
        if self.pending >= self.cluster.pool.max_pending:
            sentence = f"{self.pending} requests already wait for a connection to cluster {self.name} (pool.max_pending)"
        elif self.circuit is not None:
            sentence = why_not_wait(self.circuit, self.pending, self._queues, owner)
        if sentence:
            counters["overflows"] += 1
            owner.upstream_unavailable(UpstreamOverflow(sentence), pool)
            return None
        return self.wait(pool, owner, tried, fresh)

    def has_other(self, tried: tuple[EndpointPool, ...], match: Match | None, also_ejected: bool = False) -> bool:
        """See `IConnector`."""
        return has_other(self.pools, tried, self.members.usage.served_by(match), also_ejected)

    def serve(self, pool: EndpointPool, owner: Any, fresh: bool) -> bool:
        """Give the exchange a connection to this endpoint that is there, or a stream on one."""
        if not fresh:
            idle = pool.idle
            while idle:
                connection = idle.pop()
                # An end that is already waiting in the socket is seen before a request that will not be sent again is lost to it.
                if connection.state is READY and (is_sent_again(owner.request) or connection.looks_alive()):
                    pool.active += 1
                    pool.requests += 1
                    connection.attach(owner)
                    owner.upstream_ready(connection)
                    return True
                self._discard(connection)
            if self.multiplexer is not None and self.multiplexer.serve(pool, owner):
                return True
        return False

    def wait(self, pool: EndpointPool, owner: Any, tried: tuple[Any, ...] = (), fresh: bool = False) -> Ticket:
        """A place in the queue for a connection to this endpoint, or to another one if it has left the cluster."""
        if pool.is_closed and not self._stopped:
            pool = self.leaving.another(pool, owner, tried)
            if pool.is_closed:
                self.leaving.come_back(pool)
        ticket = Ticket(self, pool, owner, tried, fresh)
        self.queue(ticket)
        return ticket

    def queue(self, ticket: Ticket) -> None:
        """Put the ticket at the end of its endpoint's queue."""
        pool = ticket.pool
        self.pending += 1
        pool.enqueue(ticket)
        self._queues[pool] = None
        self._grow(pool)

    def leave(self, ticket: Ticket) -> None:
        """A ticket was cancelled."""
        try:
            ticket.pool.waiting.remove(ticket)
        except ValueError:
            return
        self.pending -= 1
        if ticket.pool.is_closed:
            self.leaving.look_at(ticket.pool)

    def dial(self, side: Any, tried: tuple[EndpointPool, ...] = (), match: Match | None = None) -> RawConnection | None:
        """A connection for opaque bytes, outside of the pool; see `raw.dial`."""
        return dial(self, side, tried, match)

    def connect(self, pool: EndpointPool, connection: Any) -> Any:
        """Begin to connect `connection` to this endpoint; what can be cancelled."""
        self.counters["connections_opened"] += 1
        is_h1_only = self.multiplexer is not None and pool in self.multiplexer.refused.h1_only
        tls = None if self._security is None else self._security.client_tls(pool.address, is_h1_only)
        return self._connect(pool.address, connection, tls)

    # -- what connections report -----------------------------------------------------------------------------------------------------------------------

    def connected(self, connection: H1ClientConnection) -> None:
        """A new connection is ready."""
        pool = connection.endpoint
        pool.connecting.discard(connection)
        self._offer(pool, connection)

    def failed(self, connection: H1ClientConnection, error: UpstreamError | None) -> None:
        """A connection attempt failed: so does the request that waited longest."""
        pool: EndpointPool = connection.endpoint
        pool.connecting.discard(connection)
        self._one_less(pool)
        pool.found_nobody()
        self.counters["connect_failures"] += 1
        if self.observe is not None:
            self.observe(pool, BROKEN, 0.0)
        self.report(error)
        why = error or ConnectFailed(f"{self.describe(pool)} closed the connection at once")
        # HTTP/2's waiting requests would all have shared it.
        for _ in range(1 if self.multiplexer is None or pool.connecting else len(pool.waiting)):
            owner = self._next_owner(pool)
            if owner is not None:
                owner.upstream_unavailable(why, pool)
        if pool.is_closed:
            self.leaving.look_at(pool)
        self._serve_waiting()

    def released(self, connection: H1ClientConnection, reusable: bool) -> None:
        """An exchange is done with the connection. It is not in use; a reusable one may be given out at once."""
        pool: EndpointPool = connection.endpoint
        pool.active -= 1
        limit = self.cluster.pool.max_requests
        if reusable and not pool.is_closed and not (limit and connection.requests >= limit):
            limits = self.cluster.pool
            if self.pending or len(pool.idle) >= limits.max_idle:
                self._offer(pool, connection)
                return
            pool.idle.append(connection)
            if limits.idle_timeout:
                connection.idle_since = now = self.seconds()
                if not self._idling.is_armed:
                    self._idling.arm(now)
        elif reusable:
            self._discard(connection)

    def forget(self, connection: H1ClientConnection) -> None:
        """The connection is gone."""
        pool: EndpointPool = connection.endpoint
        self._one_less(pool)
        if connection.owner is None:
            with suppress(ValueError):
                pool.idle.remove(connection)
        if pool.is_closed:
            self.leaving.look_at(pool)
        if self.pending:
            self._serve_waiting()

    def age_timer(self, grown_old: Callable[[], None]) -> Any:
        """A timer that tells a new connection when it has reached its age; None when there is no such limit."""
        if not self.cluster.pool.max_connection_duration:
            return None
        timer = self._timer(grown_old)
        timer.set(end_of_life(self.cluster.pool, self.seconds()))
        return timer

    def check_peer(self, connection: H1ClientConnection) -> TLSFacts:
        """The peer's facts, or `UpstreamHandshakeFailed`."""
        assert self._security is not None
        return self._security.check_peer(connection.transport, connection.endpoint.address)

    def explain(self, connection: H1ClientConnection, reason: Any) -> UpstreamError | None:
        """The error for a lost connection, in words."""
        error = None
        if self._security is not None:
            error = self._security.explain(connection.transport, reason, connection.endpoint.address)
        verb = "reset" if reason is not None and reason.check(ConnectionLost) else "closed"
        return error or UpstreamClosed(f"{self.describe(connection.endpoint)} {verb} the connection before its answer was complete")

    def report(self, error: UpstreamError | None) -> None:
        """A failed handshake is in the log, too: who has to mend it reads no answers."""
        if isinstance(error, UpstreamHandshakeFailed):
            _log.warn("{cluster}: {error}", cluster=self.name, error=error.sentence)

    def describe(self, endpoint: EndpointPool) -> str:
        """The endpoint for a person: "payments at 10.0.0.5:8080"."""
        return f"{self.name} at {endpoint.address}"

    def _one_less(self, pool: EndpointPool) -> None:
        pool.connections -= 1
        self.connections -= 1
        if not pool.connections:
            self.open_pools.pop(pool, None)

    # -- inside ------------------------------------------------------------------------------------------------------------------------------------

    def _give(self, pool: EndpointPool, connection: H1ClientConnection, owner: Any) -> None:
        pool.active += 1
        pool.requests += 1
        connection.attach(owner)
        owner.upstream_ready(connection)

    def _offer(self, pool: EndpointPool, connection: H1ClientConnection) -> None:
        """A free connection: to the request that waits longest, else to the idle ones."""
        if pool.waiting:
            if connection.requests:
                ticket = self._next_for_used(pool)
                if ticket is not None and not is_sent_again(ticket.owner.request) and not connection.looks_alive():
                    ticket = None
                if ticket is None and not pool.connecting:
                    # Nobody in the queue can use it, and it takes the room of one that they can.
                    self._discard(connection)
                    return
                if ticket is not None:
                    pool.waiting.remove(ticket)
                    self.pending -= 1
                    owner, ticket.owner = ticket.owner, None
                    self._give(pool, connection, owner)
                    return
            else:
                owner = self._next_owner(pool)
                if owner is not None:
                    self._give(pool, connection, owner)
                    return
        limits = self.cluster.pool
        if len(pool.idle) >= limits.max_idle or pool.is_closed or (self.pending and self.connections >= limits.max_connections):
            # With requests waiting at other endpoints for the cluster's limit, an idle connection here only stands in their way.
            self._discard(connection)
            return
        pool.idle.append(connection)
        if limits.idle_timeout:
            connection.idle_since = now = self.seconds()
            if not self._idling.is_armed:
                self._idling.arm(now)

    def _next_for_used(self, pool: EndpointPool) -> Ticket | None:
        """Who waits longest of those whom a connection serves that has served others. A request that was lost on such a one already is not among them; when it
        stands first and no new connection is on its way, nobody passes it.
        """
        ticket: Ticket
        for ticket in pool.waiting:
            if not ticket.fresh:
                return ticket
            if not pool.connecting:
                return None
        return None

    def _next_owner(self, pool: EndpointPool) -> Any:
        while pool.waiting:
            ticket = pool.waiting.popleft()
            self.pending -= 1
            if ticket.owner is not None:
                owner, ticket.owner = ticket.owner, None
                return owner
        return None

    def _grow(self, pool: EndpointPool) -> None:
        """Open connections until each waiting request has an attempt, as far as the limit allows."""
        while len(pool.connecting) < (len(pool.waiting) if self.multiplexer is None else self.multiplexer.wanted(pool)):
            most = self.cluster.pool.max_connections
            if self.connections >= (most if self.circuit is None else most_connections(self.circuit, most, pool)):
                if not self._evict_idle():
                    return
                # What was closed may have served another queue, or this one, on its way out: look again.
                continue
            cluster, shared = self.cluster, self.multiplexer
            connection: Any = H1ClientConnection(self, pool, cluster.head_bytes, cluster.head_fields) if shared is None else shared.new_connection(pool)
            pool.connecting.add(connection)
            pool.connections += 1
            self.connections += 1
            self.open_pools[pool] = None
            connection.connecting = self.connect(pool, connection)

    def _evict_idle(self) -> bool:
        """Make room under the cluster's limit by closing an idle connection to some other endpoint."""
        for pool in self.open_pools:
            if pool.idle:
                self.counters["evicted"] += 1
                self._discard(pool.idle.popleft())
                return True
        return self.multiplexer is not None and self.multiplexer.evict()

    def _serve_waiting(self) -> None:
        """Room came free under the limit."""
        for pool in list(self._queues):
            if pool.waiting:
                self._grow(pool)
            else:
                self._queues.pop(pool, None)

    def _discard(self, connection: H1ClientConnection) -> None:
        connection.close_idle()

    def stop(self) -> None:
        """Close idle connections and attempts; the busy ones close when their exchange ends."""
        self._stopped = True
        self._idling.stop()
        self.members.stop()
        for pool in self.pools:
            pool.is_closed = True
        if self.multiplexer is not None:
            self.multiplexer.stop()
        for pool in list(self.open_pools):
            while pool.idle:
                self._discard(pool.idle.popleft())
            for connection in list(pool.connecting):
                if connection.connecting is not None:
                    connection.connecting.cancel()

    def snapshot(self, offset: int = 0) -> dict[str, Any]:
        """What `/clusters` shows; of many endpoints those from `offset` on."""
        return at_once(shown(self, offset))


def _only_one() -> Any:
    raise ValueError("the cluster has several groups of endpoints, and nothing makes a balancer for each")
