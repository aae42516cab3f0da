"""The short form of a configuration file: what most sidecars need, said once. `sidecar.config.expansion` turns it into the full form."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from sidecar.address import Address
from sidecar.config.checks import CHECKS, EXACTLY_ONE, PLACES, node, plugin_ref
from sidecar.config.convert import STRAYED_KEYS, Check, Record
from sidecar.config.suggest import listing
from sidecar.model import (
    DRAIN_SECONDS,
    WARMING_SECONDS,
    Admin,
    Certificate,
    CircuitBreakers,
    Cluster,
    Config,
    DNSName,
    Duration,
    Endpoint,
    HealthCheck,
    Hedge,
    Listener,
    Locality,
    LocalityLB,
    Mirror,
    Name,
    OutlierDetection,
    Overload,
    Percent,
    PluginRef,
    PoolLimits,
    Retry,
    RouteTable,
    SlowStart,
)
from sidecar.model.health import AtLeastOne, Port, Positive

# Kinds under `extensions`, and what becomes of them. The others stand where they are used: `balancer` of a service, `source` of the identity.
LISTED_KINDS = ("connection-filter", "authenticator", "authorizer", "rate-limiter", "filter", "access-log", "tracer", "span-exporter")
# The keys that only the short form has, and what stands in their place in the full form.
SHORT_KEYS = {
    "service": "`node.service`",
    "namespace": "`node.namespace`",
    "trust_domain": "`node.trust_domain`",
    "locality": "`node.locality`",
    "identity": "`certificates`, and `tls` of filter chains and clusters",
    "inbound": "`listeners`, `route_tables` and `clusters`",
    "outbound": "`listeners`, `route_tables` and `clusters`",
    "extensions": "`connection_filters` of a listener and `http_filters` of its HTTPManager",
    "access_log": "`access_logs` of an HTTPManager",
    "tracing": "`tracing` of an HTTPManager",
}

# The keys of a short health check that are its plugin's own, by type.
HEALTH_CHECK_KEYS = {"http": ("path", "host", "expected_statuses"), "grpc": ("service",), "tcp": ()}

Mode = Literal["strict", "permissive", "disabled"]
Fraction = Annotated[float, Meta(ge=0, le=1)]


class Identity(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where our certificate comes from: a directory with cert.pem, key.pem and ca.pem; or the three files; or another certificate source."""

    directory: str | None = None
    certificate: str | None = None
    key: str | None = None
    trust: str | None = None
    source: PluginRef | None = None


