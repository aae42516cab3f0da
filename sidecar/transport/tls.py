"""TLS on the socket itself: OpenSSL reads and writes the file descriptor, no memory buffers and no copies in between.

OpenSSL takes exactly one record from the kernel for each read, and we ask for as much as a record can hold; so nothing decrypted ever waits inside the
`SSL.Connection`, and the reactor's readiness is the whole truth.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from OpenSSL import SSL
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from sidecar.transport.connection import READ_BYTES_MAX, Transport
from sidecar.transport.records import RECORD_BYTES, forget_errors, keep_buffers, read_record, verify_problem, write_records
from sidecar.transport.sockets import words

if TYPE_CHECKING:
    from collections.abc import Callable

    from OpenSSL import crypto

# Queued parts smaller than this are put together before they are encrypted: a record has 22 octets and a system call of its own.
SMALL_PART_BYTES = 4 * 1024


@attrs.frozen
class ClientTLS:
    """How to start TLS on a connection that we make.

    `server_name` is sent as SNI; "" for none. `explain(transport)`: a sentence for a person on why the handshake failed, for who knows more than OpenSSL (whom
    we expected there); `transport.tls_error` says what happened.
    """

    context: SSL.Context
    server_name: str = ""
    explain: Callable[[Transport], str] | None = None


@attrs.frozen
class TLSProblem:
    """What went wrong with TLS, in the terms of OpenSSL; upper layers make a sentence of it.

    `error`: the exception, perhaps one that a verify callback raised. `reasons`: OpenSSL's error queue, the oldest first ("certificate verify failed").
    `alert`: what the peer told us ("unknown ca"), "" when the problem was found on our side. `verify_code`, `verify_text`: why we refused the peer's
    certificate (10, "certificate has expired"), 0 and "" otherwise.
    `in_handshake`: before it was complete on our side. (In TLS 1.3 a server's refusal of a client's certificate arrives after that.)
    """

    error: Exception
    reasons: tuple[str, ...] = ()
    alert: str = ""
    verify_code: int = 0
    verify_text: str = ""
    in_handshake: bool = True

    @property
    def text(self) -> str:
        """The most telling part, in words."""
        if self.verify_text:
            return self.verify_text
        if self.alert:
            return f"the peer sent the alert {self.alert!r}"
        if self.reasons:
            return "; ".join(self.reasons)
        if isinstance(self.error, SSL.SysCallError):
            return _what_happened(self.error)
        return str(self.error) or type(self.error).__name__


# Giving the record buffers back after each record and getting them anew costs a tenth of a small request (half of it in the kernel); keeping them costs 34 KB
# for each
# connection. So the first ones keep them (9 MB at most), and a sidecar with thousands of idle connections stays small.
BUFFERED_CONNECTIONS = 256


class TLSTransport(Transport):
    """A `Transport` whose stream is encrypted. Made by `startTLS`."""

    # In this process, now.
    open_connections: ClassVar[int] = 0

    tls: SSL.Connection
    _is_special: bool  # handshaking, or `_late_error` waits
    _is_handshaking: bool
    _late_error: Exception | None  # met after data that had to be delivered first
    _reads_in_a_row: int  # read events since the last write: more than one means a bulk transfer, worth looking for the next record at once
    _must_retry: bool  # OpenSSL waits for the same octets again
    _write_waits_for_read: bool
    _read_waits_for_write: bool

    @classmethod
    def take(cls, transport: Transport, context: SSL.Context, is_client: bool, server_name: str) -> None:
        """`transport` is being encrypted from now on."""
        if transport._queued or isinstance(transport, TLSTransport):
            raise RuntimeError("TLS cannot start while something is queued, or twice")
        tls = SSL.Connection(context, transport.socket)
        if is_client:
            if server_name and not _is_ip(server_name):
                tls.set_tlsext_host_name(server_name.encode("idna"))
            tls.set_connect_state()
        else:
            tls.set_accept_state()
        transport.__class__ = cls
        assert isinstance(transport, TLSTransport)
        if cls.open_connections < BUFFERED_CONNECTIONS:
            keep_buffers(tls)
        TLSTransport.open_connections += 1
        transport.tls = tls
        transport._is_special = True
        transport._is_handshaking = True
        transport._late_error = None
        transport._reads_in_a_row = 0
        transport._must_retry = False
        transport._write_waits_for_read = False
        transport._read_waits_for_write = False
        transport._direct = False
        if transport.connected and not transport.disconnecting:
            transport._handshake(is_first=True)

    def _lose(self, reason: Failure) -> None:
        if not self.disconnected:
            TLSTransport.open_connections -= 1
        super()._lose(reason)

    # -- handshake -----------------------------------------------------------------------------------------------------------------------

    def _handshake(self, is_first: bool = False) -> None:
        """One step. The first one runs within `startTLS` and must not call the protocol; it cannot complete, since each side needs an answer to its first
        flight."""
        try:
            self.tls.do_handshake()
        except SSL.WantReadError:
            self._register_read()
            self._unregister_write()
        except SSL.WantWriteError:
            self._register_write()
        except Exception as error:
            if is_first:
                self._is_special = self._is_handshaking = True
                self._stop_both()
                self.reactor.callLater(0, self._handshake_failed, error)
            else:
                self._handshake_failed(error)
        else:
            self._handshake_done()

    def _handshake_done(self) -> None:
        self._is_special = self._is_handshaking = False
        self.negotiatedProtocol = self.tls.get_alpn_proto_negotiated() or None
        self._unregister_write()
        completed = getattr(self.protocol, "handshakeCompleted", None)
        if completed is not None:
            try:
                completed()
            except Exception:
                self._protocol_failed()
        if self.connected and not self._aborting:
            # What was written, or asked for, before.
            self._flush()

    def _handshake_failed(self, error: Exception) -> None:
        if not self.connected:
            return
        self.tls_error = _problem(self.tls, error, in_handshake=True)
        self._lose(Failure(error))

    def getPeerCertificate(self) -> crypto.X509 | None:
        """As promised by `Transport`."""
        return None if self._is_handshaking else self.tls.get_peer_certificate()

    # -- reading -------------------------------------------------------------------------------------------------------------------------

    def doRead(self) -> None:
        """Deliver one record, or up to `READ_BYTES_MAX` octets of a bulk transfer at once."""
        if self._is_special:
            self._read_special()
            return
        if not self._reading:
            self._read_while_paused()
            return
        try:
            data = read_record(self.tls)
        except Exception as error:
            self._read_failed(error)
            return
        self._reads_in_a_row += 1
        if self._reads_in_a_row > 2 or len(data) == RECORD_BYTES:
            data = self._read_more(data)
        try:
            self.protocol.dataReceived(data)
        except Exception:
            self._protocol_failed()
        if self._write_waits_for_read and self.connected:
            self._flush()

    def looks_alive(self) -> bool:
        """As promised by `Transport`; session tickets and the like are no data."""
        if super().looks_alive():
            return True
        if not self.connected or self.disconnecting or self._read_closed or self._broken is not None or self._is_special:
            return False
        try:
            self.tls.recv(1, socket.MSG_PEEK)
        except SSL.WantReadError:
            return True
        except Exception as error:
            # OpenSSL may not tell a second time.
            self._late_error = error
            self._is_special = True
            self.reactor.callLater(0, self._tell_late_error)
        return False

    def _read_more(self, first: bytes) -> bytes:
        """`first` and the records that are there already: fewer and larger pieces for everybody behind us."""
        parts = [first]
        size = len(first)
        try:
            while size <= READ_BYTES_MAX - RECORD_BYTES:
                parts.append(read_record(self.tls))
                size += len(parts[-1])
        except SSL.WantReadError:
            pass
        except Exception as error:
            # OpenSSL may not tell a second time.
            self._late_error = error
            self._is_special = True
        return first if len(parts) == 1 else b"".join(parts)

    def _read_special(self) -> None:
        if self._is_handshaking:
            self._handshake()
        elif not self._reading:
            self._unregister_read()
        else:
            error, self._late_error = self._late_error, None
            self._is_special = False
            assert error is not None
            self._read_failed(error)

    def _read_while_paused(self) -> None:
        if self._write_waits_for_read:
            self._flush()
        if not self._write_waits_for_read:
            self._unregister_read()

    def _read_failed(self, error: Exception) -> None:
        """Reading gave no data but `error`."""
        if isinstance(error, SSL.WantReadError):
            self._read_would_block()
        elif isinstance(error, SSL.WantWriteError):
            self._read_waits_for_write = True  # to answer a key update
            self._register_write()
        elif isinstance(error, SSL.ZeroReturnError):
            self._read_end()
        elif isinstance(error, SSL.SysCallError):
            # No close_notify: the stream may have been cut by anybody (RFC 8446, section 6.1).
            forget_errors()
            self._lose(self._broken or Failure(ConnectionLost(_what_happened(error))))
        elif self._broken is not None and isinstance(error, SSL.Error) and error.args == ([],):
            # OpenSSL does not read any more after a write that failed.
            self._lose(self._broken)
        else:
            self.tls_error = _problem(self.tls, error, in_handshake=False)
            self._lose(Failure(error))

    def _register_read(self) -> None:
        if not self._read_registered and self.connected:
            self._read_registered = True
            self.reactor.addReader(self)

    def resumeProducing(self) -> None:
        """As promised by `Transport`."""
        super().resumeProducing()
        if self._reading and self._late_error is not None:
            # The kernel may have nothing more to tell.
            self.reactor.callLater(0, self._tell_late_error)

    startReading = resumeProducing

    def _tell_late_error(self) -> None:
        if self.connected and self._reading and self._late_error is not None:
            self._read_special()

    # -- writing -------------------------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """As promised by `Transport`."""
        if not self._direct:
            self._write_later(data)
            return
        if self._reads_in_a_row:
            self._reads_in_a_row = 0
        elif self.is_client and self._is_reset():
            return
        length = len(data)
        if 0 < length <= RECORD_BYTES:
            try:
                sent = write_records(self.tls, data)
            except Exception as error:
                if not self._is_write_delayed(error):
                    return
                sent = 0
            if sent != length:  # also after a whole record, when the peer asked for smaller ones (RFC 6066, section 4)
                self._enqueue(data, sent)
        elif length:
            self._queue_parts([data])

    def writeSequence(self, iovec: Any) -> None:
        """As promised by `Transport`."""
        parts = iovec if isinstance(iovec, list) else list(iovec)
        if not self._direct:
            for part in parts:
                self._write_later(part)
        elif sum(map(len, parts)) <= RECORD_BYTES:
            self.write(b"".join(parts))
        else:
            self._reads_in_a_row = 0
            self._queue_parts(parts)

    def _queue_parts(self, parts: list[bytes]) -> None:
        self._queue.extend(filter(None, parts))
        self._queued = sum(map(len, self._queue))
        self._direct = False
        self._flush()
        if self._queued > self._high:
            self._ask_to_pause()

    def _write_later(self, data: bytes) -> None:
        if self._is_handshaking and data and self.connected and self._can_queue():
            # Nothing to tell the reactor: the handshake knows what it waits for.
            self._queue.append(data)
            self._queued += len(data)
            if self._queued > self._high:
                self._ask_to_pause()
        else:
            super()._write_later(data)

    def doWrite(self) -> None:
        """Send what is queued, or go on with what waited for the socket to be writable."""
        if self._is_handshaking:
            self._handshake()
            return
        self._flush()
        if self._read_waits_for_write:
            self._read_waits_for_write = False
            self.doRead()

    def _flush(self) -> None:
        if self._is_handshaking:
            return
        queue = self._queue
        self._write_waits_for_read = False
        try:
            while queue:
                if self.is_client and self._is_reset():
                    return
                part = queue[0]
                if len(part) < SMALL_PART_BYTES and len(queue) > 1 and not self._must_retry:
                    part = self._put_together()
                sent = write_records(self.tls, part)
                self._must_retry = False
                self._queued -= sent
                if sent == len(part):
                    queue.popleft()
                else:
                    queue[0] = memoryview(part)[sent:]
        except Exception as error:
            if not self._is_write_delayed(error):
                return
            self._must_retry = True
            if self._write_waits_for_read:
                self._unregister_write()
                self._register_read()
                return
        self._after_flush()

    def _is_reset(self) -> bool:
        """Has the peer reset the connection? Then the sending side is given up.

        A write that fails leaves OpenSSL unable to read what the peer had sent before: the early answer of a server, or the alert that tells why it does not
        like our certificate. So a client asks the kernel first, from its second write in a row on; a first one has nothing to lose.
        """
        number = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._write_broke(Failure(ConnectionLost(words(OSError(number, "")))))
        return bool(number)

    def _put_together(self) -> bytes:
        """The first parts of the queue as one of at most a record's size, put back in their place. The last of them may be the begin of a longer one: a record
        of a few octets costs both sides more than copying a record's worth."""
        queue = self._queue
        parts = [queue.popleft()]
        room = RECORD_BYTES - len(parts[0])
        while queue and room:
            part = queue[0]
            if len(part) > room:
                view = memoryview(part)
                parts.append(view[:room])
                queue[0] = view[room:]
                break
            room -= len(part)
            parts.append(part)
            queue.popleft()
        part = b"".join(parts)
        queue.appendleft(part)
        return part

    def _is_write_delayed(self, error: Exception) -> bool:
        """After a failed write: True when the same octets are to be written again later; else the sending side is given up."""
        if isinstance(error, SSL.WantWriteError):
            self._must_retry = True
            return True
        if isinstance(error, SSL.WantReadError):
            self._must_retry = self._write_waits_for_read = True
            self._register_read()
            return True
        if isinstance(error, SSL.SysCallError):
            forget_errors()
            self._write_broke(Failure(ConnectionLost(_what_happened(error))))
        else:
            self.tls_error = _problem(self.tls, error, in_handshake=False)
            self._write_broke(Failure(error))
        return False

    # -- closing -------------------------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        if self.connected and not self._is_handshaking and self._broken is None and not self._writeDisconnected and not self._aborting:
            try:
                self._close_notify()
            except SSL.WantWriteError:
                self._register_write()  # doWrite finds the queue empty and comes here again
                return
        super()._finish()

    def _send_end(self) -> bool:
        """Only TLS's own end: closing the socket's sending side under it would look like a cut to some peers."""
        if self._is_handshaking:
            return False  # comes here again when it is done
        try:
            self._close_notify()
        except SSL.WantWriteError:
            self._register_write()  # likewise
            return False
        return True

    def _close_notify(self) -> None:
        """Say that we send no more. Raises `WantWriteError` when the kernel does not take it now; any other failure is the peer's going away, which reading
        finds out."""
        try:
            self.tls.shutdown()
        except SSL.WantWriteError:
            raise
        except SSL.Error:
            forget_errors()

    def _stop_both(self) -> None:
        self._unregister_read()
        self._unregister_write()


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _what_happened(error: SSL.SysCallError) -> str:
    number = error.args[0] if error.args else -1
    return "the peer closed without a TLS close_notify" if number == -1 else words(OSError(number, ""))


def _problem(tls: SSL.Connection, error: Exception, in_handshake: bool) -> TLSProblem:
    queue = error.args[0] if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list) else []
    reasons = tuple(entry[-1] for entry in queue if entry and entry[-1])
    alert = next((reason.partition(" alert ")[2] for reason in reasons if " alert " in reason), "")
    # Without verification OpenSSL notes what it thinks of the certificate all the same.
    code, text = verify_problem(tls) if "certificate verify failed" in reasons else (0, "")
    forget_errors()
    return TLSProblem(error=error, reasons=reasons, alert=alert, verify_code=code, verify_text=text, in_handshake=in_handshake)
