"""The process under watch: resident memory, how late its timers are, its connections and requests; and what is refused before it suffers.

One coarse timer looks at everything; the straight path asks `HTTPRuntime.gate`, which is None as long as nothing is limited and all is well.
"""

from __future__ import annotations

import gc
import os
import resource
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from twisted.logger import Logger

from sidecar.model import HTTPLimits, Overload
from sidecar.policy.overload import CGROUP_SHARE, CONNECTIONS, LAG, MEMORY, Stages, cgroup_limit
from sidecar.telemetry.metrics import Family, HistogramValue, histogram_samples

_log = Logger(namespace="sidecar.overload")
LAG_TICK_SECONDS = 0.25  # how often lag is measured: four wake-ups a second, some 20 microseconds each
LAG_BOUNDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]
RETURN_SECONDS = 60.0  # between two tries to give back what bursts left: each stops the loop for some milliseconds
RETURN_BYTES = 33_554_432  # resident memory beyond the least seen from which that is tried
SHRINK_SECONDS = 10.0  # between two tries to give memory back: each stops the loop for some milliseconds
# Connections beyond max_connections that may still ask, and are told in words why they are refused; beyond these they are closed at once.
REFUSED_CONNECTIONS = 64
REFUSED_SECONDS = 5.0  # within which such a connection has to ask
_WORDS = {MEMORY: "memory is short", LAG: "the event loop is late", CONNECTIONS: "there are too many connections"}


class Gate:
    """May one more connection, one more request come in? Asked only while there is a limit or an action is on."""

    __slots__ = ("_https", "_listeners", "connections_refused", "max_connections", "max_requests", "reason", "refused")

    def __init__(self, settings: Overload, https: list[Any], listeners: list[Any]) -> None:
        self.max_connections = settings.max_connections
        self.max_requests = settings.max_requests
        self.refused = {"connections": 0, "requests": 0, MEMORY: 0, LAG: 0}
        self.connections_refused = 0
        # Why all requests are refused now, a resource; "" when they are not.
        self.reason = ""
        self._https = https
        self._listeners = listeners

    @property
    def is_needed(self) -> bool:
        """Is there anything to ask?"""
        return bool(self.max_requests or self.max_connections or self.reason)

    @property
    def connections(self) -> int:
        """Open at all listeners."""
        return sum(listener.active for listener in self._listeners)

    @property
    def requests(self) -> int:
        """Running in all filter chains."""
        return sum(http.active for http in self._https)

    def refusal(self, facts: Any) -> str:
        """Why the request that has just begun on this connection is refused; "" when it is not."""
        if facts.over_limit:
            self.refused["connections"] += 1
            return f"{self.max_connections} connections are open already (overload.max_connections)"
        if self.reason:
            self.refused[self.reason] += 1
            return f"{_WORDS[self.reason]}: the sidecar takes no requests for a while (overload.actions.stop_accepting_requests)"
        if self.max_requests and self.requests > self.max_requests:
            self.refused["requests"] += 1
            return f"{self.max_requests} requests run already (overload.max_requests)"
        return ""

    def places(self) -> int:
        """Places for connections: 1 or more; 0 when the next one is over the limit and may only be told so; below when not even that."""
        if not self.max_connections:
            return 1
        left = self.max_connections - self.connections
        if left > 0:
            return left
        self.connections_refused += 1
        return 0 if left > -REFUSED_CONNECTIONS else -1


class Leftover:
    """Free memory that a burst of requests left with the C library: when to give it back."""

    def __init__(self) -> None:
        self._least: int | None = None
        self._most_requests = 0
        self._tried_at = float("-inf")

    def is_due(self, memory: int, requests: int, now: float) -> bool:
        """Is the burst over, and was it large? `memory`: resident octets; `requests`: those that run; `now`: seconds. Where nothing ran since the last try,
        nothing was freed either."""
        self._least = memory if self._least is None else min(self._least, memory)
        self._most_requests = max(self._most_requests, requests)
        # A burst is over when an eighth of it is left.
        if memory - self._least < RETURN_BYTES or requests * 8 > self._most_requests or not self._most_requests or now - self._tried_at < RETURN_SECONDS:
            return False
        self._most_requests = requests
        self._tried_at = now
        return True


