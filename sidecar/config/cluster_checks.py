"""What must hold within a cluster of the model and what belongs to it; see `sidecar.config.checks`."""

from __future__ import annotations

import ipaddress
from collections import Counter

from sidecar.config.convert import Check, Record
from sidecar.config.problems import each, host_problem
from sidecar.config.suggest import listing
from sidecar.model import Cluster, Endpoint, HealthCheck, HTTP2Options, LocalityLB, OutlierDetection, SlowStart, SubsetLB, SubsetSelector

MIN_LIMIT_BYTES = 1024  # a head or window below 1 KiB refuses ordinary browsers' requests


def http_limits(record: Record) -> None:
    """Sizes and counts are always limited."""
    for key in ("head_bytes", "pipeline_bytes", "watermark_bytes"):
        size = record.get(key)
        if size is not None and size < MIN_LIMIT_BYTES:
            record.problem(f"expected at least {MIN_LIMIT_BYTES} octets, got {size}", key)
    if record.get("head_fields") == 0:
        record.problem("expected at least 1, got 0", "head_fields")


def endpoint(record: Record) -> None:
    """An address that can be connected to; its name is one."""
    each(record, "hostname", lambda text: host_problem(text) if text else "")
    address = record.get("address")
    if address is None or address.is_unix:
        return
    if address.port == 0:
        record.problem("nothing can be connected to at port 0", "address")
    if not address.is_ip and (sentence := host_problem(address.host)):
        record.problem(sentence, "address")


def cluster(record: Record) -> None:
    """Limits are limits; the local address is one; each endpoint is listed once; the type fits."""
    http_limits(record)
    if record.get("type") is not None and (record.get("type") == "discovery") != record.has("discovery"):
        record.problem(f"a cluster of the type {record.get('type')!r} {'needs a' if record.get('type') == 'discovery' else 'has no'} `discovery`", "type")
    for address, count in Counter(one.address for one in record.get("endpoints", ()) if isinstance(one, Endpoint)).items():
        if count > 1:
            record.problem(f"the endpoint {address} is listed more than once; write a `weight` instead", "endpoints")
    bind = record.get("bind_address")
    if bind is not None:
        try:
            ipaddress.ip_address(bind)
        except ValueError:
            record.problem(f"expected an IP address without port, got {bind!r}", "bind_address")
    speaks_h2 = record.get("protocol", "h1") == "h2" or (record.get("protocol") == "auto" and record.has("tls"))
    if not speaks_h2 and any(one.check.name == "grpc" for one in record.get("health_checks", ())):
        record.problem("the health check grpc needs HTTP/2; write `protocol: h2`", "health_checks")
    if not speaks_h2 and record.get("protocol", "h1") != "downstream" and _is_changed(record):
        why = "in cleartext `protocol: auto` is HTTP/1.1" if record.get("protocol") == "auto" else "this cluster is spoken to in HTTP/1.1 (`protocol: h1`)"
        record.problem(f"{why}, so these settings would not be looked at", "http2")


def _is_changed(record: Record) -> bool:
    """Does `http2` say anything? A file in which the defaults are written out is right."""
    return bool(record.get("http2", HTTP2Options()) != HTTP2Options())


def http2_codec(record: Record) -> None:
    """Settings of HTTP/2 have a codec that speaks it."""
    if record.get("codec") == "h1" and _is_changed(record):
        record.problem("this listener speaks HTTP/1.1 alone (`codec: h1`), so these settings would not be looked at", "http2")


# What outlier detection only looks at where it tells both kinds of failures apart.
LOCAL_ORIGIN_KEYS = (
    "consecutive_local_origin_failure", "enforcing_consecutive_local_origin_failure", "enforcing_local_origin_success_rate",
    "enforcing_failure_percentage_local_origin",
)  # fmt: skip


def outlier_detection(record: Record) -> None:
    """What is written about failures of our own side is looked at."""
    if not record.get("split_external_local_origin_errors"):
        usual = OutlierDetection()
        for key in LOCAL_ORIGIN_KEYS:
            if record.get(key, getattr(usual, key)) != getattr(usual, key):
                record.problem("says nothing without `split_external_local_origin_errors: true`", key)


# Those whose choice hangs on the request.
KEYED_BALANCERS = ("ring-hash", "maglev")
# Those of ours whose choice does not.
KEYLESS_BALANCERS = ("round-robin", "random", "least-request", "peak-ewma")


def slow_start(record: Record) -> None:
    """There is a share to give little by little: where keys decide, other weights would only move keys about."""
    owner = record.parent
    balancer = None if owner is None else owner.get("balancer")
    name = balancer if isinstance(balancer, str) else "" if balancer is None else balancer.name
    if name in KEYED_BALANCERS:
        record.problem(f"the balancer {name!r} goes by keys, which would move with every change of a weight")


def locality_lb(record: Record) -> None:
    """Weights are for the mode that has them, and name localities."""
    mode = record.get("mode")
    if record.get("weights") and mode in ("prefer", "zone_aware"):
        record.problem("`weights` belong to `mode: weighted`", "weights")
    usual = LocalityLB(mode="zone_aware")
    for key in ("routing_enabled", "min_cluster_size"):
        if mode in ("prefer", "weighted") and record.get(key, getattr(usual, key)) != getattr(usual, key):
            record.problem(f"`{key}` belongs to `mode: zone_aware`", key)
    for name, _, report in record.pairs("weights"):
        if not name or "" in name.split("/") or name.count("/") > 2:
            report(f"expected 'region', 'region/zone' or 'region/zone/sub_zone', got {name!r}")


def subset_lb(record: Record) -> None:
    """The default subset is there where it is asked for, and only there. For what is asked there is one selector."""
    selectors = [one for one in record.get("subset_selectors", ()) if isinstance(one, SubsetSelector)]
    policies = [record.get("fallback_policy"), *(one.fallback_policy for one in selectors)]
    if bool(record.get("default_subset")) != ("default_subset" in policies):
        record.problem("`default_subset` and `fallback_policy: default_subset` belong together")
    for keys, count in Counter(frozenset(one.keys) for one in selectors).items():
        if count > 1:
            record.problem(f"{count} selectors are for the keys {listing(keys)}", "subset_selectors")


def subset_selector(record: Record) -> None:
    """It is for some keys, and goes on with fewer."""
    keys, fewer = record.get("keys"), record.get("fallback_keys_subset", ())
    if keys is not None and (not keys or len(set(keys)) < len(keys)):
        record.problem("expected at least one key, and each once", "keys")
    if bool(fewer) != (record.get("fallback_policy") == "keys_subset"):
        record.problem("`fallback_keys_subset` and `fallback_policy: keys_subset` belong together")
    elif fewer and keys and not set(fewer) < set(keys):
        record.problem("expected some of `keys`, and not all of them", "fallback_keys_subset")


def health_check(record: Record) -> None:
    """What is to be logged has somewhere to go."""
    if record.get("always_log_health_check_failures") and not record.has("event_log_path"):
        record.problem("failures are logged in the file `event_log_path`, and none is written", "always_log_health_check_failures")


CLUSTER_CHECKS: dict[type, Check] = {
    Endpoint: endpoint,
    HealthCheck: health_check,
    LocalityLB: locality_lb,
    OutlierDetection: outlier_detection,
    SlowStart: slow_start,
    SubsetLB: subset_lb,
    SubsetSelector: subset_selector,
    Cluster: cluster,
}
