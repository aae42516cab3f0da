"""Sniffing: everything is shown, nothing is consumed, and whoever comes next finds all of it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost

from sidecar.address import Address
from sidecar.transport import sniffing
from sidecar.transport.connection import Transport
from sidecar.transport.connector import connect
from sidecar.transport.tls import ClientTLS, TLSTransport
from tests.transport.loopback import Server, Wire, context, eventually, pair, turns

Run = Callable[..., Any]


class Sniffer(Wire):
    """Sniffs until it has seen `enough` octets or the end."""

    def __init__(self, enough: int = 10, limit_bytes: int = 16384) -> None:
        super().__init__()
        self.enough = enough
        self.limit_bytes = limit_bytes
        self.seen: list[tuple[bytes, bool]] = []

    def makeConnection(self, transport: Any) -> None:
        super().makeConnection(transport)
        transport.start_sniffing(self.sniffed, self.limit_bytes)

    def sniffed(self, data: bytes, eof: bool) -> None:
        assert not self.data, "read while sniffing"
        self.seen.append((data, eof))
        if len(data) >= self.enough or eof:
            self.decide()

    def decide(self) -> None:
        self.transport.stop_sniffing()


@pytest.fixture(params=["kernel", "timer"])
def waits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of waiting for more."""
    monkeypatch.setattr(sniffing, "_CAN_WAIT_FOR_MORE", request.param == "kernel")


def test_shows_more_and_more_and_consumes_nothing(run: Run, waits: None) -> None:
    """Each piece that arrives is shown behind those before it; afterwards all is read from the start."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, make=Sniffer)
        near, far = await pair(reactor, server, Wire())
        for count, piece in enumerate([b"GET", b" / ", b"HTTP/1.1\r\n"], 1):
            far.transport.write(piece)
            await eventually(reactor, lambda count=count: len(near.seen) == count)
        assert near.seen == [(b"GET", False), (b"GET / ", False), (b"GET / HTTP/1.1\r\n", False)]
        await eventually(reactor, lambda: near.data == b"GET / HTTP/1.1\r\n")
        assert type(near.transport) is Transport
        far.transport.write(b"x")
        await eventually(reactor, lambda: near.data.endswith(b"x"))

    run(scenario)


def test_waiting_for_more_does_not_spin(run: Run, waits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing more comes the socket is looked at a few times at most."""
    looks = []
    read = sniffing.SniffingTransport.doRead
    monkeypatch.setattr(sniffing.SniffingTransport, "doRead", lambda self: (looks.append(1), read(self))[1])

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, make=Sniffer)
        near, far = await pair(reactor, server, Wire())
        far.transport.write(b"GET")
        await eventually(reactor, lambda: near.seen)
        looks.clear()
        await turns(reactor, 30)
        assert len(looks) <= 10
        assert len(near.seen) == 1

    run(scenario)


def test_the_peers_end_is_seen_behind_its_data(run: Run, waits: None) -> None:
    """A peer that closes after too few octets gives `eof` with what there is, then an ordinary end."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, make=Sniffer)
        near, far = await pair(reactor, server, Wire())
        far.transport.write(b"GET")
        far.transport.loseConnection()
        await eventually(reactor, lambda: near.is_lost)
        assert near.seen[-1] == (b"GET", True)
        assert near.data == b"GET"
        assert near.reason.check(ConnectionDone)

    run(scenario)


def test_the_end_without_data(run: Run) -> None:
    """A peer that closes without a word gives `eof` and no data."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, make=Sniffer)
        near, far = await pair(reactor, server, Wire())
        far.transport.loseConnection()
        await eventually(reactor, lambda: near.is_lost)
        assert near.seen == [(b"", True)]

    run(scenario)


