"""Listening: on every kind of address, through shortages, and until the very last connection."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
from twisted.logger import globalLogPublisher

from sidecar.address import Address
from sidecar.errors import ListenFailed
from sidecar.transport.port import ACCEPTS_PER_TURN, listen
from tests.transport.loopback import LOOPBACK, Server, Wire, eventually, pair, turns

Run = Callable[..., Any]


@pytest.fixture
def unix_path(tmp_path: Any) -> str:
    return str(tmp_path / "socket")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_tcp(run: Run, host: str) -> None:
    """IPv4 and IPv6 connections carry octets; port 0 becomes a real one."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, Address(host=host))
        assert server.address.port
        near, far = await pair(reactor, server, Wire())
        assert near.transport.peer.host == server.address.host == ("127.0.0.1" if host == "localhost" else host)
        far.transport.write(b"x")
        await eventually(reactor, lambda: near.data == b"x")

    run(scenario)


def test_unix(run: Run, unix_path: str) -> None:
    """A UNIX socket carries octets; its file goes with the port."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, Address(path=unix_path))
        near, far = await pair(reactor, server, Wire())
        assert far.transport.peer == near.transport.local == server.address
        assert near.transport.peer.is_unix
        assert near.transport.getPeer() is not None
        far.transport.write(b"x")
        near.transport.write(b"y")
        await eventually(reactor, lambda: near.data == b"x" and far.data == b"y")
        await server.port.stop()
        assert not os.path.exists(unix_path)

    run(scenario)


def test_abstract_unix(run_once: Run) -> None:
    """A name in Linux's abstract namespace works, and leaves no file."""

    async def scenario(reactor: Any) -> None:
        address = Address(path=f"@sidecar-test-{os.getpid()}")
        server = Server(reactor, address)
        near, far = await pair(reactor, server, Wire())
        assert far.transport.peer == near.transport.local == address
        with pytest.raises(ListenFailed):
            listen(reactor, address, lambda peer: None)
        await server.port.stop()

    run_once(scenario)


def test_a_stale_unix_socket_is_replaced(run_once: Run, unix_path: str) -> None:
    """The file of a process that is gone does not keep us from listening."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(unix_path)

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, Address(path=unix_path))
        await pair(reactor, server, Wire())

    run_once(scenario)


def test_a_live_unix_socket_is_refused(run_once: Run, unix_path: str) -> None:
    """The file of a process that listens stays, and so does any other file."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, Address(path=unix_path))
        with pytest.raises(ListenFailed, match="address already in use"):
            listen(reactor, Address(path=unix_path), lambda peer: None)
        await pair(reactor, server, Wire())
        await server.port.stop()
        with open(unix_path, "w") as file:
            file.write("precious")
        with pytest.raises(ListenFailed, match="address already in use"):
            listen(reactor, Address(path=unix_path), lambda peer: None)
        assert os.path.exists(unix_path)

    run_once(scenario)


def test_only_our_own_file_is_removed(run_once: Run, unix_path: str) -> None:
    """A socket file that another process has put in our place survives our stop."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, Address(path=unix_path))
        os.unlink(unix_path)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(unix_path)
            await server.port.stop()
            assert os.path.exists(unix_path)

    run_once(scenario)


def test_errors_are_sentences(run_once: Run) -> None:
    """An address in use, a name, and an address of somebody else are refused in words."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor)
        for address, expected in (
            (server.address, f"cannot listen on {server.address}: address already in use (EADDRINUSE)"),
            (Address(host="example.org", port=80), "cannot listen on example.org:80: an IP address or localhost is needed, not a name"),
            (Address(host="192.0.2.1", port=1), "cannot listen on 192.0.2.1:1: cannot assign requested address (EADDRNOTAVAIL)"),
            (Address(path="/nowhere/at/all"), "cannot listen on unix:/nowhere/at/all: no such file or directory (ENOENT)"),
        ):
            with pytest.raises(ListenFailed) as caught:
                listen(reactor, address, lambda peer: None)
            assert caught.value.sentence == expected

    run_once(scenario)


def test_ports_may_be_shared(run_once: Run) -> None:
    """With `reuse_port` two ports take the same address."""

    async def scenario(reactor: Any) -> None:
        first = listen(reactor, LOOPBACK, lambda peer: None, reuse_port=True)
        second = listen(reactor, first.address, lambda peer: None, reuse_port=True)
        assert first.address == second.address

    run_once(scenario)


