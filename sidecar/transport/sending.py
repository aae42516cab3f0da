"""The sending half of a transport: written at once while nothing is queued, else queued, paced by watermarks, and closed when all is sent."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterable
from errno import ENOBUFS
from itertools import islice
from typing import Any, cast

from twisted.internet import abstract, tcp
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IProtocol
from twisted.python.failure import Failure

from sidecar.transport.readiness import DirectDescriptor
from sidecar.transport.sockets import Reactor, words

# Above the high mark the protocol is asked to pause, at the low one to resume. The defaults hold a few dozen full packets; listeners and clusters configure
# their own.
HIGH_WATERMARK_BYTES = 64 * 1024
LOW_WATERMARK_BYTES = 16 * 1024
# Up to here copying the parts of a message together is cheaper than handing their addresses to the kernel (measured: even between 16 and 64 KiB).
JOIN_BYTES = 32 * 1024
# Parts handed to one sendmsg(2): half of Linux's IOV_MAX, and far more than a socket buffer holds of usual chunks.
SENDMSG_PARTS = 512


class SendingConnection(DirectDescriptor, tcp.Connection):
    """The part of `Transport` that writes. `connection.Transport` says what follows a failure or the end (`_write_broke`, `_finish`, `_end_sending`)."""

    reactor: Any
    protocol: Any

    def __init__(self, skt: socket.socket, protocol: IProtocol | None, reactor: Reactor) -> None:
        tcp.Connection.__init__(self, skt, cast(IProtocol, protocol), cast(Any, reactor))
        self._direct = True  # nothing queued, and writing is possible: write straight to the socket
        self._queue: deque[bytes | memoryview] = deque()
        self._queued = 0
        self._high = HIGH_WATERMARK_BYTES
        self._low = LOW_WATERMARK_BYTES
        self._asked_to_pause = False
        self._write_registered = False
        self._broken: Failure | None = None  # a write failed with this

    def _write_broke(self, reason: Failure) -> None:
        """Writing is over, `reason` is why."""
        raise NotImplementedError

    def _finish(self) -> None:
        """All is sent, and `loseConnection` was called."""
        raise NotImplementedError

    def _end_sending(self) -> None:
        """All is sent, and `loseWriteConnection` was called."""
        raise NotImplementedError

    def _protocol_failed(self) -> None:
        """The protocol raised the exception being handled."""
        raise NotImplementedError

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

    def _is_transient(self, error: OSError) -> bool:
        """Handle a failed send: True when it will work later, else the sending side is given up."""
        if error.errno == ENOBUFS:
            return True
        self._write_broke(Failure(ConnectionLost(words(error))))
        return False
