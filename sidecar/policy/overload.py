"""What a process does as it nears its limits: staged actions with hysteresis, and what a cgroup allows. Pure; names are Envoy's (overload manager).

A pressure is a share of a limit: 0 is idle, 1 is at it. An action begins when one of its resources reaches the action's threshold, and ends when all of them
are below it by the hysteresis, so that it does not flicker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sidecar.model import OverloadActions

MEMORY, LAG, CONNECTIONS = "memory", "event_loop_lag", "connections"
# Which resources an action is for. Many connections are no reason to refuse the requests of those who are here: the limit itself refuses the next ones.
TRIGGERS: dict[str, tuple[str, ...]] = {
    "shrink_heap": (MEMORY,),
    "disable_http_keepalive": (MEMORY, LAG, CONNECTIONS),
    "stop_accepting_requests": (MEMORY, LAG),
    "stop_accepting_connections": (MEMORY, LAG),
}
# Of a cgroup's limit: what the kernel counts beside our resident memory (socket buffers, page tables) needs room too.
CGROUP_SHARE = 0.9
# Kernels say "no limit" with numbers near 2^63.
UNLIMITED_BYTES = 1 << 60


class Stages:
    """Which actions are on. `reasons`: action -> the resource that keeps it on, "" when it is off."""

    __slots__ = ("_hysteresis", "_thresholds", "begun", "reasons")

    def __init__(self, actions: OverloadActions, hysteresis: float) -> None:
        self._thresholds: dict[str, float] = {name: at for name in TRIGGERS if (at := getattr(actions, name)) is not None}
        self._hysteresis = hysteresis
        self.reasons = dict.fromkeys(TRIGGERS, "")
        # How often each began.
        self.begun = dict.fromkeys(TRIGGERS, 0)

    def update(self, pressures: Mapping[str, float]) -> list[tuple[str, str]]:
        """The pressures as they are now: (action, the resource that began it, or "" when it ends) for each change."""
        changes = []
        for name, threshold in self._thresholds.items():
            was = self.reasons[name]
            at = threshold - self._hysteresis if was else threshold
            worst = max(TRIGGERS[name], key=lambda resource: pressures.get(resource, 0.0))
            # At a threshold of 0 an action is always on; else pressure 0 is never a reason.
            now = worst if pressures.get(worst, 0.0) >= max(at, 0.0) and (pressures.get(worst, 0.0) > 0.0 or threshold == 0.0) else ""
            self.reasons[name] = now
            if bool(now) is not bool(was):
                self.begun[name] += bool(now)
                changes.append((name, now))
        return changes

    def snapshot(self) -> dict[str, Any]:
        """What the admin page shows."""
        return {
            name: {"begins_at": self._thresholds.get(name), "active": bool(self.reasons[name]), "because_of": self.reasons[name], "times": self.begun[name]}
            for name in TRIGGERS
        }


def cgroup_limit(cgroups: str, read: Callable[[str], str | None]) -> int | None:
    """The memory limit in octets of the cgroup that `cgroups` (/proc/self/cgroup) names, or of a group around it, the least; None without any. `read(path)`
    gives a file's text, None when it is not there. Sources: the kernel's cgroup-v1/memory and cgroup-v2.
    """
    limits = []
    for line in cgroups.splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            root, file = "/sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            root, file = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for length in range(len(parts), -1, -1):
            text = (read("/".join([root, *parts[:length], file])) or "").strip()
            if text.isdigit() and int(text) < UNLIMITED_BYTES:
                limits.append(int(text))
    return min(limits, default=None)
