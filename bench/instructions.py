"""Instructions that the sidecar executes for each request, counted by valgrind's callgrind: `python -m bench.instructions [--cases plain,h2] [--functions 20]`.

Seconds depend on what else the machine does, instructions hardly: two runs of the same code differ by less than a hundredth, so a change of a few parts in a
hundred can be seen. Only the sidecar's own instructions in user mode are counted, none of the kernel's; Linux, Debian packages valgrind and nghttp2-client.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs

from bench import load
from bench.application import Application, write_message
from bench.cases import CASES, Case, Plan
from bench.certificates import write_certificates
from bench.peers import Sidecar
from bench.processes import Child, StartFailed, finish, free_ports, two_cores
from bench.programs import program

WARM_UP = 400  # requests before it counts: pools are full and the interpreter has specialised its instructions
FEW = 100  # requests of the shorter of two loads that are compared
REQUESTS = 1000
READY_SECONDS = 120.0  # valgrind makes it about fifty times slower
LOAD_SECONDS = 300.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each case, and the dearest C functions if asked to."""
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description="Count the sidecar's instructions for each request.")
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {','.join(CASES)}, separated by commas")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="how many are counted (default: %(default)s)")
    parser.add_argument("--functions", type=int, default=0, help="how many C functions to name (default: none)")
    options = parser.parse_args(arguments)
    missing = [name for name in ("valgrind", "callgrind_control", "h2load", "nginx") if program(name) is None]
    if missing:
        print(f"missing: {', '.join(missing)} (Debian packages: valgrind nghttp2-client nginx-light)", file=sys.stderr)
        return 2
    for name in options.cases.split(","):
        with tempfile.TemporaryDirectory(prefix="sidecar-instructions-") as directory:
            count, functions = measure(CASES[name], Path(directory), options.requests)
        print(f"{name:8} {count / options.requests:10,.0f} instructions/request", flush=True)
        for line in functions[: options.functions]:
            print(f"    {line}")
    return 0


def measure(case: Case, directory: Path, requests: int) -> tuple[int, list[str]]:
    """(instructions of `requests` requests, callgrind's lines about functions, the dearest first; these know connections too)."""
    cores = two_cores()
    upstream_port, port, admin_port = free_ports(3)
    plan = Plan(case, upstream_port, upstream_port, 0, directory, *write_certificates(directory))
    write_message(plan)
    with contextlib.ExitStack() as running:
        application = running.enter_context(Child("application", Application().command(plan), cores[1], directory))
        application.wait_until_it_listens(upstream_port)
        plan = attrs.evolve(plan, port=port, admin_port=admin_port)
        out = directory / "callgrind.out"
        counting = [program("valgrind") or "valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}", "--quiet"]
        sidecar = running.enter_context(Child("sidecar", [*counting, *Sidecar().command(plan)[2:]], cores[0], directory, {"PYTHONPATH": str(_root())}))
        sidecar.wait_until_it_answers(plan.url, case.body, READY_SECONDS)
        _load(plan, WARM_UP, cores[1])
        _control(sidecar, "--instr=on")
        # What connections cost is in both loads and so in neither: their difference is requests alone.
        _load(plan, FEW, cores[1])
        _control(sidecar, "--dump")
        _load(plan, FEW + requests, cores[1])
        _control(sidecar, "--dump")
        few, many = (out.with_name(f"{out.name}.{number}") for number in (1, 2))
        return parse_totals(many.read_text(errors="replace")) - parse_totals(few.read_text(errors="replace")), _functions(many)


def _root() -> Path:
    return Path(__file__).resolve().parent.parent


def _load(plan: Plan, requests: int, core: int) -> None:
    command = load.counted(program("h2load") or "h2load", plan.url, requests, plan.case.client == "h2", plan.posted)
    done = load.parse_saturation_h2(finish(command, core, LOAD_SECONDS), 1)
    if done.requests != requests:
        raise load.InvalidRun(f"{done.requests} of {requests} requests were answered")


def _control(child: Child, option: str) -> None:
    done = subprocess.run([program("callgrind_control") or "callgrind_control", option, str(child.pid)], capture_output=True, text=True)
    if done.returncode:
        raise StartFailed(f"callgrind_control {option}: {done.stdout}{done.stderr}")


def parse_totals(profile: str) -> int:
    """The sum of instructions in a file of callgrind's. Raises `InvalidRun` when there is none."""
    line = re.search(r"^(?:totals|summary): (\d+)", profile, re.MULTILINE)
    if line is None or not int(line[1]):
        raise load.InvalidRun("callgrind counted nothing")
    return int(line[1])


def _functions(out: Path) -> list[str]:
    done = subprocess.run([program("callgrind_annotate") or "callgrind_annotate", str(out)], capture_output=True, text=True)
    return [line.strip()[:150] for line in done.stdout.splitlines() if re.match(r"\s*[\d,]+ \([ \d.]+%\)", line)]


if __name__ == "__main__":
    sys.exit(main())
