"""What every part of the configuration model is made of: scalars with their own spelling, default values with their reasons, and the two smallest structures.

See `sidecar.model`.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

Duration = Annotated[float, Meta(ge=0, extra={"syntax": "duration"})]
Size = Annotated[int, Meta(ge=0, extra={"syntax": "size"})]
Count = Annotated[int, Meta(ge=0)]
Percent = Annotated[int, Meta(ge=0, le=100)]
FinePercent = Annotated[float, Meta(ge=0, le=100)]
Weight = Annotated[int, Meta(ge=0, le=1_000_000)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Origin = Annotated[str, Meta(extra={"internal": True})]
Variables = Annotated[dict[str, str], Meta(extra={"internal": True})]

# Envoy's defaults where Envoy has them; each can be configured where it is used.
CONNECT_TIMEOUT_SECONDS = 5.0  # Envoy: cluster.connect_timeout
ROUTE_TIMEOUT_SECONDS = 15.0  # Envoy: route.timeout; off for tunnels, and where unset it ends with the response's head
STREAM_IDLE_TIMEOUT_SECONDS = 300.0  # Envoy: stream_idle_timeout; a stream on which nothing moves for this long is an error
UPGRADE_IDLE_TIMEOUT_SECONDS = 3600.0  # Envoy: tcp_proxy.idle_timeout; a chat may be silent for longer than an answer
DOWNSTREAM_IDLE_TIMEOUT_SECONDS = 3600.0  # Envoy: common_http_protocol_options.idle_timeout
HEAD_TIMEOUT_SECONDS = 60.0  # slowloris: a head that is begun is finished within this time (Apache and HAProxy users set 5-60 s)
HANDSHAKE_TIMEOUT_SECONDS = 15.0  # Envoy: transport_socket_connect_timeout as Istio sets it
SNIFF_TIMEOUT_SECONDS = 5.0  # server-first protocols send nothing: then the raw chain takes the connection (Istio: protocolDetectionTimeout)
POOL_IDLE_TIMEOUT_SECONDS = 60.0  # below the 75 s after which nginx closes, above most; a stale connection is retried all the same
HEAD_BYTES = 64 * 1024  # Envoy: max_request_headers_kb 60
HEAD_FIELDS = 100  # Envoy: max_headers_count
CONNECTIONS = 10_000  # per listener: below the usual 16384-65536 descriptors, two for each connection
PIPELINE_BYTES = 64 * 1024  # bytes of later requests held while one is served; then reading pauses
WATERMARK_BYTES = 256 * 1024  # per connection and direction; Envoy's default is 1 MiB, half of which a slow reader would pin for each stream
DRAIN_SECONDS = 30.0  # Kubernetes' default grace period is 30 s; in a pod set it a little lower
POOL_CONNECTIONS = 1024  # per cluster; Envoy: circuit_breakers.max_connections
POOL_IDLE = 128  # idle connections kept per endpoint
POOL_PENDING = 1024  # Envoy: max_pending_requests
ACCEPT_BACKLOG = 1024
CONNECTION_JITTER_PERCENT = 10  # of a maximum age: connections that were made together do not end together
INITIAL_FETCH_TIMEOUT_SECONDS = 15.0  # Envoy: initial_fetch_timeout; then a start goes on with clusters that have no endpoints yet
MIRROR_TIMEOUT_SECONDS = 15.0  # as a route's: what nobody waits for must not pile up either
MIRROR_BUFFER_BYTES = 64 * 1024  # of a body, for each mirrored request: two reads or so; a mirror that is slower is cut
MIRROR_ACTIVE = 100  # mirrored requests at a time: with the buffers 6.25 MiB at most
OVERLOAD_REFRESH_SECONDS = 1.0  # Envoy: refresh_interval
SAVED_RETRIES = 500  # of a route: what is under way to dying endpoints in a second or two at some hundred requests a second
H2_STREAMS = 250  # per connection; RFC 9113 section 6.5.2 wants no fewer than 100, and each may hold a window of memory
H2_STREAM_WINDOW_BYTES = 128 * 1024  # at first; it grows while a stream moves much
H2_CONNECTION_WINDOW_BYTES = 1024 * 1024  # at first; what may be on its way to us
H2_SMALL_DATA_RATE = 2_000  # frames a second of under 8 octets from a client that gets no answer: far above typing, and under a tenth of what one process can take
H2_KEEPALIVE_TIMEOUT_SECONDS = 20.0  # for the answer to a PING, gRPC's default


class PluginRef(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plugin in use. `config` is an instance of the plugin class's `Config` after loading. `fail_open`: go on when the plugin raises."""

    kind: Name
    name: Name
    config: Any = None
    fail_open: bool = False
    origin: Origin = ""


class ValueMatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A test on one header or query parameter: at most one of the tests; none of them means "is present". All comparisons are exact in case."""

    name: Name
    exact: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    contains: str | None = None
    regex: str | None = None
    present: bool | None = None
    invert: bool = False
