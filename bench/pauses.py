"""How long the event loop of a sidecar stops while a cluster of ten thousand endpoints changes, and how much of that is Python's collector.

Usage: `python -m bench.pauses [--count 10000] [--balancers round-robin,maglev] [--checks none,http] [--static]`. For each balancer, without and with health
checks, a sidecar runs in a process of its own: the endpoints come out of a file, an application answers at each of their addresses, and the file is replaced in
several ways. Each turn of the reactor is measured in processor time of its thread, so that others on the machine hardly count; the worst lateness of a timer
of a millisecond, in which they do, stands beside it. `--static` measures the admin pages of a sidecar whose endpoints are written in the configuration.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any
from urllib.request import urlopen

from bench.many import address_of
from bench.processes import Child, free_ports, two_cores
from sidecar.transport.reactor import SidecarReactor

BALANCERS = ("round-robin", "random", "least-request", "peak-ewma", "ring-hash", "maglev")
CHECKS = ("none", "http")
CHANGES = ("first fill", "a tenth is replaced", "all are replaced", "half are removed", "half come back", "half are told ill", "half are told well")
LIMIT_SECONDS = 0.020  # what the event loop may stop for
QUIET_TURNS = 100  # so many turns in a row in which nothing is to be done end a measurement: what follows a change belongs to it
CHECK_INTERVAL = 10.0  # seconds; ten thousand endpoints keep the sidecar half busy
LONGEST_SECONDS = 120.0  # a change that is not in use by then never will be
EJECTIONS_IN_TURN = 5  # endpoints that give their fifth 503 in one turn of the reactor
TIMER_SECONDS = 0.001
_ROOT = Path(__file__).resolve().parent.parent


class Pauses:
    """The longest turn since `begin`, the collector's part of it, and the longest collection of each generation. Seconds of processor time."""

    def __init__(self) -> None:
        self.is_on = False
        self.begin()
        gc.callbacks.append(self._collected)

    def begin(self) -> None:
        """Forget what was."""
        self.longest = self.longest_collecting = self.late = 0.0
        self.dearest = ""
        self.is_partial = True  # the turn that is running began before
        self.collecting = self.own = 0.0  # in this turn; `own`: the measurement itself
        self.calls: tuple[float, str] = (0.0, "")
        self.collections: dict[int, tuple[int, float]] = {}

    def turn(self, seconds: float) -> None:
        """A turn of the reactor is over."""
        seconds -= self.own
        if self.is_on and not self.is_partial and seconds > self.longest:
            self.longest, self.longest_collecting = seconds, self.collecting
            self.dearest = self.calls[1] if self.calls[0] > seconds / 2 else "many"
        self.is_partial = False
        self.collecting = self.own = 0.0
        self.calls = (0.0, "")

    def call(self, seconds: float, what: Callable[..., object]) -> None:
        """A timed call is over."""
        if seconds > self.calls[0]:
            self.calls = (seconds, getattr(getattr(what, "func", what), "__qualname__", repr(what)))

    def _collected(self, phase: str, details: dict[str, int]) -> None:
        if phase == "start":
            self._began = thread_time()
            return
        seconds = thread_time() - self._began
        self.collecting += seconds
        if self.is_on:
            count, longest = self.collections.get(details["generation"], (0, 0.0))
            self.collections[details["generation"]] = (count + 1, max(longest, seconds))


class WatchedReactor(SidecarReactor):
    """Tells `pauses` of each turn."""

    pauses: Pauses

    def _turn(self) -> None:
        began = thread_time()
        super()._turn()
        self.pauses.turn(thread_time() - began)

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> Any:
        """As Twisted's, with a look at the clock around the call."""
        return super().callLater(delay, self._timed, callable, *args, **kw)

    def _timed(self, callable: Callable[..., object], *args: object, **kw: object) -> None:
        began = thread_time()
        try:
            callable(*args, **kw)
        finally:
            self.pauses.call(thread_time() - began, callable)


