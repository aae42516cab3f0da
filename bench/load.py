"""The two load generators: wrk asks as fast as it is answered, h2load asks at a fixed rate.

Two, because the numbers exclude each other. At full load every answer waits in a queue of 32, so its latency is only the inverse of the throughput;
at a fixed rate the proxy is mostly idle, so its CPU per request holds the price of waking up.
Here are their command lines and what their output means; nothing is started.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import attrs

CONNECTIONS = 32  # as in the project's budgets: enough to keep one core busy, few enough for the caches
STREAMS = 8  # at a time on an HTTP/2 connection: sidecars share a few connections
RATE = 1000  # requests a second, over all connections
SETTLE_SECONDS = 0.3  # at the start of a fixed-rate run connections and handshakes are made; not counted
RATE_SHARE = 0.95  # of RATE must be reached, or the answer is that the rate cannot be served


class InvalidRun(Exception):
    """The load met errors, so its numbers mean nothing."""


@attrs.frozen
class Saturation:
    """A run at full load: answers, and the seconds they took."""

    requests: int
    seconds: float


def saturating(wrk: str, url: str, seconds: float) -> list[str]:
    """The command that asks `url` as fast as it can for `seconds` (whole ones, at least 1: wrk knows no others)."""
    script = Path(__file__).with_name("wrk.lua")
    return [wrk, "--threads=1", f"--connections={CONNECTIONS}", f"--duration={max(1, round(seconds))}s", "--timeout=5s", f"--script={script}", url]


def parse_saturation(output: str) -> Saturation:
    """What wrk counted. Raises `InvalidRun` when any answer was missing, late or not a success, or when there were none."""
    line = re.search(r"^BENCH (.*)$", output, re.MULTILINE)
    if line is None:
        raise InvalidRun(f"wrk did not finish: {output.strip()[-500:]}")
    numbers = {key: int(value) for key, value in (pair.split("=") for pair in line[1].split())}
    failed = {key: numbers[key] for key in ("connect", "read", "write", "status", "timeout") if numbers[key]}
    if failed:
        raise InvalidRun(f"of {numbers['requests']} requests some failed: {failed}")
    if not numbers["requests"]:
        raise InvalidRun("not one request was answered")
    return Saturation(numbers["requests"], numbers["duration_us"] / 1e6)


def saturating_h2(h2load: str, url: str, seconds: float, posted: Path | None = None) -> list[str]:
    """As `saturating`, over HTTP/2: as many requests at a time, on fewer connections. `posted`: the gRPC message that each of them sends."""
    clients = CONNECTIONS // STREAMS
    return [
        *(h2load, "--threads=1", f"--clients={clients}", f"--max-concurrent-streams={STREAMS}", f"--duration={max(1, round(seconds))}"),
        *(*_posting(posted), url),
    ]


def counted(h2load: str, url: str, requests: int, is_h2: bool, posted: Path | None = None) -> list[str]:
    """So many requests and no more, over as many connections and streams as at full load."""
    kind = (f"--clients={CONNECTIONS // STREAMS}", f"--max-concurrent-streams={STREAMS}") if is_h2 else ("--h1", f"--clients={CONNECTIONS}")
    return [h2load, "--threads=1", *kind, f"--requests={requests}", *_posting(posted), url]


def _posting(message: Path | None) -> list[str]:
    return [] if message is None else [f"--data={message}", "--header=content-type: application/grpc", "--header=te: trailers"]


def parse_saturation_h2(output: str, seconds: float) -> Saturation:
    """What h2load counted in `seconds`. Raises `InvalidRun` as `parse_saturation` does."""
    line = re.search(r"^requests: .*? (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout$", output, re.MULTILINE)
    if line is None:
        raise InvalidRun(f"h2load did not finish: {output.strip()[-500:]}")
    done, succeeded, failed, errored, late = map(int, line.groups())
    if failed or errored or late:
        raise InvalidRun(f"of {done} requests some failed: {failed} failed, {errored} errored, {late} late")
    if not succeeded:
        raise InvalidRun("not one request was answered")
    return Saturation(succeeded, seconds)


def paced(h2load: str, url: str, seconds: float, log: Path, is_h2: bool = False, posted: Path | None = None) -> list[str]:
    """The command that asks `url` `RATE` times a second and writes a line for each answer to `log`, which must not exist yet.

    One connection is opened each millisecond: opened at once they would tick together, and every 32nd millisecond 32 requests would arrive as one.
    """
    count = round(RATE * (seconds + SETTLE_SECONDS))
    return [
        *(h2load, *(() if is_h2 else ("--h1",)), "--threads=1", f"--clients={CONNECTIONS}", "--rate=1", "--rate-period=1ms"),
        *(f"--rps={RATE / CONNECTIONS}", f"--requests={count}", f"--log-file={log}", *_posting(posted), url),
    ]


def parse_paced(lines: Iterable[str]) -> list[int]:
    """The latencies in microseconds, sorted, of h2load's log: start in microseconds, status, microseconds, tab-separated.

    Raises `InvalidRun` when an answer was missing or not a success, when there are none, or when the rate was not reached.
    """
    rows = [tuple(int(column) for column in line.split("\t")[:3]) for line in lines if line.strip()]
    refused = sorted({status for _, status, _ in rows if status != 200})
    if refused:
        raise InvalidRun(f"answers other than 200 (-1: none): {refused}")
    first = min((start for start, _, _ in rows), default=0) + SETTLE_SECONDS * 1e6
    kept = [(start, latency) for start, _, latency in rows if start >= first]
    if len(kept) < 2:
        raise InvalidRun("too few answers for a latency")
    starts = [start for start, _ in kept]
    rate = (len(kept) - 1) / ((max(starts) - min(starts)) / 1e6)
    if rate < RATE * RATE_SHARE:
        raise InvalidRun(f"only {rate:.0f} of {RATE} requests a second were served")
    return sorted(latency for _, latency in kept)
