"""One endpoint of a cluster as the path sees it: its connections, its queue, and what is known of its health."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from sidecar.cluster.grouping import is_well
from sidecar.model import Endpoint, Locality

if TYPE_CHECKING:
    from sidecar.upstream.pool import Connector


class EndpointPool:
    """One endpoint's connections. `active`: requests running on them; balancers read it, and `address` and `weight`.

    It lives as long as its address is in the cluster, whatever else of the endpoint changes: `configured` is what is told of it now.
    """

    __slots__ = (
        "_failed_after", "_succeeded", "_tunnels", "active", "address", "check_failure", "configured", "connecting", "connections", "errors",
        "failures", "health", "idle", "is_absent", "is_closed", "is_degraded", "is_new", "per_try_timeouts", "requests", "retries", "text",
        "used_since", "waiting", "weight",
    )  # fmt: skip

    def __init__(self, endpoint: Endpoint) -> None:
        self.address = endpoint.address
        # The address for records, which are written for every request.
        self.text = str(endpoint.address)
        self.configured = endpoint
        # What balancers go by: the configured one, or a part of it while the endpoint starts slowly.
        self.weight: int = endpoint.weight
        self.active = 0
        # Those of them that are connections of opaque octets: one that could be made has gone well, however long it stays.
        self._tunnels = 0
        self.connections = 0
        # A set and two deques once somebody waited for it: of ten thousand endpoints few have connections, and these take more than a kilobyte.
        self.connecting: Any = ()
        self.idle: Any = ()
        self.waiting: Any = ()
        self.requests = 0
        self.failures = 0
        # Attempts at it that another one followed, and those that took too long.
        self.retries = self.per_try_timeouts = 0
        self._succeeded = 0
        # Answers of 500 and above, and attempts that broke or were not answered in time.
        self.errors = 0
        # As long as no more attempts than these went well, the latest one that is over has failed. Counted at failures only: what goes well costs nothing.
        self._failed_after = -1
        # `cluster.health.Health` where the cluster's endpoints are under watch.
        self.health: Any = None
        # Why active checks say that it is ill; None: they do not.
        self.check_failure: str | None = None
        # ... because nobody is there.
        self.is_absent = False
        # They say that it can do less than others.
        self.is_degraded = False
        # Since when it is well, seconds, where new ones start slowly; None: it is not.
        self.used_since: float | None = None
        # Does its share grow little by little when it becomes well, where new ones start slowly?
        self.is_new = True
        # No connection is kept: it left the cluster, or everything stops.
        self.is_closed = False

    def enqueue(self, ticket: Ticket) -> None:
        """Put it at the end of the queue. Connections are made only for those who wait."""
        if self.waiting == ():
            self.connecting, self.idle, self.waiting = set(), deque(), deque()
        self.waiting.append(ticket)

    def tunnel_begun(self) -> None:
        """A connection for opaque octets could be made."""
        self.requests += 1
        self.active += 1
        self._tunnels += 1

    def tunnel_ended(self) -> None:
        """It is closed."""
        self.active -= 1
        self._tunnels -= 1

    def answered_badly(self) -> None:
        """An attempt was answered with 500 or above, broke, or was not answered in time."""
        self.errors += 1
        # Once it has left `active` too, one more seems to have gone well.
        self._failed_after = max(self._failed_after, self._gone_well() + 1)

    def found_nobody(self) -> None:
        """No connection could be made."""
        self.failures += 1
        self._failed_after = max(self._failed_after, self._gone_well())

    def _gone_well(self) -> int:
        return self.requests - self.active + self._tunnels - self.errors

    @property
    def is_failing(self) -> bool:
        """Has the latest of its attempts failed? May say so for one more that went well. One that was not asked yet may be well."""
        return self._gone_well() <= self._failed_after

    @property
    def priority(self) -> int:
        """0 is used first."""
        return self.configured.priority

    @property
    def locality(self) -> Locality | None:
        """Where it runs, if that is known."""
        return self.configured.locality

    @property
    def metadata(self) -> dict[str, str]:
        """What subsets are chosen by."""
        return self.configured.metadata

    @property
    def hostname(self) -> str:
        """Its own name, "" when it has none."""
        return self.configured.hostname

    @property
    def is_well(self) -> bool:
        """Does nobody say anything against it?"""
        return is_well(self)

    @property
    def successes(self) -> int:
        """Attempts that were answered with a status below 500, or given up by who asked."""
        # One that has failed and still runs is counted twice here; a counter never goes back.
        self._succeeded = max(self._succeeded, self._gone_well())
        return self._succeeded

    def __repr__(self) -> str:
        return f"<EndpointPool {self.address} active={self.active} idle={len(self.idle)} connecting={len(self.connecting)} waiting={len(self.waiting)}>"


class Ticket:
    """A request's place in the queue. `tried`: endpoints that it should not be moved to; `fresh`: only a new connection will do."""

    __slots__ = ("_connector", "fresh", "owner", "pool", "tried")

    def __init__(self, connector: Connector, pool: EndpointPool, owner: Any, tried: tuple[Any, ...], fresh: bool) -> None:
        self.fresh = fresh
        self.tried = tried
        self._connector = connector
        self.pool = pool
        self.owner = owner

    def cancel(self) -> None:
        """Leave the queue."""
        if self.owner is not None:
            self.owner = None
            self._connector.leave(self)
