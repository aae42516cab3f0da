"""Listening sockets: `listen`."""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from errno import EADDRINUSE, ECONNREFUSED, EMFILE, ENFILE, ENOBUFS, ENOENT, ENOMEM
from typing import Any, cast

from twisted.internet import abstract
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from sidecar.address import Address
from sidecar.errors import ListenFailed
from sidecar.transport.connection import Transport
from sidecar.transport.descriptors import client_descriptors
from sidecar.transport.readiness import DirectDescriptor
from sidecar.transport.sockets import Reactor, address_of, set_tcp_options, sockaddr_of, words

_log = Logger()

# What the kernel keeps for us between two turns of the reactor (bounded again by net.core.somaxconn).
BACKLOG = 1024
# Accepted in one go; a flood of connections must not starve those that are there.
ACCEPTS_PER_TURN = 32
# Out of descriptors or memory: asking again at once would only burn the processor.
SHORTAGE_PAUSE_SECONDS = 0.1
_HALF_TAKEN = "half of the descriptors that this process may have are taken; the others are for connections to applications (RLIMIT_NOFILE)"
_SHORTAGES = frozenset({EMFILE, ENFILE, ENOBUFS, ENOMEM})

BuildProtocol = Callable[[Address], IProtocol | None]


class Port(DirectDescriptor, abstract.FileDescriptor):
    """A listening socket. Made by `listen`. `address`: what it is bound to, with the real port; `most`: the number from which descriptors are not for it."""

    reactor: Any

    def __init__(self, reactor: Reactor, skt: socket.socket, address: Address, build_protocol: BuildProtocol, most: int = sys.maxsize) -> None:
        abstract.FileDescriptor.__init__(self, cast(Any, reactor))
        self.socket = skt
        self.address = address
        self._build_protocol = build_protocol
        self._most = most
        self._in_shortage = self._is_held = False
        self._is_unix = address.is_unix
        self._inode = _inode(address)
        self.connected = 1
        self.reactor.addReader(self)

    def __repr__(self) -> str:
        return f"<Port {self.address}{'' if self.connected else ' stopped'}>"

    def fileno(self) -> int:
        """The socket's descriptor, -1 when stopped."""
        return self.socket.fileno()

    def getHost(self) -> Address:
        """`address`."""
        return self.address

    def logPrefix(self) -> str:
        """For log lines of stock reactors."""
        return f"listener {self.address}"

    def stop(self) -> Deferred[None]:
        """Nothing is accepted any more, and the address is free. Connections that the kernel has already accepted for us are taken first, so that no client
        sees a reset."""
        if self.connected:
            self.reactor.removeReader(self)
            self._most = sys.maxsize
            self._accept(limit=1 << 16)
            self.connected = 0
            self.disconnected = 1
            self.socket.close()
            # Only our own file: another process may have taken the name over.
            if self._inode is not None and _inode(self.address) == self._inode:
                with suppress(OSError):
                    os.unlink(self.address.path)
        return succeed(None)

    def connectionLost(self, reason: Failure) -> None:
        """Called by the reactor at shutdown."""
        self.stop()

    def doRead(self) -> None:
        """Accept what waits."""
        if self.connected:
            self._accept(ACCEPTS_PER_TURN)

    def doWrite(self) -> None:
        """Never asked for."""

    def _accept(self, limit: int) -> None:
        for _ in range(limit):
            try:
                skt, name = self.socket.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _SHORTAGES:
                    self._pause(words(error))
                    return
                # Linux reports errors of a connection that died in the queue here (accept(2)): the next one may be well.
                continue
            try:
                self._begin(skt, address_of(name))
            except Exception:
                _log.failure("A connection at {address} could not be served", address=self.address)
                skt.close()
            if skt.fileno() >= self._most:
                self._pause(_HALF_TAKEN)
                return
        self._in_shortage = False

    def _begin(self, skt: socket.socket, peer: Address) -> None:
        protocol = self._build_protocol(peer)
        if protocol is None:
            skt.close()
            return
        if not self._is_unix and sys.platform != "linux":
            set_tcp_options(skt)  # on Linux inherited from the listening socket
        transport = Transport(skt, protocol, self.reactor, peer, is_client=False)
        transport.startReading()
        try:
            protocol.makeConnection(cast(Any, transport))
        except Exception:
            transport._protocol_failed()

    def _pause(self, why: str) -> None:
        if not self._in_shortage:
            self._in_shortage = True
            template = "Cannot accept connections at {address}: {why}; trying again every {pause} s"
            _log.error(template, address=self.address, why=why, pause=SHORTAGE_PAUSE_SECONDS)
        self.reactor.removeReader(self)
        self.reactor.callLater(SHORTAGE_PAUSE_SECONDS, self._try_again)

    def _try_again(self) -> None:
        if self.connected and self._most != sys.maxsize:
            try:
                probe = os.dup(self.socket.fileno())
            except OSError as error:
                self._pause(words(error))
                return
            os.close(probe)
            if probe >= self._most:
                self._pause(_HALF_TAKEN)
                return
        self._go_on()

    @property
    def accepts(self) -> bool:
        """Is it open, and not held? A pause for lack of descriptors is not looked at: it is over in a moment."""
        return bool(self.connected) and not self._is_held

    def set_accepting(self, accepts: bool) -> None:
        """False: connections wait in the kernel's queue until it is called with true."""
        self._is_held = not accepts
        if not accepts and self.connected:
            self.reactor.removeReader(self)
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self.connected and not self._is_held:
            self.reactor.addReader(self)


