"""What lives long: WebSocket with its closing handshake, server-sent events and long polling, through one sidecar and through two."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as connect_websocket
from websockets.sync.server import serve

from tests.e2e.applications import Application, Request, Wire
from tests.e2e.clients import connect
from tests.e2e.conftest import Certificates
from tests.e2e.processes import Place, SidecarProcess, until
from tests.e2e.test_h2 import INSIDE, OUTSIDE, at


class Sockets:
    """A WebSocket server that echoes, closes when it is told to, and remembers how it was closed."""

    def __init__(self) -> None:
        self.closed: list[tuple[int, str]] = []
        self.server = serve(self.talk, "127.0.0.1", 0, compression="deflate")
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.address = f"127.0.0.1:{self.server.socket.getsockname()[1]}"

    def talk(self, socket: Any) -> None:
        try:
            for message in socket:
                if message == "close":
                    socket.close(4001, "that is all")
                else:
                    socket.send(message)
        except ConnectionClosed:
            pass
        if socket.close_code is not None:
            self.closed.append((socket.close_code, socket.close_reason or ""))

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()


class Events(Application):
    """`/events` sends one event, and the next when it is told to; `/poll` answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.proceed = threading.Event()
        self.on("/events", self.send_events)
        self.on("/poll", self.poll)

    def send_events(self, wire: Wire, request: Request) -> bool:
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in (b"data: one\n\n", b"data: two\n\n"):
            wire.send(b"%x\r\n%b\r\n" % (len(event), event))
            assert self.proceed.wait(10)
        wire.send(b"0\r\n\r\n")
        return True

    def poll(self, wire: Wire, request: Request) -> None:
        assert self.proceed.wait(10)
        wire.answer(b"news")


class Ways:
    """Two services, each reached through its own sidecar (`near`), or through a caller's as well."""

    def __init__(self, sockets: Sockets, events: Events, orders: SidecarProcess) -> None:
        self.sockets = sockets
        self.events = events
        self.orders = orders

    @property
    def place(self) -> Place:
        return self.orders.places["outbound"]


@pytest.fixture
def ways(certificates: Certificates, tmp_path: Path) -> Iterator[Ways]:
    with ExitStack() as ends:
        sockets = Sockets()
        ends.callback(sockets.stop)
        events = Events()
        ends.callback(events.stop)
        inside = []
        for service, address in (("payments", sockets.address), ("calls", events.address)):
            config = INSIDE.format(service=service, identity=certificates.issue(service), app=address, protocol="h1")
            inside.append(SidecarProcess(tmp_path / service, config))
            ends.callback(inside[-1].end)
        payments, calls = (at(each.wait_ready().places["inbound"]) for each in inside)
        orders = SidecarProcess(tmp_path / "orders", OUTSIDE.format(identity=certificates.issue("orders"), payments=payments, calls=calls))
        ends.callback(orders.end)
        yield Ways(sockets, events, orders.wait_ready())


def test_closing_handshakes_pass_both_ways(ways: Ways) -> None:
    """Code and reason, from either side; compressed frames pass as they are; and all of it is counted."""
    with connect_websocket("ws://payments/", sock=connect(ways.place), compression="deflate") as socket:
        assert socket.protocol.extensions
        socket.send("x" * 10_000)
        assert socket.recv(30) == "x" * 10_000
        assert ways.orders.metric('sidecar_upgrades_active{chain="outbound"}') == 1
        assert ways.orders.metric('sidecar_upgrade_sent_bytes_total{chain="outbound"}') > 10
        socket.close(4002, "enough")
    assert until(lambda: ways.sockets.closed) == [(4002, "enough")]
    with connect_websocket("ws://payments/", sock=connect(ways.place)) as socket:
        socket.send("close")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(30)
        assert closed.value.rcvd is not None and (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "that is all")
    rows = ways.orders.records(path="/", count=2)
    assert [(row["status"], row["code"]) for row in rows] == [(101, "")] * 2 and all(row["request_bytes"] for row in rows)
    assert ways.orders.metric('sidecar_upgrades_total{chain="outbound",protocol="websocket"}') == 2
    assert ways.orders.metric('sidecar_upgrades_active{chain="outbound"}') == 0


def test_events_come_when_they_are_sent(ways: Ways) -> None:
    """The first is here before the second is made."""
    with closing(connect(ways.place)) as client:
        client.sendall(b"GET /events HTTP/1.1\r\nHost: calls\r\nAccept: text/event-stream\r\n\r\n")
        data = b""
        while b"one" not in data:
            data += client.recv(65536)
        assert b"two" not in data and b"text/event-stream" in data
        ways.events.proceed.set()
        while not data.endswith(b"\r\n0\r\n\r\n"):
            data += client.recv(65536)
        assert b"data: two\n\n" in data


def test_a_long_poll_is_answered_when_there_is_news(ways: Ways) -> None:
    """Others are served meanwhile, over the same connection between the sidecars."""
    with closing(connect(ways.place)) as client, closing(connect(ways.place)) as other:
        client.sendall(b"GET /poll HTTP/1.1\r\nHost: calls\r\n\r\n")
        other.sendall(b"GET /facts HTTP/1.1\r\nHost: calls\r\n\r\n")
        assert other.recv(65536).startswith(b"HTTP/1.1 200 ")
        ways.events.proceed.set()
        data = b""
        while not data.endswith(b"news"):
            data += client.recv(65536)
