"""Medians, ratios and the table."""

from __future__ import annotations

from typing import Any

import pytest

from bench import results


def sample(cpu_us: float = 100.0, rps: float = 10_000.0, p50: float | None = 200.0, p99: float | None = 900.0, rss: float = 50.0) -> results.Sample:
    """One round's numbers."""
    return results.Sample(cpu_us=cpu_us, requests_per_second=rps, p50_us=p50, p99_us=p99, rss_mib=rss)


def row(case: str = "plain", proxy: str = "sidecar", cpu_us: float = 100.0) -> dict[str, Any]:
    """One row of results."""
    return results.row(case, proxy, [sample(cpu_us)])


@pytest.mark.parametrize(
    ("ordered", "share", "value"),
    [([1], 0.5, 1), ([1, 2], 0.5, 1), ([1, 2, 3], 0.5, 2), (range(1, 101), 0.99, 99), (range(1, 1001), 0.99, 990), ([1, 2, 3], 1.0, 3), ([1, 2], 0.0, 1)],
)
def test_percentile(ordered: list[float], share: float, value: float) -> None:
    """The nearest rank: the smallest value not exceeded by that share."""
    assert results.percentile(ordered, share) == value


def test_row_holds_medians_and_the_last_memory() -> None:
    """One slow round does not move a row; memory is that of the end of the run, when it is largest."""
    samples = [sample(100, 10_000, 200, 900, 50), sample(900, 1_000, 2_000, 9_000, 51), sample(102, 9_900, 210, 950, 52.04)]
    assert results.row("plain", "sidecar", samples) == {
        "case": "plain",
        "proxy": "sidecar",
        "cpu_us_per_request": 102,
        "requests_per_second": 9_900,
        "p50_us": 210,
        "p99_us": 950,
        "rss_mib": 52.0,
    }


def test_latency_that_was_not_measured_is_none() -> None:
    """Without the generator of the fixed rate there is no latency, and no made-up one."""
    assert results.row("plain", "sidecar", [sample(p50=None, p99=None)])["p50_us"] is None


def test_ratios_are_to_envoy_in_the_same_case() -> None:
    """Envoy itself has 1; another case's Envoy does not count; without Envoy there is no ratio."""
    rows = [row("plain", "sidecar", 80), row("plain", "envoy", 160), row("tls", "envoy", 200), row("tls", "nginx", 50), row("other", "sidecar", 1)]
    assert [each["cpu_ratio_to_envoy"] for each in results.with_ratios(rows)] == [0.5, 1.0, 1.0, 0.25, None]


def test_rows_have_the_promised_keys() -> None:
    """The keys of results.json, which others read."""
    (only,) = results.with_ratios([row()])
    assert set(only) == {"case", "proxy", "cpu_us_per_request", "requests_per_second", "p50_us", "p99_us", "rss_mib", "cpu_ratio_to_envoy"}


def test_table() -> None:
    """Names to the left, numbers to the right, a gap between cases, a dash for what is not known."""
    rows = results.with_ratios([row("plain", "sidecar", 80), row("plain", "envoy", 160), row("tls", "sidecar", 100)])
    assert results.table(rows).splitlines() == [
        "case   proxy    CPU µs/request  to Envoy  requests/s  p50 µs  p99 µs  RSS MiB",
        "",
        "plain  sidecar            80.0      0.50      10,000     200     900     50.0",
        "plain  envoy             160.0      1.00      10,000     200     900     50.0",
        "",
        "tls    sidecar           100.0         -      10,000     200     900     50.0",
    ]
