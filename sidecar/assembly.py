"""From the model to running objects, in the order in which a packet meets them: listener, filter chain, HTTP, route, chain of plugins, cluster.

This is the one place where the parts are introduced to each other. Nothing here runs for a request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from sidecar import model
from sidecar.address import Address
from sidecar.admin.metrics import register_runtime_metrics
from sidecar.admin.pages import make_pages
from sidecar.admin.server import AdminServer
from sidecar.collector import settle
from sidecar.context import PluginContext
from sidecar.discovering import Discoveries, register_discovery_metrics
from sidecar.downstream.chain_match import Candidate
from sidecar.downstream.first_bytes import FirstBytes
from sidecar.downstream.h1 import H1ServerConnection
from sidecar.downstream.listener import ChainRuntime, ListenerRuntime
from sidecar.downstream.tcp import TCPServerConnection
from sidecar.errors import ConfigError, Problem, SidecarError
from sidecar.extension import KINDS
from sidecar.facts import ConnectionFacts
from sidecar.health_checks import HealthChecks
from sidecar.http2 import ALPN, H2Side, downstream_tls, multiplex, register_h2_metrics, upstream_tls
from sidecar.identity.keyring import Keyring
from sidecar.interfaces import IConnectionFilter, IHandshakeFilter, ILineLog, IPluginLifecycle, IPropagator
from sidecar.lives import PluginLives
from sidecar.message import RequestHead
from sidecar.model import Config, FilterChain, HTTPManager, PluginRef
from sidecar.overload import OverloadWatch, refused_limits
from sidecar.plugins import Finder
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.http import HTTPRuntime
from sidecar.proxy.mirroring import MirrorRuntime, MirrorStats
from sidecar.proxy.steps import Account, Step
from sidecar.routes import RouteBuilder, tcp_target
from sidecar.routing.normalize import normalizer, remembering
from sidecar.routing.table import Table, compile_table
from sidecar.security import DownstreamSide, UpstreamSide
from sidecar.telemetry.exchange_metrics import ExchangeStats
from sidecar.telemetry.metrics import Registry
from sidecar.transport.connector import connect
from sidecar.transport.port import listen
from sidecar.transport.wheel import TimerWheel
from sidecar.unread import refuse_unread
from sidecar.upstream.by_version import ByVersion
from sidecar.upstream.callers import introduce_callers
from sidecar.upstream.pool import Connector
from sidecar.verdicts import BodyMode

_log = Logger(namespace="sidecar")
AnyConnector = TypeVar("AnyConnector", bound=Connector)
Given = TypeVar("Given")
Made = TypeVar("Made")
# Turns of the reactor that a connection that was aborted may take to say that it is lost: one is usual, TLS may need another.
ABORT_TURNS = 10


# These are not called through an account; a row of zeros would say that they are free.
ACCOUNTED_KINDS = KINDS.keys() - {"balancer", "certificate-source", "discovery"}


class Sidecar:
    """One running configuration. `start()` and `stop()` return Deferreds; `end_at_once()` shortens a stop. `reactor` is handed to everything that needs
    time or sockets.
    """

    def __init__(self, config: Config, reactor: Any, finder: Finder) -> None:
        self.config = config
        self.reactor = reactor
        self.finder = finder
        self.wheel = TimerWheel(reactor)
        self.registry = Registry()
        self.keyring = Keyring(reactor)
        self.accounts: list[Account] = []
        self.connectors: dict[str, Connector] = {}
        self.discoveries = Discoveries(reactor)
        self.listeners: list[ListenerRuntime] = []
        self.https: list[HTTPRuntime] = []
        self.mirrors: dict[str, MirrorStats] = {}
        self.h2_chains: list[tuple[str, H2Side]] = []
        self.h2_clusters: list[tuple[str, H2Side]] = []
        self.admin: AdminServer | None = None
        self.state = "starting"
        self.started_at = reactor.seconds()
        self.overload = OverloadWatch(config.overload, reactor, self.https, self.listeners, self.registry, lambda: self.state == "draining")
        self.health = HealthChecks(reactor, self.wheel.timer, self._plugin, self._context, sum(len(each.health_checks) for each in config.clusters))
        self.health.register_metrics(self.registry)
        register_runtime_metrics(self)
        register_h2_metrics(self.registry.gauge_function, lambda: self.h2_chains, "downstream", "chain")
        register_h2_metrics(self.registry.gauge_function, lambda: self.h2_clusters, "upstream", "cluster")
        register_discovery_metrics(self.registry.gauge_function, self.discoveries)
        self._plugins: dict[tuple[str, str, str], tuple[Any, Account]] = {}
        self._stats: dict[str, ExchangeStats] = {}
        self._lives = PluginLives(reactor)
        self._plugins_started = False
        self._connections = 0
        self._drained: Deferred[None] | None = None

    # -- start and stop ------------------------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Admin first (so that a start can be watched), then identity, clusters, plugins, and listeners last: they open only when the sidecar can serve."""
        if self.config.admin is not None:
            self.admin = AdminServer(make_pages(self), self.wheel, self.reactor)
            self.admin.start(self.config.admin.address, self._listen)
        self._load_certificates()
        all_of(self._add_connector, self.config.clusters)
        if self.config.local_cluster_name is not None:
            introduce_callers(self.connectors, self.config.local_cluster_name)
        listeners = all_of(self._listener, self.config.listeners)
        for (kind, name, origin), (plugin, _account) in list(self._plugins.items()):
            if IPluginLifecycle.providedBy(plugin):
                await self._lives.start(plugin, partial(_refusal, origin, f"{kind} {name}"))
        self._plugins_started = True
        if self.state == "starting":
            await self.discoveries.start()
        if self.state == "starting":
            await self.health.start(self.config.warming_time)
        if self.state != "starting":
            # Told to stop in the meantime: nothing may open any more.
            return
        self.keyring.watch()
        self.overload.start(listeners)
        for runtime in listeners:
            runtime.start()
            self.listeners.append(runtime)
            _log.info("{direction} listener {name} accepts at {address}", direction=runtime.listener.direction, name=runtime.name, address=runtime.address)
        if self.state == "starting":
            self.state = "ready"
        _log.info("ready; admin pages at {address}", address="nowhere" if self.admin is None else self.admin.port.address)

    async def stop(self) -> None:
        """Drain, then end: everything in reverse."""
        limit = self.config.drain_time
        drained = self.drain()
        if limit:
            timer = self.reactor.callLater(limit, self._drain_over)
            await drained
            if timer.active():
                timer.cancel()
        self.abort()
        self.discoveries.stop()
        self.health.stop()
        for connector in self.connectors.values():
            connector.stop()
        # Aborted connections end in the next turn, and with them their exchanges: plugins and logs see those before they are stopped.
        for _ in range(ABORT_TURNS):
            if not any(listener.active for listener in self.listeners):
                break
            await deferLater(self.reactor, 0, lambda: None)
        self.keyring.stop()
        self.overload.stop()
        await self._lives.stop()
        if self.admin is not None:
            await maybeDeferred(self.admin.stop)
        self.wheel.stop()
        _log.info("stopped")

    def drain(self) -> Deferred[None]:
        """Stop accepting, let running exchanges end, close what is idle. Fires when no connection is left (or `abort` closed them). May be called again."""
        if self._drained is None:
            self._drained = Deferred()
            self.state = "draining"
            for http in self.https:
                http.draining = True
            _log.info("draining: {count} connections are open", count=sum(listener.active for listener in self.listeners))
            left = set(self.listeners)
            if not left:
                self._drain_over()
            for listener in list(self.listeners):
                listener.stop_accepting()
                listener.drain(partial(self._listener_empty, left, listener))
        return self._drained

    def _listener_empty(self, left: set[ListenerRuntime], listener: ListenerRuntime) -> None:
        left.discard(listener)
        if not left:
            self._drain_over()

    def _drain_over(self) -> None:
        if self._drained is not None and not self._drained.called:
            self._drained.callback(None)

    def end_at_once(self) -> None:
        """Close every connection now, and wait for no plugin."""
        self._lives.hurry()
        self.abort()

    def abort(self) -> None:
        """Close every connection now."""
        for listener in self.listeners:
            listener.abort()
        self._drain_over()

    def _load_certificates(self) -> None:
        def load(certificate: model.Certificate) -> None:
            source, _account = self._plugin(certificate.source, f"certificate {certificate.name}")
            try:
                self.keyring.add(certificate.name, source)
            except ValueError as error:
                raise ConfigError([_problem(certificate.origin, str(error))]) from None

        all_of(load, self.config.certificates)

    # -- the listener --------------------------------------------------------------------------------------------------------------------------------

    def _listener(self, listener: model.Listener) -> ListenerRuntime:
        def chain_of(given: tuple[int, FilterChain]) -> Candidate:
            index, chain = given
            return Candidate(chain.match, self._chain(listener, chain, f"{listener.name}[{index}]" if len(listener.filter_chains) > 1 else listener.name))

        candidates, plugins = both(
            lambda: all_of(chain_of, enumerate(listener.filter_chains)),
            lambda: all_of(lambda ref: self._plugin(ref, f"listener {listener.name}"), listener.connection_filters),
        )
        steps = []
        for plugin, account in plugins:
            if IConnectionFilter.providedBy(plugin):
                steps.append(Step(plugin.connection_accepted, account, 0, BodyMode("accept")))
            if IHandshakeFilter.providedBy(plugin):
                steps.append(Step(plugin.handshake_done, account, 0, BodyMode("handshake")))
        return ListenerRuntime(listener, candidates, steps, self.wheel, self.reactor.seconds, self._listen, self._next_connection)

    def _chain(self, listener: model.Listener, chain: FilterChain, name: str) -> ChainRuntime:
        security, make = both(lambda: self._downstream_side(chain), lambda: self._served(listener, chain, name))
        return ChainRuntime(name, security, make, chain.http is not None)

    def _downstream_side(self, chain: FilterChain) -> DownstreamSide | None:
        if chain.tls is None:
            return None
        try:
            return DownstreamSide(self.keyring.downstream_context(downstream_tls(chain), self.config.node))
        except ValueError as error:
            raise ConfigError([_problem(chain.origin, str(error))]) from None

    def _served(self, listener: model.Listener, chain: FilterChain, name: str) -> Callable[..., Any]:
        if chain.http is not None:
            return self._http(listener, chain, chain.http, name)
        assert chain.tcp is not None
        return partial(TCPServerConnection, tcp_target(chain.tcp, self.connectors), self.wheel, self.reactor.seconds)

    def _listen(self, address: Address, build: Callable[[Any], Any], backlog: int) -> Any:
        admin = self.config.admin  # whose pages are looked at most when descriptors run out
        is_admin = admin is not None and address is admin.address
        return listen(self.reactor, address, build, backlog=backlog, reserves=not is_admin)

    def _next_connection(self) -> int:
        self._connections += 1
        return self._connections

    # -- HTTP ----------------------------------------------------------------------------------------------------------------------------------------

    def _http(self, listener: model.Listener, chain: FilterChain, settings: HTTPManager, name: str) -> Callable[[ConnectionFacts, Callable[[Any], None]], Any]:
        http = HTTPRuntime(name, settings, self.reactor, self.wheel)
        self.https.append(http)
        http.normalize_path = remembering(normalizer(settings.merge_slashes))
        table = self._routes(settings, name)
        http.find_route = table.find
        tracing = settings.tracing
        tracers, exporters = ((), ()) if tracing is None else ((tracing.tracer,), tracing.exporters)
        refs = (settings.http_filters, settings.access_logs, tracers, exporters)
        made = iter(all_of(lambda ref: self._plugin(ref, name), [ref for each in refs for ref in each]))
        plugins, logs, traced, exported = ([next(made) for _ in each] for each in refs)
        builder = RouteBuilder(settings, name, plugins, self._plugin, self.connectors, self._mirror, self.reactor.seconds)
        for entry, compiled in zip(table.entries, all_of(builder.build, table.entries), strict=True):
            entry.compiled = compiled
        http.line_logs = tuple(Step(plugin.log_line, account, 0) for plugin, account in logs if ILineLog.providedBy(plugin))
        http.access_logs = tuple(Step(plugin.log, account, 0) for plugin, account in logs if not ILineLog.providedBy(plugin))
        if tracing is not None:
            [(tracer, account)] = traced
            http.tracer = _Tracer(tracer, account, bool(tracing.exporters))
            http.sample = tracing.sample
            http.exporters = tuple(Step(plugin.export, account, 0) for plugin, account in exported)
        http.wants_record = bool(http.access_logs or http.exporters)
        http.observe = self._listener_stats(listener).observe
        h2 = H2Side(settings.http2, settings.limits.head_bytes, settings.limits.head_fields)
        self.h2_chains.append((name, h2))
        return partial(self._serve_http, http, settings, h2)

    def _listener_stats(self, listener: model.Listener) -> ExchangeStats:
        """One set of numbers for each listener, however many filter chains it has."""
        stats = self._stats.get(listener.name)
        if stats is None:
            stats = self._stats[listener.name] = ExchangeStats(self.registry, self.config.node, listener.direction, listener.name)
        return stats

    def _serve_http(self, http: HTTPRuntime, settings: HTTPManager, h2: H2Side, facts: ConnectionFacts, closed: Callable[[Any], None]) -> Any:
        """The protocol of one connection: by ALPN, by what was sniffed, else by its first bytes."""
        caller = http.caller(facts)
        begin = partial(Exchange, http, caller)
        scheme = b"http" if facts.tls is None else b"https"
        limits = settings.limits if not facts.over_limit else refused_limits(settings.limits)

        def refuse(connection: Any, error: SidecarError, now: float, request: RequestHead | None = None) -> tuple[Any, bytes]:
            return refuse_unread(http, caller, connection, error, now, request)

        def make_h1(closed: Callable[[Any], None]) -> H1ServerConnection:
            return H1ServerConnection(http, limits, begin, refuse, closed, scheme, settings.half_close == "answer")

        def make_h2(closed: Callable[[Any], None]) -> Any:
            from sidecar.downstream.h2 import H2ServerConnection  # with the first who speaks it

            connection = H2ServerConnection(http, limits, settings.http2, begin, refuse, closed, scheme, h2.limits)
            h2.count(connection)
            return connection

        codec = settings.codec
        if codec == "h2" or (codec == "auto" and facts.tls is not None and facts.tls.alpn == "h2"):
            return make_h2(closed)
        if codec == "h1" or facts.tls is not None:
            return make_h1(closed)
        return FirstBytes(make_h1, make_h2, closed)

    def _routes(self, settings: HTTPManager, name: str) -> Table:
        """A compiled table of its own for each listener: routes carry that listener's filters."""
        if isinstance(settings.routes, model.RouteTable):
            return compile_table(settings.routes)
        for table in self.config.route_tables:
            if table.name == settings.routes:
                return compile_table(table)
        raise ConfigError([Problem(f"{name}: there is no route table {settings.routes!r}")])

    def _mirror(self, mirror: model.Mirror) -> MirrorRuntime:
        stats = self.mirrors.setdefault(mirror.cluster, MirrorStats())
        return MirrorRuntime(mirror, self.connectors[mirror.cluster], stats, self.reactor.seconds, self.wheel)

    # -- plugins -------------------------------------------------------------------------------------------------------------------------------------

    def _plugin(self, ref: PluginRef, where: str, is_shared: bool = True) -> tuple[Any, Account]:
        """The plugin of one entry in the configuration. Where `is_shared` it is made once for each entry: two filter chains that came from the same line share
        it (and its buckets).
        """
        is_shared = is_shared and bool(ref.origin)
        key = (ref.kind, ref.name, ref.origin or where)
        pair = self._plugins.get(key) if is_shared else None
        if pair is None:
            account = Account(ref.kind, ref.name, ref.fail_open)
            if ref.kind in ACCOUNTED_KINDS:
                self.accounts.append(account)
            context = PluginContext(
                ref.name, self.reactor, self.config.node, self.registry, self._http_connector, frozenset(each.name for each in self.config.clusters), where
            )
            target: Any = self.finder.load(ref.kind, ref.name)
            config = ref.config if ref.config is not None else target.Config()
            try:
                plugin = target(config, context)
            except Exception as error:
                _log.failure("{kind} {name} could not be made", kind=ref.kind, name=ref.name)
                raise ConfigError([_problem(ref.origin, f"{ref.kind} {ref.name} could not be made: {type(error).__name__}: {error}")]) from error
            pair = (plugin, account)
            self._plugins[(*key[:2], key[2] if is_shared else f"{ref.origin or where}#{len(self._plugins)}")] = pair
        return pair

    def _context(self, name: str) -> PluginContext:
        names = frozenset(each.name for each in self.config.clusters)
        return PluginContext(name, self.reactor, self.config.node, self.registry, self._http_connector, names)

    def _http_connector(self, cluster: str) -> Connector:
        connector = self.connectors.get(cluster)
        if connector is None:
            if not any(each.name == cluster for each in self.config.clusters):
                raise ValueError(f"there is no cluster {cluster!r}")
            raise ValueError(f"cluster {cluster!r} is not there yet: ask for the client in start()")
        return connector

    # -- the cluster ---------------------------------------------------------------------------------------------------------------------------------

    def _add_connector(self, cluster: model.Cluster) -> None:
        self.connectors[cluster.name] = self._connector(cluster)

    def _connector(self, cluster: model.Cluster) -> Connector:
        """Who gives streams to its endpoints: one connector, or one for each version of HTTP."""
        connector: Connector
        if cluster.protocol != "downstream":
            connector, security = self._one_connector(cluster, Connector)
        else:
            twin, _ = self._one_connector(msgspec.structs.replace(cluster, protocol="h2"), Connector)
            cluster = msgspec.structs.replace(cluster, protocol="h1")
            connector, security = first, _ = self._one_connector(cluster, ByVersion)
            first.pair_with(twin)
            self.connectors[twin.name] = twin
        self.health.add(cluster, connector, security, lambda cluster: partial(self._dial, cluster))
        if cluster.discovery is not None:
            self.discoveries.add(cluster, self._plugin(cluster.discovery, f"cluster {cluster.name}", is_shared=False)[0], connector)
        return connector

    def _one_connector(self, cluster: model.Cluster, make: type[AnyConnector]) -> tuple[AnyConnector, UpstreamSide | None]:
        security = None
        if cluster.tls is not None:
            try:
                slot = self.keyring.upstream_context(upstream_tls(cluster), self.config.node)
            except ValueError as error:
                raise ConfigError([_problem(cluster.origin, str(error))]) from None
            h1_slot = partial(self.keyring.upstream_context, msgspec.structs.replace(cluster.tls, alpn=ALPN["h1"]), self.config.node)
            security = UpstreamSide(slot, cluster.name, cluster.tls.server_name or cluster.tls.hostname or "", h1_slot)
        make_balancer = partial(self._balancer, cluster)
        dial = partial(self._dial, cluster)
        own = self.config.node.locality
        connector = make(cluster, make_balancer(), dial, self.reactor.seconds, self.wheel.timer, security, self._later, make_balancer, own)
        h2 = multiplex(connector, cluster, self.reactor, self.wheel.timer)
        if h2 is not None:
            self.h2_clusters.append((cluster.name, h2))
        return connector, security

    def _later(self, step: Callable[[], None]) -> Any:
        """The next step of a change of endpoints, in the next turn of the reactor."""
        settle()
        return self.reactor.callLater(0, step)

    def _balancer(self, cluster: model.Cluster) -> Any:
        """A balancer for one group of the cluster's endpoints; more may be needed while the sidecar runs."""
        balancer, _account = self._plugin(cluster.balancer, f"cluster {cluster.name}", is_shared=False)
        if self._plugins_started and IPluginLifecycle.providedBy(balancer):
            self._lives.started.append(balancer)
            maybeDeferred(balancer.start).addErrback(partial(_log.failure, "a balancer of cluster {cluster} failed to start", cluster=cluster.name))
        return balancer

    def _dial(self, cluster: model.Cluster, address: Address, protocol: Any, tls: Any) -> Any:
        return connect(self.reactor, address, protocol, cluster.connect_timeout, bind_address=cluster.bind_address, tls=tls)


