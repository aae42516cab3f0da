"""TLS on the socket: it carries what plain transports carry, tells a clean end from a cut, and says why a handshake failed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from sidecar.address import Address
from sidecar.errors import ConnectTimeout, UpstreamHandshakeFailed
from sidecar.transport import records, tls as tls_module
from sidecar.transport.connection import READ_BYTES_MAX, Transport
from sidecar.transport.connector import connect
from sidecar.transport.tls import ClientTLS, TLSProblem, TLSTransport
from tests.transport.loopback import Server, Wire, context, eventually, pair, turns
from tests.transport.test_connection import Echo, HalfCloser

MEBIBYTE = 1 << 20
Run = Callable[..., Any]
VERSIONS = [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION]


async def secure_pair(reactor: Any, client: Wire, make: Callable[[], Any] = Wire, **options: Any) -> tuple[Any, Any]:
    """Both ends of a mutual TLS connection, handshake done."""
    server = Server(reactor, make=make, context=context("server", **options))
    near, far = await pair(reactor, server, client, tls=ClientTLS(context("client", **options), "server"))
    await eventually(reactor, lambda: "handshake" in near.events and "handshake" in far.events)
    return near, far


@pytest.mark.parametrize("version", VERSIONS)
def test_facts_of_the_handshake(run_once: Run, version: int) -> None:
    """Both sides know the version, the protocol chosen, the server name and the peer's certificate; `makeConnection` comes before `handshakeCompleted`."""

    async def scenario(reactor: Any) -> None:
        near, far = await secure_pair(reactor, Wire(), alpn=(b"h2", b"http/1.1"), version=version)
        for end, other in ((near, "client"), (far, "server")):
            assert end.transport.negotiatedProtocol == b"h2"
            assert end.transport.tls.get_protocol_version() == version
            assert end.transport.getPeerCertificate().to_cryptography().subject.rfc4514_string() == f"CN={other}"
            assert end.events == ["connected", "handshake"]
            assert end.transport.tls_error is None
        assert near.transport.tls.get_servername() == b"server"

    run_once(scenario)


