"""A cluster's endpoints under watch: outcomes go in, the balancer gets who is well, the log says who is not and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from twisted.logger import Logger

from sidecar.cluster.health import Health, OutlierJudge, usable
from sidecar.model import Cluster

_log = Logger(namespace="sidecar.upstream")


class EndpointWatch:
    """`pools`: objects with `text`, `weight` and `health`, which is set here. `update(endpoints)`: the balancer's. `timer(callback)` makes a timer."""

    def __init__(
        self,
        cluster: Cluster,
        pools: Sequence[Any],
        update: Callable[[list[Any]], None],
        seconds: Callable[[], float],
        timer: Callable[[Callable[[], None]], Any],
    ) -> None:
        assert cluster.outlier_detection is not None
        self.is_panicking = False
        self.ejections = 0
        self._name = cluster.name
        self._panic_percent = cluster.healthy_panic_threshold
        self._pools = pools
        self._update = update
        self._seconds = seconds
        for pool in pools:
            pool.health = Health(pool.text)
        self._judge = OutlierJudge(cluster.outlier_detection, [pool.health for pool in pools], seconds(), Random().random, self._ejected)
        self._timer = timer(self._sweep)
        self._timer.set(self._judge.next_change())

    def observe(self, pool: Any, status: int, seconds: float) -> None:
        """An attempt at this endpoint ended with this status; 503 and 504 also stand for no answer at all."""
        if self._judge.observe(pool.health, status, self._seconds()):
            self._changed()

    def stop(self) -> None:
        """Nothing changes any more."""
        self._timer.clear()

    def snapshot(self, pool: Any) -> dict[str, Any]:
        """What `/clusters` shows of one endpoint."""
        shown: dict[str, Any] = pool.health.snapshot(self._seconds())
        return shown

    def _ejected(self, health: Health, seconds: float) -> None:
        self.ejections += 1
        sentence = "{cluster}: {endpoint} gets no requests for {time:g} s: {reason}"
        _log.warn(sentence, cluster=self._name, endpoint=health.name, time=seconds, reason=health.reason)

    def _sweep(self) -> None:
        out = {pool.text for pool in self._pools if pool.health.is_ejected}
        if self._judge.sweep(self._seconds()):
            for name in sorted(out - {pool.text for pool in self._pools if pool.health.is_ejected}):
                _log.info("{cluster}: {endpoint} gets requests again", cluster=self._name, endpoint=name)
            self._changed()
        else:
            self._timer.set(self._judge.next_change())

    def _changed(self) -> None:
        endpoints, panicking = usable(self._pools, self._panic_percent)
        if panicking != self.is_panicking:
            self.is_panicking = panicking
            _log.warn(
                "{cluster}: {what}",
                cluster=self._name,
                what="too few endpoints are healthy, so all are used (healthy_panic_threshold)" if panicking else "enough endpoints are healthy again",
            )
        self._update(endpoints)
        self._timer.set(self._judge.next_change())