class OverloadWatch:
    """See the module. `monotonic`: a clock that nobody sets. `resident`: octets of resident memory."""

    def __init__(
        self,
        settings: Overload,
        reactor: Any,
        https: list[Any],
        listeners: list[Any],
        registry: Any,
        is_draining: Callable[[], bool],
        monotonic: Callable[[], float] = time.monotonic,
        resident: Callable[[], int] | None = None,
    ) -> None:
        self.settings = settings
        self.gate = Gate(settings, https, listeners)
        self.stages = Stages(settings.actions, settings.hysteresis)
        self.lags = HistogramValue(LAG_BOUNDS)
        self.lag = 0.0  # the greatest of the last interval
        self.memory = 0
        self.memory_limit = settings.max_memory
        self.pressures = {MEMORY: 0.0, LAG: 0.0, CONNECTIONS: 0.0}
        self.gc_seconds = 0.0
        self._reactor = reactor
        self._https = https
        self._listeners = listeners
        self._is_draining = is_draining
        self._monotonic = monotonic
        self._resident = resident or resident_bytes
        self._call: Any = None
        self._due = self._looked_at = 0.0
        self._worst = 0.0
        self._shrunk_at = float("-inf")
        self._leftover = Leftover()
        self._gc_began = 0.0
        self._tick_seconds = min(LAG_TICK_SECONDS, settings.refresh_interval)
        _register(self, registry)

    def start(self, listeners: list[Any]) -> None:
        """Begin to watch. `listeners`: those that are about to open."""
        if self.memory_limit is None:
            limit = cgroup_limit(_read("/proc/self/cgroup") or "", _read)
            self.memory_limit = 0 if limit is None else int(limit * CGROUP_SHARE)
        for listener in listeners:
            listener.gate = self.gate if self.gate.max_connections else None
        self._set_gates()
        gc.callbacks.append(self._collected)
        self._looked_at = self._monotonic()
        self._next()

    def stop(self) -> None:
        """No more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        with suppress(ValueError):
            gc.callbacks.remove(self._collected)

    def _next(self) -> None:
        self._due = self._monotonic() + self._tick_seconds
        self._call = self._reactor.callLater(self._tick_seconds, self._tick)

    def _tick(self) -> None:
        now = self._monotonic()
        lag = max(0.0, now - self._due)
        self.lags.observe(lag)
        self._worst = max(self._worst, lag)
        if now - self._looked_at >= self.settings.refresh_interval - self._tick_seconds / 2:
            self._looked_at = now
            self.lag, self._worst = self._worst, 0.0
            self._look()
        self._next()

    def _look(self) -> None:
        """Once for each interval: measure, and act on what changed."""
        settings = self.settings
        self.memory = self._resident()
        self.pressures = {
            MEMORY: self.memory / self.memory_limit if self.memory_limit else 0.0,
            LAG: self.lag / settings.max_event_loop_lag if settings.max_event_loop_lag else 0.0,
            CONNECTIONS: self.gate.connections / settings.max_connections if settings.max_connections else 0.0,
        }
        for action, because_of in self.stages.update(self.pressures):
            if because_of:
                share = f"{100.0 * self.pressures[because_of]:.0f} %"
                _log.warn("overload: {action} begins: {resource} is at {share} of its limit", action=action, resource=because_of, share=share)
            else:
                _log.info("overload: {action} ends", action=action)
            if action == "stop_accepting_requests":
                self.gate.reason = because_of
                self._set_gates()
            elif action == "disable_http_keepalive":
                for http in self._https:
                    http.draining = bool(because_of) or self._is_draining()
            elif action == "stop_accepting_connections":
                for listener in self._listeners:
                    if listener.port is not None:
                        listener.port.set_accepting(not because_of)
        if self.stages.reasons["shrink_heap"] and self._looked_at - self._shrunk_at >= SHRINK_SECONDS:
            self._shrunk_at = self._looked_at
            # What is frozen is left out: it is mostly alive, and to look at all of it takes long.
            gc.collect()
            return_memory()
        elif self._leftover.is_due(self.memory, self.gate.requests, self._looked_at):
            return_memory()

    def _set_gates(self) -> None:
        gate = self.gate if self.gate.is_needed else None
        for http in self._https:
            http.gate = gate

    def _collected(self, phase: str, info: Mapping[str, int]) -> None:
        """Called by the collector before and after each collection."""
        if phase == "start":
            self._gc_began = self._monotonic()
        else:
            self.gc_seconds += self._monotonic() - self._gc_began

    def snapshot(self) -> dict[str, Any]:
        """What `/overload` shows."""
        return {
            "resident_memory_bytes": self._resident(),
            "memory_limit_bytes": self.memory_limit or None,
            "event_loop_lag_seconds": round(self.lag, 6),
            "connections": self.gate.connections,
            "requests": self.gate.requests,
            "open_descriptors": open_descriptors(),
            "pressures": {name: round(pressure, 4) for name, pressure in self.pressures.items()},
            "actions": self.stages.snapshot(),
            "requests_refused": self.gate.refused,
            "connections_refused": self.gate.connections_refused,
            "collector": {"seconds": round(self.gc_seconds, 6), "generations": gc.get_stats()},
        }


def refused_limits(limits: HTTPLimits) -> HTTPLimits:
    """Those of a connection that is over the limit: it is to ask soon, is told why not, and is closed."""
    return msgspec.structs.replace(limits, requests_per_connection=1, head_timeout=REFUSED_SECONDS, idle_timeout=REFUSED_SECONDS)


def _register(watch: OverloadWatch, registry: Any) -> None:
    add = registry.gauge_function
    add("sidecar_process_resident_memory_bytes", "Resident memory, as overload protection sees it.", lambda: watch._resident())
    add("sidecar_process_memory_limit_bytes", "What pressure on memory is measured against, 0 for no limit.", lambda: watch.memory_limit or 0)
    add("sidecar_event_loop_lag_max_seconds", "How late timers were, at most, in the last interval.", lambda: watch.lag)
    add("sidecar_overload_pressure", "Share of a limit in use.", lambda: {(name,): value for name, value in watch.pressures.items()}, ("resource",))
    add(
        "sidecar_overload_active",
        "1 while the action is on.",
        lambda: {(name,): int(bool(reason)) for name, reason in watch.stages.reasons.items()},
        ("action",),
    )
    add(
        "sidecar_overload_requests_refused_total",
        "Requests refused by overload protection.",
        lambda: {(name,): count for name, count in watch.gate.refused.items()},
        ("reason",),
        type="counter",
    )
    add("sidecar_overload_connections_refused_total", "Connections over overload.max_connections.", lambda: watch.gate.connections_refused, type="counter")
    add("process_open_fds", "Open file descriptors.", open_descriptors)
    add("process_max_fds", "The limit on them.", lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    add("sidecar_gc_seconds_total", "Time in Python's garbage collector.", lambda: watch.gc_seconds, type="counter")
    add(
        "sidecar_gc_collections_total",
        "Collections.",
        lambda: {(str(generation),): each["collections"] for generation, each in enumerate(gc.get_stats())},
        ("generation",),
        type="counter",
    )
    lags = watch.lags
    registry.add_source(
        lambda: [
            Family("sidecar_event_loop_lag_seconds", "histogram", "How late timers were.", list(histogram_samples((), lags.bounds, lags.counts, lags.sum)))
        ]
    )


def resident_bytes() -> int:
    """Resident memory of this process; where there is no /proc, the most that it ever had."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read(100).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def open_descriptors() -> int:
    """Open file descriptors, without the one that it takes to look; 0 where that cannot be told."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError:
        return 0


def return_memory() -> None:
    """Give free memory back to the system; glibc keeps it otherwise."""
    try:
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)
    except (ImportError, OSError, AttributeError):
        pass  # another C library: nothing to trim


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(4096)
    except OSError:
        return None
