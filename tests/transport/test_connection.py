"""The plain transport: written at once, paced, closed in every way there is, and nothing lost that had arrived."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IHalfCloseableDescriptor, IHalfCloseableProtocol, IPushProducer, ITCPTransport
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from sidecar.address import Address
from sidecar.transport.connection import READ_BYTES, READ_BYTES_MAX, Transport
from sidecar.transport.connector import connect
from sidecar.transport.sockets import address_of
from tests.transport.loopback import LOOPBACK, Server, StillReactor, Wire, eventually, pair, turns

MEBIBYTE = 1 << 20
Run = Callable[..., Any]


class Echo(Wire):
    """Sends back what comes, and stops reading while its writes pile up."""

    def dataReceived(self, data: bytes) -> None:
        self.received += len(data)
        self.transport.write(data)

    def pauseProducing(self) -> None:
        super().pauseProducing()
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        super().resumeProducing()
        self.transport.resumeProducing()


@implementer(IHalfCloseableProtocol)
class HalfCloser(Wire):
    """A wire whose two directions end apart."""

    def readConnectionLost(self) -> None:
        self.events.append("read lost")

    def writeConnectionLost(self) -> None:
        self.events.append("write lost")


@pytest.fixture
def ends() -> Any:
    """(transport on a still reactor, its wire, the raw socket of the peer), joined by a UNIX socket pair."""
    near, far = socket.socketpair()
    far.setblocking(False)
    wire = Wire()
    transport = Transport(near, wire, StillReactor(), Address(path="@"), is_client=True)
    transport.startReading()
    wire.makeConnection(transport)
    yield transport, wire, far
    far.close()
    near.close()


def fill(transport: Transport) -> int:
    """Write until something is queued; the number of octets written."""
    written = 0
    while not transport.buffered:
        transport.write(b"x" * 65536)
        written += 65536
    return written


def drain(skt: socket.socket) -> bytes:
    """Everything that can be read now."""
    found = b""
    try:
        while data := skt.recv(MEBIBYTE):
            found += data
    except BlockingIOError:
        pass
    return found


# -- by itself -------------------------------------------------------------------------------------------------------------------------------


def test_provides_what_twisted_transports_provide(ends: Any) -> None:
    """Code written for Twisted's TCP transports finds the interfaces it looks for."""
    for interface in (ITCPTransport, IConsumer, IPushProducer, IHalfCloseableDescriptor):
        assert verifyObject(interface, ends[0])


def test_a_write_leaves_at_once(ends: Any) -> None:
    """With nothing queued the octets are with the kernel when `write` returns, and the reactor is not asked for anything."""
    transport, _, far = ends
    transport.write(b"one ")
    transport.writeSequence([b"two ", b"", b"three ", *([b"four "] * 3)])
    transport.writeSequence([])
    transport.writeSequence([b"a" * 30000, b"b" * 30000])
    assert far.recv(MEBIBYTE) == b"one two three four four four " + b"a" * 30000 + b"b" * 30000
    assert not transport.reactor.writers
    assert transport.buffered == 0


def test_what_the_kernel_does_not_take_is_queued_in_order(ends: Any) -> None:
    """Octets beyond the socket's buffer are counted, sent when there is room, and nothing overtakes them."""
    transport, _, far = ends
    written = fill(transport)
    assert transport.reactor.writers == {transport}
    transport.writeSequence([b"a" * 100000, b"b" * 100000])
    transport.write(b"end")
    assert transport.buffered > 200003
    found = b""
    while transport.buffered:
        found += drain(far)
        transport.doWrite()
    found += drain(far)
    assert found == b"x" * written + b"a" * 100000 + b"b" * 100000 + b"end"
    assert not transport.reactor.writers
    transport.write(b"direct again")
    assert drain(far) == b"direct again"


def test_many_parts_at_once(ends: Any) -> None:
    """More parts than one sendmsg may take arrive in order."""
    transport, _, far = ends
    parts = [b"%07d" % number for number in range(8000)]
    transport.writeSequence(parts)
    found = b""
    while transport.buffered:
        found += drain(far)
        transport.doWrite()
    assert found + drain(far) == b"".join(parts)


def test_watermarks_pause_and_resume_once(ends: Any) -> None:
    """The protocol is paused once above the high mark, and resumed once at the low one."""
    transport, wire, far = ends
    transport.set_write_watermarks(100_000, 10_000)
    fill(transport)
    assert "pause" not in wire.events
    for _ in range(3):
        transport.write(b"x" * 65536)
    assert wire.events.count("pause") == 1
    far.setblocking(True)
    while transport.buffered > 10_000:
        assert "resume" not in wire.events
        far.recv(30_000)
        transport.doWrite()
    assert wire.events.count("resume") == 1
    with pytest.raises(ValueError, match="low"):
        transport.set_write_watermarks(1, 2)


