"""Connecting: one answer, in words when it is no."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IResolutionReceiver

from sidecar.address import Address
from sidecar.errors import ConnectFailed, ConnectTimeout
from sidecar.transport.connector import connect
from sidecar.transport.tls import ClientTLS
from tests.transport.loopback import LOOPBACK, Server, StillReactor, Wire, context, eventually, pair, turns

Run = Callable[..., Any]


class Names:
    """A resolver that knows `names`, as Twisted calls it."""

    def __init__(self, names: dict[str, list[str]]) -> None:
        self.names = names

    def resolveHostName(self, receiver: Any, host: str, port: int = 0, types: Any = None, transport: str = "TCP") -> Any:
        assert IResolutionReceiver.providedBy(receiver)
        receiver.resolutionBegan(self)
        for each in self.names.get(host, []):
            receiver.addressResolved(IPv4Address("TCP", each, port))
        receiver.resolutionComplete()


def free_address() -> Address:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return Address(host="127.0.0.1", port=server.getsockname()[1])


def test_a_refused_connection(run: Run) -> None:
    """The error names the address and the reason, and comes later, not within `connect`."""

    async def scenario(reactor: Any) -> None:
        address, client = free_address(), Wire()
        connect(reactor, address, client, 5.0)
        assert not client.events
        await eventually(reactor, lambda: client.events)
        assert client.events == ["failed"]
        assert type(client.error) is ConnectFailed
        assert client.error.sentence == f"cannot connect to {address}: connection refused (ECONNREFUSED)"
        await turns(reactor)
        assert client.events == ["failed"]

    run(scenario)


def test_errors_that_show_at_once(run: Run) -> None:
    """A missing UNIX socket, and a local address that is not ours, fail in the same way."""

    async def scenario(reactor: Any) -> None:
        for address, bind, expected in (
            (Address(path="/nowhere/at/all"), None, "cannot connect to unix:/nowhere/at/all: no such file or directory (ENOENT)"),
            (Address(host="127.0.0.1", port=1), "192.0.2.1", "cannot connect to 127.0.0.1:1: cannot assign requested address (EADDRNOTAVAIL)"),
        ):
            client = Wire()
            connect(reactor, address, client, 5.0, bind_address=bind)
            assert not client.events
            await eventually(reactor, lambda client=client: client.events)
            assert client.error.sentence == expected

    run(scenario)


def full_listener() -> tuple[socket.socket, list[socket.socket]]:
    """A listening socket whose queue is full, so that the kernel ignores whoever comes, and those in the queue."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    waiting = []
    for _ in range(3):
        skt = socket.socket()
        skt.setblocking(False)
        skt.connect_ex(listener.getsockname())
        waiting.append(skt)
    return listener, waiting


def test_a_timeout(run: Run) -> None:
    """An address that does not answer gives `ConnectTimeout` with the time in the sentence."""
    listener, waiting = full_listener()

    async def scenario(reactor: Any) -> None:
        client = Wire()
        address = Address(host="127.0.0.1", port=listener.getsockname()[1])
        connect(reactor, address, client, 0.05)
        await eventually(reactor, lambda: client.events)
        assert type(client.error) is ConnectTimeout
        assert client.error.sentence == f"{address} did not accept a connection within 0.05 s"

    run(scenario)
    for skt in (listener, *waiting):
        skt.close()


def test_a_stale_event_is_no_connection() -> None:
    """An event that was meant for an earlier owner of the descriptor does not pass for a connection."""
    listener, waiting = full_listener()
    reactor, client = StillReactor(), Wire()
    connecting = connect(reactor, Address(host="127.0.0.1", port=listener.getsockname()[1]), client, 5.0)
    (attempt,) = reactor.writers
    attempt.doWrite()
    assert not client.events
    assert reactor.writers == {attempt}
    connecting.cancel()
    attempt.doWrite()
    assert not reactor.writers
    for skt in (listener, *waiting):
        skt.close()


def test_cancelling(run: Run) -> None:
    """A cancelled attempt tells the protocol nothing, at any stage; cancelling again is harmless."""
    listener, waiting = full_listener()

    async def scenario(reactor: Any) -> None:
        client = Wire()
        stuck = connect(reactor, Address(host="127.0.0.1", port=listener.getsockname()[1]), client, 5.0)
        await turns(reactor)
        stuck.cancel()
        refused = connect(reactor, free_address(), client, 5.0)
        refused.cancel()
        server = Server(reactor)
        handshaking = connect(reactor, server.address, client, 5.0, tls=ClientTLS(context("client")))
        await eventually(reactor, lambda: server.wires and server.wires[0].received)
        handshaking.cancel()
        await eventually(reactor, lambda: server.wires[0].is_lost)
        await turns(reactor)
        assert client.events == []
        _, far = await pair(reactor, server, client)
        for each in (stuck, refused, handshaking):
            each.cancel()
        await turns(reactor)
        assert not far.is_lost

    run(scenario)
    for skt in (listener, *waiting):
        skt.close()