class Inbound(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What comes in for the application. `app`: its address or addresses. `mtls`: strict (a verified peer or nothing), permissive (both, told apart by the
    first bytes) or disabled. `timeout`: of a whole exchange; `idle_timeout`: of a silent one. `protocol`: what
    the application speaks."""

    listen: Address
    app: Address | tuple[Address, ...]
    protocol: Literal["h1", "h2", "downstream"] | None = None
    mtls: Mode = "strict"
    timeout: Duration | None = None
    idle_timeout: Duration | None = None
    upgrades: tuple[str, ...] | None = None
    pool: PoolLimits | None = None


class HealthCheckShort(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A check of the kinds that come along, said shortly: `path`, `host`, `expected_statuses` of `http`, `grpc` with the name of a service ("" for the
    whole server), or `tcp`."""

    type: Literal["http", "tcp", "grpc"] = "http"
    path: str | None = None
    host: str | None = None
    expected_statuses: tuple[int | str, ...] | None = None
    service: str | None = None
    port: Port | None = None
    timeout: Positive | None = None
    interval: Positive | None = None
    unhealthy_threshold: AtLeastOne | None = None
    healthy_threshold: AtLeastOne | None = None


class Service(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A service that the application calls. `identity`: the SPIFFE IDs its endpoints may have, by default the one that its name gives in our namespace.
    `hosts`: the names that the application calls it by. `balancer`: the name of a balancer, or one with its configuration.
    `protocol`: as a cluster's; with mtls "auto" by default. `mirrors`: other services that get a copy. Where it is: exactly one of `endpoints`, `dns`
    (HOST:PORT or the name of SRV records, one or several), `endpoints_file` and `discovery` (a plugin, with its configuration)."""

    endpoints: tuple[Endpoint, ...] = ()
    dns: str | tuple[str | DNSName, ...] | None = None
    endpoints_file: str | None = None
    discovery: PluginRef | None = None
    mtls: bool = True
    protocol: Literal["h1", "h2", "auto", "downstream"] | None = None
    identity: str | tuple[str, ...] | None = None
    hosts: tuple[str, ...] | None = None
    timeout: Duration | None = None
    idle_timeout: Duration | None = None
    connect_timeout: Duration | None = None
    balancer: str | PluginRef | None = None
    pool: PoolLimits | None = None
    circuit_breakers: CircuitBreakers | None = None
    outlier_detection: OutlierDetection | None = None
    health_check: HealthCheckShort | None = None
    health_checks: tuple[HealthCheck, ...] | None = None
    healthy_panic_threshold: Percent | None = None
    locality_lb: LocalityLB | None = None
    slow_start_config: SlowStart | None = None
    retry: Retry | None = None
    hedge: Hedge | None = None
    mirrors: tuple[Mirror, ...] = ()


class Outbound(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the application calls, by name."""

    listen: Address
    services: dict[Name, Service] = {}
    upgrades: tuple[str, ...] | None = None


class Use(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plugin in use, on one side or both."""

    kind: Name
    name: Name
    config: Any = None
    fail_open: bool = False
    direction: Literal["inbound", "outbound", "both"] = "inbound"


class TracingShort(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`sample`: the share of new traces that is kept. `file`: write spans there as JSON lines ("-": standard output)."""

    sample: Fraction = 1.0
    file: str | None = None
    tracer: PluginRef | None = None
    exporters: tuple[PluginRef, ...] = ()


class ShortForm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The short form. `listeners`, `route_tables`, `clusters` and `certificates` are as in the full form and stand beside what is made of the rest."""

    service: Name
    namespace: Name = "default"
    trust_domain: Name = "cluster.local"
    locality: Locality | None = None
    local_cluster_name: str | None = None
    identity: Identity | None = None
    inbound: Inbound | None = None
    outbound: Outbound | None = None
    extensions: tuple[Use, ...] = ()
    access_log: bool | str | PluginRef | tuple[PluginRef, ...] = True
    tracing: bool | Literal["off"] | TracingShort = True
    admin: Admin | None = field(default_factory=Admin)
    drain_time: Duration = DRAIN_SECONDS
    overload: Overload = Overload()
    warming_time: Duration = WARMING_SECONDS
    listeners: tuple[Listener, ...] = ()
    route_tables: tuple[RouteTable, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    certificates: tuple[Certificate, ...] = ()


def identity(record: Record) -> None:
    """One of the three ways, and that one whole."""
    files = [key for key in ("certificate", "key", "trust") if record.has(key)]
    ways = [key for key in ("directory", "source") if record.has(key)] + (["certificate, key and trust"] if files else [])
    if len(ways) != 1:
        record.problem(f"expected exactly one of directory, source, or certificate, key and trust; got {listing(ways)}")
    elif files and len(files) < 3:
        record.problem(f"certificate, key and trust belong together; missing: {listing({'certificate', 'key', 'trust'} - set(files))}")


def service(record: Record) -> None:
    """It is found in one way. Identities are asked for only of a peer that has one."""
    written = [key for key in EXACTLY_ONE[Service] if key in record.keys]
    if len(written) != 1:
        record.problem(f"expected exactly one of {listing(EXACTLY_ONE[Service])}; got {listing(written)}")
    if record.get("mtls") is False and record.has("identity"):
        record.problem("without `mtls` the service shows no identity", "identity")


def health_check(record: Record) -> None:
    """The keys belong to the type."""
    kind = record.get("type", "http")
    for other, keys in HEALTH_CHECK_KEYS.items():
        for key in keys:
            if other != kind and record.has(key):
                record.problem(f"`{key}` is a key of the type {other}, and this is {kind}", key)


def use(record: Record) -> None:
    """The kind can be listed, and the side exists."""
    plugin_ref(record)
    root = record.parent
    if root is None:
        return
    for side in ("inbound", "outbound"):
        if record.get("direction", "inbound") in (side, "both") and side not in root.keys:
            record.problem(f"this plugin is for {side} traffic, and the file has no `{side}`", "direction")


def short_form(record: Record) -> None:
    """The names can stand in a SPIFFE ID; something is carried."""
    node(record)
    if not any(record.has(key) for key in ("inbound", "outbound", "listeners")):
        record.problem("nothing is carried; expected inbound, outbound or listeners")


SHORT_CHECKS: dict[type, Check] = {**CHECKS, Identity: identity, Service: service, HealthCheckShort: health_check, Use: use, ShortForm: short_form}

# Where plugins stand in the short form (beside `extensions`).
SHORT_PLACES: dict[tuple[str, str], tuple[str, ...]] = {
    ("Identity", "source"): ("certificate-source",),
    ("Service", "balancer"): ("balancer",),
    ("Service", "discovery"): ("discovery",),
    ("TracingShort", "tracer"): ("tracer",),
    ("TracingShort", "exporters"): ("span-exporter",),
    ("ShortForm", "access_log"): ("access-log",),
    ("ShortForm", "extensions"): LISTED_KINDS,
}
PLACES.update(SHORT_PLACES)
STRAYED_KEYS[Config] = {
    key: f"is a key of the short form, and without `service` this file is in the full form; there it is {place}" for key, place in SHORT_KEYS.items()
}
STRAYED_KEYS[ShortForm] = {"node": "is a key of the full form; in the short form its keys stand at the top: `service`, `namespace`, `trust_domain`, `locality`"}
EXACTLY_ONE[Service] = ("endpoints", "dns", "endpoints_file", "discovery")
