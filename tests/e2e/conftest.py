"""What the end-to-end tests share: processes that end with their test, applications, certificates, and one plain and one secured mesh for most of them."""

from __future__ import annotations

import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sidecar.identity.authority import Authority
from tests.e2e.applications import Application, RawApplication, Wire
from tests.e2e.processes import Place, SidecarProcess

Start = Callable[..., SidecarProcess]


class Certificates:
    """Two authorities of one trust domain, one of which nobody trusts, and directories of certificates by name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = time.time()
        self.authority = Authority.create("mesh.example", self.now - 90 * 86400)
        self.stranger = Authority.create("mesh.example", self.now - 90 * 86400)
        (directory / "ca.pem").write_bytes(self.authority.trust_pem)

    def issue(self, service: str, name: str = "", authority: Authority | None = None, age_days: float = 0.0, days: float = 1.0) -> Path:
        """A directory with cert.pem, key.pem and ca.pem of `service`; `age_days` ago and for `days`."""
        directory = self.directory / (name or service)
        directory.mkdir(exist_ok=True)
        issuer = authority or self.authority
        chain, key = issuer.issue(f"spiffe://mesh.example/ns/shop/sa/{service}", days=days, now=self.now - age_days * 86400)
        for file, content in (("key.pem", key), ("ca.pem", self.authority.trust_pem), ("cert.pem", chain)):
            # As tools do it that replace certificates: the name never stands for half a file.
            (directory / f"{file}.new").write_bytes(content)
            (directory / f"{file}.new").replace(directory / file)
        return directory

    def context(self, directory: Path | None, server: bool = False) -> ssl.SSLContext:
        """For a peer that is not a sidecar: it shows what is in `directory` and verifies nothing."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if directory is not None:
            context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
        return context


class Plain:
    """A sidecar without identity in front of one application, with a listener of each kind."""

    def __init__(self, sidecar: SidecarProcess, app: Application, raw: RawApplication) -> None:
        self.sidecar = sidecar
        self.app = app
        self.raw = raw

    @property
    def place(self) -> Place:
        """Where the application's clients connect."""
        return self.sidecar.places["inbound"]

    @property
    def port(self) -> int:
        """Of `place`."""
        return int(self.place[1])

    @property
    def url(self) -> str:
        """Of `place`."""
        return f"http://127.0.0.1:{self.port}"


PLAIN = """
service: web
namespace: shop
inbound: {{listen: "127.0.0.1:0", app: "{app}", mtls: disabled, upgrades: [websocket, connect], pool: {{max_connections: 200}}}}
access_log: access.log
tracing: {{file: spans.log}}
admin: "127.0.0.1:0"
drain_time: 5s
listeners:
  - {{name: tcp, address: "127.0.0.1:0", direction: inbound, filter_chains: [{{tcp: {{cluster: raw}}}}]}}
  - {{name: unix, address: "unix:{directory}/in.sock", direction: inbound, filter_chains: [{{http: {{routes: inbound}}}}]}}
  - {{name: ipv6, address: "[::1]:0", direction: inbound, filter_chains: [{{http: {{routes: inbound}}}}]}}
  - name: others
    address: "127.0.0.1:0"
    direction: outbound
    filter_chains:
      - http:
          routes:
            name: others
            virtual_hosts:
              - name: all
                routes:
                  - {{match: {{segment_prefix: /unix}}, cluster: unix, rewrite: {{prefix: /facts}}}}
                  - {{match: {{segment_prefix: /ipv6}}, cluster: ipv6, rewrite: {{prefix: /facts}}}}
                  - {{match: {{segment_prefix: /nobody}}, cluster: nobody}}
                  - {{match: {{segment_prefix: /direct}}, direct_response: {{status: 299, body: "from here"}}}}
                  - {{match: {{segment_prefix: /slow}}, cluster: app, timeout: 300ms}}
clusters:
  - {{name: raw, endpoints: ["{raw}"]}}
  - {{name: unix, endpoints: ["unix:{directory}/app.sock"]}}
  - {{name: ipv6, endpoints: ["{ipv6}"]}}
  - {{name: nobody, endpoints: ["{nobody}"], connect_timeout: 500ms}}
"""


@pytest.fixture(scope="session")
def short_directory() -> Iterator[Path]:
    """A directory whose name is short enough for UNIX sockets."""
    with tempfile.TemporaryDirectory(prefix="sc-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def nobody() -> Iterator[str]:
    """An address at which nobody listens, and nobody else will."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(config, *options, name=..., reactor=...)`: a ready sidecar of this test's own."""
    with ExitStack() as ends:

        def begin(config: str, *options: str, name: str = "sidecar", reactor: str = "") -> SidecarProcess:
            made = SidecarProcess(tmp_path / name, config, *options, reactor=reactor)
            ends.callback(made.end)
            return made.wait_ready()

        yield begin


@pytest.fixture
def app() -> Iterator[Application]:
    """An application of this test's own."""
    made = Application()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made once."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


def talk_back(wire: Wire) -> None:
    """Say hello first; then everything comes back, and the end is answered by the count of octets."""
    wire.send(b"hello\n")
    count = 0
    while data := wire.read_some():
        count += len(data)
        wire.send(data)
    wire.send(b"\n%d octets" % count)


@pytest.fixture(scope="session")
def plains(tmp_path_factory: pytest.TempPathFactory, nobody: str) -> Iterator[Callable[[str], Plain]]:
    """`plains(reactor)`: the plain sidecar on that reactor, started when it is first asked for."""
    made: dict[str, Plain] = {}
    with ExitStack() as ends:

        def begin(reactor: str) -> Plain:
            if reactor not in made:
                short = ends.enter_context(tempfile.TemporaryDirectory(prefix="sc-"))
                app, raw = Application(), RawApplication(talk_back)
                unix, ipv6 = Application(socket.AF_UNIX, f"{short}/app.sock"), Application(socket.AF_INET6)
                for each in (app, raw, unix, ipv6):
                    ends.callback(each.stop)
                config = PLAIN.format(app=app.address, raw=raw.address, ipv6=ipv6.address, directory=short, nobody=nobody)
                sidecar = SidecarProcess(tmp_path_factory.mktemp("plain"), config, reactor=reactor)
                ends.callback(sidecar.end)
                made[reactor] = Plain(sidecar.wait_ready(), app, raw)
            return made[reactor]

        yield begin


@pytest.fixture
def plain(request: pytest.FixtureRequest, plains: Callable[[str], Plain]) -> Plain:
    """One plain sidecar for all tests, and one for each other reactor, where a test asks for `every_reactor`."""
    return plains(getattr(request, "param", ""))


REACTORS = {"": "SidecarReactor", "epoll": "EPollReactor", "poll": "PollReactor", "asyncio": "AsyncioSelectorReactor"}
every_reactor = pytest.mark.parametrize("plain", [pytest.param(each, id=each or "sidecar") for each in REACTORS], indirect=True)