def test_names_are_resolved_and_tried_in_order(run: Run) -> None:
    """All addresses of a name are tried until one answers; the sentence names what was asked for."""

    async def scenario(reactor: Any) -> None:
        reactor.installNameResolver(Names({"app": ["127.0.0.2", "127.0.0.1"]}))
        server = Server(reactor)  # on 127.0.0.1 alone
        client = Wire()
        connect(reactor, Address(host="app", port=server.address.port), client, 5.0)
        await eventually(reactor, lambda: client.events)
        assert client.events == ["connected"]
        assert client.transport.peer == server.address
        for host, expected in (
            ("app", "cannot connect to app:{port}: connection refused (ECONNREFUSED)"),
            ("nobody", "cannot connect to nobody:{port}: the name nobody cannot be resolved"),
        ):
            client = Wire()
            port = free_address().port
            connect(reactor, Address(host=host, port=port), client, 5.0)
            assert not client.events
            await eventually(reactor, lambda client=client: client.events)
            assert client.error.sentence == expected.format(port=port)

    run(scenario)


def test_the_reactors_own_resolver(run_once: Run) -> None:
    """`localhost` is looked up by the system."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor)
        client = Wire()
        connect(reactor, Address(host="localhost", port=server.address.port), client, 5.0)
        await eventually(reactor, lambda: client.events)
        assert client.events == ["connected"]

    run_once(scenario)


def test_a_local_address(run_once: Run) -> None:
    """`bind_address` is where the connection comes from."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor)
        near, _ = await pair(reactor, server, Wire(), bind_address="127.0.0.7")
        assert near.transport.peer.host == "127.0.0.7"

    run_once(scenario)


def test_a_full_unix_backlog_is_waited_for(run: Run, tmp_path: Any) -> None:
    """A UNIX socket that cannot take one more connection yet is asked again."""
    path = str(tmp_path / "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(0)
    first = socket.socket(socket.AF_UNIX)
    first.connect(path)

    async def scenario(reactor: Any) -> None:
        client = Wire()
        connect(reactor, Address(path=path), client, 5.0)
        await turns(reactor, 5)
        assert not client.events
        served, _ = listener.accept()
        await eventually(reactor, lambda: client.events)
        assert client.events == ["connected"]
        served.close()

    run(scenario)
    first.close()
    listener.close()


def test_failing_protocols_are_logged(run_once: Run, caught_failures: list[Any]) -> None:
    """What `makeConnection` and `connection_failed` raise ends nothing but that connection."""

    class Broken(Wire):
        def makeConnection(self, transport: Any) -> None:
            raise ZeroDivisionError

        def connection_failed(self, error: Any) -> None:
            super().connection_failed(error)
            raise LookupError

    async def scenario(reactor: Any) -> None:
        server = Server(reactor)
        client = Broken()
        connect(reactor, server.address, client, 5.0)
        await eventually(reactor, lambda: client.is_lost)
        connect(reactor, free_address(), client, 5.0)
        await eventually(reactor, lambda: client.error is not None)

    run_once(scenario)
    assert [failure.type for failure in caught_failures] == [ZeroDivisionError, LookupError]


def test_a_server_name_that_is_none(run_once: Run) -> None:
    """A name that cannot be sent is a failure of the handshake, not an exception."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor)
        client = Wire()
        connect(reactor, server.address, client, 5.0, tls=ClientTLS(context("client"), "a" * 300))
        await eventually(reactor, lambda: client.events)
        assert client.error.sentence.startswith(f"TLS with {server.address} cannot start")

    run_once(scenario)


@pytest.mark.parametrize("tls", [False, True])
def test_shutdown_while_connecting(run: Run, tls: bool) -> None:
    """A reactor that stops in the middle of an attempt leaves nothing behind."""
    listener, waiting = full_listener()

    async def scenario(reactor: Any) -> None:
        options = {"tls": ClientTLS(context("client"))} if tls else {}
        connect(reactor, Address(host="127.0.0.1", port=listener.getsockname()[1]), Wire(), 5.0, **options)  # type: ignore[arg-type]
        connect(reactor, Server(reactor, LOOPBACK).address, Wire(), 5.0, **options)  # type: ignore[arg-type]
        await turns(reactor)

    run(scenario)
    for skt in (listener, *waiting):
        skt.close()