@pytest.mark.parametrize("public", [False, True])
def test_ten_mebibytes_there_and_back(run: Run, public: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bulk echo through TLS arrives whole and in order, by the direct calls into OpenSSL and by pyOpenSSL's public ones."""
    if public:
        read, write = records._public_calls()
        monkeypatch.setattr("sidecar.transport.tls.read_record", read)
        monkeypatch.setattr("sidecar.transport.tls.write_records", write)
    payload = os.urandom(MEBIBYTE) * 10

    async def scenario(reactor: Any) -> None:
        near, far = await secure_pair(reactor, Wire(), make=Echo)
        far.transport.writeSequence([payload[:100], payload[100:50_000], payload[50_000:50_001]])
        for start in range(50_001, len(payload), 300_007):
            far.transport.write(payload[start : start + 300_007])
            assert near.transport.buffered <= near.transport._high + READ_BYTES_MAX
        await eventually(reactor, lambda: far.received == len(payload))
        assert far.data == payload

    run(scenario)


def test_records_are_full_whatever_the_pieces(run_once: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP/2 writes heads of nine octets before each 16 KiB: no records of nine octets, which cost both sides more than their octets do."""
    written = []
    write = tls_module.write_records
    monkeypatch.setattr(tls_module, "write_records", lambda tls, data: written.append(write(tls, data)) or written[-1])
    pieces = [os.urandom(size) for size in (9, 16_384) * 20 + (7, 100_000, 2)]

    async def scenario(reactor: Any) -> None:
        near, far = await secure_pair(reactor, Wire())
        written.clear()
        near.transport.writeSequence(list(pieces))
        await eventually(reactor, lambda: far.received == sum(map(len, pieces)))
        assert far.data == b"".join(pieces)
        assert len(written) <= sum(written) / 16_384 + 2

    run_once(scenario)


def test_small_writes_arrive_in_order(run_once: Run) -> None:
    """Many small parts, queued behind a full socket, are put together and arrive as they were written."""

    async def scenario(reactor: Any) -> None:
        near, far = await secure_pair(reactor, Wire(), make=lambda: Wire(reads=False))
        expected = bytearray(b"x" * 8 * MEBIBYTE)
        far.transport.write(bytes(expected))
        assert far.transport.buffered
        for number in range(5000):
            part = b"%d " % number
            expected += part
            far.transport.write(part)
        near.transport.resumeProducing()
        await eventually(reactor, lambda: near.received == len(expected))
        assert near.data == expected
        assert far.events.count("pause") == far.events.count("resume") == 1

    run_once(scenario)


def test_writes_wait_for_the_handshake(run: Run) -> None:
    """What is written before the handshake is done leaves after it, in order, followed by the end that was asked for."""

    class Early(Wire):
        def makeConnection(self, transport: Any) -> None:
            super().makeConnection(transport)
            transport.write(b"first ")
            transport.writeSequence([b"second ", b"third"])
            transport.loseConnection()

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, make=Early, context=context("server"))
        client = Wire()
        connect(reactor, server.address, client, 5.0, tls=ClientTLS(context("client")))
        await eventually(reactor, lambda: client.is_lost)
        assert client.data == b"first second third"
        assert client.reason.check(ConnectionDone)

    run(scenario)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_clean_end_and_a_cut_are_told_apart(run: Run, version: int) -> None:
    """close_notify gives `ConnectionDone`; a bare end of the TCP stream `ConnectionLost`, whatever came before it."""

    async def scenario(reactor: Any) -> None:
        near, far = await secure_pair(reactor, Wire(), version=version)
        near.transport.write(b"all of it")
        near.transport.loseConnection()
        await eventually(reactor, lambda: near.is_lost and far.is_lost)
        assert far.data == b"all of it"
        assert far.reason.check(ConnectionDone)
        assert near.reason.check(ConnectionDone)
        near, far = await secure_pair(reactor, Wire(), version=version)
        near.transport.write(b"half of")
        near.transport.socket.shutdown(socket.SHUT_WR)
        await eventually(reactor, lambda: far.is_lost)
        assert far.data == b"half of"
        assert far.reason.check(ConnectionLost)
        assert "close_notify" in str(far.reason.value)

    run(scenario)


def test_a_cut_in_the_middle_of_bulk_data(run_once: Run) -> None:
    """The error that is met behind data is told after the data."""

    async def scenario(reactor: Any) -> None:
        near, far = await secure_pair(reactor, Wire())
        far.transport.pauseProducing()
        near.transport.write(b"x" * 40_000)
        near.transport.socket.send(b"\x17\x03\x03\x00\x20this is not a record")
        near.transport.socket.shutdown(socket.SHUT_WR)
        await turns(reactor)
        far.transport.resumeProducing()
        await eventually(reactor, lambda: far.is_lost)
        assert far.received == 40_000
        assert far.reason.check(ConnectionLost)
        assert "close_notify" in str(far.reason.value)

    run_once(scenario)


def test_garbage_is_an_error(run_once: Run) -> None:
    """A record that does not decrypt ends the connection with OpenSSL's error."""

    async def scenario(reactor: Any) -> None:
        near, far = await secure_pair(reactor, Wire())
        near.transport.socket.send(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        await eventually(reactor, lambda: far.is_lost and near.is_lost)
        assert far.reason.check(SSL.Error)
        assert far.transport.tls_error.reasons
        assert not far.transport.tls_error.in_handshake
        assert near.transport.tls_error.alert == "bad record mac"

    run_once(scenario)


@pytest.mark.parametrize("version", VERSIONS)
def test_half_close(run: Run, version: int) -> None:
    """A close_notify ends one direction; the other goes on until its own."""

    async def scenario(reactor: Any) -> None:
        near, far = await secure_pair(reactor, HalfCloser(), make=HalfCloser, version=version)
        far.transport.write(b"question")
        far.transport.loseWriteConnection()
        await eventually(reactor, lambda: "read lost" in near.events)
        assert near.data == b"question"
        near.transport.write(b"a" * MEBIBYTE)
        near.transport.loseConnection()
        await eventually(reactor, lambda: "read lost" in far.events)
        assert far.received == MEBIBYTE
        far.transport.loseConnection()
        await eventually(reactor, lambda: far.is_lost)

    run(scenario)


def test_abort(run: Run) -> None:
    """An abort is no clean end for the peer."""

    async def scenario(reactor: Any) -> None:
        near, far = await secure_pair(reactor, Wire())
        far.transport.abortConnection()
        await eventually(reactor, lambda: near.is_lost and far.is_lost)
        assert far.reason.check(ConnectionAborted)
        assert near.reason.check(ConnectionLost)

    run(scenario)


def test_an_early_answer_is_read_before_the_loss(run: Run) -> None:
    """As without TLS: the answer of a server that closes while we are still sending is delivered first."""

    async def scenario(reactor: Any) -> None:
        near, far = await secure_pair(reactor, Wire(), make=lambda: Wire(reads=False))
        far.transport.write(b"x" * 8 * MEBIBYTE)
        assert far.transport.buffered
        far.transport.pauseProducing()  # the writing side meets the reset first
        near.transport.write(b"no")
        near.transport.loseConnection()
        await eventually(reactor, lambda: near.is_lost)
        await turns(reactor)
        assert not far.transport.buffered
        far.transport.write(b"more")
        assert not far.is_lost
        far.transport.resumeProducing()
        await eventually(reactor, lambda: far.is_lost)
        assert far.data == b"no"

    run(scenario)


def test_an_early_answer_survives_a_small_write(run_once: Run) -> None:
    """The same when nothing is queued and the next write meets the reset."""

    async def scenario(reactor: Any) -> None:
        near, far = await secure_pair(reactor, Wire(), make=lambda: Wire(reads=False))
        far.transport.write(b"begin")
        far.transport.pauseProducing()
        await turns(reactor)
        near.transport.write(b"no")
        near.transport.loseConnection()
        await eventually(reactor, lambda: near.is_lost)
        far.transport.write(b"more")
        assert not far.is_lost
        far.transport.resumeProducing()
        await eventually(reactor, lambda: far.is_lost)
        assert far.data == b"no"
        assert far.reason.check(ConnectionLost)

    run_once(scenario)


def test_a_slow_reader_stops_the_writer(run_once: Run) -> None:
    """Nothing is read from a paused connection, and reading goes on where it stopped."""

    async def scenario(reactor: Any) -> None:
        near, far = await secure_pair(reactor, Wire(keeps=False), make=lambda: Wire(keeps=False))
        near.transport.pauseProducing()
        far.transport.write(b"x" * 20 * MEBIBYTE)
        await turns(reactor, 20)
        assert near.received == 0
        assert far.events.count("pause") == 1
        near.transport.resumeProducing()
        await eventually(reactor, lambda: near.received == 20 * MEBIBYTE)
        assert far.events.count("resume") == 1

    run_once(scenario)


def test_looks_alive(run_once: Run) -> None:
    """Session tickets do not make an idle connection look dead; a close_notify does, and is then told."""

    async def scenario(reactor: Any) -> None:
        near, far = await secure_pair(reactor, Wire())
        assert far.transport.looks_alive()
        assert near.transport.looks_alive()
        near.transport.tls.shutdown()
        assert not far.transport.looks_alive()
        await eventually(reactor, lambda: far.is_lost)
        assert far.reason.check(ConnectionDone)

    run_once(scenario)


# -- failures of the handshake ---------------------------------------------------------------------------------------------------------------


async def failed_pair(reactor: Any, server_context: SSL.Context, client_context: SSL.Context) -> tuple[Any, Wire]:
    """Both ends after a handshake that fails, on whichever side."""
    server = Server(reactor, context=server_context)
    client = Wire()
    connect(reactor, server.address, client, 5.0, tls=ClientTLS(client_context, "server"))
    await eventually(reactor, lambda: server.wires and server.wires[0].is_lost and (client.error is not None or client.is_lost))
    return server.wires[0], client


def problem_of(wire: Wire) -> TLSProblem:
    problem = wire.transport.tls_error
    assert isinstance(problem, TLSProblem)
    return problem


def test_an_expired_server_certificate(run: Run) -> None:
    """The client's error says that the certificate has expired; the server learns it from the alert."""

    async def scenario(reactor: Any) -> None:
        near, client = await failed_pair(reactor, context("old", days=-1, verify=False), context("client"))
        assert isinstance(client.error, UpstreamHandshakeFailed)
        assert "certificate has expired" in client.error.sentence
        assert client.error.sentence.startswith("the TLS handshake with 127.0.0.1:")
        assert isinstance(client.error.__cause__, SSL.Error)
        assert near.reason.check(SSL.Error)
        assert problem_of(near).alert == "certificate expired"
        assert "certificate expired" in problem_of(near).text
        assert problem_of(near).in_handshake

    run(scenario)


def test_an_unknown_authority(run_once: Run) -> None:
    """A certificate of another authority is refused with OpenSSL's number and words for it."""

    async def scenario(reactor: Any) -> None:
        sentences = []

        def explain(transport: Any) -> str:
            sentences.append(transport.tls_error)
            return "who are you?"

        server = Server(reactor, context=context("server", verify=False))
        client = Wire()
        connect(reactor, server.address, client, 5.0, tls=ClientTLS(context("client", trusts="another"), "server", explain))
        await eventually(reactor, lambda: client.error is not None and server.wires[0].is_lost)
        assert client.error.sentence == "who are you?"
        assert sentences[0].verify_code in (19, 20)
        assert "certificate" in sentences[0].verify_text
        assert problem_of(server.wires[0]).alert == "unknown ca"

    run_once(scenario)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_missing_client_certificate(run_once: Run, version: int) -> None:
    """The server names the reason; the client gets the alert, in TLS 1.3 only after its own side of the handshake was done."""

    async def scenario(reactor: Any) -> None:
        near, client = await failed_pair(reactor, context("server", version=version), context(None, version=version))
        assert "peer did not return a certificate" in problem_of(near).reasons
        if version == SSL.TLS1_3_VERSION:
            assert client.events == ["connected", "handshake", "lost"]
            assert problem_of(client).alert == "certificate required"
            assert not problem_of(client).in_handshake
        else:
            assert isinstance(client.error, UpstreamHandshakeFailed)
            assert "handshake failure" in client.error.sentence

    run_once(scenario)


def test_a_refused_client_certificate_is_told_although_the_client_writes(run: Run) -> None:
    """TLS 1.3: the alert that explains the refusal is read even when a write fails first."""

    class Eager(Wire):
        def handshakeCompleted(self) -> None:
            super().handshakeCompleted()
            for _ in range(20):
                self.transport.write(b"x" * 65536)

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, context=context("server", trusts="another"))
        client = Eager()
        connect(reactor, server.address, client, 5.0, tls=ClientTLS(context("client"), "server"))
        await eventually(reactor, lambda: client.is_lost)
        assert problem_of(client).alert == "unknown ca"

    run(scenario)


def test_a_raising_verify_callback(run_once: Run) -> None:
    """What a verify callback raises is what `connectionLost` gets."""

    async def scenario(reactor: Any) -> None:
        strict = context("client")

        def refuse(*_: object) -> bool:
            raise LookupError("not on the list")

        strict.set_verify(SSL.VERIFY_PEER, refuse)
        _, client = await failed_pair(reactor, context("server", verify=False), strict)
        assert isinstance(client.error.__cause__, LookupError)
        assert "not on the list" in client.error.sentence

    run_once(scenario)


def test_plain_text_to_a_tls_port(run: Run) -> None:
    """A client that speaks HTTP is told apart from one that speaks bad TLS."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, context=context("server"))
        near, far = await pair(reactor, server, Wire())
        far.transport.write(b"GET / HTTP/1.1\r\n\r\n")
        await eventually(reactor, lambda: near.is_lost)
        assert problem_of(near).reasons == ("http request",)

    run(scenario)


def test_a_server_that_goes_away_in_the_handshake(run: Run) -> None:
    """The end of the connection within the handshake is a failure of it."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, make=Wire)
        client = Wire()
        connect(reactor, server.address, client, 5.0, tls=ClientTLS(context("client"), "server"))
        await eventually(reactor, lambda: server.wires and server.wires[0].received)
        server.wires[0].transport.loseConnection()
        await eventually(reactor, lambda: client.error is not None)
        assert isinstance(client.error, UpstreamHandshakeFailed)
        assert "closed" in client.error.sentence

    run(scenario)


def test_a_silent_server_times_out(run: Run) -> None:
    """The connect timeout covers the handshake, and says so."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor)
        client = Wire()
        connect(reactor, server.address, client, 0.05, tls=ClientTLS(context("client"), "server"))
        await eventually(reactor, lambda: client.error is not None)
        assert isinstance(client.error, ConnectTimeout)
        assert "did not finish its TLS handshake within 0.05 s" in client.error.sentence
        await eventually(reactor, lambda: server.wires[0].is_lost)

    run(scenario)


def test_closing_within_the_handshake(run_once: Run) -> None:
    """`loseConnection` and `abortConnection` work while the peer says nothing."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, context=context("server"))
        for close, reason in (("loseConnection", ConnectionDone), ("abortConnection", ConnectionAborted)):
            near, _ = await pair(reactor, server, Wire())
            getattr(near.transport, close)()
            await eventually(reactor, lambda near=near: near.is_lost)
            assert near.reason.check(reason)

    run_once(scenario)


def test_tls_starts_once_and_on_an_empty_queue(run_once: Run) -> None:
    """Starting TLS twice, or over octets that have not left, is a mistake of the caller."""

    async def scenario(reactor: Any) -> None:
        _, far = await secure_pair(reactor, Wire())
        with pytest.raises(RuntimeError):
            far.transport.startTLS(context("client"), True)
        plain = Server(reactor, make=lambda: Wire(reads=False))
        _, far = await pair(reactor, plain, Wire())
        far.transport.write(b"x" * 8 * MEBIBYTE)
        with pytest.raises(RuntimeError):
            far.transport.startTLS(context("client"), True)

    run_once(scenario)


def test_renegotiation_is_refused(run_once: Run) -> None:
    """TLS 1.2: a peer that asks for a new handshake does not get one."""

    async def scenario(reactor: Any) -> None:
        near, far = await secure_pair(reactor, Wire(), version=SSL.TLS1_2_VERSION)
        with pytest.raises(SSL.Error):
            far.transport.tls.renegotiate()
        far.transport.write(b"x")
        await eventually(reactor, lambda: near.data == b"x")
        assert near.transport.tls.total_renegotiations() == 0

    run_once(scenario)


def test_the_words_of_a_problem() -> None:
    """The most telling part comes first."""
    error = SSL.Error([("SSL routines", "", "something")])
    assert TLSProblem(error, ("one", "two"), "unknown ca", 10, "certificate has expired").text == "certificate has expired"
    assert TLSProblem(error, ("one", "two"), "unknown ca").text == "the peer sent the alert 'unknown ca'"
    assert TLSProblem(error, ("one", "two")).text == "one; two"
    assert TLSProblem(SSL.SysCallError(104, "ECONNRESET")).text == "connection reset by peer (ECONNRESET)"
    assert TLSProblem(LookupError("x")).text == "x"
    assert TLSProblem(LookupError()).text == "LookupError"


def test_the_first_connections_keep_their_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the limit; what is lost makes room for the next. Thousands of idle connections stay small."""
    kept: list[object] = []
    monkeypatch.setattr(tls_module, "keep_buffers", kept.append)
    monkeypatch.setattr(tls_module, "BUFFERED_CONNECTIONS", TLSTransport.open_connections + 1)
    before = TLSTransport.open_connections
    pairs = [socket.socketpair() for _ in range(3)]
    transports = [Transport(ours, None, MemoryReactorClock(), Address("127.0.0.1", 1), is_client=False) for ours, _ in pairs]
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    try:
        for each in transports[:2]:
            each.startTLS(context, False)
        assert len(kept) == 1 and TLSTransport.open_connections == before + 2
        for each in transports[:2]:
            each._lose(Failure(ConnectionDone()))
        assert TLSTransport.open_connections == before
        transports[2].startTLS(context, False)
        assert len(kept) == 2
    finally:
        transports[2]._lose(Failure(ConnectionDone()))
        for _, theirs in pairs:
            theirs.close()
