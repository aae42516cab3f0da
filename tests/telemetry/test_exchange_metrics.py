"""Finished exchanges as numbers, in Istio's terms and ours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.errors import RouteNotFound, SidecarError
from sidecar.facts import TLSFacts
from sidecar.model import Node
from sidecar.telemetry.exchange_metrics import ROWS_LIMIT, SIZE_BOUNDS, ExchangeStats, workload_of
from sidecar.telemetry.metrics import Registry, Sample
from sidecar.testing import FakeExchange, make_connection

NODE = Node(service="orders", namespace="shop", trust_domain="example.org")
PEER = "spiffe://example.org/ns/web/sa/frontend"
PAYMENTS = "spiffe://example.org/ns/bank/sa/payments"


def finished(
    *,
    identity: str = "",
    upstream: str = "",
    status: int = 200,
    error: SidecarError | None = None,
    cluster: str = "app",
    route: str = "r",
    sizes: tuple[int, int] = (0, 0),
) -> Any:
    exchange: Any = FakeExchange(connection=make_connection(identity=identity), route_name=route, cluster_name=cluster)
    exchange.status = status
    exchange.error = error
    exchange.upstream_tls = TLSFacts(peer_identity=upstream) if upstream else None
    exchange.request_bytes, exchange.response_bytes = sizes
    return exchange


def samples(registry: Registry, name: str) -> list[Sample]:
    return [sample for family in registry.families() if family.name == name for sample in family.samples]


def labels(sample: Sample) -> dict[str, str]:
    return dict(sample.labels)


def test_inbound_in_istios_terms() -> None:
    """The caller by its certificate is the source, we are the destination and the reporter."""
    registry = Registry()
    stats = ExchangeStats(registry, NODE, "inbound", "in")
    stats.observe(finished(identity=PEER), 0.002)
    stats.observe(finished(identity=PEER), 0.002)
    (sample,) = samples(registry, "istio_requests_total")
    assert sample.value == 2
    assert labels(sample) | {
        "reporter": "destination",
        "source_workload": "frontend",
        "source_workload_namespace": "web",
        "source_principal": PEER,
        "destination_workload": "orders",
        "destination_workload_namespace": "shop",
        "destination_principal": "spiffe://example.org/ns/shop/sa/orders",
        "destination_service": "orders",
        "request_protocol": "http",
        "response_code": "200",
        "response_flags": "-",
        "connection_security_policy": "mutual_tls",
    } == labels(sample)


def test_outbound_in_istios_terms() -> None:
    """We are the source and the reporter, the upstream by its certificate is the destination."""
    registry = Registry()
    ExchangeStats(registry, NODE, "outbound", "out").observe(finished(upstream=PAYMENTS, cluster="payments"), 0.002)
    (sample,) = samples(registry, "istio_requests_total")
    assert labels(sample) | {
        "reporter": "source",
        "source_workload": "orders",
        "source_principal": "spiffe://example.org/ns/shop/sa/orders",
        "destination_workload": "payments",
        "destination_principal": PAYMENTS,
        "destination_service": "payments",
        "connection_security_policy": "mutual_tls",
    } == labels(sample)


def test_a_failure_in_cleartext() -> None:
    """Flags and codes are told; nobody is claimed to be known."""
    registry = Registry()
    ExchangeStats(registry, NODE, "inbound", "in").observe(finished(status=404, error=RouteNotFound(), route="", cluster=""), 0.0)
    (sample,) = samples(registry, "istio_requests_total")
    assert labels(sample) | {
        "source_workload": "unknown",
        "source_principal": "unknown",
        "destination_principal": "unknown",
        "response_flags": "NR",
        "connection_security_policy": "none",
    } == labels(sample)
    (own,) = samples(registry, "sidecar_requests_total")
    assert labels(own) == {"listener": "in", "route": "", "cluster": "", "code": "404", "error": "no-route"}


def test_sizes_and_durations() -> None:
    """Histograms add up what was observed; ours has no label for the route."""
    registry = Registry()
    stats = ExchangeStats(registry, NODE, "inbound", "in")
    stats.observe(finished(route="a", sizes=(0, 1024)), 0.002)
    stats.observe(finished(route="b", sizes=(5, 1024)), 0.2)
    for name, total in (
        ("istio_request_duration_milliseconds", 202.0),
        ("istio_request_bytes", 5),
        ("istio_response_bytes", 2048),
        ("sidecar_request_duration_seconds", 0.202),
    ):
        family = samples(registry, name)
        assert [(sample.suffix, sample.value) for sample in family if sample.suffix in ("_sum", "_count")] == [("_sum", total), ("_count", 2)]
    buckets = {labels(sample)["le"]: sample.value for sample in samples(registry, "sidecar_request_duration_seconds") if sample.suffix == "_bucket"}
    assert (buckets["0.001"], buckets["0.0025"], buckets["0.1"], buckets["0.25"], buckets["+Inf"]) == (0, 1, 1, 2, 2)
    sizes = {labels(sample)["le"]: sample.value for sample in samples(registry, "istio_request_bytes") if sample.suffix == "_bucket"}
    assert (sizes["1"], sizes["10"]) == (1, 2)


def test_two_listeners_share_the_families() -> None:
    """One page with each family once."""
    registry = Registry()
    for direction in ("inbound", "outbound"):
        ExchangeStats(registry, NODE, direction, direction).observe(finished(), 0.001)
    assert len(samples(registry, "sidecar_requests_total")) == 2
    assert registry.text().count(b"# TYPE istio_requests_total counter\n") == 1
    assert b'metric="istio_requests_total/inbound"} 0' in registry.text()


def test_rows_are_bounded() -> None:
    """Beyond the limit, requests are counted by the class of their status; none is lost."""
    registry = Registry()
    stats = ExchangeStats(registry, NODE, "inbound", "in")
    for number in range(ROWS_LIMIT + 20):
        stats.observe(finished(route=str(number), status=404 if number % 2 else 200), 0.001)
    assert len(stats.rows) <= ROWS_LIMIT + 5
    assert stats.overflowed == 20
    assert sum(sample.value for sample in samples(registry, "istio_requests_total")) == ROWS_LIMIT + 20
    others = [labels(sample)["code"] for sample in samples(registry, "sidecar_requests_total") if labels(sample)["route"] == "other"]
    assert others == ["200", "400"]


def test_workloads() -> None:
    """Namespace and service come from a SPIFFE ID of our form, and from no other text."""
    assert workload_of(PEER) == ("web", "frontend")
    assert workload_of("spiffe://example.org/other/path") == ("unknown", "unknown")
    assert workload_of("") == ("unknown", "unknown")
    assert workload_of("other") == ("unknown", "other")


def test_grpc_in_istios_terms() -> None:
    """The call's status is a label of its own, and messages are counted; other requests have neither."""
    registry = Registry()
    stats = ExchangeStats(registry, NODE, "inbound", "in")
    call = finished()
    call.grpc_status = 14
    call.grpc = SimpleNamespace(requests=2, responses=3)
    for exchange in (call, call, finished()):
        stats.observe(exchange, 0.002)
    found = {labels(each).get("grpc_response_status"): (each.value, labels(each)["request_protocol"]) for each in samples(registry, "istio_requests_total")}
    assert found == {"14": (2, "grpc"), None: (1, "http")}
    assert [each.value for each in samples(registry, "istio_request_messages_total")] == [4]
    assert [each.value for each in samples(registry, "istio_response_messages_total")] == [6]


