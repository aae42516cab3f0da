"""The run: options, processes, one phase after the other, and the verdict."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.chaos import backends, phases
from bench.chaos.backends import Backend
from bench.chaos.load import Load
from bench.chaos.phases import Outcome, Phase, Result

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "chaos.json"
TWISTD = "import sys; from twisted.scripts.twistd import run; sys.exit(run())"
READY_SECONDS = 20.0
# What is configured below, added up: the longest ejection, and two intervals until it is looked at and until the next request.
EJECTION_SECONDS, INTERVAL_SECONDS = 4.0, 1.0
RECOVERY_SECONDS = EJECTION_SECONDS + 2 * INTERVAL_SECONDS
LOOK_SECONDS = 0.1
PATIENCE_SECONDS = 20.0  # until a backend that does not come back is given up
# Each process of the load lives on the same machine: what it does not get of the CPU is no fault of the sidecar.
CONFIG = """
service: chaos
outbound:
  listen: 127.0.0.1:0
  services:
    apps:
      mtls: false
      endpoints: [{endpoints}]
      timeout: 15s
      connect_timeout: 500ms
      retry: {{per_try_timeout: 1s}}
      outlier_detection:
        consecutive_5xx: 3
        interval: {interval}s
        base_ejection_time: 2s
        max_ejection_time: {ejection}s
        max_ejection_percent: 70
      health_check: {{path: /healthz, interval: {interval}s, timeout: 500ms}}
{more}
access_log: access.log
tracing: off
admin: 127.0.0.1:0
"""


def main(arguments: Sequence[str]) -> int:
    """Run, print, write; the exit status: 0, 1 when a promise was broken, 2 when it could not be tried."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    kinds = [kind for kind in options.backends if kind in backends.present()]
    if len(kinds) < 2:
        print(f"at least two backends are needed; present are {', '.join(backends.present())}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        rows = Run(options, kinds, Path(options.directory or name)).run()
    print(phases.table(rows))
    broken = [sentence for each in rows for sentence in each["broken"]]
    options.output.write_text(json.dumps({"backends": kinds, "rate": options.rate, "phases": rows, "broken": len(broken)}, indent=2) + "\n")
    total = sum(each["requests"] for each in rows)
    print(f"\n{total} requests, {len(broken)} broken promises; written: {options.output}")
    return 1 if broken else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description="Troubles behind a sidecar, and whether its promises hold.")
    parser.add_argument("--seconds", type=float, default=240.0, help="how long, about; a round that is begun is not cut (default %(default)s)")
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second (default %(default)s)")
    parser.add_argument(
        "--backends", type=lambda text: text.split(","), default=[*backends.KINDS, "python"], help="kinds, comma-separated (default: all and python again)"
    )
    parser.add_argument("--weights", type=lambda text: [int(each) for each in text.split(",")], default=[1, 2, 1, 2, 1], help="of the backends, in order")
    parser.add_argument("--calm", type=float, default=6.0, help="seconds of a calm phase")
    parser.add_argument("--trouble", type=float, default=6.0, help="seconds of a trouble")
    parser.add_argument("--short", action="store_true", help="the worst of it once, for three and more backends that obey")
    parser.add_argument("--config", default="", help="lines that are added to the service of the sidecar's configuration")
    parser.add_argument("--recovery", type=float, default=RECOVERY_SECONDS, help="seconds within which a backend is used again (default %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the JSON goes (default bench/chaos.json)")
    parser.add_argument("--directory", default="", help="where processes write; kept")
    return parser.parse_args(arguments)


