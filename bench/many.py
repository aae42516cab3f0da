"""An application at every address of 127.0.0.0/8: `python -m bench.many PORT`, for measurements with thousands of endpoints.

It answers each request with 200, or while it is told that half of it is ill (SIGUSR1 on, SIGUSR2 off) with 503 at addresses that end in an odd number.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from sidecar.address import Address

WELL = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
ILL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


def address_of(number: int, port: int) -> Address:
    """One of sixteen million."""
    return Address(f"127.{number // 62500 + 1}.{number // 250 % 250 + 1}.{number % 250 + 1}", port)


class _Answers(asyncio.Protocol):
    """Requests without bodies, each in one piece."""

    half_is_ill = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._is_odd = int(transport.get_extra_info("sockname")[0].rpartition(".")[2]) % 2 == 1

    def data_received(self, data: bytes) -> None:
        assert isinstance(self._transport, asyncio.Transport)
        self._transport.write((ILL if self._is_odd and _Answers.half_is_ill else WELL) * data.count(b"\r\n\r\n"))


def _say(half_is_ill: bool) -> None:
    _Answers.half_is_ill = half_is_ill


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, _say, True)
    loop.add_signal_handler(signal.SIGUSR2, _say, False)
    server = await loop.create_server(_Answers, "0.0.0.0", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
