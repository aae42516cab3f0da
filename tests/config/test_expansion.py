"""The short form stands for a full form: which, and that its problems are told in its own words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.address import Address
from sidecar.config.expansion import service_hosts
from sidecar.config.render import plain
from sidecar.model import Config

Load = Callable[..., Config]

SERVICE = "service: orders\nnamespace: shop\ntrust_domain: example.org\n"
INBOUND = SERVICE + "inbound: {listen: 127.0.0.1:15006, app: 127.0.0.1:8080%s}\n"
OUTBOUND = SERVICE + "outbound: {listen: 127.0.0.1:15001, services: {payments: {endpoints: [10.0.0.5:15006]%s}}}\n"


def names(refs: Any) -> list[str]:
    return [ref.name for ref in refs]


def test_strict_inbound(loaded: Load, tmp_path: Path) -> None:
    """By default only mutual TLS comes in: one chain, the caller authenticated by its certificate, everything to the application."""
    config = loaded(INBOUND % "")
    [listener] = config.listeners
    [chain] = listener.filter_chains
    assert (listener.name, listener.direction, listener.address) == ("inbound", "inbound", Address("127.0.0.1", 15006))
    assert chain.match.transport_protocol == "tls"
    assert chain.tls is not None and (chain.tls.certificate, chain.tls.client_certificate) == ("workload", "require")
    http = chain.http
    assert http is not None
    assert (http.routes, names(http.http_filters), http.forwarded_client_cert, http.forwarded_for) == ("inbound", ["mtls"], "set", True)
    [table], [cluster] = config.route_tables, config.clusters
    assert table.virtual_hosts[0].domains == ("*",)
    assert table.virtual_hosts[0].routes[0].cluster == cluster.name == "app"
    assert [str(each.address) for each in cluster.endpoints] == ["127.0.0.1:8080"]
    assert cluster.tls is None
    [certificate] = config.certificates
    assert plain(certificate.source.config, defaults=True) == {
        "certificate": f"{tmp_path}/certs/orders/cert.pem",
        "key": f"{tmp_path}/certs/orders/key.pem",
        "trust": f"{tmp_path}/certs/orders/ca.pem",
    }
    assert plain(config.node, defaults=True) == {"service": "orders", "namespace": "shop", "trust_domain": "example.org", "locality": None}


def test_permissive_inbound(loaded: Load) -> None:
    """Two chains, told apart by the first bytes; only the TLS one asks the certificate who is calling."""
    secure, raw = loaded(INBOUND % ", mtls: permissive").listeners[0].filter_chains
    assert (secure.match.transport_protocol, raw.match.transport_protocol) == ("tls", "raw")
    assert secure.tls is not None and raw.tls is None
    assert secure.http is not None and raw.http is not None
    assert (names(secure.http.http_filters), names(raw.http.http_filters)) == (["mtls"], [])


def test_disabled_inbound(loaded: Load) -> None:
    """Cleartext alone, on any connection; then no identity is needed."""
    config = loaded(INBOUND % ", mtls: disabled")
    [chain] = config.listeners[0].filter_chains
    assert (chain.match.transport_protocol, chain.tls, config.certificates) == (None, None, ())


def test_inbound_options(loaded: Load) -> None:
    """Times, upgrades, several applications and the pool reach their places; what is not written stays at the model's default."""
    text = SERVICE + "inbound: {listen: 127.0.0.1:1, app: [127.0.0.1:80, 'unix:/a'], timeout: 3s, idle_timeout: 1m, upgrades: [], pool: {max_idle: 2}}\n"
    config = loaded(text)
    http = config.listeners[0].filter_chains[0].http
    assert http is not None
    assert (http.idle_timeout, http.upgrades) == (60.0, ())
    assert config.route_tables[0].virtual_hosts[0].routes[0].timeout == 3.0
    assert [str(each.address) for each in config.clusters[0].endpoints] == ["127.0.0.1:80", "unix:/a"]
    assert config.clusters[0].pool.max_idle == 2
    default = loaded(INBOUND % "").listeners[0].filter_chains[0].http
    assert default is not None and default.upgrades == ("websocket",)


def test_outbound(loaded: Load) -> None:
    """Each service has a virtual host under its usual names and a cluster whose endpoints must show its identity."""
    config = loaded(OUTBOUND % ", timeout: 2s, idle_timeout: 9s, connect_timeout: 1s")
    [listener] = config.listeners
    [host] = config.route_tables[0].virtual_hosts
    [cluster] = config.clusters
    assert (listener.name, listener.direction) == ("outbound", "outbound")
    assert host.domains == tuple(service_hosts("payments", "shop"))
    assert host.domains == ("payments", "payments.shop", "payments.shop.svc", "payments.shop.svc.cluster.local")
    assert (host.routes[0].cluster, host.routes[0].timeout, host.routes[0].idle_timeout) == ("payments", 2.0, 9.0)
    assert cluster.connect_timeout == 1.0
    assert cluster.tls is not None
    assert (cluster.tls.certificate, cluster.tls.identities) == ("workload", ("spiffe://example.org/ns/shop/sa/payments",))
    assert len(config.certificates) == 1
    http = listener.filter_chains[0].http
    assert http is not None and http.forwarded_for is False


