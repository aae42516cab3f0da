"""The clients: so many requests a second, each begun at its time whether the ones before are answered or not, over connections that are kept."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable

from bench.chaos.phases import Result

CLIENT_SECONDS = 30.0  # a client's patience: longer than anything that the sidecar is configured to
BODY_OCTETS = (0, 100, 4000, 40_000)  # of POSTs, in turn


class Load:
    """`rate` requests a second to `port`, half of them POST. `on_result` is told of each; `phase` is noted in it as it was when the request began."""

    def __init__(self, port: int, rate: float, on_result: Callable[[Result], None]) -> None:
        self.port = port
        self.rate = rate
        self.on_result = on_result
        self.phase = 0
        self.running = 0
        self._numbers = itertools.count(1)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; then those that run are waited for."""
        began = time.monotonic()
        # Taken in turn, an application whose share fits could get POSTs alone.
        dice = random.Random(1)
        for index in itertools.count():
            wait = began + index / self.rate - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            if stop.is_set():
                break
            task = asyncio.create_task(self._one(dice.choice(("GET", "POST")), self.phase))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._tasks:
            await asyncio.wait(self._tasks)
        for _, writer in self._idle:
            writer.close()

    async def _one(self, method: str, phase: int) -> None:
        name = f"{method.lower()}-{next(self._numbers)}"
        then = time.monotonic()
        status, backend, detail = 0, "", ""
        try:
            async with asyncio.timeout(CLIENT_SECONDS):
                status, backend, detail = await self._ask(method, name)
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            detail = type(error).__name__
        self.on_result(Result(phase, method, name, status, time.monotonic() - then, backend, detail))

    async def _ask(self, method: str, name: str) -> tuple[int, str, str]:
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self.port)
        try:
            body = b"" if method == "GET" else b"x" * BODY_OCTETS[int(name.partition("-")[2]) // 2 % len(BODY_OCTETS)]
            length = b"" if method == "GET" else b"Content-Length: %d\r\n" % len(body)
            writer.write(b"%b /%b HTTP/1.1\r\nHost: apps\r\nX-Id: %b\r\n%b\r\n%b" % (method.encode(), name.encode(), name.encode(), length, body))
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *rest = head.strip().split("\r\n")
            fields = {key.lower(): value.strip() for key, _, value in (each.partition(":") for each in rest)}
            text = await reader.readexactly(int(fields["content-length"]))
        except BaseException:
            writer.transport.abort()
            raise
        if fields.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        status = int(line.split()[1])
        return status, fields.get("x-backend", ""), "" if status == 200 else fields.get("proxy-status", text[:80].decode("latin-1"))
