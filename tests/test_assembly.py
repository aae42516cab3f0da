"""`sidecar/assembly.py`: from the model to running objects, without a socket."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from zope.interface import implementer

from sidecar import assembly
from sidecar.address import Address
from sidecar.assembly import Sidecar
from sidecar.errors import ConfigError
from sidecar.filters.w3c import W3CTracer
from sidecar.interfaces import IAccessLog, IExchangeDone, IPluginLifecycle
from sidecar.model import (
    Cluster,
    Config,
    DownstreamTLS,
    Endpoint,
    FilterChain,
    HTTPManager,
    Listener,
    Locality,
    LocalityLB,
    Node,
    PluginRef,
    Route,
    RouteTable,
    UpstreamTLS,
    VirtualHost,
)
from sidecar.proxy.steps import Account
from sidecar.testing import FakeContext
from tests.memory import GET, OK, Attempt, FirstUntried, MemoryTransport

EVENTS: list[str] = []


class Plugin:
    """What all test plugins have."""

    class Config(msgspec.Struct):
        """None."""

    def __init__(self, config: Any, context: Any) -> None:
        self.context = context


class Balancer(FirstUntried):
    """Without configuration."""

    Config = Plugin.Config

    def __init__(self, config: Any, context: Any) -> None:
        super().__init__()


@implementer(IPluginLifecycle, IExchangeDone)
class Living(Plugin):
    """Starts when it is told, and notes what happens."""

    starting: Deferred[None] | None = None

    def start(self) -> Any:
        EVENTS.append("start")
        return self.starting

    def stop(self) -> None:
        EVENTS.append("stop")

    def exchange_done(self, exchange: Any, record: Any) -> None:
        EVENTS.append(f"done {record.status}")


@implementer(IAccessLog)
class Log(Plugin):
    """Notes records."""

    def log(self, record: Any) -> None:
        EVENTS.append(f"log {record.status}")


class Broken(Plugin):
    """Cannot be made."""

    def __init__(self, config: Any, context: Any) -> None:
        raise ValueError("no such key")


class Finder:
    """Knows these plugins."""

    def load(self, kind: str, name: str) -> Any:
        return {"round-robin": Balancer, "living": Living, "log": Log, "broken": Broken}[name]


class Port:
    """An open port."""

    def __init__(self, address: Address, build: Any) -> None:
        self.address = address
        self.build = build
        self.stopped = False

    accepts = True

    def stop(self) -> None:
        self.stopped = True

    def connect(self) -> MemoryTransport:
        protocol = self.build(Address("192.0.2.1", 5))
        transport = MemoryTransport(protocol)
        protocol.makeConnection(transport)
        return transport


class Memory(Sidecar):
    """A sidecar whose ports and connections are in memory."""

    def __init__(self, *filters: str, **more: Any) -> None:
        EVENTS.clear()
        self.ports: list[Port] = []
        self.attempts: list[Attempt] = []
        self.clock = Clock()
        refs = tuple(PluginRef(kind="filter", name=name) for name in filters)
        routes = RouteTable(name="r", virtual_hosts=(VirtualHost(name="v", routes=(Route(cluster="app"),)),))
        http = HTTPManager(routes=routes, http_filters=refs, access_logs=(PluginRef(kind="access-log", name="log"),))
        listener = Listener(name="in", address=Address("127.0.0.1", 0), direction="inbound", filter_chains=(FilterChain(http=http),))
        cluster = Cluster(name="app", endpoints=(Endpoint(address=Address("127.0.0.1", 8080)),))
        config = Config(**{"node": Node(service="s", namespace="n", trust_domain="t"), "listeners": (listener,), "clusters": (cluster,), **more})
        super().__init__(config, self.clock, Finder())  # type: ignore[arg-type]

    def _listen(self, address: Address, build: Any, backlog: int) -> Any:
        self.ports.append(Port(address, build))
        return self.ports[-1]

    def _dial(self, cluster: Any, address: Address, protocol: Any, tls: Any) -> Any:
        self.attempts.append(Attempt(address, protocol))
        return self.attempts[-1]

    def run(self, coroutine: Any) -> list[Any]:
        results: list[Any] = []
        ensureDeferred(coroutine).addBoth(results.append)
        return results

    def ask(self) -> tuple[MemoryTransport, MemoryTransport]:
        client = self.ports[-1].connect()
        client.receive(GET)
        return client, self.attempts[-1].succeed()


def test_request_passes_from_listener_to_cluster() -> None:
    """Admin opens first, listeners last; a request goes through and is logged once."""
    sidecar = Memory("living")
    assert sidecar.run(sidecar.start()) == [None] and sidecar.state == "ready"
    assert len(sidecar.ports) == 2
    client, app = sidecar.ask()
    app.receive(OK)
    assert client.take().endswith(b"ok")
    assert EVENTS == ["start", "log 200", "done 200"]
    admin = sidecar.ports[0].connect()
    admin.receive(b"".join(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % each for each in (b"/stats/prometheus", b"/listeners", b"/clusters")))
    sidecar.clock.advance(0)
    page = admin.take()
    assert page.count(b"HTTP/1.1 200") == 3 and b'sidecar_downstream_connections{listener="in"} 1' in page


def test_listeners_open_only_when_plugins_have_started() -> None:
    """And not at all when it was told to stop meanwhile."""
    for stops in (False, True):
        Living.starting = Deferred()
        sidecar = Memory("living", admin=None)
        sidecar.run(sidecar.start())
        assert sidecar.ports == [] and sidecar.state == "starting"
        if stops:
            sidecar.run(sidecar.stop())
        starting, Living.starting = Living.starting, None
        starting.callback(None)
        assert len(sidecar.ports) == (not stops)


def test_stop_drains_first() -> None:
    """The port closes at once, the running exchange is answered, plugins stop last."""
    sidecar = Memory("living", admin=None, drain_time=30.0)
    sidecar.run(sidecar.start())
    client, app = sidecar.ask()
    stopped = sidecar.run(sidecar.stop())
    assert sidecar.ports[0].stopped and sidecar.state == "draining" and stopped == []
    app.receive(OK)
    assert b"Connection: close" in client.take()
    client.settle()
    assert stopped == [None] and EVENTS == ["start", "log 200", "done 200", "stop"]


@pytest.mark.parametrize("end", ["time", "abort"])
def test_what_does_not_end_is_ended(end: str) -> None:
    """After the drain time, or at once; its record is written before the plugins stop."""
    sidecar = Memory("living", admin=None, drain_time=5.0)
    sidecar.run(sidecar.start())
    client, _ = sidecar.ask()
    stopped = sidecar.run(sidecar.stop())
    if end == "abort":
        sidecar.abort()
    assert client.aborted is (end == "abort") and stopped == []
    # A connection that was aborted says so in the next turn of the reactor.
    wait = 5 if end == "time" else 0
    sidecar.clock.callLater(wait, client.settle)
    sidecar.clock.advance(wait)
    assert client.aborted and stopped == [None] and EVENTS == ["start", "log 503", "done 503", "stop"]


def test_plugin_that_cannot_be_made_stops_the_start() -> None:
    """With its name and reason, before any listener opens."""
    sidecar = Memory("broken", admin=None)
    (failure,) = sidecar.run(sidecar.start())
    assert failure.check(ConfigError) and "broken" in str(failure.value) and "no such key" in str(failure.value)
    assert sidecar.ports == []
    assert sidecar.run(sidecar.stop()) == [None]


def test_all_that_cannot_be_made_is_told_at_once() -> None:
    """Plugins of every listener and place, and TLS without its certificate, each with its place; so who starts it does not mend them one by one."""

    def broken(kind: str, line: int) -> PluginRef:
        return PluginRef(kind=kind, name="broken", origin=f"f.yaml:{line}:1")

    inline = RouteTable(name="r", virtual_hosts=())
    https = [
        HTTPManager(routes=inline, http_filters=(broken("filter", 1), broken("filter", 2)), access_logs=(broken("access-log", 3),)),
        HTTPManager(routes=inline),
    ]
    tls = DownstreamTLS(certificate="none")
    listeners = tuple(
        Listener(
            name=f"in{line}",
            address=Address("127.0.0.1", 0),
            direction="inbound",
            connection_filters=(broken("connection-filter", line),),
            filter_chains=(FilterChain(http=http, tls=tls, origin=f"f.yaml:{line + 2}:1"),),
        )
        for line, http in enumerate(https, 4)
    )
    sidecar = Memory(admin=None, listeners=listeners, clusters=())
    (failure,) = sidecar.run(sidecar.start())
    assert failure.check(ConfigError) is not None
    assert sorted(problem.line for problem in failure.value.problems) == [1, 2, 3, 4, 5, 6, 7]
    clusters = tuple(Cluster(name=f"c{line}", endpoints=(), tls=UpstreamTLS(certificate="none"), origin=f"f.yaml:{line}:1") for line in (1, 2))
    sidecar = Memory(admin=None, listeners=(), clusters=clusters)
    (failure,) = sidecar.run(sidecar.start())
    assert [problem.line for problem in failure.value.problems] == [1, 2]


def test_bytes_that_are_no_request_are_recorded_once() -> None:
    """Like any other exchange."""
    sidecar = Memory(admin=None)
    sidecar.run(sidecar.start())
    client = sidecar.ports[0].connect()
    client.receive(b"nonsense\r\n\r\n")
    assert client.take().startswith(b"HTTP/1.1 400 ") and EVENTS == ["log 400"]
    assert sidecar.https[0].bad_requests == 1 and sidecar.https[0].active == 0


def test_the_local_cluster_is_where_callers_are() -> None:
    """Clusters that route by zone are told by the one that is named, in each version of HTTP, and in an order that is nobody's business."""
    a, b = Locality(region="eu", zone="a"), Locality(region="eu", zone="b")
    here = tuple(Endpoint(address=Address("127.0.0.1", 9000 + port), locality=a if port < 2 else b) for port in range(3))
    there = tuple(Endpoint(address=Address("127.0.0.1", 9100 + port), locality=a if port < 2 else b) for port in range(4))
    zones = LocalityLB(mode="zone_aware", min_cluster_size=2)
    sidecar = Memory(
        admin=None,
        local_cluster_name="orders",
        node=Node(locality=a),
        clusters=(
            Cluster(name="app", endpoints=there, locality_lb=zones, protocol="downstream"),
            Cluster(name="orders", endpoints=here),
        ),
    )
    sidecar.run(sidecar.start())
    for name in ("app", "app over HTTP/2"):
        [level] = sidecar.connectors[name].members.usage.levels
        assert level.zone_shares == pytest.approx({a: 0.75, b: 0.25}), name
    assert sidecar.run(sidecar.stop()) == [None]


def test_nobodys_code_is_not_loaded() -> None:
    """What speaks HTTP/2 is in memory only where somebody does."""
    code = "import sys, sidecar.service\nprint([name for name in sys.modules if name.startswith('sidecar.codec.h2.co') or name.endswith('.h2')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "['sidecar.codec.h2']"


def test_a_tracer_keeps_nothing_where_nobody_takes_spans() -> None:
    """Unless it knows of no difference."""
    account = Account("tracer", "t")
    tracer = W3CTracer(W3CTracer.Config(), FakeContext("w3c"))
    assert assembly._Tracer(tracer, account, True).inject.hook == tracer.inject
    assert assembly._Tracer(tracer, account, False).inject.hook == tracer.propagate
    strange = SimpleNamespace(begin=print, inject=repr, end=print)
    assert assembly._Tracer(strange, account, False).inject.hook is repr
