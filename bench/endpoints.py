"""How long the event loop stops when a cluster of ten thousand endpoints changes.

Usage: python -m bench.endpoints [COUNT]. For each balancer the set of endpoints is replaced in several ways while a task looks at the clock in each turn of the
reactor; printed are the longest turn and how long the change took until it was in use. Turns are measured in processor time of this process, so that others on
the machine do not count. Python's collector is tuned as in `twistd sidecar`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter, process_time
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import react

from sidecar.address import Address
from sidecar.collector import Collector
from sidecar.model import Cluster, Endpoint, Locality, LocalityLB, OutlierDetection, SlowStart
from sidecar.overload import resident_bytes
from sidecar.plugins import Finder
from sidecar.testing import FakeContext
from sidecar.transport.wheel import TimerWheel
from sidecar.upstream.pool import Connector

BALANCERS = ("round-robin", "random", "least-request", "peak-ewma", "ring-hash", "maglev")
LIMIT_SECONDS = 0.020  # what the event loop may stop for


def endpoints(numbers: range, weight: Callable[[int], int] = lambda number: 1, **more: Any) -> list[Endpoint]:
    """Endpoints with these numbers, in four zones."""
    zones = [Locality(region="eu", zone=zone) for zone in "abcd"]
    return [
        Endpoint(address=Address(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 8080), weight=weight(number), locality=zones[number % 4], **more)
        for number in numbers
    ]


class Watch:
    """Looks at the clock once for each turn of the reactor."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.longest = 0.0
        self._last = 0.0

    async def during(self, change: Callable[[], object], is_done: Callable[[], bool]) -> float:
        """Begin the change and wait until it is in use: seconds. The call itself counts as well."""
        self.longest = 0.0
        begun, self._last = perf_counter(), process_time()
        change()
        self._look()
        while not is_done():
            turn: Deferred[None] = Deferred()
            self._reactor.callLater(0, turn.callback, None)
            await turn
            self._look()
        return perf_counter() - begun

    def _look(self) -> None:
        now = process_time()
        self.longest = max(self.longest, now - self._last)
        self._last = now


async def measure(reactor: Any, count: int) -> None:
    """One line for each balancer and change."""
    watch = Watch(reactor)
    wheel = TimerWheel(reactor)
    before, shifted = endpoints(range(count)), endpoints(range(count // 100, count + count // 100))
    weighted = endpoints(range(count), lambda number: number % 7 + 1)
    changes: Sequence[tuple[str, list[Endpoint]]] = (
        ("from nothing", before),
        ("one percent leaves, one comes", shifted),
        ("all other weights", weighted),
        ("half are drained", [*before[: count // 2], *endpoints(range(count // 2, count), health="draining")]),
        ("all others", endpoints(range(2 * count, 3 * count))),
        ("none", []),
    )
    clusters = {
        "plain": Cluster(name="c"),
        "everything": Cluster(
            name="c", outlier_detection=OutlierDetection(), slow_start_config=SlowStart(slow_start_window=60.0), locality_lb=LocalityLB(mode="weighted")
        ),
    }
    worst = 0.0
    for name in BALANCERS:
        cls = Finder().load("balancer", name)
        for kind, cluster in clusters.items():
            if kind == "everything" and name in ("ring-hash", "maglev"):
                continue
            make = partial(cls, cls.Config(), FakeContext())  # type: ignore[attr-defined]
            later = partial(reactor.callLater, 0)
            connector = Connector(cluster, make(), lambda *args: None, reactor.seconds, wheel.timer, None, later, make, Locality(region="eu", zone="a"))
            collector = Collector(reactor, resident_bytes)
            collector.start()
            for what, wanted in changes:
                seconds = await watch.during(partial(connector.set_endpoints, wanted), lambda members=connector.members: not members.is_changing)
                worst = max(worst, watch.longest)
                print(f"{name:14} {kind:11} {what:30} longest stop {watch.longest * 1000:6.1f} ms   in use after {seconds * 1000:7.0f} ms", flush=True)
            connector.stop()
            collector.stop()
    wheel.stop()
    print(f"longest of all: {worst * 1000:.1f} ms, limit {LIMIT_SECONDS * 1000:.0f} ms")


def main() -> None:
    """See the module."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    react(lambda reactor: ensureDeferred(measure(reactor, count)), ())


if __name__ == "__main__":
    main()
