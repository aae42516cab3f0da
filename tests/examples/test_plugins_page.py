"""docs/plugins.md promises that its blocks run as they stand; here they do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from sidecar.extension import KINDS
from sidecar.identity.authority import Authority
from tests.examples.processes import ROOT, Sidecar, UnixHTTPConnection, environment, run_command, running_sidecar

PAGE = ROOT / "docs" / "plugins.md"
Serve = Callable[[Path, type[BaseHTTPRequestHandler]], None]
NAMED_BLOCK = re.compile(r"^```(?:python|yaml)\n# file: (\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def page(short_path: Path) -> Path:
    """A directory with every file that the page names."""
    for name, text in NAMED_BLOCK.findall(PAGE.read_text()):
        (short_path / name).parent.mkdir(parents=True, exist_ok=True)
        (short_path / name).write_text(text)
    return short_path


@pytest.fixture
def identity(page: Path) -> Path:
    """The file that the certificate source of the page reads."""
    authority = Authority.create("example.org", time.time())
    chain, key = authority.issue("spiffe://example.org/ns/market/sa/shop", now=time.time())
    (page / "identity.pem").write_bytes(b"\n---\n".join([key, chain, authority.trust_pem]))
    return page


def test_every_kind_has_an_example(page: Path) -> None:
    """`sidecar plugins` finds one of each."""
    done = run_command("plugins", "--plugin-dir", "plugins", cwd=page)
    assert done.returncode == 0, done.stderr
    shown = {line.split()[0] for line in done.stdout.splitlines() if " shop." in line}
    assert shown == set(KINDS)


def test_its_configurations_are_right(identity: Path) -> None:
    """`sidecar check` takes them."""
    done = run_command("check", "hello.yaml", "queue.yaml", "shop.yaml", "--plugin-dir", "plugins", cwd=identity)
    assert done.returncode == 0, done.stderr


def test_its_unit_tests_pass(page: Path) -> None:
    """With nothing but `sidecar.testing`."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"]
    done = subprocess.run(command, cwd=page, env=environment(page / "plugins"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


class App(BaseHTTPRequestHandler):
    """Tells what it was sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps({"path": self.path, "correlation": self.headers["x-correlation-id"], "word": "quiet"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Auth(BaseHTTPRequestHandler):
    """Knows one token; takes spans."""

    def do_GET(self) -> None:
        is_known = self.headers["Authorization"] == "Bearer good"
        self.send_response(200 if is_known else 404)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"alice" if is_known else b"never")

    def log_message(self, format: str, *args: object) -> None:
        pass


class Registry(BaseHTTPRequestHandler):
    """Knows where mail is: where the application is."""

    def do_GET(self) -> None:
        body = b"unix:app.sock" if self.path == "/services/mail" else b""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def shop(identity: Path, serve: Serve) -> Iterator[Sidecar]:
    """The sidecar of shop.yaml, with its application and the service that knows tokens."""
    serve(identity / "app.sock", App)
    serve(identity / "auth.sock", Auth)
    serve(identity / "registry.sock", Registry)
    with running_sidecar(identity, (identity / "shop.yaml").read_text(), "--plugin-dir", "plugins") as sidecar:
        yield sidecar


def post(sidecar: Sidecar, body: bytes) -> tuple[HTTPResponse, bytes]:
    connection = UnixHTTPConnection(sidecar.socket)
    try:
        connection.request("POST", "/", body)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def test_its_plugins_work_together(shop: Sidecar) -> None:
    """Each does in a running sidecar what the page says of it."""
    response, body = shop.get("/quiet", Authorization="Bearer good", X_Correlation_Id="c-1")
    assert (response.status, json.loads(body)) == (200, {"path": "/quiet", "correlation": "c-1", "word": "quiet"})
    assert response.getheader("x-greeting") == "hello"
    response, body = shop.get("/LOUD")
    assert (response.status, json.loads(body)["WORD"], json.loads(body)["PATH"]) == (200, "QUIET", "/LOUD")
    response, body = shop.get("/", Authorization="Bearer bad")
    assert (response.status, json.loads(body)["detail"]) == (401, "the token is not good")
    response, body = post(shop, b'{"a" :  1}')
    assert (response.status, body) == (200, b'{"a":1}')
    response, body = post(shop, b"a=1")
    assert response.status == 400 and body.startswith(b"this is no JSON")
    assert post(shop, b"[" + b"1," * 100 + b"1]")[0].status == 413
    outbound = Sidecar(shop.socket.parent)
    outbound.socket = shop.socket.with_name("out.sock")
    assert outbound.get("/", Host="stock")[0].status == 200
    assert outbound.get("/", Host="mail")[0].status == 200


def test_what_it_logs(shop: Sidecar) -> None:
    """The slow log warns, the digest is told, and the access record knows the caller and the trace."""
    shop.get("/quiet", Authorization="Bearer good", X_Correlation_Id="c-1")
    directory = shop.socket.parent
    deadline = time.monotonic() + 10
    while not (directory / "access.log").exists() or not (directory / "access.log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    record = json.loads((directory / "access.log").read_text().splitlines()[0])
    assert (record["principal"], record["trace_id"]) == ("alice", "c-1")
    said = shop.output.read_text()
    assert "watching for what takes 0.0 ms" in said
    assert "slow: GET /quiet took" in said
    assert re.search(r"/quiet 200 [0-9a-f]{64}", said)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hello.yaml": ("shop.hello", "shop.helo")}, r"no filter is named 'shop.helo'; known: .*Did you mean 'shop.hello'\?"),
        ({"hello.yaml": ("greeting:", "greting:")}, r"hello\.yaml:\d+:\d+: extensions\[0\]\.config.*greting"),
        ({"plugins/hello.py": ("import msgspec", "import msgspec as")}, r"hello\.py: line \d+: SyntaxError"),
        ({"plugins/hello.py": ('kind="filter"', 'kind="filters"')}, r"there is no kind 'filters'; the kinds are"),
        ({"plugins/hello.py": ("hello.Hello", "helo.Hello")}, r"names the target 'helo.Hello', but there is no module 'helo'"),
        ({"plugins/hello.py": ("@implementer(IResponseHeadHook)\n", "")}, r"does not implement .*\(zope.interface's @implementer\)"),
        ({"plugins/hello.py": ("class Config(", "class Settings(")}, r"has no nested class Config \(a msgspec.Struct\)"),
        ({"plugins/twisted/plugins/shop_mesh.py": ("shop.shout", "shop.hello")}, r"filter 'shop.hello' is declared 2 times: in "),
    ],
)
def test_what_is_said_when_something_is_wrong(page: Path, change: dict[str, tuple[str, str]], message: str) -> None:
    """The messages of the page's table are those that `sidecar check` prints."""
    for name, (old, new) in change.items():
        text = (page / name).read_text()
        assert old in text
        (page / name).write_text(text.replace(old, new, 1))
    done = run_command("check", "hello.yaml", "--plugin-dir", "plugins", cwd=page)
    assert done.returncode == 1
    assert re.search(message, done.stderr), done.stderr
