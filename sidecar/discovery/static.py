"""Kind `discovery`, name `static`: the endpoints that the configuration lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred
from zope.interface import implementer

from sidecar.discovery.findings import Changed, Findings
from sidecar.interfaces import IDiscovery
from sidecar.model import Endpoint


@implementer(IDiscovery)
class Static:
    """Says them once. Made with `(config, context)`."""

    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`endpoints`: as those of a cluster."""

        endpoints: tuple[Endpoint, ...]

    def __init__(self, config: Config, context: Any) -> None:
        self._endpoints: Sequence[Endpoint] = config.endpoints
        self._findings = Findings("the configuration", context.clock, context.log)

    def watch(self, changed: Changed) -> Deferred[None]:
        """See `IDiscovery`."""
        first = self._findings.begin(changed)
        self._findings.found(self._endpoints)
        return first

    def stop(self) -> None:
        """See `IDiscovery`."""
        self._findings.stop()

    def snapshot(self) -> dict[str, Any]:
        """See `IDiscovery`."""
        return self._findings.snapshot()