def test_a_registered_producer_is_asked_instead_of_the_protocol(ends: Any) -> None:
    """A push producer gets the calls, and is told when the connection is gone."""
    transport, wire, _ = ends
    producer = Wire()
    producer.stopProducing = lambda: producer.events.append("stop")
    transport.registerProducer(producer, True)
    transport.set_write_watermarks(1000, 0)
    fill(transport)
    assert producer.events == ["pause"]
    transport._lose(Failure(ConnectionDone()))
    assert producer.events == ["pause", "stop"]
    assert wire.events == ["connected", "lost"]


def test_a_pull_producer_is_asked_for_more_when_all_is_sent(ends: Any) -> None:
    """Each writable event lets a pull producer write once."""
    transport, _, far = ends

    class Pull:
        left = 3

        def resumeProducing(self) -> None:
            self.left -= 1
            transport.write(b"piece ")
            if not self.left:
                transport.unregisterProducer()

    transport.registerProducer(Pull(), False)
    while transport.reactor.writers:
        transport.doWrite()
    assert drain(far) == b"piece " * 3


def test_pausing_is_lazy(ends: Any) -> None:
    """Pausing and resuming does not touch the reactor unless something arrives meanwhile."""
    transport, wire, far = ends
    reactor = transport.reactor
    transport.pauseProducing()
    assert reactor.readers == {transport}
    transport.resumeProducing()
    far.send(b"a")
    transport.doRead()
    assert wire.data == b"a"
    transport.pauseProducing()
    far.send(b"b")
    transport.doRead()
    assert wire.data == b"a"
    assert not reactor.readers
    transport.resumeProducing()
    assert reactor.readers == {transport}
    transport.doRead()
    assert wire.data == b"ab"


def test_the_read_size_follows_the_traffic(ends: Any) -> None:
    """Full reads double the size up to its bound; small ones bring it back."""
    transport, _, far = ends
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MEBIBYTE)
    sizes = []
    for _ in range(6):
        with suppress(BlockingIOError):
            far.send(b"x" * READ_BYTES_MAX * 2)
        transport.doRead()
        sizes.append(transport._read_bytes)
    assert sizes[:3] == [READ_BYTES * 2, READ_BYTES * 4, READ_BYTES * 8]
    assert max(sizes) <= READ_BYTES_MAX
    while transport._read_bytes > READ_BYTES:
        with suppress(BlockingIOError):
            far.send(b"x")
        transport.doRead()


def test_stale_events_are_harmless(ends: Any) -> None:
    """Being called with nothing to read or write changes nothing, before and after the end."""
    transport, wire, _ = ends
    transport.doRead()
    transport.doWrite()
    assert wire.events == ["connected"]
    transport._lose(Failure(ConnectionDone()))
    transport.doRead()
    transport.doWrite()
    transport.write(b"x")
    transport.writeSequence([b"x"])
    for action in (transport.loseConnection, transport.abortConnection, transport.loseWriteConnection, transport.resumeProducing, transport.pauseProducing):
        action()
    transport.reactor.advance(1)
    assert wire.events == ["connected", "lost"]


def test_looks_alive(ends: Any) -> None:
    """An idle connection looks alive until the peer closes or sends what nobody asked for."""
    transport, _, far = ends
    assert transport.looks_alive()
    far.send(b"x")
    assert not transport.looks_alive()
    transport.doRead()
    assert transport.looks_alive()
    far.shutdown(socket.SHUT_WR)
    assert not transport.looks_alive()


def test_a_failed_write_waits_for_a_paused_client(ends: Any) -> None:
    """What came before the peer went away is kept while the protocol is paused, and delivered when it resumes; then comes the loss."""
    transport, wire, far = ends
    transport.pauseProducing()
    far.send(b"the answer")
    far.close()
    transport.write(b"more of the request")
    assert wire.events == ["connected"]
    transport.reactor.advance(0)
    assert wire.events == ["connected"]
    transport.resumeProducing()
    for _ in range(3):
        transport.reactor.advance(0)
    assert wire.data == b"the answer"
    assert wire.events == ["connected", "lost"]
    assert wire.reason.check(ConnectionLost)


def test_a_failed_write_ends_a_paused_connection_with_nothing_to_read(ends: Any) -> None:
    """A paused protocol is told of the loss at once when there is nothing it could still be given."""
    transport, wire, far = ends
    transport.pauseProducing()
    far.close()
    transport.write(b"x")
    assert wire.events == ["connected"]
    transport.reactor.advance(0)
    assert wire.events == ["connected", "lost"]


