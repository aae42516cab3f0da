"""An application to be maltreated: threads on blocking sockets, HTTP by hand. `backend.py PORT MODE_FILE DELIVERIES_FILE NAME`.

It does what the first word in MODE_FILE says: ok; `slow MS` answers later; `503`; `reset` cuts the connection when the request is here; `refuse` closes
everything and listens no more; `idle MS` closes connections that idle so long. Each POST that has come whole is written to DELIVERIES_FILE, before anything
else is done.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import threading
import time
from pathlib import Path

IDLE_SECONDS = 60.0
LOOK_SECONDS = 0.02


class Backend:
    """See the module."""

    def __init__(self, port: int, mode_file: str, deliveries_file: str, name: str) -> None:
        self.port = port
        self.mode_file = mode_file
        self.name = name
        self.deliveries = os.open(deliveries_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.mode, self.argument = "ok", 0
        self.listener: socket.socket | None = None
        self.open: set[socket.socket] = set()

    def run(self) -> None:
        """Until killed: do as the mode says."""
        while True:
            words = [*Path(self.mode_file).read_text().split(), "ok", "0"][:2]
            self.mode, self.argument = words[0], int(words[1]) if words[1].isdigit() else 0
            if self.mode == "refuse":
                self.close()
            elif self.listener is None:
                self.listen()
            time.sleep(LOOK_SECONDS)

    def listen(self) -> None:
        """Accept, on a thread."""
        self.listener = listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(256)
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()

    def close(self) -> None:
        """No listener, no connections."""
        listener, self.listener = self.listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for each in list(self.open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def accept(self, listener: socket.socket) -> None:
        """A thread for each connection."""
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.open.add(sock)
                threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock: socket.socket) -> None:
        """Request after request."""
        held = b""
        with contextlib.suppress(OSError, ValueError), sock:
            while True:
                sock.settimeout(self.argument / 1000 if self.mode == "idle" else IDLE_SECONDS)
                while b"\r\n\r\n" not in held:
                    data = sock.recv(65536)
                    if not data:
                        return
                    held += data
                    sock.settimeout(IDLE_SECONDS)
                head, _, held = held.partition(b"\r\n\r\n")
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
                length = int(fields.get(b"content-length", b"0"))
                while len(held) < length:
                    data = sock.recv(65536)
                    if not data:
                        return
                    held += data
                held = held[length:]
                if head.startswith(b"POST "):
                    os.write(self.deliveries, fields[b"x-id"] + b"\n")
                if not self.answer(sock):
                    return
        self.open.discard(sock)

    def answer(self, sock: socket.socket) -> bool:
        """As the mode says; False when the connection is over."""
        status, body = b"200 OK", b"hello from " + self.name.encode()
        if self.mode == "slow":
            time.sleep(self.argument / 1000)
        elif self.mode == "503":
            status, body = b"503 Service Unavailable", b"not now"
        elif self.mode == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        sock.sendall(b"HTTP/1.1 %b\r\nX-Backend: %b\r\nContent-Length: %d\r\n\r\n%b" % (status, self.name.encode(), len(body), body))
        return True


if __name__ == "__main__":
    Backend(int(sys.argv[1]), *sys.argv[2:5]).run()
