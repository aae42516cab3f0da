"""How long a request may take, by what its caller says and what the route allows: header fields read and written, nothing else. Times are seconds."""

from __future__ import annotations

from sidecar.model import MaxStreamDuration

# "gRPC over HTTP2", Timeout: at most 8 digits and a unit.
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_DIGITS = 8
_MILLISECONDS_DIGITS = 12  # of x-envoy-...-ms: thirty years, and no number that takes long to read


def grpc_timeout_seconds(value: bytes | None) -> float | None:
    """What `grpc-timeout` says; None without one, and for what breaks its grammar."""
    if value is None or not 2 <= len(value) <= _DIGITS + 1 or not value[:-1].isdigit():
        return None
    unit = _UNITS.get(value[-1:])
    return None if unit is None else int(value[:-1]) * unit


def grpc_timeout(seconds: float) -> bytes:
    """`grpc-timeout` for so many seconds, rounded down to the finest unit that fits, so that nobody is promised more than there is."""
    seconds = max(seconds, 0.0)
    for unit, name, per_second in ((1e-3, b"m", 1000.0), (1.0, b"S", 1.0), (60.0, b"M", 1 / 60)):
        number = int(seconds * per_second if unit < 60.0 else seconds / 60)
        if number < 10**_DIGITS:
            return b"%d%b" % (number, name)
    return b"%dH" % min(int(seconds / 3600), 10**_DIGITS - 1)


def milliseconds(value: bytes | None) -> float | None:
    """What a field such as x-envoy-upstream-rq-timeout-ms says, in seconds; None without one, and for what is no number."""
    if value is None or not value.isdigit() or len(value) > _MILLISECONDS_DIGITS:
        return None
    return int(value) / 1000.0


def stream_duration(limits: MaxStreamDuration, asked: float | None) -> float:
    """How long the whole exchange may take: what the caller's grpc-timeout asks for (None: nothing), less the offset and no more than allowed, where that
    is taken; else the configured duration. 0 for no limit. Envoy: route.max_stream_duration.
    """
    most = limits.grpc_timeout_header_max
    if most is None or asked is None:
        return limits.max_stream_duration or 0.0
    if limits.grpc_timeout_header_offset < asked:
        # As in Envoy: an offset that would leave nothing is not taken off.
        asked -= limits.grpc_timeout_header_offset
    return min(asked, most) if most else asked
