"""A cluster whose endpoints are spoken to in the version that each client came with (Envoy: use_downstream_protocol_config).

It is two connectors: the cluster's own speaks HTTP/1.1, its twin HTTP/2. Who its endpoints are and what is known of their health is told to the first and goes
on to the twin. They share the limits and the circuit of `circuit_breakers`; connections, and the outlier detection that goes by them, are each one's own.
"""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.cluster.checking import NOT_YET
from sidecar.cluster.grouping import Match
from sidecar.model import Endpoint
from sidecar.upstream.endpoint import EndpointPool
from sidecar.upstream.pool import Connector


class ByVersion(Connector):
    """The one for HTTP/1.1. `pair_with` comes before anything else."""

    def pair_with(self, twin: Connector) -> None:
        """From now on requests that came over HTTP/2 go through `twin`."""
        self.h2_twin = twin
        twin.h1_twin = self
        twin.name = f"{self.name} over HTTP/2"
        twin.circuit = self.circuit
        twin.membership_observers.append(self._twin_meets)

    def _twin_meets(self, added: list[EndpointPool], removed: list[EndpointPool]) -> None:
        """Before it uses them: what the checks say of its new endpoints so far, which they tell us alone."""
        for pool in added:
            own = self.members.at(pool.address)
            if own is not None:
                pool.check_failure, pool.is_absent, pool.is_degraded = own.check_failure, own.is_absent, own.is_degraded
            elif self.checks is not None:
                pool.check_failure = NOT_YET  # we are about to take it up as well

    def set_endpoints(self, endpoints: Sequence[Endpoint]) -> None:
        """See `Connector`."""
        super().set_endpoints(endpoints)
        if self.h2_twin is not None:
            self.h2_twin.set_endpoints(endpoints)

    def set_checked(self, pool: EndpointPool, is_healthy: bool, reason: str, is_absent: bool = False, is_degraded: bool = False) -> None:
        """See `Connector`."""
        super().set_checked(pool, is_healthy, reason, is_absent, is_degraded)
        other = None if self.h2_twin is None else self.h2_twin.members.at(pool.address)
        if self.h2_twin is not None and other is not None:
            self.h2_twin.set_checked(other, is_healthy, reason, is_absent, is_degraded)

    def add_subset(self, match: Match) -> None:
        """See `Connector`."""
        super().add_subset(match)
        if self.h2_twin is not None:
            self.h2_twin.add_subset(match)
