"""Active health checks: how often an endpoint is asked whether it is well, and how many answers decide. See `sidecar.model`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from sidecar.model.scalars import Duration, Percent, PluginRef

HEALTH_CHECK_TIMEOUT_SECONDS = 1.0  # Envoy has no default; its documentation's examples say one to five seconds
HEALTH_CHECK_INTERVAL_SECONDS = 5.0  # Envoy has no default; two failures of three are then seen before a person looks
HEALTH_CHECK_NO_TRAFFIC_SECONDS = 60.0  # Envoy: no_traffic_interval
HEALTH_CHECK_CONCURRENCY = 50  # probes of one check that run at a time: a batch of them costs the event loop a few milliseconds
WARMING_SECONDS = 5.0  # for the first checks before listeners open; an endpoint that hangs must not keep the sidecar from starting

Positive = Annotated[float, Meta(ge=0.01, extra={"syntax": "duration"})]
AtLeastOne = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=1, le=65535)]


class HealthCheck(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question asked again and again of each endpoint of a cluster (Envoy: HealthCheck). `check`: the plugin that asks it.

    `timeout`: for one probe, connecting included. After a probe the next one comes after `interval`; after one that failed at an endpoint that is out,
    `unhealthy_interval`
    (unset: `interval`); while thresholds are being counted, `unhealthy_edge_interval` (unset: `unhealthy_interval`) and `healthy_edge_interval` (unset:
    `interval`); and as long as the
    cluster has had no traffic at all, `no_traffic_interval`, or `no_traffic_healthy_interval` after a success (unset: `no_traffic_interval`). To each a
    random time up to
    `interval_jitter` and up to `interval_jitter_percent` of it is added. The first probe waits a random time up to `initial_jitter`. `unhealthy_threshold`
    failures in a row take an endpoint out, `healthy_threshold` successes bring it back;
    the first probe decides alone. `reuse_connection`: keep a connection for the next probe. `port`: ask at another port of the endpoint's host.
    `max_concurrent`: probes at a time.
    `event_log_path`: a file ("-": standard output) for a JSON line at each change; `always_log_health_check_failures`: and at each failure.
    """

    check: PluginRef
    timeout: Positive = HEALTH_CHECK_TIMEOUT_SECONDS
    interval: Positive = HEALTH_CHECK_INTERVAL_SECONDS
    initial_jitter: Duration = 0.0
    interval_jitter: Duration = 0.0
    interval_jitter_percent: Percent = 10
    unhealthy_threshold: AtLeastOne = 3
    healthy_threshold: AtLeastOne = 2
    unhealthy_interval: Positive | None = None
    unhealthy_edge_interval: Positive | None = None
    healthy_edge_interval: Positive | None = None
    no_traffic_interval: Positive = HEALTH_CHECK_NO_TRAFFIC_SECONDS
    no_traffic_healthy_interval: Positive | None = None
    reuse_connection: bool = True
    port: Port | None = None
    max_concurrent: AtLeastOne = HEALTH_CHECK_CONCURRENCY
    event_log_path: Path | None = None
    always_log_health_check_failures: bool = False
