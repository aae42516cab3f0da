"""The configuration model: immutable, named after Envoy v3's concepts, the one thing that the YAML file (and later xDS) compiles to.

Durations are seconds, sizes are octets. `None` means unset, 0 means off. Objects refer to each other by name. `origin` is "file:line:column" of the object
in its file, for messages; it is set by the loader and cannot be written in a file.

Types marked here with `Meta(extra={"syntax": ...})` have their own spelling in YAML: "duration" (250ms, 5s, 1m, or a number of seconds) and "size" (64KiB, 1MiB, or octets);
`Address` and `SpiffeId`-valued strings are parsed by the loader as well.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from sidecar.address import Address
from sidecar.model.endpoints import (
    ENDPOINT_METRICS as ENDPOINT_METRICS,
    OVERPROVISIONING_PERCENT as OVERPROVISIONING_PERCENT,
    ZONE_CLUSTER_SIZE as ZONE_CLUSTER_SIZE,
    DNSName as DNSName,
    Endpoint as Endpoint,
    Health as Health,
    Locality as Locality,
    LocalityLB as LocalityLB,
    SlowStart as SlowStart,
    SubsetLB as SubsetLB,
    SubsetSelector as SubsetSelector,
)
from sidecar.model.health import (
    HEALTH_CHECK_CONCURRENCY as HEALTH_CHECK_CONCURRENCY,
    HEALTH_CHECK_INTERVAL_SECONDS as HEALTH_CHECK_INTERVAL_SECONDS,
    HEALTH_CHECK_NO_TRAFFIC_SECONDS as HEALTH_CHECK_NO_TRAFFIC_SECONDS,
    HEALTH_CHECK_TIMEOUT_SECONDS as HEALTH_CHECK_TIMEOUT_SECONDS,
    WARMING_SECONDS as WARMING_SECONDS,
    HealthCheck as HealthCheck,
)
from sidecar.model.resilience import (
    EJECTION_PERCENT as EJECTION_PERCENT,
    RETRY_ATTEMPTS as RETRY_ATTEMPTS,
    Backoff as Backoff,
    CircuitBreakers as CircuitBreakers,
    CircuitLimits as CircuitLimits,
    FailureRate as FailureRate,
    Hedge as Hedge,
    MaxStreamDuration as MaxStreamDuration,
    OutlierDetection as OutlierDetection,
    Retry as Retry,
    RetryBudget as RetryBudget,
    RetryOn as RetryOn,
)
from sidecar.model.scalars import (
    ACCEPT_BACKLOG as ACCEPT_BACKLOG,
    CONNECT_TIMEOUT_SECONDS as CONNECT_TIMEOUT_SECONDS,
    CONNECTION_JITTER_PERCENT as CONNECTION_JITTER_PERCENT,
    CONNECTIONS as CONNECTIONS,
    DOWNSTREAM_IDLE_TIMEOUT_SECONDS as DOWNSTREAM_IDLE_TIMEOUT_SECONDS,
    DRAIN_SECONDS as DRAIN_SECONDS,
    H2_CONNECTION_WINDOW_BYTES as H2_CONNECTION_WINDOW_BYTES,
    H2_KEEPALIVE_TIMEOUT_SECONDS as H2_KEEPALIVE_TIMEOUT_SECONDS,
    H2_SMALL_DATA_RATE as H2_SMALL_DATA_RATE,
    H2_STREAM_WINDOW_BYTES as H2_STREAM_WINDOW_BYTES,
    H2_STREAMS as H2_STREAMS,
    HANDSHAKE_TIMEOUT_SECONDS as HANDSHAKE_TIMEOUT_SECONDS,
    HEAD_BYTES as HEAD_BYTES,
    HEAD_FIELDS as HEAD_FIELDS,
    HEAD_TIMEOUT_SECONDS as HEAD_TIMEOUT_SECONDS,
    INITIAL_FETCH_TIMEOUT_SECONDS as INITIAL_FETCH_TIMEOUT_SECONDS,
    MIRROR_ACTIVE as MIRROR_ACTIVE,
    MIRROR_BUFFER_BYTES as MIRROR_BUFFER_BYTES,
    MIRROR_TIMEOUT_SECONDS as MIRROR_TIMEOUT_SECONDS,
    OVERLOAD_REFRESH_SECONDS as OVERLOAD_REFRESH_SECONDS,
    PIPELINE_BYTES as PIPELINE_BYTES,
    POOL_CONNECTIONS as POOL_CONNECTIONS,
    POOL_IDLE as POOL_IDLE,
    POOL_IDLE_TIMEOUT_SECONDS as POOL_IDLE_TIMEOUT_SECONDS,
    POOL_PENDING as POOL_PENDING,
    ROUTE_TIMEOUT_SECONDS as ROUTE_TIMEOUT_SECONDS,
    SAVED_RETRIES as SAVED_RETRIES,
    SNIFF_TIMEOUT_SECONDS as SNIFF_TIMEOUT_SECONDS,
    STREAM_IDLE_TIMEOUT_SECONDS as STREAM_IDLE_TIMEOUT_SECONDS,
    UPGRADE_IDLE_TIMEOUT_SECONDS as UPGRADE_IDLE_TIMEOUT_SECONDS,
    WATERMARK_BYTES as WATERMARK_BYTES,
    Count as Count,
    Duration as Duration,
    FinePercent as FinePercent,
    Name as Name,
    Origin as Origin,
    Percent as Percent,
    PluginRef as PluginRef,
    Size as Size,
    ValueMatch as ValueMatch,
    Variables as Variables,
    Weight as Weight,
)
from sidecar.model.traffic import Mirror as Mirror, Overload as Overload, OverloadActions as OverloadActions

# -- matching --------------------------------------------------------------------------------------------------------------------------------


class RouteMatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a route takes: exactly one of the four path tests ("prefix: /" when none is written), and all of the others.

    `segment_prefix` /api takes /api and /api/x but not /apix (Envoy: path_separated_prefix). `regex` must match the whole path. Query strings are not part of the path.
    """

    path: str | None = None
    prefix: str | None = None
    segment_prefix: str | None = None
    regex: str | None = None
    methods: tuple[str, ...] = ()
    headers: tuple[ValueMatch, ...] = ()
    query: tuple[ValueMatch, ...] = ()