@pytest.mark.parametrize("size", [0, 1, 2, 10, 11, 1029, 9_999, 10_000, 10_001, 100_000, 10**12])
def test_sizes_are_counted_under_their_bound(size: int) -> None:
    """The smallest that is no less."""
    stats = ExchangeStats(Registry(), NODE, "inbound", "in")
    stats.observe(finished(sizes=(size, size)), 0.002)
    (row,) = stats.rows.values()
    place = sum(bound < size for bound in SIZE_BOUNDS)
    assert row.request_sizes[place] == row.response_sizes[place] == 1 and (row.request_bytes, row.response_bytes) == (size, size)


def test_exchanges_that_are_alike_are_counted_in_one_row() -> None:
    """Found by their likeness, whatever else is true of them; one that stands for many others is looked for each time."""
    stats = ExchangeStats(Registry(), NODE, "inbound", "in")
    likeness: Any = SimpleNamespace(row=None)
    for cluster in ("app", "ignored"):
        exchange = finished(cluster=cluster)
        exchange.likeness = likeness
        stats.observe(exchange, 0.002)
    (row,) = stats.rows.values()
    assert likeness.row is row and row.key[1] == "app" and sum(row.durations) == 2
    for number in range(ROWS_LIMIT):
        stats.observe(finished(route=f"r{number}"), 0.002)
    exchange = finished(route="one more")
    exchange.likeness = likeness = SimpleNamespace(row=None)
    stats.observe(exchange, 0.002)
    assert likeness.row is None and stats.overflowed
