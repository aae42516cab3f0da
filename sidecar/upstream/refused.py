"""What becomes of a request whose stream a server did not take (RFC 9113, section 8.7): it is asked for again, at once at first, then after pauses; or over
HTTP/1.1, if that is what the server wants (HTTP_1_1_REQUIRED, section 7).

A server that refuses some streams for being busy serves most requests at the next try; one that refuses all would be asked without end. So the tries are
bounded, pauses grow and are drawn at random, and only a share of the cluster's requests may pause at a time: when most are refused the others are told at once.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from sidecar.errors import UpstreamWantsHTTP1

if TYPE_CHECKING:
    from sidecar.upstream.endpoint import EndpointPool
    from sidecar.upstream.h2_stream import H2ClientStream
    from sidecar.upstream.multiplex import Multiplexer

_log = Logger(namespace="sidecar.upstream")

# How often a request is asked for again. When one stream in three is refused, one request in 180 000 gets so far; when every other one, one in 2000.
REPLAYS_LIMIT = 10
# Of these at once: more than a server that restarts has connections that know of it.
REPLAYS_AT_ONCE = 3
# Before each later one up to so many seconds, twice as many each time, up to the most: with the seven of them about a second at the longest.
PAUSE_SECONDS = 0.025
PAUSE_SECONDS_MOST = 0.25
# Requests of a cluster that may pause at a time: so many always, beyond that this share of those that run. Envoy's retry budget has the same numbers.
PAUSED_ALWAYS = 10
PAUSED_SHARE = 0.2


class Refused:
    """One cluster's. `paused`: requests that wait before they are asked for again. `h1_only`: endpoints that once wanted HTTP/1.1 and are offered nothing else
    since, as browsers do."""

    def __init__(self, multiplexer: Multiplexer) -> None:
        self._multiplexer = multiplexer
        self.paused = 0
        self.h1_only: set[EndpointPool] = set()

    def may_replay(self, replays: int) -> bool:
        """May a request be asked for again that was `replays` times?"""
        if replays < REPLAYS_AT_ONCE:
            return True
        connector = self._multiplexer.connector
        return replays < REPLAYS_LIMIT and self.paused < max(PAUSED_ALWAYS, PAUSED_SHARE * (connector.active + connector.pending + self.paused))

    def again(self, stream: H2ClientStream, refused_by: Any) -> Any:
        """Another stream for what a server did not take, now or after a pause. What can be cancelled until then; None when it was served at once."""
        replays = stream.replays
        if replays < REPLAYS_AT_ONCE:
            return self._multiplexer.again(stream, refused_by)
        most = min(PAUSE_SECONDS * 2 ** (replays - REPLAYS_AT_ONCE), PAUSE_SECONDS_MOST)
        return Pause(self, stream, refused_by, random.random() * most)

    def resume(self, stream: H2ClientStream, refused_by: Any) -> None:
        """The pause is over."""
        self.paused -= 1
        stream.resume_asking(self._multiplexer.again(stream, refused_by))

    def over_h1(self, stream: H2ClientStream) -> Any:
        """A connection of HTTP/1.1 for what a server wants over that: what can be cancelled until there is one, None when it was served at once. Raises
        `UpstreamWantsHTTP1` when the cluster's `protocol` does not allow it.
        """
        multiplexer = self._multiplexer
        connector, pool = multiplexer.connector, stream.endpoint
        if connector.h1_twin is not None:
            # As clients come: those who came over HTTP/2 may be served over HTTP/1.1 by the other part.
            connector = connector.h1_twin
            pool = connector.members.at(pool.address)
        elif multiplexer.negotiates:
            if pool not in self.h1_only:
                _log.info("{endpoint} wants HTTP/1.1 and is offered nothing else from now on", endpoint=connector.describe(pool))
                self.h1_only.add(pool)
            multiplexer.step_down(pool)
        else:
            pool = None
        if pool is None:
            raise UpstreamWantsHTTP1(f"{multiplexer.connector.describe(stream.endpoint)} wants HTTP/1.1 for this request (HTTP_1_1_REQUIRED)")
        return None if connector.serve(pool, stream, False) else connector.wait(pool, stream)

    def __repr__(self) -> str:
        return f"<Refused {self._multiplexer.connector.name} {self.paused} paused>"


class Pause:
    """One request that waits before it is asked for again."""

    __slots__ = ("_refused", "_refused_by", "_stream", "_timer")

    def __init__(self, refused: Refused, stream: H2ClientStream, refused_by: Any, seconds: float) -> None:
        multiplexer = refused._multiplexer
        refused.paused += 1
        self._refused = refused
        self._stream = stream
        self._refused_by = refused_by
        self._timer = multiplexer.timer(self._over)
        self._timer.set(multiplexer.seconds() + seconds)

    def _over(self) -> None:
        self._timer.close()
        self._refused.resume(self._stream, self._refused_by)

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._timer.close()
        self._refused.paused -= 1
