"""How an attempt ended where the endpoint said nothing: statuses that stand for what happened on our own side (Envoy: local origin).

They are whole numbers as all statuses are, so that whoever only wants to know good from bad need not look twice; outlier detection with
`split_external_local_origin_errors` tells them from the endpoint's own answers.
"""

from __future__ import annotations


class LocalOutcome(int):
    """A status that no endpoint sent."""

    __slots__ = ()


BROKEN = LocalOutcome(503)  # no connection, or it broke before its answer was complete
NO_ANSWER = LocalOutcome(504)  # not in time
CONNECTED = LocalOutcome(200)  # a connection for opaque octets; what they say nobody knows