@pytest.mark.parametrize(
    ("options", "identities"),
    [
        (", identity: spiffe://other.org/x", ("spiffe://other.org/x",)),
        (", identity: [spiffe://a.org/x, spiffe://b.org/y]", ("spiffe://a.org/x", "spiffe://b.org/y")),
    ],
)
def test_outbound_identities(loaded: Load, options: str, identities: tuple[str, ...]) -> None:
    """Who must answer can be said, once or several times."""
    tls = loaded(OUTBOUND % options).clusters[0].tls
    assert tls is not None and tls.identities == identities


def test_outbound_without_mtls(loaded: Load) -> None:
    """A service without mutual TLS is called in cleartext and needs no identity of ours; hosts and balancer can be said."""
    config = loaded(OUTBOUND % ", mtls: false, hosts: [a.example], balancer: round-robin")
    assert (config.clusters[0].tls, config.certificates) == (None, ())
    assert config.route_tables[0].virtual_hosts[0].domains == ("a.example",)
    assert config.clusters[0].balancer.name == "round-robin"


def test_service_names_are_text(loaded: Load) -> None:
    """A service may be called what YAML takes for a number."""
    config = loaded(SERVICE + "outbound: {listen: 127.0.0.1:1, services: {1: {endpoints: [10.0.0.1:1]}}}")
    assert config.clusters[0].name == "1"


@pytest.mark.parametrize(
    ("identity", "files"),
    [
        ("{directory: d}", ["d/cert.pem", "d/key.pem", "d/ca.pem"]),
        ("{certificate: a, key: b, trust: /c}", ["a", "b", "/c"]),
    ],
)
def test_identity_files(loaded: Load, tmp_path: Path, identity: str, files: list[str]) -> None:
    """A directory, or three files; relative to the configuration file."""
    config = loaded(INBOUND % "" + f"identity: {identity}")
    made = plain(config.certificates[0].source.config, defaults=True)
    assert [made[key] for key in ("certificate", "key", "trust")] == [str(tmp_path / file) for file in files]


def test_identity_of_another_source(loaded: Load) -> None:
    """Another certificate source can be named."""
    source = "{kind: certificate-source, name: pem-files, config: {certificate: x, key: y, trust: z}}"
    config = loaded(INBOUND % "" + f"identity: {{source: {source}}}")
    assert plain(config.certificates[0].source.config, defaults=True)["key"].endswith("/y")


def test_extensions_go_to_their_places(loaded: Load) -> None:
    """Each kind stands where it belongs, in the order listed, after the caller is authenticated; on the inbound side unless it says otherwise."""
    text = (
        INBOUND % ""
        + (OUTBOUND % "").removeprefix(SERVICE)
        + """extensions:
  - {kind: filter, name: headers, fail_open: true}
  - {kind: rate-limiter, name: token-bucket, config: {requests: 1}, direction: both}
  - {kind: connection-filter, name: address-list, direction: outbound}
  - {kind: access-log, name: json, config: {path: second.log}}
  - {kind: span-exporter, name: json, config: {path: spans.log}}
  - {kind: tracer, name: w3c, direction: both}
"""
    )
    inbound, outbound = loaded(text).listeners
    one, two = inbound.filter_chains[0].http, outbound.filter_chains[0].http
    assert one is not None and two is not None
    assert (names(one.http_filters), names(two.http_filters)) == (["mtls", "headers", "token-bucket"], ["token-bucket"])
    assert [ref.fail_open for ref in one.http_filters] == [False, True, False]
    assert (names(inbound.connection_filters), names(outbound.connection_filters)) == ([], ["address-list"])
    assert (len(one.access_logs), len(two.access_logs)) == (2, 1)
    assert one.tracing is not None and two.tracing is not None
    assert (len(one.tracing.exporters), len(two.tracing.exporters)) == (1, 0)


@pytest.mark.parametrize(
    ("access_log", "paths"),
    [
        (None, ["-"]),
        ("true", ["-"]),
        ('"-"', ["-"]),
        ("a.log", ["DIR/a.log"]),
        ("off", []),
        ("false", []),
        ("{kind: access-log, name: json, config: {path: b.log}}", ["DIR/b.log"]),
        ("[{kind: access-log, name: json, config: {path: b}}, {kind: access-log, name: json, config: {path: c}}]", ["DIR/b", "DIR/c"]),
    ],
)
def test_access_log(loaded: Load, tmp_path: Path, access_log: str | None, paths: list[str]) -> None:
    """JSON lines on standard output, unless it is off, a path, or plugins."""
    config = loaded(INBOUND % "" + ("" if access_log is None else f"access_log: {access_log}"))
    http = config.listeners[0].filter_chains[0].http
    assert http is not None
    assert [str(ref.config.path).replace(str(tmp_path), "DIR") for ref in http.access_logs] == paths


