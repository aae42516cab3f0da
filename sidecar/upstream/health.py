"""A cluster's endpoints under watch: outcomes go in, whoever works out which endpoints are used is told, the log says who is not and why."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from twisted.logger import Logger

from sidecar.cluster.health import Health, OutlierJudge
from sidecar.model import Cluster

_log = Logger(namespace="sidecar.upstream")
# Endpoints named in the log when many go out or come back at the same time, or in a second by what health checks say: each line takes a tenth of a millisecond.
LOGGED_AT_ONCE = 20


class EndpointWatch:
    """`changed()`: called when another set of endpoints may be used. `timer(callback)` makes a timer."""

    def __init__(
        self,
        cluster: Cluster,
        seconds: Callable[[], float],
        timer: Callable[[Callable[[], None]], Any],
        changed: Callable[[], None],
    ) -> None:
        assert cluster.outlier_detection is not None
        self.ejections = 0
        self._name = cluster.name
        self._unsaid: list[tuple[Health, float]] = []
        self._spared: list[Health] = []  # said with the next look at all of them
        self._tell = changed
        self._seconds = seconds
        self._judge = OutlierJudge(cluster.outlier_detection, seconds(), Random().random, self._ejected)
        self._timer = timer(self._sweep)
        self._timer.set(self._judge.next_change())

    def admit(self, pool: Any) -> None:
        """An endpoint that joins: its `health` is set. One that was here before is taken as it was."""
        if pool.health is None:
            pool.health = Health(pool.text)
        self._judge.admit(pool.health)
        if pool.health.is_ejected:
            self._timer.set(self._judge.next_change())

    def dismiss(self, pool: Any) -> None:
        """An endpoint that leaves."""
        self._judge.dismiss(pool.health)

    def forgive(self, pool: Any) -> bool:
        """An active check found it well: if it is ejected, it is not any more. Was it?"""
        is_ejected: bool = pool.health.is_ejected
        if is_ejected:
            self._judge.forgive(pool.health, self._seconds())
            _log.info("{cluster}: {endpoint} gets requests again, its health check passed", cluster=self._name, endpoint=pool.text)
            self._timer.set(self._judge.next_change())
        return is_ejected

    def observe(self, pool: Any, status: int, seconds: float) -> None:
        """An attempt at this endpoint ended with this status, or one of `sidecar.outcomes`."""
        if self._judge.observe(pool.health, status, self._seconds()):
            self._say_ejected()
            self._changed()

    def lost(self, pool: Any) -> None:
        """Another endpoint answered first, though it had less time (see `OutlierJudge.lost`)."""
        if self._judge.lost(pool.health, self._seconds()):
            self._say_ejected()
            self._changed()

    @property
    def overflows(self) -> int:
        """Ejections that `max_ejection_percent` did not allow."""
        return self._judge.overflows

    def stop(self) -> None:
        """Nothing changes any more."""
        self._timer.clear()

    def snapshot(self, pool: Any) -> dict[str, Any]:
        """What `/clusters` shows of one endpoint."""
        shown: dict[str, Any] = pool.health.snapshot(self._seconds())
        return shown

    def _ejected(self, health: Health, seconds: float) -> None:
        if health.spared:
            self._spared.append(health)
            return
        self.ejections += 1
        self._unsaid.append((health, seconds))

    def _sweep(self) -> None:
        out = list(self._judge.out)
        is_changed = self._judge.sweep(self._seconds())
        spared, self._spared = self._spared, []
        self._say("{cluster}: {endpoint} goes on getting requests: {reason}", [{"endpoint": each.name, "reason": each.spared} for each in spared], _log.warn)
        if is_changed:
            self._say_ejected()
            self._say("{cluster}: {endpoint} gets requests again", [{"endpoint": each.name} for each in out if not each.is_ejected], _log.info)
            self._changed()
        else:
            self._timer.set(self._judge.next_change())

    def _say_ejected(self) -> None:
        unsaid, self._unsaid = self._unsaid, []
        news = [{"endpoint": health.name, "time": seconds, "reason": health.reason} for health, seconds in unsaid]
        self._say("{cluster}: {endpoint} gets no requests for {time:g} s: {reason}", news, _log.warn)

    def _say(self, sentence: str, news: list[dict[str, Any]], log: Callable[..., None]) -> None:
        for each in news[:LOGGED_AT_ONCE]:
            log(sentence, cluster=self._name, **each)
        if len(news) > LOGGED_AT_ONCE:
            log("{cluster}: likewise {count} more, see /clusters", cluster=self._name, count=len(news) - LOGGED_AT_ONCE)

    def _changed(self) -> None:
        self._timer.set(self._judge.next_change())
        self._tell()