class Run:
    """One run with these backends."""

    def __init__(self, options: argparse.Namespace, kinds: Sequence[str], directory: Path) -> None:
        self._options = options
        self._directory = directory
        names = [f"{kind}{index}" for index, kind in enumerate(kinds)]
        weights = itertools.chain(options.weights, itertools.repeat(1))
        self._backends = [Backend(kind, name, next(weights), directory) for kind, name in zip(kinds, names, strict=True)]
        self._kinds = list(kinds)
        self._outcomes: list[Outcome] = []
        self._answered: dict[str, float] = {}
        self._port = self._admin = 0

    def run(self) -> list[dict[str, Any]]:
        """Everything; the rows of the table."""
        with contextlib.ExitStack() as ends:
            for each in self._backends:
                ends.callback(each.kill)
                each.start()
            self._port = self._start_sidecar(ends)
            asyncio.run(self._drive())
            # What a stopped process had in its sockets is read when it goes on.
            time.sleep(0.5)
            twice = phases.delivered_twice([each.deliveries() for each in self._backends])
        weights = {each.name: each.weight for each in self._backends}
        return [phases.row(outcome, weights, twice, self._options.recovery) for outcome in self._outcomes]

    def _start_sidecar(self, ends: contextlib.ExitStack) -> int:
        config = self._directory / "sidecar.yaml"
        endpoints = ", ".join(f"{{address: 127.0.0.1:{each.port}, weight: {each.weight}}}" for each in self._backends)
        more = "\n".join(f"      {line}" for line in self._options.config.splitlines())
        config.write_text(CONFIG.format(endpoints=endpoints, interval=INTERVAL_SECONDS, ejection=EJECTION_SECONDS, more=more))
        log = self._directory / "sidecar.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-c", TWISTD, "--nodaemon", "--pidfile=", "sidecar", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self._directory,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        ends.callback(process.wait)
        ends.callback(process.kill)
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and process.poll() is None:
            found = re.search(r"listener outbound accepts at 127\.0\.0\.1:(\d+).*ready; admin pages at 127\.0\.0\.1:(\d+)", log.read_text(), re.DOTALL)
            if found:
                self._admin = int(found[2])
                return int(found[1])
            time.sleep(0.05)
        raise RuntimeError(f"the sidecar did not start:\n{log.read_text()}")

    async def _drive(self) -> None:
        load = Load(self._port, self._options.rate, self._result)
        stop = asyncio.Event()
        loading = asyncio.create_task(load.run(stop))
        try:
            for phase in self._phases():
                load.phase = len(self._outcomes)
                outcome = Outcome(phase)
                self._outcomes.append(outcome)
                await self._pass(phase, outcome)
        finally:
            stop.set()
            await loading

    def _phases(self) -> Iterable[Phase]:
        options = self._options
        if options.short:
            yield from phases.short_scenario(len(self._kinds), options.trouble, options.calm)
            return
        end = time.monotonic() + options.seconds
        endless = phases.scenario(self._kinds, backends.OBEDIENT, options.calm, options.trouble)
        for phase in endless:
            # It ends in calm, with all of them back.
            yield phase
            if time.monotonic() > end and phase.is_calm:
                return

    async def _pass(self, phase: Phase, outcome: Outcome) -> None:
        """One phase: trouble, its end, and the wait until everybody is used again."""
        print(f"{phase.name} ...", file=sys.stderr, flush=True)
        for index, trouble in phase.troubles:
            backends.begin(self._backends[index], trouble)
        await asyncio.sleep(phase.seconds)
        for index, trouble in phase.troubles:
            await asyncio.to_thread(backends.end, self._backends[index], trouble)
        ended = time.monotonic()
        waiting = {each.name for each in self._backends}
        while waiting and time.monotonic() < ended + PATIENCE_SECONDS:
            well = await asyncio.to_thread(self._well)
            for name in sorted(waiting & well):
                if self._answered.get(name, 0.0) > ended:
                    outcome.recovered[name] = time.monotonic() - ended
                    waiting.discard(name)
            await asyncio.sleep(LOOK_SECONDS)
        outcome.recovered.update(dict.fromkeys(waiting))

    def _well(self) -> set[str]:
        """The backends that the sidecar thinks are well; none when it does not say in time."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._admin}/clusters", timeout=5) as answer:
                endpoints = json.load(answer)[0]["endpoints"]
        except OSError:
            return set()
        well = {each["address"] for each in endpoints if each["healthy"] and each["check"] == each["outlier"] == "ok"}
        return {each.name for each in self._backends if f"127.0.0.1:{each.port}" in well}

    def _result(self, result: Result) -> None:
        self._outcomes[result.phase].results.append(result)
        if result.backend and result.status == 200:
            self._answered[result.backend] = time.monotonic()
