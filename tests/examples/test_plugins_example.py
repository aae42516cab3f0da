"""The custom plugin package, used in both ways, as a stranger would."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import attrs
import pytest

from tests.examples.processes import EXAMPLES, environment, run_command, running_sidecar

PACKAGE = EXAMPLES / "plugins"
CONFIG = """
service: shop
inbound: {listen: "unix:in.sock", app: "unix:app.sock", mtls: disabled}
extensions:
  - {kind: authenticator, name: acme.api-key, config: {keys: {file: keys.txt}}}
  - {kind: filter, name: acme.redact-cards}
access_log: access.log
admin: null
"""


@attrs.frozen
class Way:
    """How the package got to the sidecar: words for its command line, directories for its path."""

    words: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    origin: str = ""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Way:
    """The package built and installed by pip, into a directory of its own."""
    directory = tmp_path_factory.mktemp("installed")
    source = directory / "source"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    target = directory / "site"
    # setuptools that can build wheels by itself (70.1 and later) need not be downloaded once more.
    found = re.match(r"\d+", importlib.metadata.version("setuptools")) if importlib.util.find_spec("setuptools") else None
    options = ["--no-build-isolation"] if found is not None and int(found[0]) > 70 else []
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", *options, "--target", str(target), str(source)]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return Way(paths=(target,), origin=str(target))


@pytest.fixture(params=["installed", "bare directory"])
def way(request: pytest.FixtureRequest) -> Way:
    """Both ways."""
    if request.param == "installed":
        found: Way = request.getfixturevalue("installed")
        return found
    return Way(words=("--plugin-dir", str(PACKAGE)), origin=str(PACKAGE))


class App(BaseHTTPRequestHandler):
    """Answers with a card number that two chunks share, and with the fields it was sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps({"card": "4111111111111111", "fields": sorted(name.lower() for name in self.headers)}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:15])
        self.wfile.flush()
        self.wfile.write(body[15:])

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_it_is_listed(way: Way) -> None:
    """`sidecar plugins` names both plugins and the file they come from."""
    done = run_command("plugins", *way.words, paths=way.paths)
    assert done.returncode == 0, done.stderr
    rows = {tuple(line.split()[:2]): line for line in done.stdout.splitlines()}
    for kind, name in [("authenticator", "acme.api-key"), ("filter", "acme.redact-cards")]:
        assert way.origin in rows[kind, name]


def test_both_ways_at_once_are_one_too_many(installed: Way) -> None:
    """Two plugins of one name stop everything: nobody could say which one runs."""
    done = run_command("plugins", "--plugin-dir", str(PACKAGE), paths=installed.paths)
    assert done.returncode == 1
    assert "'acme.api-key' is declared 2 times" in done.stderr


def test_a_sidecar_runs_it(way: Way, short_path: Path, serve: Callable[[Path, type[BaseHTTPRequestHandler]], None]) -> None:
    """A request goes through with a key and not without; its answer has no card number, and the application never sees the key."""
    serve(short_path / "app.sock", App)
    (short_path / "keys.txt").write_text("alice k-alice\n")
    with running_sidecar(short_path, CONFIG, *way.words, paths=way.paths) as sidecar:
        response, body = sidecar.get("/", x_api_key="k-alice")
        answer = json.loads(body)
        assert (response.status, answer["card"]) == (200, "************1111")
        assert response.getheader("content-length") is None, "the length of a body that a plugin rewrites is not announced"
        assert "x-api-key" not in answer["fields"]
        for headers in ({}, {"x_api_key": "k-bob"}):
            response, body = sidecar.get("/", **headers)
            assert (response.status, json.loads(body)["code"]) == (401, "unauthenticated")
    records = [json.loads(line) for line in (short_path / "access.log").read_text().splitlines()]
    assert [(record["status"], record["principal"]) for record in records] == [(200, "alice"), (401, ""), (401, "")]


def test_a_broken_file_of_keys_stops_the_start(short_path: Path) -> None:
    """The sidecar does not start, and says which line of the file is wrong."""
    (short_path / "keys.txt").write_text("alice\n")
    with pytest.raises(AssertionError, match="line 1 of the keys"), running_sidecar(short_path, CONFIG, "--plugin-dir", str(PACKAGE)):
        pass


def test_its_own_tests_pass() -> None:
    """They are an example as well."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=PACKAGE, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
