"""Outgoing connections: `connect`. One object for the whole way - name, addresses, TCP, TLS - and one answer at its end."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from errno import EAGAIN, EINPROGRESS, ENOTCONN
from typing import Any, cast

from twisted.internet import abstract
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IProtocol, IResolutionReceiver
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from sidecar.address import Address
from sidecar.errors import ConnectFailed, ConnectTimeout, UpstreamHandshakeFailed
from sidecar.transport.connection import Transport
from sidecar.transport.readiness import DirectDescriptor
from sidecar.transport.sockets import Reactor, set_tcp_options, sockaddr_of, words
from sidecar.transport.tls import ClientTLS

_log = Logger()

# A UNIX socket whose backlog is full says so at once instead of making us wait.
FULL_BACKLOG_RETRY_SECONDS = 0.01
# linux/in.h: leave the choice of the local port to connect(2), so that many connections may share one to different peers.
_IP_BIND_ADDRESS_NO_PORT = 24


class ConnectingProtocol(IProtocol):
    """A protocol that is also told when there will be no connection."""

    def connection_failed(error: object) -> None:  # noqa: N805
        """Called instead of `makeConnection`, once. `error`: a `ConnectFailed`, `ConnectTimeout` or `UpstreamHandshakeFailed` with a sentence for a person."""


def connect(
    reactor: Reactor,
    address: Address,
    protocol: Any,
    timeout_seconds: float,
    bind_address: str | None = None,
    tls: ClientTLS | None = None,
) -> Connecting:
    """A connection to `address` is being made; ends with exactly one of `protocol.makeConnection(transport)` and `protocol.connection_failed(error)`, never
    within this call.

    `address`: an IP address, a UNIX socket, or a name, which the reactor's resolver looks up; its addresses are tried one after the other. `timeout_seconds`
    covers all of it, the TLS handshake included (0: no limit). `bind_address`: a local IP address to connect from. With `tls`, `makeConnection` comes when the
    handshake is done, followed by `handshakeCompleted()` if the protocol has this method.
    """
    connecting = Connecting(reactor, address, protocol, bind_address, tls)
    connecting.start(timeout_seconds)
    return connecting


class Connecting:
    """A connection in the making. Made by `connect`."""

    def __init__(self, reactor: Reactor, address: Address, protocol: Any, bind_address: str | None, tls: ClientTLS | None) -> None:
        self.address = address
        self._reactor = reactor
        self._protocol: Any = protocol
        self._bind_address = bind_address
        self._tls = tls
        self._timer: Any = None
        self._candidates: list[Address] = []
        self._attempt: _Attempt | None = None
        self._transport: Transport | None = None

    def start(self, timeout_seconds: float) -> None:
        """Begin. Called by `connect`."""
        if timeout_seconds:
            self._timer = self._reactor.callLater(timeout_seconds, self._timed_out, timeout_seconds)
        if self.address.is_unix or self.address.is_ip:
            self._candidates.append(self.address)
            self._try_next(None)
        else:
            resolver = cast(Any, self._reactor).nameResolver
            resolver.resolveHostName(_Names(self), self.address.host, self.address.port, [IPv4Address, IPv6Address], "TCP")

    def cancel(self) -> None:
        """Neither of the protocol's methods will be called, unless one was already. Harmless afterwards."""
        if self._take_protocol() is not None:
            self._drop()

    # -- the outcome ---------------------------------------------------------------------------------------------------------------------

    def _take_protocol(self) -> Any:
        """The protocol, for the one answer it gets; None when it had it."""
        protocol, self._protocol = self._protocol, None
        if self._timer is not None:
            if self._timer.active():
                self._timer.cancel()
            self._timer = None
        return protocol

    def _drop(self) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.close()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abortConnection()

    def _fail(self, error: ConnectFailed) -> None:
        protocol = self._take_protocol()
        if protocol is not None:
            self._drop()
            try:
                protocol.connection_failed(error)
            except Exception:
                _log.failure("{protocol!r} failed on being told: {error}", protocol=protocol, error=error)

    def _timed_out(self, seconds: float) -> None:
        what = "finish its TLS handshake" if self._transport is not None else "accept a connection"
        self._fail(ConnectTimeout(f"{self.address} did not {what} within {seconds:g} s"))

    def _succeed(self, transport: Transport) -> None:
        protocol = self._take_protocol()
        self._transport = None
        if protocol is None:
            transport.abortConnection()
            return
        transport.protocol = protocol
        transport.startReading()
        try:
            protocol.makeConnection(transport)
            if self._tls is not None:
                completed = getattr(protocol, "handshakeCompleted", None)
                if completed is not None and transport.connected:
                    completed()
        except Exception:
            transport._protocol_failed()

    # -- the way -------------------------------------------------------------------------------------------------------------------------

    def _resolved(self, addresses: Sequence[Address]) -> None:
        if self._protocol is None:
            return
        if not addresses:
            self._reactor.callLater(0, self._fail, ConnectFailed(f"cannot connect to {self.address}: the name {self.address.host} cannot be resolved"))
            return
        self._candidates.extend(addresses)
        self._try_next(None)

    def _try_next(self, error: OSError | None) -> None:
        """Go for the next address, `error` being why the one before failed."""
        self._attempt = None
        if self._protocol is None:
            return
        while self._candidates:
            candidate = self._candidates.pop(0)
            try:
                self._attempt = _Attempt(self._reactor, candidate, self._bind_address, self)
                return
            except OSError as failure:
                error = failure
        assert error is not None
        why = ConnectFailed(f"cannot connect to {self.address}: {words(error)}")
        why.__cause__ = error
        self._reactor.callLater(0, self._fail, why)

    def _connected(self, skt: socket.socket, peer: Address) -> None:
        """TCP, or the UNIX socket, is connected."""
        self._attempt = None
        if self._tls is None:
            self._succeed(Transport(skt, None, self._reactor, peer, is_client=True))
            return
        self._transport = transport = Transport(skt, cast(IProtocol, _Handshake(self)), self._reactor, peer, is_client=True)
        try:
            transport.startTLS(self._tls.context, True, self._tls.server_name)
        except Exception as error:  # a server name that is none, a context that is broken
            self._fail(UpstreamHandshakeFailed(f"TLS with {self.address} cannot start: {error}"))

    def _handshake_completed(self) -> None:
        if self._transport is not None:
            self._succeed(self._transport)

    def _handshake_failed(self, reason: Failure) -> None:
        transport, self._transport = self._transport, None
        if transport is None or self._protocol is None:
            return
        problem = transport.tls_error
        if self._tls is not None and self._tls.explain is not None:
            sentence = self._tls.explain(transport)
        else:
            sentence = f"the TLS handshake with {self.address} failed: {problem.text if problem is not None else reason.getErrorMessage()}"
        error = UpstreamHandshakeFailed(sentence)
        error.__cause__ = problem.error if problem is not None else reason.value
        self._fail(error)


