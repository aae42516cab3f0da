"""Our stream transport: a Twisted `tcp.Connection` that writes at once, reads in sizes that fit, and ends only when everything that arrived has been delivered.

Rules of this file and of its siblings `sending`, `tls` and `sniffing`:

- The class is the state: starting TLS or sniffing changes `__class__`, so that no read or write asks what kind of connection it is.
- Nothing here calls the protocol back from within a call the protocol makes, except `pauseProducing` when a write fills the queue.
- Pausing is lazy: the descriptor leaves the reactor only when something arrives while paused, so a pause and resume around each request cost two stores.
- A failed write does not end the connection: what the peer sent before it closed is read first. Only then comes `connectionLost`.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from sidecar.address import Address
from sidecar.transport.sending import SendingConnection
from sidecar.transport.sockets import Reactor, address_of, twisted_address, words

if TYPE_CHECKING:
    from collections.abc import Callable

    from OpenSSL import SSL, crypto

    from sidecar.transport.tls import TLSProblem

_log = Logger()

# A request and its small body fit into the first. Beyond the second, reads get dear again: malloc(3) maps fresh pages for each (19 us instead of 4.5).
READ_BYTES = 16 * 1024
READ_BYTES_MAX = 128 * 1024

_DONE = Failure(ConnectionDone())
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with a time of 0: close(2) sends RST


class Transport(SendingConnection):
    """A connected stream socket, TCP or UNIX, on whichever side.

    `peer`, `local`: the two ends as `Address`. `protocol`: who is told; may be replaced at any time (the caller calls the new one's `makeConnection`); None
    once the connection is lost.
    `tls`: the `SSL.Connection` once TLS was started. `tls_error`: what went wrong with it, set before `connectionLost`.
    Provides what Twisted's own TCP transports provide (`ITCPTransport`, `IConsumer`, `IPushProducer`, `IHalfCloseableDescriptor`) except that `startTLS` is
    ours.
    """

    tls: SSL.Connection | None = None
    tls_error: TLSProblem | None = None
    negotiatedProtocol: bytes | None = None

    def __init__(self, skt: socket.socket, protocol: IProtocol | None, reactor: Reactor, peer: Address, is_client: bool) -> None:
        """A transport for the connected socket `skt`, which it owns from now on; `is_client`: we made the connection. Reads nothing until `startReading` or
        `resumeProducing`."""
        super().__init__(skt, protocol, reactor)
        self.peer = peer
        self.is_client = is_client
        self.connected = 1
        self._local: Address | None = None
        self._reading = False  # the protocol wants data
        self._read_registered = False  # the reactor tells us when there is some; may outlive `_reading` (lazy pause)
        self._read_closed = False  # the peer ended its sending side
        self._read_bytes = READ_BYTES
        self._drain_is_due = False

    def __repr__(self) -> str:
        state = "lost" if self.disconnected else "closing" if self.disconnecting else "connected"
        return f"<{self.__class__.__name__} {self.local} - {self.peer} {state}, {self._queued} queued{'' if self._reading else ', paused'}>"

    # -- the two ends --------------------------------------------------------------------------------------------------------------------

    @property
    def local(self) -> Address:
        """Our end; asked from the kernel once. `0.0.0.0:0` when the connection was lost before anybody asked."""
        if self._local is None:
            try:
                self._local = address_of(self.socket.getsockname())
            except OSError:
                return Address(host="0.0.0.0")
        return self._local

    def getPeer(self) -> IPv4Address | IPv6Address | UNIXAddress:
        """`peer` as Twisted's address."""
        return twisted_address(self.peer)

    def getHost(self) -> IPv4Address | IPv6Address | UNIXAddress:
        """`local` as Twisted's address."""
        return twisted_address(self.local)

    # -- reading -------------------------------------------------------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """No more `dataReceived` until `resumeProducing`. The peer's closing is not noticed either while paused."""
        self._reading = False

    def resumeProducing(self) -> None:
        """Data is delivered again, from the next turn of the reactor on. Without effect while closing and after the peer's end of stream."""
        if self._reading or self.disconnecting or self._read_closed or not self.connected:
            return
        self._reading = True
        if self._broken is not None:
            self._drain_later()
        elif not self._read_registered:
            self._read_registered = True
            self.reactor.addReader(self)

    startReading = resumeProducing

    def stopReading(self) -> None:
        """As `pauseProducing`, and out of the reactor's list at once."""
        self._reading = False
        self._unregister_read()

    def stopProducing(self) -> None:
        """As `loseConnection`."""
        self.loseConnection()

    def doRead(self) -> None:
        """Deliver what one recv(2) gives."""
        if not self._reading:
            self._unregister_read()
            return
        size = self._read_bytes
        try:
            data = self.socket.recv(size)
        except BlockingIOError:
            self._read_would_block()
            return
        except OSError as error:
            self._lose(self._broken or Failure(ConnectionLost(words(error))))
            return
        if not data:
            self._read_end()
            return
        length = len(data)
        if length == size:
            if size < READ_BYTES_MAX:
                self._read_bytes = size << 1
        elif length < size >> 2 and size > READ_BYTES:
            self._read_bytes = size >> 1
        try:
            self.protocol.dataReceived(data)
        except Exception:
            self._protocol_failed()

    def _read_would_block(self) -> None:
        if self._broken is not None:
            # A write has failed and everything that came before has been read.
            self._lose(self._broken)

    def _read_end(self) -> None:
        """The peer ended its sending side in an orderly way."""
        self._read_closed = True
        if self._broken is not None:
            self._lose(self._broken)
        elif IHalfCloseableProtocol.providedBy(self.protocol):
            self.stopReading()
            try:
                self.protocol.readConnectionLost()
            except Exception:
                self._protocol_failed()
        else:
            self._lose(_DONE)

    def _unregister_read(self) -> None:
        if self._read_registered:
            self._read_registered = False
            self.reactor.removeReader(self)

    def looks_alive(self) -> bool:
        """Nothing waits unread, neither the peer's end nor data that nobody asked for. For connections that are idle; one system call. Nothing is consumed."""
        if not self.connected or self.disconnecting or self._read_closed or self._broken is not None:
            return False
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    # -- when writing fails --------------------------------------------------------------------------------------------------------------

    def _write_broke(self, reason: Failure) -> None:
        """Writing is over. What the peer sent before is still delivered, then the connection is lost with `reason`; all of that later, never within this call.

        A reset leaves the receive buffer in place (Linux), and there may stand the very answer that explains it: a server that replies 413 and closes while we
        are still sending.
        """
        if self._broken is not None or not self.connected:
            return
        self._broken = reason
        self._direct = False
        self._queue.clear()
        self._queued = 0
        self._unregister_write()
        self._drain_later()

    def _drain_later(self) -> None:
        if not self._drain_is_due:
            self._drain_is_due = True
            self.reactor.callLater(0, self._drain)

    def _drain(self) -> None:
        """Deliver what is left to read, one piece for each turn of the reactor. While reading is paused a client waits for its protocol, which may be
        forwarding an answer slowly;
        a server has no use for more requests that it cannot answer, and its protocol wants to know now."""
        self._drain_is_due = False
        if not self.connected:
            return
        if self._reading and not self.disconnecting and not self._read_closed:
            # Once would-block or the end is met this loses the connection.
            self.doRead()
            if self.connected and self._reading:
                self._drain_later()
        elif self.disconnecting or self._read_closed or not self.is_client or not self._has_unread():
            self._lose(self._broken or _DONE)

    def _has_unread(self) -> bool:
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    # -- closing -------------------------------------------------------------------------------------------------------------------------

    def loseConnection(self) -> None:
        """Everything written so far is sent, then the connection closes; `connectionLost` follows later, never within this call. No more data is delivered.

        A peer that does not read keeps it from closing: set a timer and call `abortConnection`. What the peer still sends is not read, which makes the kernel
        answer with RST and can cost the peer the end of our last message: to answer an unfinished request, call `loseWriteConnection`, throw away what comes,
        and close when the peer does (RFC 9112, section 9.6).
        """
        if self.disconnecting or not self.connected:
            return
        self.disconnecting = True
        self._direct = False
        self._reading = False
        if not self._queued:
            self.reactor.callLater(0, self._finish)

    def abortConnection(self) -> None:
        """The connection is reset: nothing more is sent or delivered; `connectionLost` with `ConnectionAborted` follows later, never within this call."""
        if self._aborting or not self.connected:
            return
        self._aborting = True
        self.disconnecting = True
        self._direct = False
        self._queue.clear()
        self._queued = 0
        self.stopReading()
        self._unregister_write()
        self.reactor.callLater(0, self._lose, Failure(ConnectionAborted()))

    def loseWriteConnection(self) -> None:
        """Everything written so far is sent, then our sending side is closed; reading goes on. An `IHalfCloseableProtocol` is told by `writeConnectionLost`,
        later."""
        if self._writeDisconnecting or self.disconnecting or not self.connected:
            return
        self._writeDisconnecting = True
        self._direct = False
        if not self._queued:
            self.reactor.callLater(0, self._end_sending)

    def _finish(self) -> None:
        """Everything is sent (or cannot be): close."""
        if not self.connected or self._aborting:
            return
        self._lose(self._broken or _DONE)

    def _end_sending(self) -> None:
        if not self.connected or self.disconnecting or self._writeDisconnected or self._broken is not None:
            return
        if not self._send_end():
            return
        self._writeDisconnected = True
        if IHalfCloseableProtocol.providedBy(self.protocol):
            try:
                self.protocol.writeConnectionLost()
            except Exception:
                self._protocol_failed()

    def _send_end(self) -> bool:
        """Close our sending side. False: not possible now, `_end_sending` is called again."""
        with suppress(OSError):  # the peer is gone; reading finds out and tells
            self.socket.shutdown(socket.SHUT_WR)
        return True

    def readConnectionLost(self, reason: Failure) -> None:
        """Called by stock reactors on a hang-up: the same as `connectionLost`."""
        self.connectionLost(reason)

    def connectionLost(self, reason: Failure) -> None:
        """Called by stock reactors on a hang-up, and by all at shutdown. Our own code calls `_lose`.

        A hang-up does not mean that everything has been read, so it is treated as a failed write.
        """
        self._read_registered = False
        self._write_registered = False
        if getattr(self.reactor, "_stopped", False) or reason.check(ConnectionLost, ConnectionDone) is None:
            self._lose(reason)
        else:
            self._write_broke(Failure(ConnectionLost("the peer hung up")))

    def _protocol_failed(self) -> None:
        """The protocol raised: log it and close this connection alone."""
        failure = Failure()
        _log.failure("The protocol {protocol!r} of {transport!r} failed", failure=failure, protocol=self.protocol, transport=self)
        self._lose(failure)

    def _lose(self, reason: Failure) -> None:
        """The connection is gone: out of the reactor, closed, and the protocol told."""
        if self.disconnected:
            return
        self.disconnected = 1
        self.connected = 0
        self._direct = False
        self._reading = False
        self._unregister_read()
        self._unregister_write()
        self._queue.clear()
        self._queued = 0
        producer, self.producer = self.producer, None
        protocol, self.protocol = self.protocol, None
        self._close_socket(reset=self._aborting)
        if producer is not None:
            self._tell(producer.stopProducing)
        if protocol is not None:
            self._tell(protocol.connectionLost, reason)

    def _tell(self, method: Callable[..., object], *arguments: object) -> None:
        try:
            method(*arguments)
        except Exception:
            _log.failure("{method!r} failed when {transport!r} was lost", method=method, transport=self)

    def _close_socket(self, reset: bool) -> None:
        if reset:
            with suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        with suppress(OSError):  # the descriptor is gone all the same
            self.socket.close()

    # -- other states --------------------------------------------------------------------------------------------------------------------

    def startTLS(self, ssl_context: SSL.Context, is_client: bool, server_name: str = "") -> None:  # type: ignore[override]
        """TLS is being negotiated on this connection, as client or server; `server_name` is sent as SNI by a client ("" or an IP address: none is sent).

        Nothing may have been read of the peer's TLS bytes (peek with `start_sniffing`) and nothing be queued (raises `RuntimeError`). Writes wait for the
        handshake. When it is done the protocol's `handshakeCompleted()` is called if it has this method; when it fails `connectionLost` gets the error and
        `tls_error` tells more. Never within this call. There is no time limit: that is the caller's.
        """
        from sidecar.transport.tls import TLSTransport

        TLSTransport.take(self, ssl_context, is_client, server_name)

    def getPeerCertificate(self) -> crypto.X509 | None:
        """The peer's certificate, None without TLS, before the handshake, or when it showed none."""
        return None

    def start_sniffing(self, callback: Callable[[bytes, bool], object], limit_bytes: int = READ_BYTES) -> None:
        """Instead of reading, `callback(data, eof)` is called whenever more has arrived, with everything from the first octet on (at most `limit_bytes`);
        nothing is consumed.

        `eof` is true when there will be no more: the peer closed, or the limit is reached. In the callback or later call `stop_sniffing`. Also starts reading.
        """
        from sidecar.transport.sniffing import SniffingTransport

        SniffingTransport.take(self, callback, limit_bytes)

    def stop_sniffing(self) -> None:
        """Reading is normal again, from the first octet on. Harmless when not sniffing."""
