"""The chaos bench, short: five applications are killed, stopped, reset, refuse and answer 503, also all but one at once, and the promises hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.e2e.processes import ROOT, environment

# On a busy machine everything takes longer; that it comes back is what counts here.
RECOVERY_SECONDS = 20


def test_promises_hold(tmp_path: Path) -> None:
    """No GET fails while one application is well, no POST arrives twice, everybody is used again."""
    command = [sys.executable, "-m", "bench.chaos", "--short", "--backends", ",".join(["python"] * 5), "--weights", "1,1,1,1,1"]
    command += ["--rate", "100", "--calm", "2.5"]
    command += ["--trouble", "1.5", "--recovery", str(RECOVERY_SECONDS), "--directory", str(tmp_path), "--output", str(tmp_path / "chaos.json")]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{(tmp_path / 'sidecar.log').read_text()}"
    result = json.loads((tmp_path / "chaos.json").read_text())
    assert result["broken"] == 0 and sum(each["requests"] for each in result["phases"]) > 1000
    assert [each["phase"] for each in result["phases"]][:3] == ["calm", "kill", "SIGSTOP"]
