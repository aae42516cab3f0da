"""Who tells clusters with zone-aware routing where their callers are: the cluster that this sidecar's own service is."""

from __future__ import annotations

from collections.abc import Mapping

from sidecar.cluster.zones import Callers
from sidecar.upstream.pool import Connector


def introduce_callers(connectors: Mapping[str, Connector], local: str) -> None:
    """From now on `connectors[local]` tells those that route by zone (Envoy: local_cluster_name)."""
    curious = [each for each in connectors.values() if each.cluster.locality_lb is not None and each.cluster.locality_lb.mode == "zone_aware"]

    def tell(callers: Callers) -> None:
        for each in curious:
            each.members.usage.callers = callers
            each.members.changed()

    members = connectors[local].members
    members.usage.tell_callers = tell
    members.changed()
