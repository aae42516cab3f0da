"""The quick start of README.md, done as it is written; and links in the pages lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.examples.processes import ROOT, Sidecar, environment, running_sidecar

README = (ROOT / "README.md").read_text()
# The addresses of the quick start, and UNIX sockets in their place: tests have no fixed ports.
SOCKETS = {"127.0.0.1:15006": '"unix:in.sock"', "127.0.0.1:8080": '"unix:app.sock"', "127.0.0.1:15001": '"unix:out.sock"'}
PAGES = [ROOT / "README.md", ROOT / "examples" / "plugins" / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


class Caller(BaseHTTPRequestHandler):
    """Answers with who called."""

    def do_GET(self) -> None:
        body = self.headers.get("x-forwarded-client-cert", "").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_the_quick_start(short_path: Path, serve: Callable[[Path, type[BaseHTTPRequestHandler]], None]) -> None:
    """Its commands succeed, and the request goes out and in again over mutual TLS."""
    found = re.search(r"```sh\n(pip install SOURCE\n)(.*?)```", README, re.DOTALL)
    assert found is not None
    shim = short_path / "bin" / "sidecar"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m sidecar.cli "$@"\n')
    shim.chmod(0o755)
    surroundings = {**environment(), "PATH": f"{shim.parent}:/usr/bin:/bin"}
    done = subprocess.run(["/bin/sh", "-ec", found[2]], cwd=short_path, env=surroundings, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "sidecar.yaml: ok" in done.stdout
    text = (short_path / "sidecar.yaml").read_text() + "admin: null\n"
    for address, path in SOCKETS.items():
        assert address in text
        text = text.replace(address, path)
    serve(short_path / "app.sock", Caller)
    with running_sidecar(short_path, text) as sidecar:
        outbound = Sidecar(short_path)
        outbound.socket = short_path / "out.sock"
        response, body = outbound.get("/", Host="web")
        assert response.status == 200
        assert b"URI=spiffe://cluster.local/ns/default/sa/web" in body
        with pytest.raises(OSError):
            sidecar.get("/")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file of the repository, and an anchor names a heading of its page."""
    text = page.read_text()
    headings = {re.sub(r"[^\w -]", "", line.lstrip("# ")).strip().lower().replace(" ", "-") for line in text.splitlines() if line.startswith("#")}
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif "://" not in target:
            assert (page.parent / target.partition("#")[0]).exists(), target
