"""A sidecar that cannot serve does not start: status 1, and everything that is wrong, where it is."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.e2e.applications import Application
from tests.e2e.clients import ask
from tests.e2e.conftest import Certificates, Start
from tests.e2e.processes import SidecarProcess

WRONG = """service: web
inbound:
  listen: 127.0.0.1:99999
  app: 127.0.0.1:8080
  mtls: disabeld
outbond: {}
drain_time: soon
"""


def refused(directory: Path, config: str, *options: str) -> tuple[int, list[str], str]:
    """(status, lines that point into the file, all of standard error) of a sidecar that does not start."""
    made = SidecarProcess(directory, config, *options)
    status = made.wait(20)
    return status, [line for line in made.log.splitlines() if line.startswith(f"{made.config}:")], made.log


def test_all_problems_at_once(tmp_path: Path) -> None:
    """Each with file, line, column, path and what was expected; a misspelt word gets a suggestion."""
    status, lines, log = refused(tmp_path, WRONG)
    assert status == 1
    places = sorted(tuple(map(int, line.removeprefix(f"{tmp_path / 'sidecar.yaml'}:").split(":")[:2])) for line in lines)
    assert places == [(3, 11), (5, 9), (6, 1), (7, 13)], log
    assert "disabled" in log and "outbound" in log and "4 problems" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("config", ["", "[", "service: a\nservice: b\n", "a: 1\n"], ids=["empty", "no yaml", "twice", "unknown"])
def test_files_that_say_nothing(tmp_path: Path, config: str) -> None:
    """Status 1 and a sentence."""
    status, lines, log = refused(tmp_path, config)
    assert status == 1 and lines and "Traceback" not in log, log


def test_no_file(tmp_path: Path) -> None:
    """Status 1 and its name."""
    status, _, log = refused(tmp_path, "", "--config", str(tmp_path / "missing.yaml"))
    assert status == 1 and "missing.yaml" in log and "Traceback" not in log


@pytest.mark.parametrize("which", ["listener", "admin"])
def test_a_port_in_use(tmp_path: Path, app: Application, which: str) -> None:
    """Status 1, and which address it is."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        listen, admin = (address, "127.0.0.1:0") if which == "listener" else ("127.0.0.1:0", address)
        status, _, log = refused(tmp_path, f'{{service: a, inbound: {{listen: "{listen}", app: "{app.address}", mtls: disabled}}, admin: "{admin}"}}')
    assert status == 1 and address in log and "not started" in log and "Traceback" not in log, log


def test_certificates_that_do_not_serve(tmp_path: Path, app: Application, certificates: Certificates) -> None:
    """Missing, or over: status 1, and which and why."""
    old = certificates.issue("late", "late", age_days=10)
    for directory, word in ((tmp_path / "nowhere", "nowhere"), (old, "expired")):
        config = f'{{service: a, trust_domain: mesh.example, identity: {{directory: "{directory}"}}, inbound: {{listen: "127.0.0.1:0", app: "{app.address}"}}}}'
        status, _, log = refused(tmp_path, config)
        assert status == 1 and word in log and "Traceback" not in log, log


def test_a_socket_left_behind_is_no_hindrance(start: Start, app: Application, short_directory: Path) -> None:
    """After a kill the UNIX socket's file is still there; the next sidecar listens all the same."""
    config = f'{{service: a, inbound: {{listen: "unix:{short_directory}/left.sock", app: "{app.address}", mtls: disabled}}, admin: null}}'
    first = start(config, name="first")
    first.kill()
    assert ask(start(config, name="second").places["inbound"], "/").status == 200
