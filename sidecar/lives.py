"""The lives of plugins that hold something open: started in order, stopped in reverse, and never the reason why the process does not end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

_log = Logger(namespace="sidecar")

# What `stop` of one plugin may take: enough to send a last batch away, and with `drain_time` still below the patience of whoever sends SIGKILL.
STOP_SECONDS = 5.0


class PluginLives:
    """`started`: plugins (`IPluginLifecycle`) whose `start` was called, in order; also one that failed to. `reactor` is an `IReactorTime`."""

    def __init__(self, reactor: Any) -> None:
        self.started: list[Any] = []
        self._reactor = reactor
        self._waiting: Deferred[None] | None = None
        self._is_hurried = False

    async def start(self, plugin: Any, refuse: Callable[[str], Exception]) -> None:
        """It is started. Raises what `refuse(reason)` gives when that fails, whatever it raised: also SystemExit ends no process."""
        self.started.append(plugin)
        try:
            await maybeDeferred(plugin.start)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            _log.debug("{plugin!r} could not start: {failure}", plugin=plugin, failure=Failure())
            reason = str(error) if isinstance(error, Exception) and str(error) else repr(error)
            raise refuse(f"could not start: {reason}") from error

    async def stop(self) -> None:
        """All are stopped, or were told to: one that fails, or is not done after `STOP_SECONDS`, is logged and left."""
        while self.started:
            plugin = self.started.pop()
            waiting: Deferred[None] = Deferred()
            self._waiting = waiting
            maybeDeferred(plugin.stop).addErrback(_complain, plugin).addBoth(_fire, waiting)
            if self._is_hurried:
                waiting.cancel()
            waiting.addTimeout(STOP_SECONDS, self._reactor)
            try:
                await waiting
            except (CancelledError, TimeoutError):
                _log.error("a plugin did not stop, and is not waited for: {plugin!r}", plugin=plugin)
        self._waiting = None

    def hurry(self) -> None:
        """Nothing is waited for any more; those that are left are still told to stop."""
        self._is_hurried = True
        if self._waiting is not None:
            self._waiting.cancel()

    def __repr__(self) -> str:
        return f"<PluginLives {len(self.started)} started>"


def _complain(failure: Failure, plugin: Any) -> None:
    _log.failure("a plugin failed to stop: {plugin!r}", failure, plugin=plugin)


def _fire(_result: object, waiting: Deferred[None]) -> None:
    # It may come late, when nobody waits any more.
    if not waiting.called:
        waiting.callback(None)
