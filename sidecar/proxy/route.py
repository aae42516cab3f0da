"""A route as the exchange uses it: everything that can be decided when configuration loads is decided here."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from sidecar.headers import Headers
from sidecar.message import RequestHead
from sidecar.proxy.steps import EMPTY_CHAIN, Chain

HeadEdit = Callable[[Headers], None]


class RouteRuntime:
    """One route, compiled. `pick_cluster(random)` is used with weighted clusters only; `answer(request)` makes (head, body) of a redirect or direct response.

    `timeout`, `idle_timeout` and `upgrade_idle_timeout` (of tunnels) are seconds, 0 for none.
    """

    __slots__ = (
        "answer",
        "chain",
        "cluster_name",
        "connector",
        "edit_request",
        "edit_response",
        "hash_key",
        "hints",
        "idle_timeout",
        "metadata_matches",
        "mirrors",
        "name",
        "pick_connector",
        "priority",
        "retry",
        "rewrite",
        "silent_after",
        "timeout",
        "timeout_ends_with_head",
        "upgrade_idle_timeout",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.chain: Chain = EMPTY_CHAIN
        self.connector: Any = None
        # "" with weighted clusters and answers of our own.
        self.cluster_name = ""
        self.pick_connector: Callable[[float], Any] | None = None
        self.answer: Callable[[RequestHead], tuple[Any, bytes]] | None = None
        # `policy.retry.RetryRules`
        self.retry: Any = None
        # `hints.Hints`
        self.hints: Any = None
        # `mirroring.MirrorRuntime`s
        self.mirrors: tuple[Any, ...] | None = None
        self.rewrite: Callable[[RequestHead], None] | None = None
        self.edit_request: HeadEdit | None = None
        self.edit_response: HeadEdit | None = None
        # (head, peer, new value) -> (key, Set-Cookie); for balancers that hash.
        self.hash_key: Callable[..., tuple[int | None, Any]] | None = None
        # Cluster -> the metadata that its endpoints must have; None without any.
        self.metadata_matches: dict[str, tuple[tuple[str, str], ...]] | None = None
        # `cluster.circuit.DEFAULT` or `HIGH`
        self.priority = 0
        self.timeout = 0.0
        # A safe request without an answer for so long gets company (`RetryWay.looks_for_company`); 0.0: it does not.
        self.silent_after = 0.0
        # The timeout that nobody configured covers only the wait for the answer, not a long download.
        self.timeout_ends_with_head = False
        self.idle_timeout = 0.0
        self.upgrade_idle_timeout = 0.0

    def choose_connector(self) -> Any:
        """The cluster for one exchange: fixed, or by weight."""
        if self.pick_connector is None:
            return self.connector
        return self.pick_connector(random.random())

    def __repr__(self) -> str:
        return f"<RouteRuntime {self.name}>"