class _Tracer:
    """The tracer's three calls as steps, so that they are counted like every hook."""

    __slots__ = ("begin", "end", "inject")

    def __init__(self, tracer: Any, account: Account, exports: bool) -> None:
        self.begin = Step(tracer.begin, account, 0)
        self.inject = Step(tracer.propagate if not exports and IPropagator.providedBy(tracer) else tracer.inject, account, 0)
        self.end = Step(tracer.end, account, 0)


def all_of(make: Callable[[Given], Made], given: Iterable[Given]) -> list[Made]:
    """What `make` makes of each. Raises `ConfigError` with the problems of all of them, each once, rather than with those of the first."""
    made: list[Made] = []
    problems: dict[str, Problem] = {}
    for each in given:
        try:
            made.append(make(each))
        except ConfigError as error:
            problems.update((str(problem), problem) for problem in error.problems)
    if problems:
        raise ConfigError(list(problems.values()))
    return made


def both(first: Callable[[], Given], second: Callable[[], Made]) -> tuple[Given, Made]:
    """What both make, as `all_of`."""
    one, two = all_of(lambda make: make(), (first, second))
    return one, two  # type: ignore[return-value]


def _refusal(origin: str, plugin: str, reason: str) -> ConfigError:
    return ConfigError([_problem(origin, f"{plugin} {reason}")])


def _problem(origin: str, message: str) -> Problem:
    file, line, column = ("", "0", "0") if origin.count(":") < 2 else origin.rsplit(":", 2)
    return Problem(message, file, int(line) if line.isdigit() else 0, int(column) if column.isdigit() else 0)