def test_a_server_is_told_of_a_failed_write_although_paused() -> None:
    """A server that stopped reading, with requests unread, learns that its client is gone."""
    near, far = socket.socketpair()
    wire = Wire()
    transport = Transport(near, wire, StillReactor(), Address(path="@"), is_client=False)
    wire.makeConnection(transport)
    far.send(b"another request")
    far.close()
    transport.write(b"x")
    transport.reactor.advance(0)
    assert wire.events == ["connected", "lost"]
    assert "broken pipe" in str(wire.reason.value)


def test_addresses_in_both_vocabularies(run_once: Run) -> None:
    """`peer` and `local` are ours, `getPeer` and `getHost` Twisted's; Nagle is off and keep-alive on, on both sides."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor)
        near, far = await pair(reactor, server, Wire())
        assert far.transport.peer == server.address == near.transport.local
        assert near.transport.peer == far.transport.local == server.peers[0]
        assert (far.transport.getPeer().host, far.transport.getPeer().port) == ("127.0.0.1", server.address.port)
        assert far.transport.getHost() == near.transport.getPeer()
        for end in (near, far):
            assert end.transport.getTcpNoDelay()
            assert end.transport.getTcpKeepAlive()
            assert "127.0.0.1" in repr(end.transport)

    run_once(scenario)


# -- in a reactor ----------------------------------------------------------------------------------------------------------------------------


def test_ten_mebibytes_there_and_back(run: Run) -> None:
    """A bulk echo arrives whole and in order, and the queue of neither side grows beyond its watermark by more than one write."""
    payload = os.urandom(MEBIBYTE) * 10

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, make=Echo)
        near, far = await pair(reactor, server, Wire())
        for start in range(0, len(payload), 100_000):
            far.transport.write(payload[start : start + 100_000])
            assert near.transport.buffered <= near.transport._high + READ_BYTES_MAX
        await eventually(reactor, lambda: far.received == len(payload))
        assert far.data == payload
        assert near.events.count("pause") == near.events.count("resume")
        assert far.transport.buffered == 0

    run(scenario)


def test_a_slow_reader_stops_the_writer(run: Run) -> None:
    """With a reader that does not read, a writer that heeds its pauses holds a bounded amount, and goes on when the reader does."""

    class Source(Wire):
        sent = 0
        running = False

        def go(self) -> None:
            self.running = True
            while self.running and self.sent < 40 * MEBIBYTE:
                self.transport.write(b"x" * 65536)
                self.sent += 65536

        def pauseProducing(self) -> None:
            self.running = False

        def resumeProducing(self) -> None:
            self.go()

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, make=lambda: Wire(reads=False, keeps=False))
        source = Source()
        sink, _ = await pair(reactor, server, source)
        source.transport.set_write_watermarks(256 * 1024, 64 * 1024)
        source.go()
        await turns(reactor, 20)
        assert not source.running
        assert source.transport.buffered <= 256 * 1024 + 65536
        assert sink.received == 0
        sink.transport.resumeProducing()
        await eventually(reactor, lambda: sink.received == 40 * MEBIBYTE)

    run(scenario)


def test_lose_connection_flushes_first(run: Run) -> None:
    """Everything written before `loseConnection` arrives, then both sides see an orderly end; nothing written after it does."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor)
        near, far = await pair(reactor, server, Wire())
        near.transport.write(b"x" * 8 * MEBIBYTE)
        near.transport.loseConnection()
        near.transport.write(b"too late")
        assert not near.is_lost
        await eventually(reactor, lambda: far.is_lost and near.is_lost)
        assert far.received == 8 * MEBIBYTE
        assert far.reason.check(ConnectionDone)
        assert near.reason.check(ConnectionDone)

    run(scenario)


def test_abort_resets(run: Run) -> None:
    """`abortConnection` drops what is queued; the peer sees a reset; we are told, later, that it was us."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, make=lambda: Wire(reads=False))
        near, far = await pair(reactor, server, Wire())
        far.transport.write(b"x" * 8 * MEBIBYTE)
        far.transport.abortConnection()
        assert not far.is_lost
        near.transport.resumeProducing()
        await eventually(reactor, lambda: near.is_lost and far.is_lost)
        assert far.reason.check(ConnectionAborted)
        assert near.reason.check(ConnectionLost)
        assert "reset" in str(near.reason.value)

    run(scenario)


def test_half_close_in_both_directions(run: Run) -> None:
    """Ending our sending side leaves the other direction open until the peer ends it."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, make=HalfCloser)
        near, far = await pair(reactor, server, HalfCloser())
        far.transport.write(b"x" * 8 * MEBIBYTE)
        far.transport.loseWriteConnection()
        assert "write lost" not in far.events
        far.transport.write(b"too late")
        await eventually(reactor, lambda: "read lost" in near.events)
        assert near.received == 8 * MEBIBYTE
        assert far.events == ["connected", "pause", "resume", "write lost"]
        near.transport.write(b"the answer")
        await eventually(reactor, lambda: far.data == b"the answer")
        near.transport.resumeProducing()  # without effect: there is nothing more to read
        near.transport.loseConnection()
        await eventually(reactor, lambda: near.is_lost)
        await eventually(reactor, lambda: "read lost" in far.events)
        assert not far.is_lost
        assert near.events.count("read lost") == 1
        far.transport.loseConnection()
        await eventually(reactor, lambda: far.is_lost)

    run(scenario)


