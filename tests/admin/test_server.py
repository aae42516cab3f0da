"""`sidecar/admin/server.py` and `pages.py`: who may ask for what."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock

from sidecar.address import Address
from sidecar.admin.pages import make_pages
from sidecar.admin.server import ADMIN_CONNECTIONS, UNREAD_BYTES, AdminServer, Answer, Page
from sidecar.model import Config, Node
from sidecar.naming.places import Steps
from sidecar.telemetry.metrics import Registry
from sidecar.transport.wheel import TimerWheel
from tests.memory import MemoryTransport, body_of


class Empty:
    """A keyring without certificates."""

    def snapshot(self) -> list[Any]:
        return []


class FakeSidecar:
    """What the pages read."""

    def __init__(self) -> None:
        self.config = Config(node=Node(service="orders", namespace="shop", trust_domain="example.org"), listeners=(), clusters=())
        self.reactor = Clock()
        self.started_at = 0.0
        self.connectors: dict[str, Any] = {}
        self.listeners: list[Any] = []
        self.registry = Registry()
        self.keyring = Empty()
        self.state = "starting"
        self.drains = 0

    def drain(self) -> None:
        self.drains += 1
        self.state = "draining"


class Admin:
    """An admin server and a way to ask it."""

    def __init__(self, **pages: Page) -> None:
        self.sidecar = FakeSidecar()
        clock = self.sidecar.reactor
        self.server = AdminServer({**make_pages(self.sidecar), **{f"/{name}".encode(): page for name, page in pages.items()}}, TimerWheel(clock), clock)

    def connect(self) -> Any:
        protocol = self.server._build(None)
        if protocol is None:
            return None
        transport = MemoryTransport(protocol)
        protocol.makeConnection(transport)
        return transport

    def ask(self, path: str, method: str = "GET", fields: str = "", body: str = "") -> tuple[int, bytes]:
        transport = self.connect()
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        transport.receive(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}{length}\r\n{body}".encode())
        self.sidecar.reactor.advance(0)  # long pages take some turns
        answer = transport.take()
        return int(answer[9:12]), answer


PAGES = ["/", "/healthz/live", "/config_dump", "/clusters", "/listeners", "/certs", "/server_info", "/stats/prometheus", "/certs/?x=1"]


@pytest.mark.parametrize("path", PAGES)
def test_pages_are_read(path: str) -> None:
    """GET and HEAD answer; other methods are told which would."""
    admin = Admin()
    status, answer = admin.ask(path)
    assert (status == 200 and body_of(answer) != b"") or path == "/stats/prometheus"
    assert b"Cache-Control: no-store" in answer and b"nosniff" in answer
    status, answer = admin.ask(path, "HEAD")
    assert status == 200 and body_of(answer) == b""
    status, answer = admin.ask(path, "POST")
    assert status == 405 and b"Allow: GET, HEAD" in answer


def test_readiness_follows_the_state() -> None:
    """503 until listeners are open, and again while draining."""
    admin = Admin()
    for state, status in (("starting", 503), ("ready", 200), ("draining", 503)):
        admin.sidecar.state = state
        assert admin.ask("/healthz/ready")[0] == status
        assert admin.ask("/healthz/live")[0] == 200


@pytest.mark.parametrize(
    ("method", "fields", "status"),
    [
        ("GET", "", 405),
        ("HEAD", "", 405),
        ("POST", "", 200),
        ("POST", "Sec-Fetch-Site: none\r\n", 200),
        ("POST", "Sec-Fetch-Site: same-origin\r\n", 200),
        ("POST", "Sec-Fetch-Site: cross-site\r\n", 403),
        ("POST", "Sec-Fetch-Site: same-site\r\n", 403),
        ("POST", "Origin: http://evil.example\r\n", 403),
        ("POST", "Origin: null\r\n", 403),
    ],
)
def test_what_changes_something(method: str, fields: str, status: int) -> None:
    """POST only, and not for a web page of another site."""
    admin = Admin()
    assert admin.ask("/drain", method, fields)[0] == status
    assert admin.sidecar.drains == (status == 200)


@pytest.mark.parametrize(
    ("address", "host", "status"),
    [
        ("127.0.0.1:15000", "localhost:15000", 200),
        ("127.0.0.1:15000", "LocalHost", 200),
        ("127.0.0.1:15000", "127.0.0.1:15000", 200),
        ("[::1]:15000", "[::1]:15000", 200),
        ("127.0.0.1:15000", "evil.example:15000", 403),
        ("localhost:15000", "127.0.0.1.evil.example", 403),
        ("10.0.0.1:15000", "pod.example:15000", 200),
        ("unix:/run/admin.sock", "anything", 200),
    ],
)
def test_names_of_other_sites(address: str, host: str, status: int) -> None:
    """On loopback only its own names are answered: a web page whose name was pointed at loopback reads nothing."""
    admin = Admin()
    admin.server.start(Address.parse(address), lambda *_: SimpleNamespace(address=address))
    transport = admin.connect()
    transport.receive(f"GET /config_dump HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    admin.sidecar.reactor.advance(0)
    assert int(transport.take()[9:12]) == status


def test_unknown_page_and_broken_page() -> None:
    """404 and 500; the connection goes on."""

    def broken(query: bytes) -> Answer:
        raise ValueError("x")

    admin = Admin(broken=Page(broken, ""))
    assert admin.ask("/nothing")[0] == 404
    status, answer = admin.ask("/broken")
    assert status == 500 and b"ValueError" not in answer


def test_server_info() -> None:
    """Who this sidecar is."""
    info = json.loads(body_of(Admin().ask("/server_info")[1]))
    assert (info["service"], info["state"]) == ("orders", "starting")


def test_pipelined_and_with_body() -> None:
    """As on any other connection."""
    admin = Admin()
    transport = admin.connect()
    transport.receive(b"POST /drain HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhiGET /healthz/live HTTP/1.1\r\nHost: a\r\n\r\n" * 2000)
    assert transport.take().count(b"HTTP/1.1 200") == 4000
    transport.receive(b"nonsense\r\n\r\n")
    assert transport.take().startswith(b"HTTP/1.1 400")


def test_connections_are_limited() -> None:
    """A scraper that leaks connections is refused; those that end make room."""
    admin = Admin()
    transports = [admin.connect() for _ in range(ADMIN_CONNECTIONS)]
    assert admin.connect() is None
    transports[0].lose()
    assert admin.connect() is not None


def counting(done: list[int]) -> Steps[Answer]:
    """A page in many steps."""
    for number in range(100):
        done.append(number)
        yield
    return Answer(b"long\n")


def test_a_long_page_takes_turns() -> None:
    """Requests are served between its steps, and it is whole in the end; the next request on its connection waits for it."""
    done: list[int] = []
    admin = Admin(long=Page(lambda query: counting(done), ""))
    transport = admin.connect()
    transport.receive(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\nGET /healthz/live HTTP/1.1\r\nHost: a\r\n\r\n")
    assert len(done) == 1 and transport.take() == b""
    admin.sidecar.reactor.advance(0)
    answer = transport.take()
    assert len(done) == 100 and answer.index(b"long\n") < answer.index(b"alive\n")


def test_nobody_waits_for_a_long_page() -> None:
    """The rest of it is not made."""
    done: list[int] = []
    admin = Admin(long=Page(lambda query: counting(done), ""))
    transport = admin.connect()
    transport.receive(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
    transport.lose()
    admin.sidecar.reactor.advance(1)
    assert len(done) == 1 and not admin.server._connections


def test_a_long_page_that_breaks() -> None:
    """500, as for any other."""

    def breaking(query: bytes) -> Steps[Answer]:
        yield
        raise ValueError("x")

    status, answer = Admin(long=Page(breaking, "")).ask("/long")
    assert status == 500 and b"ValueError" not in answer


def test_long_pages_are_made_one_at_a_time() -> None:
    """Each is held while it is made, and takes more then than in the end. Who goes away while another's is made leaves no gap."""
    done: list[int] = []
    admin = Admin()
    clock: Any = admin.sidecar.reactor

    def slow(query: bytes) -> Steps[Answer]:
        for _ in counting(done):
            clock.rightNow += 0.001  # so that it takes many turns
            yield
        return Answer(b"long\n")

    admin.server.pages[b"/long"] = Page(slow, "")
    first, second, third = [admin.connect() for _ in range(3)]
    for transport in (first, second, third):
        transport.receive(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
    second.lose()
    clock.advance(0)
    assert done == [0, 0, 0, *range(1, 100), *range(1, 100)]
    assert b"long" in first.take() and b"long" in third.take()


def test_what_nobody_reads_is_bounded() -> None:
    """Clients that ask for long pages and read none get 503 after some; short pages are answered, and long ones when the others are read or gone."""

    def large(query: bytes) -> Steps[Answer]:
        yield
        return Answer(b"x" * (UNREAD_BYTES // 3))

    admin = Admin(large=Page(large, ""))
    silent = []
    for _ in range(10):
        transport = admin.connect()
        transport.blocked = True
        transport.receive(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        admin.sidecar.reactor.advance(0)
        silent.append(transport)
    assert sum(transport.buffered for transport in silent) < 2 * UNREAD_BYTES
    status, answer = admin.ask("/large")
    assert status == 503 and b"wait for their readers" in answer
    assert admin.ask("/healthz/live")[0] == 200
    silent[0].lose()
    silent[1].drain()
    assert admin.ask("/large")[0] == 200


def test_all_who_wait_are_answered() -> None:
    """Also when all of them came before the first page was made, and most are refused."""

    def large(query: bytes) -> Steps[Answer]:
        yield
        return Answer(b"x" * (UNREAD_BYTES // 3))

    admin = Admin(large=Page(large, ""))
    transports = [admin.connect() for _ in range(ADMIN_CONNECTIONS)]
    for transport in transports:
        transport.blocked = True
        transport.receive(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
    for _ in range(2 * ADMIN_CONNECTIONS):
        admin.sidecar.reactor.advance(0)
    assert [bytes(transport.queued[9:12]) for transport in transports] == [b"200"] * 4 + [b"503"] * (ADMIN_CONNECTIONS - 4)


def test_a_listener_that_is_held_does_not_accept() -> None:
    """Overload lets connections wait; the page says so."""
    admin = Admin()
    port = SimpleNamespace(accepts=True)
    settings = SimpleNamespace(direction="inbound")
    admin.sidecar.listeners.append(SimpleNamespace(name="in", listener=settings, address="", port=port, active=0, candidates=(), counters={}))
    assert json.loads(body_of(admin.ask("/listeners")[1]))[0]["accepting"] is True
    port.accepts = False
    assert json.loads(body_of(admin.ask("/listeners")[1]))[0]["accepting"] is False
