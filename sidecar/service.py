"""The process: start in order, stop in reverse, signals, and where its own log goes.

SIGTERM and SIGINT drain: listeners close, idle connections close, running exchanges end, at most `drain_time`; a second one ends at once. Both exit with
status 0.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import (
    FilteringLogObserver,
    ILogFilterPredicate,
    ILogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    PredicateResult,
    textFileLogObserver,
)
from twisted.python.logfile import LogFile
from zope.interface import provider

from sidecar.assembly import Sidecar
from sidecar.collector import Collector
from sidecar.config.doubts import doubts
from sidecar.errors import SidecarError
from sidecar.model import Config
from sidecar.overload import resident_bytes, return_memory
from sidecar.plugins import Finder
from sidecar.transport.descriptors import raise_limit

_log = Logger(namespace="sidecar")


# First connections need memory for a moment, for handshakes and what is imported at first use; after this long it is given back, once more than at the start.
SETTLE_SECONDS = 10.0
# What Twisted's udp.Port says, whoever it belongs to, and the protocol on it.
_SOCKET = re.compile(r"DNSDatagramProtocol starting on \d+|\(UDP Port \d+ Closed\)|St(art|opp)ing protocol <twisted\.names\.dns\.DNSDatagramProtocol .*>")


class SidecarService(Service):
    """Runs a `Sidecar` under twistd. `reactor` is twistd's; `twistd_options` are twistd's own options or None."""

    def __init__(self, reactor: Any, config: Config, finder: Finder, log_level: str = "info", twistd_options: Any = None) -> None:
        self._reactor = reactor
        self._config = config
        self._finder = finder
        self._log_level = log_level
        self._twistd_options = twistd_options
        self._collector = Collector(reactor, resident_bytes)
        self._signals = 0
        self._settled: Any = None
        self._stopping: Deferred[None] | None = None
        self.sidecar: Sidecar | None = None

    def setServiceParent(self, parent: Any) -> None:
        """Also say where the log goes and what is left out of it, unless twistd's `--logger` or `--syslog` decide that."""
        options = self._twistd_options
        if options is not None and not options.get("logger") and not options.get("syslog"):
            filters: list[Any] = [LogLevelFilterPredicate(LogLevel.lookupByName(self._log_level))]
            if self._log_level != "debug":
                filters.insert(0, unless_about_sockets)
            parent.setComponent(ILogObserver, FilteringLogObserver(textFileLogObserver(self._log_file(options)), filters))
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def _log_file(self, options: Any) -> Any:
        """twistd's own choice, but for one: under `-n` without `--logfile` it is standard error, because standard output carries access records."""
        path = options.get("logfile")
        if path == "-":
            return sys.stdout
        if not path and options.get("nodaemon"):
            return sys.stderr
        file = LogFile.fromFullPath(path or "twistd.log")
        if signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:  # as twistd does for its own
            signal.signal(signal.SIGUSR1, lambda number, frame: self._reactor.callFromThread(file.rotate))
        return file

    def startService(self) -> None:
        """Begin to start; listeners open when everything before them is ready."""
        super().startService()  # type: ignore[no-untyped-call]
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        signal.signal(signal.SIGHUP, self._hung_up)
        if type(self._reactor).__name__ != "SelectReactor":  # select(2) takes no descriptor beyond the usual limit
            raise_limit()
        ensureDeferred(self._start()).addErrback(self._failed)

    async def _start(self) -> None:
        self.sidecar = Sidecar(self._config, self._reactor, self._finder)
        for doubt in doubts(self._config):
            _log.warn("{doubt}", doubt=doubt)
        await self.sidecar.start()
        self._collector.start()
        return_memory()
        self._settled = self._reactor.callLater(SETTLE_SECONDS, return_memory)

    def _failed(self, failure: Any) -> None:
        """The start failed: say why in one sentence, undo what was done, exit with status 1."""
        error = failure.value
        if isinstance(error, SidecarError | OSError | ValueError):
            print(f"sidecar: not started: {error}", file=sys.stderr)
        else:
            _log.failure("the start failed", failure)
        self._reactor.addSystemEventTrigger("after", "shutdown", _exit_with_failure)
        self._reactor.stop()

    def _signalled(self, number: int, frame: object) -> None:
        self._signals += 1
        self._reactor.callFromThread(self._stop_by_signal, self._signals)

    def _hung_up(self, number: int, frame: object) -> None:
        # Elsewhere it means "read your configuration again"; that it must not mean is "drop every connection".
        self._reactor.callFromThread(_log.warn, "SIGHUP is ignored: a changed configuration needs a restart")

    def _stop_by_signal(self, count: int) -> None:
        if count == 1:
            self._reactor.stop()
        elif self.sidecar is not None:
            _log.warn("a second signal: ending at once")
            self.sidecar.end_at_once()

    def stopService(self) -> Any:
        """Drain and stop; the reactor waits for it."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._collector.stop()
        if self._settled is not None and self._settled.active():
            self._settled.cancel()
        if self.sidecar is None:
            return None
        return ensureDeferred(self.sidecar.stop())

    def __repr__(self) -> str:
        return f"<SidecarService {self.sidecar!r}>"


@provider(ILogFilterPredicate)
def unless_about_sockets(event: Mapping[str, Any]) -> Any:
    """No lines for each UDP socket that Twisted opens and closes: with discovery by DNS there are four for each question, for ever."""
    message = event.get("message")
    is_one = event.get("log_namespace") == "log_legacy" and message and isinstance(message[0], str) and _SOCKET.fullmatch(message[0])
    return PredicateResult.no if is_one else PredicateResult.maybe


def _exit_with_failure() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