def test_an_early_answer_is_read_before_the_loss(run: Run) -> None:
    """A server that answers and closes while we are still sending resets the connection; its answer is delivered all the same, before `connectionLost`."""

    async def scenario(reactor: Any) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        client = Wire()
        connect(reactor, address_of(listener.getsockname()), client, 5.0)
        await eventually(reactor, lambda: client.transport is not None)
        served, _ = listener.accept()
        client.transport.write(b"x" * 8 * MEBIBYTE)  # more than the kernel takes
        assert client.transport.buffered
        served.sendall(b"HTTP/1.1 413 Content Too Large\r\n\r\n")
        served.close()  # with data unread: this is a reset
        listener.close()
        # The writing side meets the reset first, as it does when both are ready in one turn.
        client.transport.doWrite()
        client.transport.write(b"more")
        assert not client.is_lost
        await eventually(reactor, lambda: client.is_lost)
        assert client.data == b"HTTP/1.1 413 Content Too Large\r\n\r\n"
        assert client.events[-1] == "lost"
        assert client.reason.check(ConnectionLost)

    run(scenario)


def test_an_early_answer_while_only_writing(run: Run) -> None:
    """The same when the protocol reads nothing at that time: a hang-up that the reactor reports does not lose the answer."""

    async def scenario(reactor: Any) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        client = Wire()
        connect(reactor, address_of(listener.getsockname()), client, 5.0)
        await eventually(reactor, lambda: client.transport is not None)
        served, _ = listener.accept()
        client.transport.stopReading()
        client.transport.write(b"x" * 8 * MEBIBYTE)
        served.sendall(b"no")
        served.close()
        listener.close()
        await turns(reactor)
        assert not client.is_lost
        client.transport.startReading()
        await eventually(reactor, lambda: client.is_lost)
        assert client.data == b"no"

    run(scenario)


def test_a_reset_is_told_in_words(run: Run) -> None:
    """A peer's reset is `ConnectionLost`, never `ConnectionDone`."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor)
        near, far = await pair(reactor, server, Wire())
        far.transport.abortConnection()
        await eventually(reactor, lambda: near.is_lost)
        assert near.reason.check(ConnectionLost)

    run(scenario)


def test_a_failing_protocol_loses_its_own_connection_only(run: Run, caught_failures: list[Any]) -> None:
    """What a protocol raises is logged and ends its connection; others go on."""

    class Broken(Wire):
        def dataReceived(self, data: bytes) -> None:
            raise ZeroDivisionError("broken protocol")

    async def scenario(reactor: Any) -> None:
        made = iter([Broken(), Wire()])
        server = Server(reactor, make=lambda: next(made))
        broken, first = await pair(reactor, server, Wire())
        fine, second = await pair(reactor, server, Wire())
        first.transport.write(b"x")
        await eventually(reactor, lambda: broken.is_lost and first.is_lost)
        assert broken.reason.check(ZeroDivisionError)
        second.transport.write(b"y")
        await eventually(reactor, lambda: fine.data == b"y")

    run(scenario)
    assert [failure.type for failure in caught_failures] == [ZeroDivisionError]


def test_a_protocol_may_be_replaced(run: Run) -> None:
    """From the assignment on everything goes to the new protocol."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor)
        near, far = await pair(reactor, server, Wire())
        successor = Wire()
        near.transport.protocol = successor
        successor.makeConnection(near.transport)
        far.transport.write(b"x")
        far.transport.loseConnection()
        await eventually(reactor, lambda: successor.is_lost)
        assert successor.data == b"x"
        assert near.events == ["connected"]
        assert not near.data

    run(scenario)


def test_shutdown_of_the_reactor_ends_connections(run: Run) -> None:
    """A reactor that stops loses what is open, as Twisted's own transports are lost."""
    wires = []

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, LOOPBACK)
        wires.extend(await pair(reactor, server, Wire()))

    run(scenario)
    assert all(wire.is_lost for wire in wires)
