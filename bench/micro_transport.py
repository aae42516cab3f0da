"""What the transport alone costs: CPU per message forwarded, Twisted's stock transports against ours, in the same run.

A forwarder with no codec passes 200 octets one way and 1200 back, over kept connections; it runs in its own process, and its CPU time is read from the
kernel. Prints microseconds per round trip and the ratio to the stock transports. `python -m bench.micro_transport [rounds]`.
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import resource
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
from typing import Any

CONNECTIONS = 32
MESSAGES = 12_000
REQUEST = b"q" * 200
RESPONSE = b"a" * 1200


def _certificate(path: str) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    with open(path, "wb") as file:
        file.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        file.write(made.public_bytes(serialization.Encoding.PEM))


def forward(kind: str, secure: bool, certificate: str, backend: int, pipe: Any) -> None:
    """The forwarder's process. `kind`: stock (stock reactor and transports), transport (our transports, stock reactor), sidecar (both ours)."""
    from OpenSSL import SSL
    from twisted.internet import protocol
    from twisted.internet.epollreactor import EPollReactor

    from sidecar.address import Address
    from sidecar.transport.connector import connect
    from sidecar.transport.port import listen
    from sidecar.transport.reactor import SidecarReactor

    reactor: Any = SidecarReactor() if kind == "sidecar" else EPollReactor()
    if kind == "stock":
        import twisted.internet.main

        twisted.internet.main.installReactor(reactor)
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.use_certificate_file(certificate)
    context.use_privatekey_file(certificate)

    class Side:
        other: Any = None
        transport: Any = None

        def makeConnection(self, transport: Any) -> None:
            self.transport = transport

        def dataReceived(self, data: bytes) -> None:
            self.other.transport.write(data)

        def connectionLost(self, reason: Any) -> None:
            if self.other is not None and self.other.transport is not None:
                self.other.transport.loseConnection()

        def logPrefix(self) -> str:
            return "side"

    class Front(Side):
        def makeConnection(self, transport: Any) -> None:
            super().makeConnection(transport)
            self.other = Side()
            self.other.other = self
            transport.pauseProducing()
            if kind == "stock":
                factory = protocol.ClientFactory()
                factory.noisy = False
                factory.buildProtocol = lambda address: self.other  # type: ignore[method-assign]
                reactor.connectTCP("127.0.0.1", backend, factory)
            else:
                if secure:
                    transport.startTLS(context, False)
                connect(reactor, Address(host="127.0.0.1", port=backend), self.other, 5.0)
            wait(self)

    def wait(front: Front) -> None:
        if front.other.transport is None:
            reactor.callLater(0.001, wait, front)
        else:
            if kind == "stock":
                front.transport.setTcpNoDelay(True)
            front.transport.resumeProducing()

    if kind == "stock":
        factory = protocol.Factory()
        factory.noisy = False
        factory.buildProtocol = lambda address: Front()  # type: ignore[method-assign,assignment,return-value]
        if secure:

            class Contexts:
                def getContext(self) -> SSL.Context:
                    return context

            port = reactor.listenSSL(0, factory, Contexts(), interface="127.0.0.1").getHost().port
        else:
            port = reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port
    else:
        port = listen(reactor, Address(host="127.0.0.1"), lambda peer: Front()).address.port  # type: ignore[arg-type,return-value]
    pipe.send(port)
    threading.Thread(target=lambda: (pipe.recv(), reactor.callFromThread(reactor.stop)), daemon=True).start()
    reactor.run(installSignalHandlers=False)
    used = resource.getrusage(resource.RUSAGE_SELF)
    pipe.send(used.ru_utime + used.ru_stime)


def answer(listener: socket.socket) -> None:
    """The backend's process: an answer to each request, in one thread."""
    import selectors

    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                selector.register(listener.accept()[0], selectors.EVENT_READ)
            elif key.fileobj.recv(4096):  # type: ignore[union-attr]
                key.fileobj.send(RESPONSE)  # type: ignore[union-attr]
            else:
                selector.unregister(key.fileobj)


def load(port: int, secure: bool, messages: int) -> None:
    """Send `messages` over all connections, each waiting for its answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connections: list[Any] = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    if secure:
        connections = [context.wrap_socket(each) for each in connections]
    for _ in range(messages // CONNECTIONS):
        for each in connections:
            each.sendall(REQUEST)
        for each in connections:
            left = len(RESPONSE)
            while left:
                left -= len(each.recv(left))
    for each in connections:
        each.close()


def measure(kind: str, secure: bool, certificate: str, backend: int) -> float:
    """Microseconds of CPU per round trip; start and connections are measured apart and taken off."""
    spent = []
    for messages in (CONNECTIONS, MESSAGES + CONNECTIONS):
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.Process(target=forward, args=(kind, secure, certificate, backend, theirs))
        process.start()
        port = ours.recv()
        load(port, secure, messages)
        ours.send("stop")
        spent.append(ours.recv())
        process.join()
    return (spent[1] - spent[0]) / MESSAGES * 1e6


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    multiprocessing.set_start_method("spawn")
    with tempfile.TemporaryDirectory() as directory, socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        certificate = os.path.join(directory, "bench.pem")
        _certificate(certificate)
        backend = multiprocessing.Process(target=answer, args=(listener,), daemon=True)
        backend.start()
        print(f"{'':10}{'plain':>10}{'ratio':>8}{'TLS':>10}{'ratio':>8}   microseconds of CPU per round trip, {time.strftime('%Y-%m-%d')}")
        results: dict[tuple[str, bool], list[float]] = {}
        for _ in range(rounds):
            for kind in ("stock", "transport", "sidecar"):
                for secure in (False, True):
                    results.setdefault((kind, secure), []).append(measure(kind, secure, certificate, listener.getsockname()[1]))
        middle = {key: statistics.median(values) for key, values in results.items()}
        for kind in ("stock", "transport", "sidecar"):
            plain, secured = middle[kind, False], middle[kind, True]
            print(f"{kind:10}{plain:10.1f}{plain / middle['stock', False]:8.2f}{secured:10.1f}{secured / middle['stock', True]:8.2f}")
        backend.terminate()
        backend.join()


if __name__ == "__main__":
    main()
