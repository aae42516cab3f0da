"""What the plugins that ask an HTTP API have in common: one coroutine that asks until it is told to stop."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.logger import Logger

from sidecar.discovery.findings import Changed, Findings
from sidecar.discovery.http import Server


class Asking:
    """A discovery whose `_run` asks `_server` again and again and tells `_findings`."""

    def __init__(self, findings: Findings, server: Server, log: Logger) -> None:
        self._findings = findings
        self._server = server
        self._log = log
        self._running: Deferred[None] | None = None

    async def _run(self) -> None:
        """Until `_findings.is_watching` is over; cancelled then."""
        raise NotImplementedError

    def watch(self, changed: Changed) -> Deferred[None]:
        """See `IDiscovery`."""
        first = self._findings.begin(changed)
        self._running = ensureDeferred(self._run())
        self._running.addErrback(lambda failure: failure.trap(CancelledError))
        self._running.addErrback(lambda failure: self._log.failure("watching {source} ended", failure, source=self._findings.source))
        return first

    def stop(self) -> None:
        """See `IDiscovery`. What is being asked is ended."""
        self._findings.stop()
        if self._running is not None:
            self._running.cancel()
        self._server.close()

    def snapshot(self) -> dict[str, Any]:
        """See `IDiscovery`."""
        return self._findings.snapshot()