def test_no_protocol_closes_at_once(run: Run) -> None:
    """A connection for which there is no protocol is closed; so is one whose protocol cannot be made; the port goes on."""

    async def scenario(reactor: Any) -> None:
        answers: list[Callable[[], Any]] = [lambda: None, lambda: 1 / 0, Wire]

        def build(peer: Address) -> Any:
            return answers.pop(0)()

        port = listen(reactor, LOOPBACK, build)
        for _ in range(2):
            with socket.create_connection((port.address.host, port.address.port)) as skt:
                skt.setblocking(False)
                ends: list[bytes] = []

                def look(skt: socket.socket = skt, ends: list[bytes] = ends) -> bool:
                    try:
                        ends.append(skt.recv(1))
                    except BlockingIOError:
                        return False
                    return True

                await eventually(reactor, look)
                assert ends == [b""]
        assert len(answers) == 1

    run(scenario)


def test_a_flood_is_taken_in_portions(run_once: Run) -> None:
    """More connections than one turn takes are all served."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor)
        count = ACCEPTS_PER_TURN * 2 + 5
        clients = [socket.create_connection((server.address.host, server.address.port)) for _ in range(count)]
        await eventually(reactor, lambda: len(server.wires) == count)
        for client in clients:
            client.close()

    run_once(scenario)


def test_running_out_of_descriptors(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """EMFILE is logged once, accepting pauses, and goes on by itself when there are descriptors again."""
    lines: list[str] = []

    def observe(event: Any) -> None:
        if "Cannot accept" in event.get("log_format", ""):
            lines.append(event["why"])

    monkeypatch.setattr("sidecar.transport.port.SHORTAGE_PAUSE_SECONDS", 0.005)
    globalLogPublisher.addObserver(observe)

    class Exhausted:
        """A listening socket in a process without descriptors."""

        left = 5

        def __init__(self, skt: socket.socket) -> None:
            self.skt = skt

        def accept(self) -> Any:
            if self.left:
                self.left -= 1
                raise OSError(errno.EMFILE, "")
            return self.skt.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.skt, name)

    async def scenario(reactor: Any) -> None:
        server = Server(reactor)
        server.port.socket = Exhausted(server.port.socket)  # type: ignore[assignment]
        await pair(reactor, server, Wire())
        assert server.port.socket.left == 0  # type: ignore[attr-defined]

    try:
        run(scenario)
    finally:
        globalLogPublisher.removeObserver(observe)
    assert lines == ["too many open files (EMFILE)"]


def test_half_of_the_descriptors_are_not_for_clients(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients beyond that wait in the kernel's queue, so that there is something left to serve the others with; they are taken when some have gone."""
    monkeypatch.setattr("sidecar.transport.port.SHORTAGE_PAUSE_SECONDS", 0.005)

    async def scenario(reactor: Any) -> None:
        server = Server(reactor)
        address = (server.address.host, server.address.port)
        clients = [socket.create_connection(address) for _ in range(8)]
        server.port._most = clients[-1].fileno() + 3
        await eventually(reactor, lambda: server.port._in_shortage)
        served = len(server.wires)
        assert served < 8
        for _ in range(20):
            await turns(reactor)
        assert len(server.wires) == served
        for client in clients:
            client.close()
        await eventually(reactor, lambda: len(server.wires) == 8)
        await server.port.stop()

    run(scenario)


def test_a_port_that_waits(run: Run) -> None:
    """Connections stay in the kernel's queue, and are served when it goes on; a port that was stopped meanwhile stays so."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor)
        assert server.port.accepts
        server.port.set_accepting(False)
        assert not server.port.accepts
        client = socket.create_connection(("127.0.0.1", server.address.port), 5)
        await turns(reactor, 5)
        assert server.wires == []
        server.port.set_accepting(True)
        await eventually(reactor, lambda: len(server.wires) == 1)
        client.close()
        server.port.set_accepting(False)
        await server.port.stop()
        server.port.set_accepting(True)
        assert server.port not in reactor.getReaders()

    run(scenario)


def test_a_stopped_port_takes_nothing_up_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it was waiting for descriptors; those whom the kernel had accepted are all served."""
    monkeypatch.setattr("sidecar.transport.port.SHORTAGE_PAUSE_SECONDS", 0.005)

    async def scenario(reactor: Any) -> None:
        server = Server(reactor)
        address = (server.address.host, server.address.port)
        server.port._most = 0
        clients = [socket.create_connection(address) for _ in range(4)]
        await eventually(reactor, lambda: server.port._in_shortage)
        await server.port.stop()
        assert len(server.wires) == 4
        for _ in range(20):
            await turns(reactor)
        for client in clients:
            client.close()

    run(scenario)


def test_stop_takes_what_the_kernel_has_accepted(run: Run) -> None:
    """Clients that were connected before `stop` are served, later ones are refused."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor)
        address = (server.address.host, server.address.port)
        clients = [socket.create_connection(address) for _ in range(3)]
        await server.port.stop()
        assert len(server.wires) == 3
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        clients[0].sendall(b"x")
        await eventually(reactor, lambda: any(wire.data == b"x" for wire in server.wires))
        await server.port.stop()
        await turns(reactor)
        for client in clients:
            client.close()

    run(scenario)
