"""Round robin, by weight: of endpoints with weights 3, 1 and 1 the first gets three of five requests, spread evenly ("a b a c a", not "a a a b c").

The smooth variant known from nginx: at each pick every endpoint gains its weight, the one with the most is picked and loses the sum of all weights. Among many
that would take too long, so there each has an appointment, 1 / weight after its last one, and the next one is picked (earliest deadline first, as in Envoy).
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from typing import Any

import msgspec
from zope.interface import implementer

from sidecar.interfaces import IBalancer

CREDITS = 64  # endpoints of different weights up to which every one's credit is looked at: as cheap as the queue of appointments, and smoother
_GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, lie evenly: where newcomers begin


@implementer(IBalancer)
class RoundRobin:
    """Balancer `round-robin`."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Nothing to configure."""

    __slots__ = ("_appointments", "_choose", "_credit", "_next", "_now", "_total", "endpoints")

    def __init__(self, config: Config, context: object) -> None:
        self.endpoints: tuple[Any, ...] = ()
        self._choose = self._pick_in_turn
        self._next = 0
        self._total = 0
        self._credit: list[int] = []
        # A heap of (when, number, endpoint, weight); `_now` is when the last one picked had its appointment.
        self._appointments: list[tuple[float, int, Any, int]] = []
        self._now = 0.0

    def update(self, endpoints: list[object]) -> None:
        """Use these from now on; endpoints that stay keep their turn."""
        credit = {id(endpoint): credit for endpoint, credit in zip(self.endpoints, self._credit, strict=False)}
        waits = {id(endpoint): (when - self._now) * weight for when, _, endpoint, weight in self._appointments}
        self.endpoints = tuple(endpoints)
        self._credit, self._appointments = [], []
        weights = [endpoint.weight for endpoint in self.endpoints]
        if len(set(weights)) <= 1:
            self._choose = self._pick_in_turn
        elif len(weights) <= CREDITS:
            self._choose = self._pick_by_credit
            self._credit = [credit.get(id(endpoint), 0) for endpoint in self.endpoints]
            self._total = sum(weights)
        else:
            self._choose = self._pick_by_appointment
            self._now = 0.0
            self._appointments = [
                (waits.get(id(endpoint), number * _GOLDEN % 1.0) / weight, number, endpoint, weight)
                for number, (endpoint, weight) in enumerate(zip(self.endpoints, weights, strict=True))
            ]
            heapify(self._appointments)

    def pick(self, exchange: object, tried: tuple[object, ...]) -> Any:
        """See `IBalancer.pick`. With equal weights in turn, else by credit or appointment."""
        endpoints = self.endpoints
        if len(endpoints) == 1:
            return endpoints[0]
        return self._choose(endpoints, tried)

    def _pick_in_turn(self, endpoints: tuple[Any, ...], tried: tuple[object, ...]) -> Any:
        if not endpoints:
            return None
        count = len(endpoints)
        start = self._next % count
        self._next = start + 1
        if tried:
            for offset in range(count):
                if endpoints[(start + offset) % count] not in tried:
                    self._next = start + offset + 1
                    return endpoints[(start + offset) % count]
        return endpoints[start]

    def _pick_by_credit(self, endpoints: tuple[Any, ...], tried: tuple[object, ...]) -> Any:
        credit = self._credit
        best = -1
        for index, endpoint in enumerate(endpoints):
            credit[index] += endpoint.weight
            if (best < 0 or credit[index] > credit[best]) and not (tried and endpoint in tried):
                best = index
        if best < 0:
            # Every one was tried: the best of all.
            best = max(range(len(endpoints)), key=credit.__getitem__)
        credit[best] -= self._total
        return endpoints[best]

    def _pick_by_appointment(self, endpoints: tuple[Any, ...], tried: tuple[object, ...]) -> Any:
        appointments = self._appointments
        # Those that are passed over keep their appointments.
        passed = []
        while tried and len(appointments) > 1 and appointments[0][2] in tried:
            passed.append(heappop(appointments))
        when, number, endpoint, weight = appointments[0]
        self._now = max(when, self._now)
        heapreplace(appointments, (self._now + 1.0 / weight, number, endpoint, weight))
        for each in passed:
            heappush(appointments, each)
        return endpoint
