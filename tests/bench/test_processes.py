"""Children are counted and ended."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bench.processes import Child, StartFailed, finish, free_ports, two_cores

CORE = two_cores()[0]


def test_child_is_pinned_counted_and_ended(tmp_path: Path) -> None:
    """A child runs on the core it was given, its CPU time and memory are seen, and leaving the block ends it."""
    with Child("idle", [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"], CORE, tmp_path) as child:
        while not child.output.read_text():
            os.sched_yield()
        assert os.sched_getaffinity(child.pid) == {CORE}
        assert 0 < child.cpu_seconds() < 10
        assert 1 < child.rss_mib() < 500
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_child_that_ends_early_says_why(tmp_path: Path) -> None:
    """Waiting for a program that fails raises with its status and its last words, not after the whole patience."""
    command = [sys.executable, "-c", "raise SystemExit('no such option')"]
    with Child("broken", command, CORE, tmp_path) as child, pytest.raises(StartFailed, match="no such option"):
        child.wait_until_it_answers(f"http://127.0.0.1:{free_ports(1)[0]}/", b"")


def test_finish_gives_the_output_or_raises() -> None:
    """A program that succeeds gives its output; one that fails or hangs raises."""
    assert finish([sys.executable, "-c", "print('done')"], CORE, 30) == "done\n"
    with pytest.raises(StartFailed, match="status 3"):
        finish([sys.executable, "-c", "raise SystemExit(3)"], CORE, 30)
    with pytest.raises(StartFailed, match="did not end"):
        finish([sys.executable, "-c", "import signal; signal.pause()"], CORE, 0.3)


def test_free_ports_differ() -> None:
    """No port is given twice."""
    assert len(set(free_ports(50))) == 50
