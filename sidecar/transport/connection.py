"""Our stream transport: a Twisted `tcp.Connection` that writes at once, reads in sizes that fit, and ends only when everything that arrived has been delivered.

Rules of this file and of its siblings `tls` and `sniffing`:

- The class is the state: starting TLS or sniffing changes `__class__`, so that no read or write asks what kind of connection it is.
- `write` sends to the socket at once while nothing is queued (`_direct`), and queues only what the kernel did not take.
- Nothing here calls the protocol back from within a call the protocol makes, except `pauseProducing` when a write fills the queue.
- Pausing is lazy: the descriptor leaves the reactor only when something arrives while paused, so a pause and resume around each request cost two stores.
- A failed write does not end the connection: what the peer sent before it closed is read first. Only then comes `connectionLost`.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from errno import ENOBUFS, errorcode
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, cast

from twisted.internet import abstract, tcp
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from sidecar.address import Address
from sidecar.transport.readiness import DirectDescriptor

if TYPE_CHECKING:
    from collections.abc import Callable

    from OpenSSL import SSL, crypto
    from twisted.internet.interfaces import IDelayedCall

    from sidecar.transport.tls import TLSProblem

_log = Logger()

# A request and its small body fit into the first. Beyond the second, reads get dear again: malloc(3) maps fresh pages for each (19 us instead of 4.5).
READ_BYTES = 16 * 1024
READ_BYTES_MAX = 128 * 1024
# Above the high mark the protocol is asked to pause, at the low one to resume. The defaults hold a few dozen full packets; listeners and clusters configure
# their own.
HIGH_WATERMARK_BYTES = 64 * 1024
LOW_WATERMARK_BYTES = 16 * 1024
# Up to here copying the parts of a message together is cheaper than handing their addresses to the kernel (measured: even between 16 and 64 KiB).
JOIN_BYTES = 32 * 1024
# Parts handed to one sendmsg(2): half of Linux's IOV_MAX, and far more than a socket buffer holds of usual chunks.
SENDMSG_PARTS = 512

_DONE = Failure(ConnectionDone())
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with a time of 0: close(2) sends RST


class Reactor(Protocol):
    """What transports use of a reactor."""

    def addReader(self, reader: Any) -> Any: ...
    def removeReader(self, reader: Any) -> Any: ...
    def addWriter(self, writer: Any) -> Any: ...
    def removeWriter(self, writer: Any) -> Any: ...
    def seconds(self) -> float: ...
    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kwargs: object) -> IDelayedCall: ...


def words(error: OSError) -> str:
    """`error` for a person: "connection refused (ECONNREFUSED)"."""
    if error.errno is None:
        return str(error)
    text = os.strerror(error.errno)
    return f"{text[:1].lower()}{text[1:]} ({errorcode.get(error.errno, error.errno)})"


def address_of(name: Any) -> Address:
    """The `Address` in what the socket module calls one: a tuple for IPv4 and IPv6 (with its scope), str or bytes for UNIX sockets ("" when unnamed)."""
    if isinstance(name, tuple):
        host = name[0]
        if len(name) == 4 and name[3] and "%" not in host:
            host = f"{host}%{name[3]}"
        return Address(host=host, port=name[1])
    if isinstance(name, bytes):
        name = "@" + name[1:].decode("utf-8", "surrogateescape") if name[:1] == b"\0" else name.decode("utf-8", "surrogateescape")
    # A client's UNIX socket is usually unnamed; "@" alone is the abstract namespace's empty name, and keeps such an address telling what it is.
    return Address(path=name or "@")


class Transport(DirectDescriptor, tcp.Connection):
    """A connected stream socket, TCP or UNIX, on whichever side.

    `peer`, `local`: the two ends as `Address`. `protocol`: who is told; may be replaced at any time (the caller calls the new one's `makeConnection`); None
    once the connection is lost.
    `tls`: the `SSL.Connection` once TLS was started. `tls_error`: what went wrong with it, set before `connectionLost`.
    Provides what Twisted's own TCP transports provide (`ITCPTransport`, `IConsumer`, `IPushProducer`, `IHalfCloseableDescriptor`) except that `startTLS` is
    ours.
    """

    reactor: Any
    protocol: Any
    tls: SSL.Connection | None = None
    tls_error: TLSProblem | None = None
    negotiatedProtocol: bytes | None = None

    def __init__(self, skt: socket.socket, protocol: IProtocol | None, reactor: Reactor, peer: Address, is_client: bool) -> None:
        """A transport for the connected socket `skt`, which it owns from now on; `is_client`: we made the connection. Reads nothing until `startReading` or
        `resumeProducing`."""
        tcp.Connection.__init__(self, skt, cast(IProtocol, protocol), cast(Any, reactor))
        self.peer = peer
        self.is_client = is_client
        self.connected = 1
        self._local: Address | None = None
        self._direct = True  # nothing queued, and writing is possible: write straight to the socket
        self._queue: deque[bytes | memoryview] = deque()
        self._queued = 0
        self._high = HIGH_WATERMARK_BYTES
        self._low = LOW_WATERMARK_BYTES
        self._asked_to_pause = False
        self._reading = False  # the protocol wants data
        self._read_registered = False  # the reactor tells us when there is some; may outlive `_reading` (lazy pause)
        self._write_registered = False
        self._read_closed = False  # the peer ended its sending side
        self._read_bytes = READ_BYTES
        self._broken: Failure | None = None  # a write failed with this
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
        return _twisted_address(self.peer)

    def getHost(self) -> IPv4Address | IPv6Address | UNIXAddress:
        """`local` as Twisted's address."""
        return _twisted_address(self.local)

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

    # -- writing -------------------------------------------------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        """Octets written by the protocol that the kernel has not taken yet."""
        return self._queued

    def set_write_watermarks(self, high_bytes: int, low_bytes: int) -> None:
        """From now on the protocol's `pauseProducing` is called when more than `high_bytes` are queued (perhaps within `write`), and its `resumeProducing` when
        at most `low_bytes` are
        left. A protocol without these methods is not asked; a producer registered with `registerProducer` is asked instead of it."""
        if not 0 <= low_bytes <= high_bytes:
            raise ValueError(f"expected 0 <= low <= high, got low {low_bytes} and high {high_bytes}")
        self._high = high_bytes
        self._low = low_bytes

    def write(self, data: bytes) -> None:
        """`data` is on its way: sent at once if nothing is queued. Dropped silently when our sending side is closed, closing or broken (`connectionLost`
        follows then)."""
        if not self._direct:
            self._write_later(data)
            return
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            if not self._is_transient(error):
                return
            sent = 0
        if sent != len(data):
            self._enqueue(data, sent)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """As `write` for all parts in order, in one go. `iovec`: best a list."""
        parts = iovec if isinstance(iovec, list) else list(iovec)
        if not self._direct:
            for part in parts:
                self._write_later(part)
            return
        if sum(map(len, parts)) <= JOIN_BYTES:
            self.write(b"".join(parts))
            return
        self._queue.extend(filter(None, parts))
        self._queued = sum(map(len, self._queue))
        self._direct = False
        self._flush()
        if self._queued > self._high:
            self._ask_to_pause()

    def doWrite(self) -> None:
        """Send what is queued, as far as the kernel takes it."""
        self._flush()

    def _write_later(self, data: bytes) -> None:
        if data and self.connected and self._can_queue():
            self._enqueue(data, 0)

    def _can_queue(self) -> bool:
        return not (self.disconnecting or self._writeDisconnecting or self._writeDisconnected or self._broken is not None)

    def _enqueue(self, data: bytes, sent: int) -> None:
        """Keep what is left of `data` after its first `sent` octets until the socket is writable."""
        self._direct = False
        self._queue.append(memoryview(data)[sent:] if sent else data)
        self._queued += len(data) - sent
        self._register_write()
        if self._queued > self._high:
            self._ask_to_pause()

    def _flush(self) -> None:
        """Send from the queue once; afterwards the writer is registered exactly if something is left."""
        queue = self._queue
        if queue:
            try:
                if len(queue) == 1:
                    sent = self.socket.send(queue[0])
                else:
                    sent = self.socket.sendmsg(islice(queue, SENDMSG_PARTS))
            except BlockingIOError:
                sent = 0
            except OSError as error:
                if not self._is_transient(error):
                    return
                sent = 0
            self._queued -= sent
            while sent:
                length = len(queue[0])
                if sent < length:
                    queue[0] = memoryview(queue[0])[sent:]
                    break
                sent -= length
                queue.popleft()
        self._after_flush()

    def _after_flush(self) -> None:
        """Registration, watermarks and closing after the queue got shorter."""
        if self._queued:
            self._register_write()
        else:
            self._unregister_write()
        is_pulled = self.producer is not None and not self.streamingProducer
        if not self._queued and self.connected and self._can_queue():
            self._direct = not is_pulled
        if is_pulled:
            if not self._queued:
                self._ask_to_resume()
        elif self._asked_to_pause and self._queued <= self._low and not self.disconnecting:
            self._asked_to_pause = False
            self._ask_to_resume()
        if self._queued or not self.connected:
            return
        if self.disconnecting:
            self._finish()
        elif self._writeDisconnecting and not self._writeDisconnected:
            self._end_sending()

    def _ask_to_resume(self) -> None:
        resume = getattr(self.protocol if self.producer is None else self.producer, "resumeProducing", None)
        if resume is not None:
            try:
                resume()
            except Exception:
                self._protocol_failed()

    def _ask_to_pause(self) -> None:
        if self._asked_to_pause:
            return
        pause = getattr(self.protocol if self.producer is None else self.producer, "pauseProducing", None)
        if pause is not None and (self.producer is None or self.streamingProducer):
            self._asked_to_pause = True
            pause()

    def _register_write(self) -> None:
        if not self._write_registered and self.connected:
            self._write_registered = True
            self.reactor.addWriter(self)

    def _unregister_write(self) -> None:
        if self._write_registered:
            self._write_registered = False
            self.reactor.removeWriter(self)

    startWriting = _register_write
    stopWriting = _unregister_write

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """As Twisted's: a push producer (`streaming`) is paused and resumed at the watermarks, a pull producer is asked for more whenever everything was
        sent."""
        if self.connected and not streaming and self.producer is None:
            # Its writes take the long way, so that the reactor sets the pace.
            self._direct = False
            self._register_write()
        abstract.FileDescriptor.registerProducer(self, producer, streaming)
        if streaming and self._queued > self._high:
            self._ask_to_pause()

    def unregisterProducer(self) -> None:
        """As Twisted's."""
        self.producer = None
        self._asked_to_pause = False
        if self.connected and not self._queued and self._can_queue():
            self._direct = True

    # -- when writing fails --------------------------------------------------------------------------------------------------------------

    def _is_transient(self, error: OSError) -> bool:
        """Handle a failed send: True when it will work later, else the sending side is given up."""
        if error.errno == ENOBUFS:
            return True
        self._write_broke(Failure(ConnectionLost(words(error))))
        return False

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


def _twisted_address(address: Address) -> IPv4Address | IPv6Address | UNIXAddress:
    if address.path:
        return UNIXAddress(address.path.encode("utf-8", "surrogateescape"))
    if address.is_ipv6:
        return IPv6Address("TCP", address.host, address.port)
    return IPv4Address("TCP", address.host, address.port)


def set_tcp_options(skt: socket.socket) -> None:
    """Small messages leave at once, and a dead peer is found out in the end. Accepted sockets inherit both from the listening one (Linux, BSD)."""
    if skt.family != socket.AF_UNIX:
        skt.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        skt.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


__all__: Sequence[str] = ("Reactor", "Transport", "address_of", "set_tcp_options", "words")
