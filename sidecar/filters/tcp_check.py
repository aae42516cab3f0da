"""Health check `tcp`: connect, and where configured send octets and wait for others (Envoy: TcpHealthCheck)."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from zope.interface import implementer

from sidecar.interfaces import IHealthCheck
from sidecar.verdicts import Unwell

# What is looked through for the expected octets: a greeting, not a download.
RECEIVE_BYTES = 64 * 1024


@implementer(IHealthCheck)
class TCPCheck:
    """See the module."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        r"""`send`: octets to write once connected; `receive`: what must then come, each of them, in this order, with anything in between. Text, in which
        \r, \n, \t, \0, \\ and \xHH stand for octets."""

        send: str = ""
        receive: tuple[str, ...] = ()

        def __post_init__(self) -> None:
            """Raises `ValueError` for an escape that there is not."""
            for text in (self.send, *self.receive):
                octets(text)
            if "" in self.receive:
                raise ValueError("an empty text in `receive` says nothing")

    def __init__(self, config: Config, context: Any) -> None:
        self._send = octets(config.send)
        self._receive = tuple(octets(text) for text in config.receive)

    async def check(self, probe: Any) -> Unwell | None:
        """See `IHealthCheck`."""
        connection = await probe.connect()
        if self._send:
            connection.send(self._send)
        seen = b""
        wanted = list(self._receive)
        while wanted:
            data = await connection.receive()
            if not data:
                return Unwell(f"closed the connection before {wanted[0]!r} came" + (f", after {_begin(seen)!r}" if seen else ""))
            seen += data
            while wanted and wanted[0] in seen:
                seen = seen.partition(wanted.pop(0))[2]
            if wanted and len(seen) > RECEIVE_BYTES:
                return Unwell(f"sent {len(seen)} octets without {wanted[0]!r}")
        return None


def _begin(seen: bytes) -> bytes:
    return seen if len(seen) <= 40 else seen[:40] + b"..."


_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{2}|.?)", re.DOTALL)
_LETTERS = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "\\": b"\\"}


def octets(text: str) -> bytes:
    r"""The octets that `text` stands for. Raises `ValueError` for an unknown escape."""
    made = b""
    position = 0
    for match in _ESCAPE.finditer(text):
        made += text[position : match.start()].encode()
        code = match[1]
        if len(code) == 3:
            made += bytes([int(code[1:], 16)])
        elif code in _LETTERS:
            made += _LETTERS[code]
        else:
            raise ValueError(f"expected \\r, \\n, \\t, \\0, \\\\ or \\xHH, got {match[0]!r} in {text!r}")
        position = match.end()
    return made + text[position:].encode()
