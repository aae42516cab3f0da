"""What a configuration says that is right by itself and can hardly be meant: told by `sidecar check` and in the log of a start, and no reason not to start."""

from __future__ import annotations

from sidecar.model import Cluster, Config


def doubts(config: Config) -> list[str]:
    """Sentences for a person, each with the place in the file where that is known; in the order of the file."""
    return [f"{_place(cluster)}{_NOBODY.format(name=cluster.name)}" for cluster in config.clusters if not cluster.endpoints and cluster.discovery is None]


# Not to say where endpoints come from is an error; that there are none yet may be meant.
_NOBODY = "cluster {name} has no endpoints: every request to it will be answered with 503 (UH)"


def _place(cluster: Cluster) -> str:
    return f"{cluster.origin}: " if cluster.origin else ""
