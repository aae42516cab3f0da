"""From samples to rows, the table and the JSON file. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import attrs

REFERENCE = "envoy"  # what the project measures itself against


@attrs.frozen
class Sample:
    """One proxy's numbers in one round. `cpu_us`: microseconds of CPU per request. Latencies are None when there was no load generator for them."""

    cpu_us: float
    requests_per_second: float
    p50_us: float | None
    p99_us: float | None
    rss_mib: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the sorted, non-empty `ordered` do not exceed."""
    rank = -(-len(ordered) * round(share * 1000) // 1000)
    return ordered[max(0, rank - 1)]


def row(case: str, proxy: str, samples: Sequence[Sample]) -> dict[str, Any]:
    """One object of results.json but its ratio: the median of each number over the rounds; of the memory the last."""
    return {
        "case": case,
        "proxy": proxy,
        "cpu_us_per_request": round(median(each.cpu_us for each in samples), 2),
        "requests_per_second": round(median(each.requests_per_second for each in samples)),
        "p50_us": _median_or_none([each.p50_us for each in samples]),
        "p99_us": _median_or_none([each.p99_us for each in samples]),
        "rss_mib": round(samples[-1].rss_mib, 1),
    }


def _median_or_none(values: Sequence[float | None]) -> int | None:
    known = [value for value in values if value is not None]
    return round(median(known)) if known else None


def with_ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with `cpu_ratio_to_envoy`: CPU per request over Envoy's in the same case; None where Envoy was not measured."""
    reference = {each["case"]: each["cpu_us_per_request"] for each in rows if each["proxy"] == REFERENCE}
    return [{**each, "cpu_ratio_to_envoy": _ratio(each["cpu_us_per_request"], reference.get(each["case"]))} for each in rows]


def _ratio(value: float, reference: float | None) -> float | None:
    return round(value / reference, 3) if reference else None


# key, heading, how a number is written
COLUMNS = (
    ("case", "case", "{}"),
    ("proxy", "proxy", "{}"),
    ("cpu_us_per_request", "CPU µs/request", "{:.1f}"),
    ("cpu_ratio_to_envoy", "to Envoy", "{:.2f}"),
    ("requests_per_second", "requests/s", "{:,.0f}"),
    ("p50_us", "p50 µs", "{:.0f}"),
    ("p99_us", "p99 µs", "{:.0f}"),
    ("rss_mib", "RSS MiB", "{:.1f}"),
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for people, columns aligned, "-" for what was not measured, an empty line between cases."""
    cells = [[heading for _, heading, _ in COLUMNS]]
    cells += [["-" if each[key] is None else form.format(each[key]) for key, _, form in COLUMNS] for each in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(COLUMNS))]
    lines: list[str] = []
    for index, line in enumerate(cells):
        if index and line[0] != cells[index - 1][0]:
            lines.append("")
        text = (cell.ljust(width) if position < 2 else cell.rjust(width) for position, (cell, width) in enumerate(zip(line, widths, strict=True)))
        lines.append("  ".join(text).rstrip())
    return "\n".join(lines)
