"""Between the model and the HTTP/2 codec: its limits, the protocols that ALPN offers, and what all connections of one chain or cluster count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from sidecar.codec.h2.limits import COUNTERS, H2Limits
from sidecar.model import Cluster, DownstreamTLS, FilterChain, HTTP2Options, UpstreamTLS
from sidecar.transport.readiness import at_turn_end
from sidecar.upstream.pool import Connector

# What is offered by ALPN, in our order of preference (RFC 7301), for each choice of protocol.
ALPN = {"auto": ("h2", "http/1.1"), "h1": ("http/1.1",), "h2": ("h2",)}
# Beside the codec's own: what connections find out over time.
STREAMS_STALLED = "streams_stalled"
# A burst of small DATA frames: this many seconds' worth of their rate.
SMALL_DATA_BURST_SECONDS = 10
UNLIMITED = 2**31


class H2Side:
    """What the HTTP/2 connections of one filter chain or cluster have in common."""

    def __init__(self, options: HTTP2Options, head_bytes: int, head_fields: int) -> None:
        self.options = options
        small_rate = options.small_data_rate or UNLIMITED
        self.limits = H2Limits(
            concurrent_streams=options.max_concurrent_streams,
            stream_window=options.stream_window,
            stream_window_most=max(options.stream_window, H2Limits().stream_window_most),
            connection_window=options.connection_window,
            connection_window_most=max(options.connection_window, H2Limits().connection_window_most),
            small_data_rate=float(small_rate),
            small_data_burst=SMALL_DATA_BURST_SECONDS * small_rate,
            header_list_octets=head_bytes,
            header_fields=head_fields,
        )
        self.counters: dict[str, int] = dict.fromkeys((*COUNTERS, STREAMS_STALLED, "connections"), 0)

    def count(self, connection: Any) -> Any:
        """`connection` (its `h2` a codec), which counts here from now on."""
        self.counters["connections"] += 1
        connection.h2.counters = self.counters
        return connection


def downstream_tls(chain: FilterChain) -> DownstreamTLS:
    """The TLS settings of a chain with what it offers by ALPN. A chain that forwards bytes negotiates nothing unless told to."""
    tls = chain.tls
    assert tls is not None
    if tls.alpn or chain.http is None:
        return tls
    return msgspec.structs.replace(tls, alpn=ALPN[chain.http.codec])


def upstream_tls(cluster: Cluster) -> UpstreamTLS:
    """The TLS settings of a cluster with what it offers by ALPN."""
    tls = cluster.tls
    assert tls is not None
    return tls if tls.alpn else msgspec.structs.replace(tls, alpn=ALPN[cluster.protocol])


def register_h2_metrics(add: Callable[..., None], sides: Callable[[], list[tuple[str, H2Side]]], side: str, label: str) -> None:
    """One counter for each kind of thing that HTTP/2 peers may do too much of, and the connections. `add`: `Registry.gauge_function`; `side`: "downstream"."""
    for name in (*COUNTERS, STREAMS_STALLED, "connections"):

        def read(name: str = name) -> dict[tuple[str, ...], float]:
            return {(key,): float(each.counters[name]) for key, each in sides()}

        add(f"sidecar_{side}_h2_{name}_total", f"HTTP/2: {name.replace('_', ' ')}.", read, (label,), type="counter")


def multiplex(connector: Connector, cluster: Cluster, reactor: Any, timer: Callable[[Callable[[], object]], Any]) -> H2Side | None:
    """Let the connector speak HTTP/2 where its cluster does; what its connections then have in common."""
    if cluster.protocol != "h2" and not (cluster.protocol == "auto" and connector.is_secure):
        return None
    # Nor is HTTP/2's code in memory where nobody speaks it (1.3 MiB with the listeners' side).
    from sidecar.upstream.multiplex import Multiplexer

    h2 = H2Side(cluster.http2, cluster.head_bytes, cluster.head_fields)
    is_negotiated = cluster.protocol == "auto"
    connector.multiplexer = Multiplexer(connector, cluster.http2, h2.limits, reactor.seconds, timer, at_turn_end(reactor), is_negotiated, h2.count)
    return h2