class HeaderOps(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Edits of a head, in this order: remove, set (replace or add), add (beside existing ones)."""

    remove: tuple[str, ...] = ()
    set: dict[str, str] = {}
    add: dict[str, str] = {}


class Rewrite(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of the request on its way up: `prefix` replaces what the route's prefix or path matched; `regex` with `substitution` (\\1 for groups) works on the whole path;
    `host` replaces the authority. `prefix` and `regex` exclude each other; the query string stays."""

    prefix: str | None = None
    regex: str | None = None
    substitution: str | None = None
    host: str | None = None


class WeightedCluster(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One share of a route's traffic: `weight` against the sum of all. `metadata_match`: beside the route's, for this cluster."""

    cluster: Name
    weight: Weight = 1
    metadata_match: dict[str, str] = {}


class Redirect(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answer with a redirect: parts not given stay as the client sent them. `prefix` replaces what the route matched."""

    status: Literal[301, 302, 303, 307, 308] = 301
    scheme: Literal["http", "https"] | None = None
    host: str | None = None
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    path: str | None = None
    prefix: str | None = None
    strip_query: bool = False


class DirectResponse(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answer with this."""

    status: Annotated[int, Meta(ge=200, le=599)]
    body: str = ""
    content_type: str = "text/plain; charset=utf-8"


class FilterOverride(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a route changes of one entry of the listener's `http_filters`: leave it out, or give it another configuration."""

    kind: Name
    name: Name
    disabled: bool = False
    config: Any = None
    origin: Origin = ""


class HashPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the request by which a consistent hash chooses the endpoint: exactly one of `header`, `cookie`, `source_address`, `query`.

    `cookie_ttl`: a client without the cookie gets one that lives this long (0: until the browser closes); unset: none is made. `terminal`: when this
    part is there the policies after it are not looked at.
    """

    header: str | None = None
    cookie: str | None = None
    cookie_ttl: Duration | None = None
    cookie_path: str | None = None
    source_address: bool | None = None
    query: str | None = None
    terminal: bool = False


class Route(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Match and action: exactly one of `cluster`, `weighted_clusters`, `redirect`, `direct_response`.

    `timeout`: from the complete request to the complete response, as in Envoy (0: none); unset: 15 s until the response begins and none for its body, so that a long
    download is not cut. `idle_timeout`: nothing moves in either direction (0: none; unset: the listener's); `upgrade_idle_timeout`: the same of a tunnel. `hash_policy`: what the
    balancers ring-hash and maglev go by. `mirrors`: who else gets a copy of the request.
    """

    name: str = ""
    match: RouteMatch = RouteMatch()
    cluster: str | None = None
    weighted_clusters: tuple[WeightedCluster, ...] = ()
    redirect: Redirect | None = None
    direct_response: DirectResponse | None = None
    rewrite: Rewrite | None = None
    timeout: Duration | None = None
    idle_timeout: Duration | None = None
    upgrade_idle_timeout: Duration | None = None
    request_headers: HeaderOps | None = None
    response_headers: HeaderOps | None = None
    filters: tuple[FilterOverride, ...] = ()
    hash_policy: tuple[HashPolicy, ...] = ()
    retry: Retry | None = None
    hedge: Hedge | None = None
    max_stream_duration: MaxStreamDuration | None = None
    priority: Literal["default", "high"] = "default"
    mirrors: tuple[Mirror, ...] = ()
    metadata_match: dict[str, str] = {}
    origin: Origin = ""


class VirtualHost(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Routes for a set of authorities, first match wins. `domains`: exact, "*.suffix", "prefix.*" or "*"; the port of the request is ignored.
    `include_request_attempt_count`: each attempt has x-envoy-attempt-count, from 1."""

    name: Name
    domains: tuple[str, ...] = ("*",)
    routes: tuple[Route, ...]
    request_headers: HeaderOps | None = None
    response_headers: HeaderOps | None = None
    include_request_attempt_count: bool = False
    origin: Origin = ""


class RouteTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Virtual hosts: the most specific domain decides (exact, longest suffix, longest prefix, "*"), then only its routes are looked at."""

    name: Name
    virtual_hosts: tuple[VirtualHost, ...]
    origin: Origin = ""


# -- listeners -------------------------------------------------------------------------------------------------------------------------------


class DownstreamTLS(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """TLS towards clients. `certificate` and `trust` name entries of `certificates`; `trust` defaults to the certificate's own bundle.

    `client_certificate`: require (mutual TLS), optional, none. `trust_domains`: which SPIFFE trust domains may connect (empty: that of our own identity).
    `alpn`: protocols offered, ours first (empty: what the chain speaks).
    """

    certificate: Name
    trust: str | None = None
    client_certificate: Literal["require", "optional", "none"] = "require"
    trust_domains: tuple[str, ...] = ()
    alpn: tuple[str, ...] = ()
    minimum_version: Literal["1.2", "1.3"] = "1.2"


class HTTP2Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One HTTP/2 connection. `max_concurrent_streams`: what a client may have open at a time, or how many of a server's we use. `stream_window`: what the peer may send
    on a stream before it was delivered, `connection_window`: on all of them before it was read, at first. `small_data_rate`: DATA frames of hardly any octets a second from a client who is not answered,
    and ten times as many at once (0: no limit). `keepalive_interval`: a PING when nothing came for this long (0: none), and `keepalive_timeout`: how long its answer may take."""

    max_concurrent_streams: Annotated[int, Meta(ge=1, le=2**31 - 1)] = H2_STREAMS
    stream_window: Annotated[int, Meta(ge=65535, le=2**31 - 1, extra={"syntax": "size"})] = H2_STREAM_WINDOW_BYTES
    connection_window: Annotated[int, Meta(ge=65535, le=2**31 - 1, extra={"syntax": "size"})] = H2_CONNECTION_WINDOW_BYTES
    small_data_rate: Count = H2_SMALL_DATA_RATE
    keepalive_interval: Duration = 0.0
    keepalive_timeout: Duration = H2_KEEPALIVE_TIMEOUT_SECONDS


class ChainMatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which connections a filter chain takes; unset means any. Looked at in this order, the most specific wins at each step, no backtracking (Envoy: FilterChainMatch)."""

    destination_port: int | None = None
    destination_prefixes: tuple[str, ...] = ()
    server_names: tuple[str, ...] = ()
    transport_protocol: Literal["tls", "raw"] | None = None
    application_protocols: tuple[str, ...] = ()
    source_prefixes: tuple[str, ...] = ()


class HTTPLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one client may use. Zero switches a time limit off; sizes and counts are always limited. `max_connection_duration`: after so long, and up to `max_connection_duration_jitter` percent
    more, a connection takes no new request (Envoy: common_http_protocol_options)."""

    head_bytes: Size = HEAD_BYTES
    head_fields: Count = HEAD_FIELDS
    pipeline_bytes: Size = PIPELINE_BYTES
    watermark_bytes: Size = WATERMARK_BYTES
    head_timeout: Duration = HEAD_TIMEOUT_SECONDS
    idle_timeout: Duration = DOWNSTREAM_IDLE_TIMEOUT_SECONDS
    requests_per_connection: Count = 0
    max_connection_duration: Duration = 0.0
    max_connection_duration_jitter: Percent = CONNECTION_JITTER_PERCENT


class Tracing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tracer, what share of new traces is sampled (0 to 1; a caller's decision is kept), and where spans go."""

    tracer: PluginRef = PluginRef(kind="tracer", name="w3c")
    sample: Annotated[float, Meta(ge=0, le=1)] = 1.0
    exporters: tuple[PluginRef, ...] = ()


class HTTPManager(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Terminal network filter that speaks HTTP (Envoy: HttpConnectionManager).

    `routes`: the name of a route table, or one inline. `codec`: "auto" speaks HTTP/2 with who asks for it, by ALPN or by HTTP/2's first bytes. `http_filters`: plugins of the kinds authenticator, authorizer, rate-limiter and filter, run in this order (responses in
    reverse). `upgrades`: protocols that may become tunnels ("websocket", and "connect" for the method CONNECT). `forwarded_client_cert`: what happens to
    x-forwarded-client-cert: "set" drops what the client sent and writes the verified peer, "drop" only drops it, "keep" passes it on (towards a trusted hop only).
    `forwarded_for`: append the peer's address to x-forwarded-for. `request_id`: give a request without x-request-id one. `half_close`: what a client that ends its sending side before
    its answer is there gets: "abort" (the exchange is cancelled, as Envoy and nginx do) or "answer".
    `merge_slashes`: runs of slashes in a path become one before routes and rules see it, and so it goes up: "//admin" must not pass a rule on "/admin" (Envoy: merge_slashes).
    `envoy_headers`: what becomes of the caller's x-envoy-... fields about timeouts and retries: "honor" (for callers that are trusted), "drop", or "pass" (they are nothing to us).
    `send_expected_timeout`: where a timeout is configured each attempt has x-envoy-expected-rq-timeout-ms, the time that is left for it.
    `access_logs` and `tracing` are what is seen of each exchange.
    """

    routes: str | RouteTable
    codec: Literal["auto", "h1", "h2"] = "auto"
    http2: HTTP2Options = HTTP2Options()
    http_filters: tuple[PluginRef, ...] = ()
    upgrades: tuple[str, ...] = ("websocket",)
    forwarded_client_cert: Literal["set", "drop", "keep"] = "set"
    forwarded_for: bool = False
    request_id: bool = True
    half_close: Literal["abort", "answer"] = "abort"
    merge_slashes: bool = True
    idle_timeout: Duration = STREAM_IDLE_TIMEOUT_SECONDS
    upgrade_idle_timeout: Duration = UPGRADE_IDLE_TIMEOUT_SECONDS
    limits: HTTPLimits = HTTPLimits()
    envoy_headers: Literal["pass", "drop", "honor"] = "pass"
    send_expected_timeout: bool = True
    access_logs: tuple[PluginRef, ...] = ()
    tracing: Tracing | None = None


class TCPProxy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Terminal network filter that forwards bytes (Envoy: TcpProxy) to `cluster`, or for each connection to one of `weighted_clusters`. `metadata_match`: as of a `Route`. `idle_timeout`: no byte in
    either direction (0: none). `max_downstream_connection_duration`: after so long, and up to `max_downstream_connection_duration_jitter` percent more, a connection is closed (0: never). `max_connect_attempts`: how many endpoints are tried; nothing was read from the client by then, so nothing is lost."""

    cluster: Name | None = None
    weighted_clusters: tuple[WeightedCluster, ...] = ()
    metadata_match: dict[str, str] = {}
    idle_timeout: Duration = 3600.0
    max_downstream_connection_duration: Duration = 0.0
    max_downstream_connection_duration_jitter: Percent = CONNECTION_JITTER_PERCENT
    max_connect_attempts: Annotated[int, Meta(ge=1, le=RETRY_ATTEMPTS)] = 3


class FilterChain(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens to the connections that `match` takes: TLS or not, then exactly one of `http` and `tcp`."""

    match: ChainMatch = ChainMatch()
    tls: DownstreamTLS | None = None
    http: HTTPManager | None = None
    tcp: TCPProxy | None = None
    origin: Origin = ""


class Listener(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An address to accept on. `direction` names the side of metrics and spans, nothing else. `max_connections`: more are closed at once and counted."""

    name: Name
    address: Address
    direction: Literal["inbound", "outbound"]
    connection_filters: tuple[PluginRef, ...] = ()
    filter_chains: tuple[FilterChain, ...]
    max_connections: Count = CONNECTIONS
    backlog: Annotated[int, Meta(ge=0, le=2**31 - 1)] = ACCEPT_BACKLOG
    sniff_timeout: Duration = SNIFF_TIMEOUT_SECONDS
    handshake_timeout: Duration = HANDSHAKE_TIMEOUT_SECONDS
    origin: Origin = ""


# -- clusters --------------------------------------------------------------------------------------------------------------------------------


class UpstreamTLS(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """TLS towards endpoints. With `identities` (SPIFFE IDs) or neither of the two, the peer is a workload: its SPIFFE ID must be one of them, or any of `trust_domains`, by default
    ours. With `hostname` the peer is an ordinary TLS server, checked by name (RFC 9525). `certificate`: ours, for mutual TLS. `alpn`: protocols offered (empty: what the cluster's `protocol` says)."""

    certificate: str | None = None
    trust: str | None = None
    identities: tuple[str, ...] = ()
    trust_domains: tuple[str, ...] = ()
    hostname: str | None = None
    server_name: str | None = None
    alpn: tuple[str, ...] = ()
    minimum_version: Literal["1.2", "1.3"] = "1.2"


class PoolLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Connections of a cluster. `max_pending`: requests that wait for one; more get 503 with flag UO. `max_requests`: per connection, 0 for no limit. `max_connection_duration`: after so long,
    and up to `max_connection_duration_jitter` percent more, a connection takes no new request."""

    max_connections: Annotated[int, Meta(ge=1)] = POOL_CONNECTIONS
    max_idle: Count = POOL_IDLE
    max_pending: Count = POOL_PENDING
    max_requests: Count = 0
    idle_timeout: Duration = POOL_IDLE_TIMEOUT_SECONDS
    max_connection_duration: Duration = 0.0
    max_connection_duration_jitter: Percent = CONNECTION_JITTER_PERCENT


class Cluster(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named group of like endpoints: those listed under `endpoints`, or those that `discovery` finds, never both; `type` may say which. `initial_fetch_timeout`: how long a start waits for what
    discovery finds first. `healthy_panic_threshold`: when fewer than so many percent of them are healthy, all are used. `protocol`: "h1", "h2" (in cleartext with prior knowledge), "auto": as the endpoint chooses by ALPN, HTTP/1.1 in cleartext, or "downstream": as each request came (Envoy: use_downstream_protocol_config)."""

    name: Name
    type: Literal["static", "discovery"] | None = None
    endpoints: tuple[Endpoint, ...] = ()
    discovery: PluginRef | None = None
    initial_fetch_timeout: Duration = INITIAL_FETCH_TIMEOUT_SECONDS
    balancer: PluginRef = PluginRef(kind="balancer", name="round-robin")
    connect_timeout: Duration = CONNECT_TIMEOUT_SECONDS
    bind_address: str | None = None
    tls: UpstreamTLS | None = None
    protocol: Literal["h1", "h2", "auto", "downstream"] = "h1"
    http2: HTTP2Options = HTTP2Options()
    pool: PoolLimits = PoolLimits()
    circuit_breakers: CircuitBreakers | None = None
    outlier_detection: OutlierDetection | None = None
    healthy_panic_threshold: Percent = 50
    health_checks: tuple[HealthCheck, ...] = ()
    overprovisioning_factor: Annotated[int, Meta(ge=100, le=1000)] = OVERPROVISIONING_PERCENT
    locality_lb: LocalityLB | None = None
    slow_start_config: SlowStart | None = None
    lb_subset_config: SubsetLB | None = None
    endpoint_metrics: Count = ENDPOINT_METRICS
    head_bytes: Size = HEAD_BYTES
    head_fields: Count = HEAD_FIELDS
    watermark_bytes: Size = WATERMARK_BYTES
    origin: Origin = ""


# -- the rest --------------------------------------------------------------------------------------------------------------------------------


class Certificate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Our certificate and key, and the bundle of authorities that came with it, by name from a certificate source."""

    name: Name
    source: PluginRef
    origin: Origin = ""


class Admin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the admin pages answer."""

    address: Address = Address(host="127.0.0.1", port=15000)


class Node(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who this sidecar is: the workload's names in metrics, spans and its SPIFFE ID. `locality`: where it runs."""

    service: str = "unknown"
    namespace: str = "default"
    trust_domain: str = "cluster.local"
    locality: Locality | None = None


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything. The full form of the YAML file is exactly this structure. `local_cluster_name`: the cluster whose endpoints are this sidecar's own service, for zone-aware
    routing (Envoy: cluster_manager.local_cluster_name). `variables`: where texts came out of the environment (path -> as written, with `${NAME}`), for dumps."""

    node: Node = Node()
    local_cluster_name: str | None = None
    listeners: tuple[Listener, ...] = ()
    route_tables: tuple[RouteTable, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    admin: Admin | None = field(default_factory=Admin)
    drain_time: Duration = DRAIN_SECONDS
    overload: Overload = Overload()
    warming_time: Duration = WARMING_SECONDS
    origin: Origin = ""
    variables: Variables = field(default_factory=dict)
