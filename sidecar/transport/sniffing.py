"""Looking at a connection's first bytes without taking them, so that whoever reads next, OpenSSL on the socket included, still finds them there."""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from sidecar.transport.connection import Transport
from sidecar.transport.sockets import words

if TYPE_CHECKING:
    from OpenSSL import SSL
    from twisted.internet.interfaces import IDelayedCall

# Peeked bytes stay readable, so a level-triggered poll would report them for ever. Linux can be told to wait for more of them (SO_RCVLOWAT, TCP only);
# elsewhere we look again after this time: often enough for a ClientHello in two segments not to feel it.
LOOK_AGAIN_SECONDS = 0.01

_CAN_WAIT_FOR_MORE = sys.platform == "linux"
_CLOSED = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


class SniffingTransport(Transport):
    """A `Transport` that peeks. Made by `start_sniffing`, left by `stop_sniffing` or `startTLS`."""

    _callback: Callable[[bytes, bool], object]
    _limit: int
    _seen: int
    _again: IDelayedCall | None
    _waits_in_kernel: bool

    @classmethod
    def take(cls, transport: Transport, callback: Callable[[bytes, bool], object], limit_bytes: int) -> None:
        """`transport` sniffs from now on."""
        transport.__class__ = cls
        assert isinstance(transport, SniffingTransport)
        transport._callback = callback
        transport._limit = limit_bytes
        transport._seen = 0
        transport._again = None
        transport._waits_in_kernel = False
        transport.resumeProducing()

    def doRead(self) -> None:
        """Show the callback what there is; wait for more if it still sniffs afterwards."""
        if not self._reading:
            self._unregister_read()
            return
        try:
            data = self.socket.recv(self._limit, socket.MSG_PEEK)
        except BlockingIOError:
            self._read_would_block()
            return
        except OSError as error:
            self._lose(Failure(ConnectionLost(words(error))))
            return
        seen = len(data)
        eof = seen == self._limit or not data or (seen == self._seen and self._is_closed())
        if seen == self._seen and not eof:
            self._wait_for_more()
            return
        self._seen = seen
        try:
            self._callback(data, eof)
        except Exception:
            self._protocol_failed()
            return
        if not self.connected:
            return
        kind: type = self.__class__
        if kind is Transport:
            # What was shown is still to be read: no need to be told by another poll.
            self.doRead()
        elif kind is not SniffingTransport:
            pass
        elif eof:
            # Nothing new can come: the callback has its own plans, or a timer.
            self._unregister_read()
        else:
            self._wait_for_more()

    def stop_sniffing(self) -> None:
        """As promised by `Transport`."""
        waited = self._waits_in_kernel
        self._stop_looking()
        del self._callback
        self.__class__ = Transport  # type: ignore[assignment]
        if not self.connected:
            return
        if waited:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            # Registering anew makes every kernel look at what is already there.
            self._unregister_read()
        if self._reading and not self._read_registered:
            self._read_registered = True
            self.reactor.addReader(self)

    def start_sniffing(self, callback: Callable[[bytes, bool], object], limit_bytes: int = 0) -> None:
        """Start over, with another callback."""
        self.stop_sniffing()
        Transport.start_sniffing(self, callback, limit_bytes or self._limit)

    def startTLS(self, ssl_context: SSL.Context, is_client: bool, server_name: str = "") -> None:  # type: ignore[override]
        """As promised by `Transport`."""
        self.stop_sniffing()
        Transport.startTLS(self, ssl_context, is_client, server_name)

    def _wait_for_more(self) -> None:
        if _CAN_WAIT_FOR_MORE and self.socket.family != socket.AF_UNIX:
            self._waits_in_kernel = True
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, self._seen + 1)
        else:
            self._unregister_read()
            self._again = self.reactor.callLater(LOOK_AGAIN_SECONDS, self._look_again)

    def _look_again(self) -> None:
        if self._reading and not self._read_registered:
            self._read_registered = True
            self.reactor.addReader(self)

    def _stop_looking(self) -> None:
        if self._again is not None and self._again.active():
            self._again.cancel()

    def _is_closed(self) -> bool:
        """Has the peer ended its sending side? Peeking cannot tell while there is data."""
        poll = select.poll()
        poll.register(self.socket, _CLOSED)
        return bool(poll.poll(0))

    def _lose(self, reason: Failure) -> None:
        self._stop_looking()
        super()._lose(reason)