class _Handshake:
    """The protocol of a transport whose TLS handshake is not done: tells the `Connecting`."""

    def __init__(self, connecting: Connecting) -> None:
        self._connecting = connecting

    def dataReceived(self, data: bytes) -> None:
        raise AssertionError("no data before the handshake is done")

    def handshakeCompleted(self) -> None:
        self._connecting._handshake_completed()

    def connectionLost(self, reason: Failure) -> None:
        self._connecting._handshake_failed(reason)


class _Attempt(DirectDescriptor, abstract.FileDescriptor):
    """One socket on its way to one address; tells `_connected` or `_try_next` of its owner, never within its making. Raises `OSError` when it fails at once."""

    reactor: Any

    def __init__(self, reactor: Reactor, address: Address, bind_address: str | None, owner: Connecting) -> None:
        abstract.FileDescriptor.__init__(self, cast(Any, reactor))
        self._address = address
        self._owner = owner
        self._retry: Any = None
        family = socket.AF_UNIX if address.is_unix else socket.AF_INET6 if address.is_ipv6 else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self.socket.setblocking(False)
            set_tcp_options(self.socket)
            if bind_address is not None and not address.is_unix:
                with suppress(OSError):
                    self.socket.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                self.socket.bind(sockaddr_of(Address(host=bind_address)))
            self._connect(sockaddr_of(address))
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self.socket.fileno()

    def logPrefix(self) -> str:
        """For log lines of stock reactors."""
        return f"connecting to {self._address}"

    def close(self) -> None:
        """Give up."""
        self.reactor.removeWriter(self)
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self.socket.close()

    def _connect(self, name: Any) -> None:
        outcome = self.socket.connect_ex(name)
        if outcome == EAGAIN and self._address.is_unix:
            self._retry = self.reactor.callLater(FULL_BACKLOG_RETRY_SECONDS, self._connect_again, name)
        elif outcome in (0, EINPROGRESS):
            # The reactor says when it is done, also when it is already.
            self.reactor.addWriter(self)
        else:
            raise OSError(outcome, "")

    def _connect_again(self, name: Any) -> None:
        try:
            self._connect(name)
        except OSError as error:
            self._failed(error)

    def doWrite(self) -> None:
        """Find out how it went."""
        if self.socket.fileno() == -1:
            return
        number = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._failed(OSError(number, ""))
            return
        try:
            self.socket.getpeername()
        except OSError as error:
            if error.errno != ENOTCONN:
                self._failed(error)
            return  # a stale event: not yet
        self.reactor.removeWriter(self)
        self._owner._connected(self.socket, self._address)

    doRead = doWrite

    def connectionLost(self, reason: Failure) -> None:
        """Called by stock reactors on a hang-up, which a failed attempt looks like, and at shutdown."""
        number = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if self.socket.fileno() != -1 else 0
        self._failed(OSError(number, "") if number else OSError("the connection was closed while it was being made"))

    def _failed(self, error: OSError) -> None:
        self.close()
        self._owner._try_next(error)


@implementer(IResolutionReceiver)
class _Names:
    """Collects what the resolver finds."""

    def __init__(self, connecting: Connecting) -> None:
        self._connecting = connecting
        self._found: list[Address] = []

    def resolutionBegan(self, resolutionInProgress: object) -> None:
        """Nothing to do; Twisted's resolvers cannot be cancelled."""

    def addressResolved(self, address: Any) -> None:
        found = Address(host=address.host, port=address.port)
        if found not in self._found:
            self._found.append(found)

    def resolutionComplete(self) -> None:
        self._connecting._resolved(self._found)
