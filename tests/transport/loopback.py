"""Real reactors and real loopback sockets for the transport tests (none of them the process's own reactor), and one reactor that stands still."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
from collections.abc import Callable, Coroutine
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.pollreactor import PollReactor
from twisted.internet.task import Clock

from sidecar.address import Address
from sidecar.transport.connector import connect
from sidecar.transport.port import Port, listen
from sidecar.transport.reactor import SidecarReactor

REACTORS: dict[str, Callable[[], Any]] = {
    "sidecar": SidecarReactor,
    "epoll": EPollReactor,
    "poll": PollReactor,
    "asyncio": lambda: AsyncioSelectorReactor(asyncio.new_event_loop()),
}

LOOPBACK = Address(host="127.0.0.1")


def run_reactor(reactor: Any, scenario: Callable[[Any], Coroutine[Any, Any, Any]], timeout_seconds: float = 10.0) -> Any:
    """The result of `scenario(reactor)` in the running `reactor`, which is finished afterwards; `TimeoutError` when it takes too long."""
    outcome: list[Any] = []

    def begin() -> None:
        running = ensureDeferred(scenario(reactor))
        running.addBoth(outcome.append)
        running.addBoth(lambda _: reactor.running and reactor.stop())

    reactor.callWhenRunning(begin)
    late: list[bool] = []

    def expire() -> None:
        late.append(True)
        reactor.stop()

    watchdog = reactor.callLater(timeout_seconds, expire)
    try:
        reactor.run(installSignalHandlers=False)
    finally:
        _dispose(reactor)
    if late or not outcome:
        raise TimeoutError(f"the scenario was not over within {timeout_seconds} s")
    if watchdog.active():
        watchdog.cancel()
    if hasattr(outcome[0], "raiseException"):
        outcome[0].raiseException()
    return outcome[0]


def _dispose(reactor: Any) -> None:
    """Give the reactor's own descriptors back."""
    waker = reactor.waker
    if waker is not None:
        waker.connectionLost(None)
    poller = getattr(reactor, "_poller", None)
    if hasattr(poller, "close"):
        poller.close()
    loop = getattr(reactor, "_asyncioEventloop", None)
    if loop is not None:
        loop.close()


def eventually(reactor: Any, condition: Callable[[], object]) -> Deferred[None]:
    """Fires once `condition()` is true, looking again with each turn or so."""
    done: Deferred[None] = Deferred()

    def look() -> None:
        try:
            if condition():
                done.callback(None)
            else:
                reactor.callLater(0.001, look)
        except Exception:
            done.errback()

    look()
    return done


def turns(reactor: Any, number: int = 5) -> Deferred[None]:
    """Fires some turns of the reactor later: for what must not happen meanwhile."""
    done: Deferred[None] = Deferred()

    def turn(left: int) -> None:
        if left:
            reactor.callLater(0.001, turn, left - 1)
        else:
            done.callback(None)

    turn(number)
    return done


class StillReactor(Clock):
    """A reactor that only notes who wants to be told of what; `advance(0)` makes its timed calls."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()
        self.addReader = self.readers.add
        self.removeReader = self.readers.discard
        self.addWriter = self.writers.add
        self.removeWriter = self.writers.discard


class Wire:
    """A protocol that notes all it is told. `received` counts octets when `keeps` is false."""

    def __init__(self, reads: bool = True, keeps: bool = True) -> None:
        self.transport: Any = None
        self.events: list[str] = []
        self.data = bytearray()
        self.received = 0
        self.keeps = keeps
        self.reads = reads
        self.reason: Any = None
        self.error: Any = None

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        self.events.append("connected")
        if not self.reads:
            transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        self.received += len(data)
        if self.keeps:
            self.data += data

    def handshakeCompleted(self) -> None:
        self.events.append("handshake")

    def pauseProducing(self) -> None:
        self.events.append("pause")

    def resumeProducing(self) -> None:
        self.events.append("resume")

    def connectionLost(self, reason: Any) -> None:
        self.reason = reason
        self.events.append("lost")

    def connection_failed(self, error: Any) -> None:
        self.error = error
        self.events.append("failed")

    @property
    def is_lost(self) -> bool:
        return self.reason is not None


class Server:
    """A port whose connections are all kept: `wires`."""

    def __init__(self, reactor: Any, address: Address = LOOPBACK, make: Callable[[], Any] = Wire, context: SSL.Context | None = None) -> None:
        self.wires: list[Any] = []
        self.peers: list[Address] = []
        self._make = make
        self.port: Port = listen(reactor, address, self._build)
        self._context = context

    def _build(self, peer: Address) -> Any:
        self.peers.append(peer)
        wire = self._make()
        self.wires.append(wire)
        if self._context is not None:
            make_connection = wire.makeConnection

            def make_secure(transport: Any) -> None:
                transport.startTLS(self._context, False)
                make_connection(transport)

            wire.makeConnection = make_secure
        return wire

    @property
    def address(self) -> Address:
        return self.port.address


async def pair(reactor: Any, server: Server, client: Wire, **options: Any) -> tuple[Any, Any]:
    """The two ends of a new connection to `server`: (its wire, `client`), both connected."""
    count = len(server.wires)
    connect(reactor, server.address, client, 5.0, **options)

    def is_settled() -> bool:
        return client.error is not None or (client.transport is not None and len(server.wires) > count and server.wires[-1].transport is not None)

    await eventually(reactor, is_settled)
    if client.error is not None:
        raise client.error
    return server.wires[-1], client


# -- certificates ----------------------------------------------------------------------------------------------------------------------------

_NOW = datetime.datetime.now(datetime.UTC)
_DAY = datetime.timedelta(days=1)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@cache
def authority(name: str = "the authority") -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate authority: certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder().subject_name(_name(name)).issuer_name(_name(name)).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(_NOW - 9 * _DAY).not_valid_after(_NOW + _DAY)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()), key


@cache
def certificate(name: str, days: float = 1, issuer: str = "the authority") -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate and key for `name` that ends in `days`."""
    issuer_certificate, issuer_key = authority(issuer)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder().subject_name(_name(name)).issuer_name(issuer_certificate.subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(_NOW - 9 * _DAY).not_valid_after(_NOW + days * _DAY)
    names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256()), key


def context(
    name: str | None = None,
    verify: bool = True,
    days: float = 1,
    trusts: str = "the authority",
    alpn: tuple[bytes, ...] = (),
    version: int | None = None,
) -> SSL.Context:
    """A context with a certificate for `name` (None: without), that verifies its peer or does not."""
    made = SSL.Context(SSL.TLS_METHOD)
    # As `sidecar.identity` makes them.
    made.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    made.set_mode(SSL.MODE_RELEASE_BUFFERS)
    if version is not None:
        made.set_min_proto_version(version)
        made.set_max_proto_version(version)
    if name is not None:
        own, key = certificate(name, days)
        made.use_certificate(own)
        made.use_privatekey(key)
    if alpn:
        made.set_alpn_protos(list(alpn))
        made.set_alpn_select_callback(lambda connection, offered: next((each for each in alpn if each in offered), SSL.NO_OVERLAPPING_PROTOCOLS))
    if verify:
        store = made.get_cert_store()
        assert store is not None
        store.add_cert(crypto.X509.from_cryptography(authority(trusts)[0]))
        made.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda connection, cert, number, depth, ok: bool(ok))
    return made
