"""Metrics of the process beside those of exchanges: connections, clusters, plugins, certificates. Read from the running objects when scraped."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Mapping
from typing import Any

from sidecar.admin.cluster_metrics import register_cluster_metrics
from sidecar.admin.retry_metrics import register_retry_metrics

Numbers = Mapping[tuple[str, ...], float]


def register_runtime_metrics(sidecar: Any) -> None:
    """Add the sources to `sidecar.registry` (`assembly.Sidecar`)."""
    add = sidecar.registry.gauge_function
    by_listener = ("listener",)
    add("sidecar_downstream_connections", "Connections open now.", lambda: {(each.name,): each.active for each in sidecar.listeners}, by_listener)
    for name, help in (
        ("accepted", "Connections accepted."),
        ("over_limit", "Connections closed because of max_connections."),
        ("refused", "Connections refused by connection filters."),
        ("no_chain", "Connections that no filter chain takes."),
        ("handshakes", "TLS handshakes finished."),
        ("handshake_failures", "TLS handshakes that failed."),
        ("sniff_timeouts", "Connections that sent nothing and were taken for raw."),
    ):
        add(f"sidecar_downstream_connections_{name}_total", help, _listener_counter(sidecar, name), by_listener, type="counter")
    add("sidecar_requests_active", "Exchanges running now.", lambda: _by_name(sidecar, "active"), ("chain",))
    add("sidecar_bad_requests_total", "Bytes that were no request.", lambda: _by_name(sidecar, "bad_requests"), ("chain",), type="counter")
    add(
        "sidecar_stale_retries_total",
        "Requests sent again because a pooled connection was stale.",
        lambda: _by_name(sidecar, "stale_retries"),
        ("chain",),
        type="counter",
    )
    _register_tunnels(sidecar, add)
    register_cluster_metrics(sidecar, add)
    register_retry_metrics(add, lambda: sidecar.connectors)
    _register_mirrors(sidecar, add)
    _register_plugins(sidecar, add)
    add(
        "sidecar_certificate_expiry_seconds",
        "Seconds until the certificate in use expires.",
        lambda: _certificates(sidecar, "expires_in_seconds"),
        ("certificate",),
    )
    add("sidecar_certificate_rotations_total", "Replacements taken into use.", lambda: _certificates(sidecar, "rotations"), ("certificate",), type="counter")
    add(
        "sidecar_certificate_refusals_total",
        "Replacements refused because they are broken.",
        lambda: _certificates(sidecar, "refusals"),
        ("certificate",),
        type="counter",
    )
    add("process_resident_memory_bytes", "Resident memory.", _resident_bytes)
    add("process_cpu_seconds_total", "User and system CPU time.", _cpu_seconds, type="counter")


def _listener_counter(sidecar: Any, name: str) -> Callable[[], Numbers]:
    return lambda: {(each.name,): each.counters[name] for each in sidecar.listeners}


def _by_name(sidecar: Any, attribute: str) -> Numbers:
    return {(http.name,): getattr(http, attribute) for http in sidecar.https}


def _register_tunnels(sidecar: Any, add: Callable[..., None]) -> None:
    labels = ("chain",)
    add("sidecar_upgrades_active", "Tunnels open now.", lambda: {(http.name,): len(http.tunnels) for http in sidecar.https}, labels)
    add(
        "sidecar_upgrades_total",
        "Upgrades and CONNECTs that became tunnels.",
        lambda: {(http.name, protocol): count for http in sidecar.https for protocol, count in http.tunnels_opened.items()},
        ("chain", "protocol"),
        type="counter",
    )
    add("sidecar_upgrade_received_bytes_total", "Octets from clients through tunnels.", _tunnel_octets(sidecar, 0), labels, type="counter")
    add("sidecar_upgrade_sent_bytes_total", "Octets to clients through tunnels.", _tunnel_octets(sidecar, 1), labels, type="counter")


def _tunnel_octets(sidecar: Any, place: int) -> Callable[[], Numbers]:
    return lambda: {(http.name,): http.octets_of_tunnels()[place] for http in sidecar.https}


def _register_mirrors(sidecar: Any, add: Callable[..., None]) -> None:
    labels = ("cluster",)
    add("sidecar_mirror_active", "Copies of requests that run now.", lambda: {(name,): each.active for name, each in sidecar.mirrors.items()}, labels)
    for counter, help in (
        ("requests", "Copies of requests begun."),
        ("responses", "Copies that were answered."),
        ("error_responses", "Of these with 500 or above."),
        ("failures", "Copies that got no connection or no whole answer."),
        ("cut", "Copies given up because the mirror was too slow."),
        ("incomplete", "Copies given up because the original ended before its body did."),
        ("skipped", "Copies not made because of max_active or the cluster's circuit."),
    ):
        add(f"sidecar_mirror_{counter}_total", help, _mirror_counter(sidecar, counter), labels, type="counter")


def _mirror_counter(sidecar: Any, counter: str) -> Callable[[], Numbers]:
    return lambda: {(name,): each.counters[counter] for name, each in sidecar.mirrors.items()}


def _register_plugins(sidecar: Any, add: Callable[..., None]) -> None:
    labels = ("kind", "plugin")
    for attribute, name, help in (
        ("seconds", "sidecar_plugin_seconds_total", "Wall seconds in the plugin's hooks."),
        ("calls", "sidecar_plugin_calls_total", "Calls of the plugin's hooks."),
        ("failures", "sidecar_plugin_failures_total", "Hooks that raised, or answered nonsense."),
        ("verdicts", "sidecar_plugin_verdicts_total", "Exchanges and connections that the plugin ended."),
        ("shadowed", "sidecar_plugin_shadowed_total", "Denials that were only tried out."),
    ):
        add(name, help, _plugin_sum(sidecar, attribute), labels, type="counter")


def _plugin_sum(sidecar: Any, attribute: str) -> Callable[[], Numbers]:
    def read() -> Numbers:
        sums: dict[tuple[str, ...], float] = {}
        for account in sidecar.accounts:
            key = (account.kind, account.name)
            sums[key] = sums.get(key, 0) + getattr(account, attribute)
        return sums

    return read


def _certificates(sidecar: Any, key: str) -> Numbers:
    return {(each["name"],): each[key] for each in sidecar.keyring.snapshot() if key in each}


def _resident_bytes() -> float:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