@pytest.mark.parametrize(
    ("tracing", "sample", "exporters"),
    [
        (None, 1.0, 0),
        ("true", 1.0, 0),
        ("{sample: 0.5}", 0.5, 0),
        ("{file: s.log}", 1.0, 1),
        ("{exporters: [{kind: span-exporter, name: json, config: {path: x}}]}", 1.0, 1),
    ],
)
def test_tracing(loaded: Load, tracing: str | None, sample: float, exporters: int) -> None:
    """Trace context is propagated; spans are written only where somebody says so."""
    config = loaded(INBOUND % "" + ("" if tracing is None else f"tracing: {tracing}"))
    http = config.listeners[0].filter_chains[0].http
    assert http is not None and http.tracing is not None
    assert (http.tracing.tracer.name, http.tracing.sample, len(http.tracing.exporters)) == ("w3c", sample, exporters)


@pytest.mark.parametrize("tracing", ["off", "false"])
def test_tracing_off(loaded: Load, tracing: str) -> None:
    """It can be switched off."""
    http = loaded(INBOUND % "" + f"tracing: {tracing}").listeners[0].filter_chains[0].http
    assert http is not None and http.tracing is None


@pytest.mark.parametrize(
    ("admin", "address"), [("", "127.0.0.1:15000"), ("admin: null", None), ("admin: 127.0.0.1:1", "127.0.0.1:1"), ("admin: {address: 'unix:/a'}", "unix:/a")]
)
def test_admin(loaded: Load, admin: str, address: str | None) -> None:
    """The admin pages are where the full form would have them."""
    made = loaded(INBOUND % "" + admin).admin
    assert (None if made is None else str(made.address)) == address


def test_full_objects_beside_the_short_form(loaded: Load) -> None:
    """Clusters, tables, listeners and certificates of the full form stand beside what the short form makes, and can refer to it."""
    more = "clusters: [{name: jwks, endpoints: [10.0.0.1:443]}]\n"
    more += "listeners: [{name: tcp, address: 127.0.0.1:0, direction: inbound, filter_chains: [{tcp: {cluster: app}}]}]"
    config = loaded(INBOUND % "" + more)
    assert [each.name for each in config.clusters] == ["app", "jwks"]
    assert [each.name for each in config.listeners] == ["inbound", "tcp"]


def test_origins_are_those_of_the_short_form(loaded: Load) -> None:
    """What is made for a line of the short form says that line."""
    config = loaded(OUTBOUND % "")
    assert config.clusters[0].origin.endswith("sidecar.yaml:4:58")
    assert config.listeners[0].origin.endswith("sidecar.yaml:4:11")


def test_problems_in_words_of_the_short_form(refused: Callable[..., list[str]]) -> None:
    """What only the full form can see is told with the path in the file."""
    text = SERVICE + "outbound: {listen: 127.0.0.1:15001, services: {a: {endpoints: ['10.0.0.1:0'], balancer: ruond}}}\nadmin: 127.0.0.1:15001\n"
    problems = refused(text)
    assert [each.split(": ")[:2] for each in problems] == [
        ["4:64", "outbound.services.a.endpoints[0]"],
        ["4:89", "outbound.services.a.balancer"],
        ["5:8", "admin"],
    ]


@pytest.mark.parametrize(
    ("written", "name", "config"),
    [
        ("dns: 'pay.shop.svc:8080'", "dns", {"names": "pay.shop.svc:8080"}),
        ("dns: ['a:80', 'b:80']", "dns", {"names": ["a:80", "b:80"]}),
        ("endpoints_file: mesh/pay.yaml", "file", {"path": "{directory}/mesh/pay.yaml"}),
        ("discovery: {kind: discovery, name: dns, config: {names: 'pay:80'}}", "dns", {"names": "pay:80"}),
    ],
)
def test_services_that_are_found(loaded: Load, tmp_path: Path, written: str, name: str, config: dict[str, Any]) -> None:
    """The two plugins that are named most have keys of their own; paths start from the file."""
    [cluster] = loaded(f"{SERVICE}outbound: {{listen: 127.0.0.1:15001, services: {{payments: {{mtls: false, {written}}}}}}}\n").clusters
    assert cluster.discovery is not None
    assert (cluster.endpoints, cluster.discovery.kind, cluster.discovery.name) == ((), "discovery", name)
    expected = {key: value.replace("{directory}", str(tmp_path)) if isinstance(value, str) else value for key, value in config.items()}
    assert plain(cluster.discovery.config, defaults=True) == expected
