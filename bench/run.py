"""The run: options, what is here to compare with, the interleaved rounds, and what is printed and written at the end."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import attrs

from bench import load, results
from bench.application import Application, write_message
from bench.cases import CASES, Case, Plan
from bench.certificates import write_certificates
from bench.peers import PEERS, ROOT, Peer
from bench.processes import Child, StartFailed, background_share, finish, free_ports, two_cores
from bench.programs import program

ROUNDS = 3
SECONDS = 3
GRACE_SECONDS = 20.0  # beyond its duration, until a load generator counts as hung
BUSY = 0.1  # share of the machine that others may use before the numbers are called rough
RESULTS = ROOT / "bench" / "results.json"
LOAD_PACKAGES = {"wrk": "wrk", "h2load": "nghttp2-client", "nginx": "nginx-light", "nghttpd": "nghttp2-server"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the results; the exit status: 0, 1 when a case was invalid, 2 when nothing could be measured."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `with` blocks end the children
    chosen = [peer for peer in PEERS if peer.name in options.proxies]
    _install_missing(chosen)
    peers = [peer for peer in chosen if not _say(peer.absence(), f"without {peer.name}")]
    absent = [name for name in ("wrk", "nginx") if program(name) is None]
    if absent or not peers:
        print(f"nothing to measure with: {', '.join(absent) or 'no proxy'} missing (Debian packages: {' '.join(LOAD_PACKAGES.values())})", file=sys.stderr)
        return 2
    if background_share() > BUSY:
        print("warning: something else is using this machine; the numbers will be rough", file=sys.stderr)
    cores = two_cores()
    if cores[0] == cores[1]:
        print("warning: only one core; the load takes its time from the proxies", file=sys.stderr)
    os.sched_setaffinity(0, {cores[1]})  # the proxies' core is theirs alone
    rows, failures = [], []
    for case in (CASES[name] for name in options.cases):
        if case.upstream == "grpc" and program("nghttpd") is None:
            failures.append(f"{case.name}: nghttpd is missing (Debian: {LOAD_PACKAGES['nghttpd']})")
            continue
        able = [peer for peer in peers if peer.name in case.proxies]
        outcome = _Measurement(case, able, options.rounds, options.seconds, cores, not options.no_latency).run()
        rows += [results.row(case.name, name, samples) for name, samples in outcome.samples.items()]
        failures += outcome.failures
    rows = results.with_ratios(rows)
    print("\n" + results.table(rows))
    options.output.write_text(json.dumps(rows, indent=2) + "\n")
    print(f"\nwritten: {options.output}")
    for failure in failures:
        print(f"INVALID {failure}", file=sys.stderr)
    return 1 if failures else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the sidecar beside other proxies on this machine; see docs/benchmark.md.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each proxy has its turn (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="length of each of the two measurements of a turn (default: %(default)s)")
    parser.add_argument("--cases", type=_names(CASES), default=list(CASES), help=f"of {','.join(CASES)}, separated by commas")
    names = [peer.name for peer in PEERS]
    parser.add_argument("--proxies", type=_names(names), default=names, help=f"of {','.join(names)}, separated by commas")
    parser.add_argument("--no-latency", action="store_true", help="leave the fixed rate out: on a busy machine it is not reached, and CPU time is still good")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the JSON goes (default: bench/results.json)")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds are at least 1")
    return options


class _names:
    """An argparse type: names out of `known`, separated by commas."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known = list(known)

    def __call__(self, text: str) -> list[str]:
        unknown = [name for name in text.split(",") if name not in self._known]
        if unknown:
            raise argparse.ArgumentTypeError(f"no such name: {', '.join(unknown)}; there are {', '.join(self._known)}")
        return text.split(",")


def _say(reason: str, what: str) -> bool:
    if reason:
        print(f"{what}: {reason}", file=sys.stderr)
    return bool(reason)


def _install_missing(peers: Sequence[Peer]) -> None:
    """What of Debian's packages is missing is installed, if we may; if not, it is said later by who misses it."""
    wanted = {peer.debian_package for peer in peers if peer.debian_package and peer.absence()}
    wanted |= {package for name, package in LOAD_PACKAGES.items() if program(name) is None}
    apt = program("apt-get")
    if not wanted or apt is None or os.geteuid() != 0:
        return
    print(f"installing {' '.join(sorted(wanted))}", file=sys.stderr)
    # RUNLEVEL=1: the packages' own services stay off (invoke-rc.d).
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *sorted(wanted)]):
        if subprocess.run([apt, *command], env=environment, stdout=subprocess.DEVNULL).returncode:
            print(f"apt-get {command[0]} failed", file=sys.stderr)