def test_at_the_limit_there_is_no_more(run: Run) -> None:
    """What reaches the limit is shown with `eof`, since no more will be; nothing spins."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, make=lambda: Sniffer(enough=1000, limit_bytes=20))
        near, far = await pair(reactor, server, Wire())
        far.transport.write(b"x" * 100)
        await eventually(reactor, lambda: near.received == 100)
        assert near.seen == [(b"x" * 20, True)]

    run(scenario)


def test_a_callback_that_only_waits_is_not_called_again_after_the_end(run_once: Run) -> None:
    """After `eof` a callback that decides nothing is left alone until somebody calls `stop_sniffing`."""

    class Undecided(Sniffer):
        def decide(self) -> None:
            pass

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, make=lambda: Undecided(limit_bytes=10))
        near, far = await pair(reactor, server, Wire())
        far.transport.write(b"x" * 100)
        await eventually(reactor, lambda: near.seen)
        await turns(reactor, 10)
        assert len(near.seen) == 1
        near.transport.stop_sniffing()
        await eventually(reactor, lambda: near.received == 100)
        near.transport.stop_sniffing()  # harmless

    run_once(scenario)


def test_tls_starts_after_sniffing(run: Run, waits: None) -> None:
    """A ClientHello that was sniffed in pieces is still there for OpenSSL."""

    class Secure(Sniffer):
        def decide(self) -> None:
            self.transport.startTLS(context("server"), False)

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, make=lambda: Secure(enough=100))
        relay = Server(reactor)
        client = Wire()
        # A relay between the two cuts the ClientHello into pieces.
        connect(reactor, relay.address, client, 5.0, tls=ClientTLS(context("client"), "server"))
        await eventually(reactor, lambda: relay.wires and relay.wires[0].received > 100)
        left = relay.wires[0]
        near, right = await pair(reactor, server, Wire())
        right.transport.write(bytes(left.data[:5]))
        await eventually(reactor, lambda: near.seen)
        right.transport.write(bytes(left.data[5:]))
        left.dataReceived = right.transport.write
        right.dataReceived = left.transport.write
        await eventually(reactor, lambda: "handshake" in near.events and "handshake" in client.events)
        assert type(near.transport) is TLSTransport
        assert near.seen[0][0][0] == 22
        client.transport.write(b"hello")
        await eventually(reactor, lambda: near.data == b"hello")

    run(scenario)


def test_over_unix_sockets(run: Run, tmp_path: Any) -> None:
    """UNIX sockets, where the kernel does not wait for more, are sniffed as well."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, Address(path=str(tmp_path / "socket")), make=Sniffer)
        near, far = await pair(reactor, server, Wire())
        far.transport.write(b"12345")
        await eventually(reactor, lambda: near.seen)
        far.transport.write(b"67890")
        await eventually(reactor, lambda: near.data == b"1234567890")
        assert near.seen == [(b"12345", False), (b"1234567890", False)]

    run(scenario)


def test_the_loss_while_sniffing(run: Run) -> None:
    """A reset ends it, as it ends reading."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, make=Sniffer)
        near, far = await pair(reactor, server, Wire())
        far.transport.write(b"GET")
        await eventually(reactor, lambda: near.seen)
        far.transport.abortConnection()
        await eventually(reactor, lambda: near.is_lost)
        assert near.reason.check(ConnectionLost)

    run(scenario)


def test_a_failing_callback(run_once: Run, caught_failures: list[Any]) -> None:
    """What the callback raises is logged and ends the connection."""

    class Broken(Sniffer):
        def sniffed(self, data: bytes, eof: bool) -> None:
            raise ZeroDivisionError

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, make=Broken)
        near, far = await pair(reactor, server, Wire())
        far.transport.write(b"x")
        await eventually(reactor, lambda: near.is_lost)

    run_once(scenario)
    assert [failure.type for failure in caught_failures] == [ZeroDivisionError]


def test_the_low_water_mark_is_reset(run_once: Run) -> None:
    """After sniffing the kernel reports single octets again."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, make=Sniffer)
        near, far = await pair(reactor, server, Wire())
        far.transport.write(b"12345")
        await eventually(reactor, lambda: near.seen)
        near.transport.stop_sniffing()
        assert near.transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
        await eventually(reactor, lambda: near.data == b"12345")

    run_once(scenario)
