"""As many requests at a time as the application does well with, found by measuring."""

from __future__ import annotations

import random
from typing import Any

import msgspec
from zope.interface import implementer

from sidecar.errors import ConcurrencyLimited
from sidecar.interfaces import IExchangeDone, IRequestHeadHook
from sidecar.policy.gradient import GradientController, GradientSettings
from sidecar.verdicts import Refuse


@implementer(IRequestHeadHook, IExchangeDone)
class AdaptiveConcurrency:
    """Filter `adaptive-concurrency`. `controller`: `sidecar.policy.gradient.GradientController`."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`gradient_controller`: see `sidecar.policy.gradient.GradientSettings`."""

        gradient_controller: GradientSettings = GradientSettings()

    def __init__(self, config: Config, context: Any) -> None:
        self._seconds = context.clock.seconds
        self._name = context.name
        self._blocked = context.counter("adaptive_concurrency_blocked", "Requests refused by the concurrency limit.")
        self.controller = controller = GradientController(config.gradient_controller, self._seconds(), random.random)
        for name, help, read in (
            ("concurrency_limit", "Requests that may run at a time.", lambda: controller.limit),
            ("concurrency_running", "Requests that run now.", lambda: controller.running),
            ("concurrency_gradient", "What the limit was multiplied by last.", lambda: controller.gradient),
            ("min_rtt_seconds", "How long a request takes when nothing is in its way.", lambda: controller.min_rtt),
            ("sample_rtt_seconds", "How long the requests of the last window took.", lambda: controller.sample_rtt),
            ("min_rtt_calculation_active", "1 while minRTT is measured.", lambda: int(controller.is_measuring)),
        ):
            context.gauge(f"adaptive_{name}", help, read)

    def request_head(self, exchange: Any) -> Refuse | None:
        """See `IRequestHeadHook`."""
        if exchange.request.upgrade is not None:
            # A tunnel's life is no latency.
            return None
        now = self._seconds()
        controller = self.controller
        if controller.try_enter(now):
            exchange.state[self] = now
            return None
        self._blocked.inc()
        return Refuse(ConcurrencyLimited(f"{controller.running} requests run already, the limit that filter {self._name} found is {controller.limit}"))

    def exchange_done(self, exchange: Any, record: Any) -> None:
        """See `IExchangeDone`. A client that went away says nothing about the application."""
        entered_at = exchange.state.pop(self, None)
        if entered_at is not None:
            self.controller.leave(entered_at, self._seconds(), record.side != "downstream")