@attrs.define
class _Outcome:
    samples: dict[str, list[results.Sample]] = attrs.field(factory=dict)
    failures: list[str] = attrs.field(factory=list)


class _Measurement:
    """One case: every proxy runs all the time and has its turn in each round, so that a slow minute of the machine is a slow minute for all."""

    def __init__(self, case: Case, peers: Sequence[Peer], rounds: int, seconds: int, cores: tuple[int, int], has_latency: bool) -> None:
        self._case = case
        self._peers = peers
        self._rounds = rounds
        self._seconds = seconds
        self._has_latency = has_latency
        self._proxy_core, self._load_core = cores
        self._outcome = _Outcome()

    def run(self) -> _Outcome:
        """The samples of each proxy that got through all its rounds, and a sentence for each that did not."""
        with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as directory, contextlib.ExitStack() as running:
            proxies = dict(self._start(Path(directory), running))
            for turn in range(self._rounds):
                order = list(proxies)
                # Whoever comes first finds the load core cold: let it be another one each time.
                for name in order[turn % max(1, len(order)) :] + order[: turn % max(1, len(order))]:
                    self._take_turn(name, *proxies[name], turn, proxies)
        return self._outcome

    def _start(self, directory: Path, running: contextlib.ExitStack) -> Iterator[tuple[str, tuple[Child, Plan]]]:
        """(name, (process, plan)) of each proxy that answers, the application behind them running."""
        upstream_port, *ports = free_ports(1 + 2 * len(self._peers))
        certificates = write_certificates(directory)
        plan = Plan(self._case, upstream_port, upstream_port, 0, directory, *certificates)
        write_message(plan)
        application = running.enter_context(Child("application", Application().command(plan), self._load_core, directory))
        application.wait_until_it_listens(upstream_port)
        for peer in self._peers:
            plan = attrs.evolve(plan, port=ports.pop(), admin_port=ports.pop())
            child = running.enter_context(Child(peer.name, peer.command(plan), self._proxy_core, directory))
            try:
                child.wait_until_it_answers(plan.url, self._case.body)
            except StartFailed as failure:
                self._outcome.failures.append(f"{self._case.name} {peer.name}: {failure}")
            else:
                yield peer.name, (child, plan)

    def _take_turn(self, name: str, child: Child, plan: Plan, turn: int, proxies: dict[str, tuple[Child, Plan]]) -> None:
        try:
            if turn == 0:
                self._saturate(plan, 1)  # caches, pools and the interpreter's specialised instructions are then as they stay
            sample = self._measure(child, plan)
        except (load.InvalidRun, StartFailed) as failure:
            # A proxy that failed once has no numbers at all: those of its good rounds would mislead.
            self._outcome.failures.append(f"{self._case.name} {name}, round {turn + 1}: {failure}")
            self._outcome.samples.pop(name, None)
            del proxies[name]
            return
        self._outcome.samples.setdefault(name, []).append(sample)
        print(f"{self._case.name} {turn + 1}/{self._rounds} {name}: {sample.cpu_us:.1f} µs, {sample.requests_per_second:,.0f}/s", flush=True)

    def _measure(self, child: Child, plan: Plan) -> results.Sample:
        before = child.cpu_seconds()
        done = self._saturate(plan, self._seconds)
        used = child.cpu_seconds() - before
        latencies = self._pace(plan)
        return results.Sample(
            cpu_us=used * 1e6 / done.requests,
            requests_per_second=done.requests / done.seconds,
            p50_us=results.percentile(latencies, 0.5) if latencies else None,
            p99_us=results.percentile(latencies, 0.99) if latencies else None,
            rss_mib=child.rss_mib(),
        )

    def _saturate(self, plan: Plan, seconds: float) -> load.Saturation:
        if self._case.client == "h2":
            h2_command = load.saturating_h2(program("h2load") or "h2load", plan.url, seconds, plan.posted)
            return load.parse_saturation_h2(finish(h2_command, self._load_core, seconds + GRACE_SECONDS), max(1, round(seconds)))
        command = load.saturating(program("wrk") or "wrk", plan.url, seconds)
        return load.parse_saturation(finish(command, self._load_core, seconds + GRACE_SECONDS))

    def _pace(self, plan: Plan) -> list[int]:
        """The sorted latencies at the fixed rate; none without h2load, or when they are not wanted."""
        h2load = program("h2load")
        if h2load is None or not self._has_latency:
            return []
        log = plan.directory / "latencies"
        log.unlink(missing_ok=True)
        finish(load.paced(h2load, plan.url, self._seconds, log, self._case.client == "h2", plan.posted), self._load_core, self._seconds + GRACE_SECONDS)
        return load.parse_paced(log.read_text().splitlines())