class Run:
    """One sidecar in this process."""

    def __init__(self, count: int, name: str, checks: str, directory: Path, port: int) -> None:
        self.count = count
        self.name = name
        self.checks = checks
        self.directory = directory
        self.file = directory / "endpoints.json"
        self.port = port
        self.admin_port, self.listen_port = free_ports(2)
        self.worst = 0.0

    def configuration(self, endpoints: Sequence[dict[str, Any]] | None) -> str:
        """JSON, which is YAML."""
        cluster: dict[str, Any] = {
            "name": "many",
            "balancer": {"kind": "balancer", "name": self.name},
            "outlier_detection": {"interval": "2s", "base_ejection_time": "2s", "max_ejection_percent": 60},
        }
        if endpoints is None:
            cluster["discovery"] = {"kind": "discovery", "name": "file", "config": {"path": str(self.file)}}
        else:
            cluster["endpoints"] = endpoints
        if self.checks != "none":
            seconds = f"{CHECK_INTERVAL:g}s"
            cluster["health_checks"] = [
                {"check": {"kind": "health-check", "name": self.checks}, "interval": seconds, "no_traffic_interval": seconds, "timeout": "5s"}
            ]
        routes = {"name": "all", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"cluster": "many"}]}]}
        listener = {"name": "in", "address": f"127.0.0.1:{self.listen_port}", "direction": "outbound", "filter_chains": [{"http": {"routes": routes}}]}
        return json.dumps({"admin": f"127.0.0.1:{self.admin_port}", "listeners": [listener], "clusters": [cluster]})

    def start(self, reactor: Any, endpoints: Sequence[dict[str, Any]] | None) -> None:
        """As twistd would; `steps` follow when it is ready."""
        from sidecar.config.load import load
        from sidecar.plugins import Finder
        from sidecar.service import SidecarService

        path = self.directory / "sidecar.yaml"
        path.write_text(self.configuration(endpoints))
        self.use("nothing")
        finder = Finder()
        self.service = SidecarService(reactor, load(str(path), finder), finder, "error")
        self.service.startService()

    def prepare(self) -> None:
        """Write the sets of endpoints. In a process of its own, because what it leaves in memory would be counted."""
        child = os.fork()
        if not child:
            for what, entries in self.sets():
                (self.directory / what).write_text(json.dumps(entries))
            os._exit(0)
        os.waitpid(child, 0)

    def use(self, what: str) -> None:
        """This is in the file from now on, whole."""
        (self.directory / what).replace(self.file)

    def sets(self) -> Iterable[tuple[str, list[dict[str, Any]]]]:
        """(what it changes, the endpoints then), one after the other."""
        count = self.count
        first, second = range(2 * count, 2 * count + count // 2), range(2 * count + count // 2, 3 * count)
        yield "nothing", []
        yield "first fill", self.entries(range(count))
        yield "a tenth is replaced", self.entries(range(count // 10, count + count // 10))
        yield "all are replaced", self.entries([*first, *second])
        yield "half are removed", self.entries(first)
        yield "half come back", self.entries([*first, *second])
        yield "half are told ill", [*self.entries(first), *self.entries(second, health="unhealthy")]
        yield "half are told well", self.entries([*first, *second])

    def entries(self, numbers: Iterable[int], **more: Any) -> list[dict[str, Any]]:
        """With all that Kubernetes tells of an endpoint."""
        return [
            {
                "address": str(address_of(number, self.port)),
                "weight": 1,
                "locality": {"region": "eu", "zone": f"eu-{number % 3}"},
                "metadata": {"version": f"v{number % 2}"},
                **more,
            }
            for number in numbers
        ]


class Measurement:
    """The changes of one run, one after the other, and what they did."""

    def __init__(self, run: Run, reactor: Any, pauses: Pauses) -> None:
        self.run = run
        self.reactor = reactor
        self.pauses = pauses

    async def pause(self, seconds: float) -> None:
        from twisted.internet.task import deferLater

        await deferLater(self.reactor, seconds, lambda: None)

    async def during(self, what: str, change: Callable[[], object], is_done: Callable[[], bool]) -> None:
        """Change something, wait until nothing more follows of it, print a line."""
        pauses = self.pauses
        pauses.begin()
        pauses.is_on = True
        began = last = perf_counter()
        await self.pause(TIMER_SECONDS)
        change()
        quiet = 0
        done_at = look_at = began
        while quiet < QUIET_TURNS:
            await self.pause(TIMER_SECONDS)
            now = perf_counter()
            pauses.late = max(pauses.late, now - last - TIMER_SECONDS)
            last = now
            if now < look_at:
                continue
            looked = thread_time()
            if is_done():
                quiet += 1
            else:
                quiet, done_at = 0, now
            spent = thread_time() - looked
            pauses.own += spent
            # The measurement must not be what answers wait for.
            look_at = now + 50.0 * spent
            if now - began > LONGEST_SECONDS:
                what += " (never done)"
                break
        pauses.is_on = False
        self.run.worst = max(self.run.worst, pauses.longest)
        collections = " ".join(f"gen{number}: {count} x <= {longest * 1000:.1f}" for number, (count, longest) in sorted(pauses.collections.items()))
        longest = f"{pauses.longest * 1000:6.1f} ms (collector {pauses.longest_collecting * 1000:5.1f}; {pauses.dearest})"
        print(
            f"{self.run.name:14} {self.run.checks:5} {what:24} longest turn {longest:60}"
            f"  timer late {pauses.late * 1000:6.1f}  in use after {(done_at - began) * 1000:7.0f}  [{collections}]",
            flush=True,
        )

    async def pages(self) -> None:
        """Each is asked for from a thread, whose processor time does not count."""
        from twisted.internet.threads import deferToThread

        for path in ("clusters", "config_dump", "stats/prometheus", "listeners"):
            answers: list[int] = []

            def fetch(path: str = path) -> int:
                with urlopen(f"http://127.0.0.1:{self.run.admin_port}/{path}") as answer:
                    return len(answer.read())

            ask = partial(deferToThread, fetch)
            await self.during(f"/{path}", lambda ask=ask, answers=answers: ask().addCallback(answers.append), lambda answers=answers: bool(answers))
            print(f"{'':21}{answers[0] / 1024:.0f} KiB" if answers else "no answer")


async def measure(run: Run, reactor: Any, pauses: Pauses, application: Child, is_static: bool) -> None:
    """All changes of one run."""
    measurement = Measurement(run, reactor, pauses)
    while run.service.sidecar is None or run.service.sidecar.state != "ready":
        await measurement.pause(0.01)
    sidecar = run.service.sidecar
    if is_static:
        await measurement.pages()
        return
    connector = sidecar.connectors["many"]
    found = sidecar.discoveries.by_cluster["many"]
    count = run.count
    before = resident_kib()
    for what in CHANGES:
        updates = found.updates
        await measurement.during(what, partial(run.use, what), lambda updates=updates: found.updates > updates and _is_quiet(connector))
        if what == CHANGES[0]:
            print(f"{'':21}resident memory {before / 1024:.1f} MiB without endpoints, {resident_kib() / 1024:.1f} MiB with {count}", flush=True)
    await _ejections(measurement, connector)
    if connector.checks is not None:
        for what, number, ill in (("half fail their checks", signal.SIGUSR1, count // 2), ("half pass them again", signal.SIGUSR2, 0)):
            await measurement.during(what, partial(os.kill, application.pid, number), partial(_are_ill, connector, ill))
    await measurement.pages()


def _is_quiet(connector: Any) -> bool:
    return not connector.members.is_changing and (connector.checks is None or not connector.checks._unchecked)


def _are_ill(connector: Any, count: int) -> bool:
    return connector.checks.counts()["unhealthy"] == count and not connector.members.is_changing


async def _ejections(measurement: Measurement, connector: Any) -> None:
    """Half of the endpoints answer five times with 503, a few in each turn, until they are ejected; then their time passes."""
    left = [pool for number, pool in enumerate(connector.pools) if number % 2]
    wanted = connector.watch.ejections + len(left)

    def fail() -> None:
        for _ in range(min(EJECTIONS_IN_TURN, len(left))):
            pool = left.pop()
            for _ in range(5):
                connector.watch.observe(pool, 503, 0.0)
        if left:
            measurement.reactor.callLater(0, fail)

    await measurement.during("half are ejected", fail, lambda: connector.watch.ejections >= wanted or not left)

    def all_back() -> bool:
        return not connector.members.is_changing and not any(pool.health.is_ejected for pool in connector.pools[1::2])

    await measurement.during("their time is over", lambda: None, all_back)


def resident_kib() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def _one(options: argparse.Namespace) -> int:
    """The process that measures."""
    from twisted.internet.defer import ensureDeferred
    from twisted.internet.main import installReactor
    from twisted.logger import FilteringLogObserver, LogLevel, LogLevelFilterPredicate, globalLogBeginner, textFileLogObserver

    reactor: Any = WatchedReactor()
    reactor.pauses = Pauses()
    installReactor(reactor)
    (port,) = free_ports(1)
    cores = two_cores()
    with tempfile.TemporaryDirectory(prefix="sidecar-pauses-") as directory, contextlib.ExitStack() as running:
        # As costly as the log of `twistd sidecar`.
        log = running.enter_context((Path(directory) / "log").open("w"))
        observer = FilteringLogObserver(textFileLogObserver(log), [LogLevelFilterPredicate(LogLevel.info)])
        globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
        command = [sys.executable, "-m", "bench.many", str(port)]
        application = running.enter_context(Child("application", command, cores[1], Path(directory), {"PYTHONPATH": str(_ROOT)}))
        application.wait_until_it_listens(port)
        run = Run(options.count, options.balancers, options.checks, Path(directory), port)
        run.prepare()
        run.start(reactor, run.entries(range(options.count)) if options.static else None)
        measuring = ensureDeferred(measure(run, reactor, reactor.pauses, application, options.static))
        failures: list[Any] = []
        measuring.addErrback(failures.append)
        measuring.addBoth(lambda _: reactor.stop())
        reactor.run()
    for failure in failures:
        failure.printTraceback()
    print(f"{run.name:14} {run.checks:5} longest of all {run.worst * 1000:.1f} ms, limit {LIMIT_SECONDS * 1000:.0f} ms", flush=True)
    return 1 if failures or run.worst > LIMIT_SECONDS else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every turn was short enough."""
    parser = argparse.ArgumentParser(prog="python -m bench.pauses", description="Measure how long changes of many endpoints stop the event loop.")
    parser.add_argument("--count", type=int, default=10_000, help="endpoints (default: %(default)s)")
    parser.add_argument("--balancers", default=",".join(BALANCERS), help="separated by commas (default: %(default)s)")
    parser.add_argument("--checks", default=",".join(CHECKS), help="without and with active health checks (default: %(default)s)")
    parser.add_argument("--static", action="store_true", help="endpoints in the configuration: the admin pages alone")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        return _one(options)
    worst = 0
    for checks in options.checks.split(","):
        for name in options.balancers.split(","):
            more = ["--static"] if options.static else []
            command = [sys.executable, "-m", "bench.pauses", "--one", "--count", str(options.count), "--balancers", name, "--checks", checks, *more]
            worst = max(worst, subprocess.run(command, cwd=_ROOT).returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