def listen(
    reactor: Reactor, address: Address, build_protocol: BuildProtocol, backlog: int = BACKLOG, reuse_port: bool = False, reserves: bool = False
) -> Port:
    """Connections to `address` are accepted from now on.

    `build_protocol(peer)` is called for each with its address, and returns the protocol, or None to close it at once; the protocol's `makeConnection` then gets
    a `Transport` that is reading. Port 0 takes a free one (`Port.address` tells). `[::]` is IPv6 alone. A UNIX socket's file left behind by a dead process is
    replaced. `reuse_port`: other processes may listen on the same address, and the kernel shares connections out. `reserves`: leave half of the process's
    descriptors to others. Raises `ListenFailed`.
    """
    if not address.is_unix and not address.is_ip:
        if address.host != "localhost":
            raise ListenFailed(f"cannot listen on {address}: an IP address or localhost is needed, not a name")
        address = Address(host="127.0.0.1", port=address.port)
    try:
        skt = _bind_unix(address, backlog) if address.is_unix else _bind_tcp(address, backlog, reuse_port)
    except OSError as error:
        raise ListenFailed(f"cannot listen on {address}: {words(error)}") from error
    most = client_descriptors() if reserves else sys.maxsize
    return Port(reactor, skt, address if address.is_unix else address_of(skt.getsockname()), build_protocol, most)


def _bind_tcp(address: Address, backlog: int, reuse_port: bool) -> socket.socket:
    skt = socket.socket(socket.AF_INET6 if address.is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        skt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            skt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if address.is_ipv6:
            skt.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        set_tcp_options(skt)
        skt.bind(sockaddr_of(address))
        return _listening(skt, backlog)
    except BaseException:
        skt.close()
        raise


def _bind_unix(address: Address, backlog: int) -> socket.socket:
    skt = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            skt.bind(sockaddr_of(address))
        except OSError as error:
            if error.errno != EADDRINUSE or address.path.startswith("@"):
                raise
            _remove_stale(address.path)
            skt.bind(address.path)
        return _listening(skt, backlog)
    except BaseException:
        skt.close()
        raise


def _listening(skt: socket.socket, backlog: int) -> socket.socket:
    skt.setblocking(False)
    skt.listen(backlog)
    return skt


def _remove_stale(path: str) -> None:
    """Remove the socket file at `path` if nobody listens there. Raises `OSError` otherwise."""
    in_use = OSError(EADDRINUSE, os.strerror(EADDRINUSE))
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise in_use
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        # Anything but a refusal, a full backlog included, is a sign of life.
        outcome = probe.connect_ex(path)
    if outcome not in (ECONNREFUSED, ENOENT):
        raise in_use
    with suppress(FileNotFoundError):
        os.unlink(path)


def _inode(address: Address) -> tuple[int, int] | None:
    """What identifies the socket file at `address`; None when there is none."""
    if not address.is_unix or address.path.startswith("@"):
        return None
    try:
        found = os.lstat(address.path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
