"""The numbers of finished exchanges: Istio's standard metrics, under its names and labels, and our own.

`observe` runs once for each request, so it only finds the row of the exchange's dimensions and adds to it; labels and text are made when scraped.
Istio's meaning of the labels: https://istio.io/latest/docs/reference/config/metrics/
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sidecar.model import Node
from sidecar.telemetry.metrics import OTHER, Family, Labels, Registry, Sample, histogram_samples

# Rows of one listener. A row is one combination of route, cluster, status, flags, peers and version; it takes about 1.5 KiB.
ROWS_LIMIT = 1000
# Milliseconds. Envoy's bounds, so that Istio's dashboards fit, and finer ones below 1 ms, where a sidecar's own work is.
DURATION_BOUNDS = [
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0),
    *(30000.0, 60000.0, 300000.0, 600000.0, 1800000.0, 3600000.0),
]
SIZE_BOUNDS: list[float] = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000]
# Which of them bounds a size, of sizes that are usual: looking it up takes a third of the time.
_USUAL_SIZES = bytes(bisect_left(SIZE_BOUNDS, size) for size in range(10_001))
UNKNOWN = "unknown"
GRPC_UNKNOWN = 2  # the status of calls that failed in some way

# (route, cluster, status, flags, code, protocol version, downstream peer, its TLS?, upstream peer, its TLS?, status of gRPC or None)
Key = tuple[str, str, int, str, str, int, str, bool, str, bool, int | None]


class Row:
    """What was added up for one key. The number of exchanges is the sum of `durations`."""

    __slots__ = (
        "durations", "key", "milliseconds", "request_bytes", "request_messages", "request_sizes", "response_bytes", "response_messages", "response_sizes",
    )  # fmt: skip

    def __init__(self, key: Key) -> None:
        self.key = key
        self.milliseconds = 0.0
        self.request_bytes = self.response_bytes = 0
        self.request_messages = self.response_messages = 0
        self.durations = [0] * (len(DURATION_BOUNDS) + 1)
        self.request_sizes = [0] * (len(SIZE_BOUNDS) + 1)
        self.response_sizes = [0] * (len(SIZE_BOUNDS) + 1)


class ExchangeStats:
    """The exchanges of one listener. `observe` is what `HTTPRuntime.observe` wants. Adds itself to the registry."""

    __slots__ = ("_usual", "direction", "listener", "node", "overflowed", "rows")

    def __init__(self, registry: Registry, node: Node, direction: str, listener: str) -> None:
        self.node = node
        self.direction = direction
        self.listener = listener
        self.rows: dict[Key, Row] = {}
        # Of exchanges without error, flags or gRPC, by what is left of the key.
        self._usual: dict[tuple[str, str, int, int, str | None, str | None], Row] = {}
        self.overflowed = 0
        registry.add_source(self.families)

    def observe(self, exchange: Any, duration_seconds: float) -> None:
        """Count one finished exchange (`sidecar.proxy.exchange.Exchange`). `exchange.status`: what the client got, 499 when it went away before."""
        likeness = exchange.likeness
        row: Row | None = None if likeness is None else likeness.row
        if row is None:
            if likeness is None:
                row = self._usual_row(exchange)
            else:
                row = self._row(exchange)
                if row.key[0] != OTHER:
                    likeness.row = row
        grpc = exchange.grpc
        milliseconds = duration_seconds * 1000.0
        row.milliseconds += milliseconds
        row.durations[bisect_left(DURATION_BOUNDS, milliseconds)] += 1
        size = exchange.request_bytes
        row.request_bytes += size
        row.request_sizes[_USUAL_SIZES[size] if size <= 10_000 else bisect_left(SIZE_BOUNDS, size)] += 1
        size = exchange.response_bytes
        row.response_bytes += size
        row.response_sizes[_USUAL_SIZES[size] if size <= 10_000 else bisect_left(SIZE_BOUNDS, size)] += 1
        if grpc is not None:
            row.request_messages += grpc.requests
            row.response_messages += grpc.responses

    def _usual_row(self, exchange: Any) -> Row:
        """Where nobody wants records, and so nothing is known of exchanges that are alike."""
        if exchange.error is not None or exchange.grpc is not None or exchange.flags:
            return self._row(exchange)
        tls = exchange.connection.tls
        upstream_tls = exchange.upstream_tls
        key = (
            exchange.route_name,
            exchange.cluster_name,
            exchange.status,
            exchange.request.version,
            None if tls is None else tls.peer_identity,
            None if upstream_tls is None else upstream_tls.peer_identity,
        )
        row = self._usual.get(key)
        if row is None:
            row = self._row(exchange)
            if row.key[0] != OTHER:
                self._usual[key] = row
        return row

    def _row(self, exchange: Any) -> Row:
        error = exchange.error
        tls = exchange.connection.tls
        upstream_tls = exchange.upstream_tls
        grpc = exchange.grpc
        key = (
            exchange.route_name,
            exchange.cluster_name,
            exchange.status,
            exchange.flags if error is None else f"{error.flag},{exchange.flags}" if error.flag and exchange.flags else error.flag or exchange.flags,
            "" if error is None else error.code,
            exchange.request.version,
            "" if tls is None else tls.peer_identity,
            tls is not None,
            "" if upstream_tls is None else upstream_tls.peer_identity,
            upstream_tls is not None,
            None if grpc is None else exchange.grpc_status,
        )
        return self.rows.get(key) or self._new_row(key)

    def _new_row(self, key: Key) -> Row:
        if len(self.rows) >= ROWS_LIMIT:
            self.overflowed += 1
            key = (OTHER, OTHER, key[2] // 100 * 100, "", OTHER, 11, OTHER, False, OTHER, False, key[10] and GRPC_UNKNOWN)
            known = self.rows.get(key)
            if known is not None:
                return known
        row = self.rows[key] = Row(key)
        return row

    # -- when somebody asks ----------------------------------------------------------------------------------------------------------------------

    def families(self) -> Iterable[Family]:
        """Everything as it is now."""
        rows = [(row, self._istio_labels(row.key), self._own_labels(row.key)) for row in list(self.rows.values())]
        yield Family("istio_requests_total", "counter", "Requests, by Istio's standard labels.", _summed((istio, row) for row, istio, _ in rows))
        yield _family("istio_request_duration_milliseconds", "Duration of requests.", rows, lambda row: (DURATION_BOUNDS, row.durations, row.milliseconds))
        yield _family("istio_request_bytes", "Size of request bodies.", rows, lambda row: (SIZE_BOUNDS, row.request_sizes, row.request_bytes))
        yield _family("istio_response_bytes", "Size of response bodies.", rows, lambda row: (SIZE_BOUNDS, row.response_sizes, row.response_bytes))
        calls = [(istio, row) for row, istio, _ in rows if row.key[10] is not None]
        yield Family("istio_request_messages_total", "counter", "Messages of gRPC that clients sent.", _messages(calls, "request_messages"))
        yield Family("istio_response_messages_total", "counter", "Messages of gRPC that servers sent.", _messages(calls, "response_messages"))
        requests = "Requests by route, cluster and status; error is the stable code of a failure."
        yield Family("sidecar_requests_total", "counter", requests, _summed((own, row) for row, _, own in rows))
        yield Family("sidecar_request_duration_seconds", "histogram", "Duration of requests.", self._by_cluster())
        yield Family(
            "sidecar_metrics_overflow_total", "counter", "Label values that were counted as other.",
            [Sample("", (("metric", f"istio_requests_total/{self.listener}"),), self.overflowed)],
        )  # fmt: skip

    def _own_labels(self, key: Key) -> Labels:
        return (("listener", self.listener), ("route", key[0]), ("cluster", key[1]), ("code", str(key[2])), ("error", key[4]))

    def _by_cluster(self) -> Iterator[Sample]:
        totals: dict[str, tuple[list[int], float]] = {}
        for row in list(self.rows.values()):
            counts, milliseconds = totals.get(row.key[1], ([0] * len(row.durations), 0.0))
            totals[row.key[1]] = [have + more for have, more in zip(counts, row.durations, strict=True)], milliseconds + row.milliseconds
        seconds = [bound / 1000 for bound in DURATION_BOUNDS]
        for cluster, (counts, milliseconds) in totals.items():
            yield from histogram_samples((("listener", self.listener), ("cluster", cluster)), seconds, counts, milliseconds / 1000)

    def _istio_labels(self, key: Key) -> Labels:
        _, cluster, status, flags, _, _, peer, peer_tls, upstream_peer, upstream_tls, grpc_status = key
        node = self.node
        inbound = self.direction == "inbound"
        own = f"spiffe://{node.trust_domain}/ns/{node.namespace}/sa/{node.service}"
        secured = peer_tls if inbound else upstream_tls
        other_namespace, other = workload_of(peer if inbound else upstream_peer)
        source = (node.service, node.namespace, own if secured else UNKNOWN)
        destination = (other, other_namespace, upstream_peer or UNKNOWN)
        service, service_namespace = cluster or UNKNOWN, other_namespace
        if inbound:
            source = (other, other_namespace, peer or UNKNOWN)
            destination = (node.service, node.namespace, own if secured else UNKNOWN)
            service, service_namespace = node.service, node.namespace
        return (
            ("reporter", "destination" if inbound else "source"),
            ("source_workload", source[0]),
            ("source_workload_namespace", source[1]),
            ("source_principal", source[2]),
            ("source_app", source[0]),
            ("source_version", UNKNOWN),
            ("source_canonical_service", source[0]),
            ("source_canonical_revision", "latest"),
            ("destination_workload", destination[0]),
            ("destination_workload_namespace", destination[1]),
            ("destination_principal", destination[2]),
            ("destination_app", destination[0]),
            ("destination_version", UNKNOWN),
            ("destination_service", service),
            ("destination_service_name", service),
            ("destination_service_namespace", service_namespace),
            ("destination_canonical_service", destination[0]),
            ("destination_canonical_revision", "latest"),
            ("request_protocol", "http" if grpc_status is None else "grpc"),
            ("response_code", str(status)),
            *(() if grpc_status is None else (("grpc_response_status", str(grpc_status)),)),
            ("response_flags", flags or "-"),
            ("connection_security_policy", _policy(secured, peer if inbound else upstream_peer)),
        )


Rows = list[tuple[Row, Labels, Labels]]


def _policy(secured: bool, peer: str) -> str:
    return "mutual_tls" if secured and peer else "none"


def workload_of(identity: str) -> tuple[str, str]:
    """(namespace, service) of a SPIFFE ID of the form spiffe://domain/ns/NAMESPACE/sa/SERVICE, "unknown" for what is not there."""
    parts = identity.split("/")
    if len(parts) == 7 and parts[3] == "ns" and parts[5] == "sa":
        return parts[4], parts[6]
    return (UNKNOWN, OTHER if identity == OTHER else UNKNOWN)


def _family(name: str, help: str, rows: Rows, of: Callable[[Row], tuple[list[float], list[int], float]]) -> Family:
    """A histogram under Istio's labels; rows that differ only in what Istio does not label are put together."""
    totals: dict[Labels, tuple[list[float], list[int], float]] = {}
    for row, istio, _ in rows:
        bounds, counts, total = of(row)
        known = totals.get(istio)
        if known is not None:
            counts, total = [have + more for have, more in zip(known[1], counts, strict=True)], total + known[2]
        totals[istio] = bounds, counts, total
    return Family(name, "histogram", help, [sample for labels, values in totals.items() for sample in histogram_samples(labels, *values)])


def _summed(rows: Iterable[tuple[Labels, Row]]) -> list[Sample]:
    totals: dict[Labels, int] = {}
    for labels, row in rows:
        totals[labels] = totals.get(labels, 0) + sum(row.durations)
    return [Sample("", labels, count) for labels, count in totals.items()]


def _messages(calls: list[tuple[Labels, Row]], which: str) -> list[Sample]:
    totals: dict[Labels, int] = {}
    for labels, row in calls:
        totals[labels] = totals.get(labels, 0) + getattr(row, which)
    return [Sample("", labels, count) for labels, count in totals.items()]
