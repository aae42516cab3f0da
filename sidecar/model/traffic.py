"""What is done with traffic besides carrying it: mirrored, and refused before the process suffers. See `sidecar.model`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from sidecar.model.scalars import (
    MIRROR_ACTIVE,
    MIRROR_BUFFER_BYTES,
    MIRROR_TIMEOUT_SECONDS,
    OVERLOAD_REFRESH_SECONDS,
    Count,
    Duration,
    FinePercent,
    Name,
    Size,
    ValueMatch,
)

Pressure = Annotated[float, Meta(ge=0, le=1)]


class Mirror(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A copy of a route's requests to another cluster, whose answers nobody sees (Envoy: RequestMirrorPolicy). `percentage` of the requests whose head matches all of
    `headers`. `trace_sampled`: overrides the sampled flag of a traceparent that the caller sent. `disable_shadow_host_suffix_append`: leave the host as it is.
    `timeout`: from the complete request to the end of the answer (0: none). `buffer_bytes`: of the body, while the mirror is slower than the original;
    beyond, it is cut. `max_active`: copies that run at a time; beyond, none is made."""

    cluster: Name
    percentage: FinePercent = 100.0
    headers: tuple[ValueMatch, ...] = ()
    trace_sampled: bool | None = None
    disable_shadow_host_suffix_append: bool = False
    timeout: Duration = MIRROR_TIMEOUT_SECONDS
    buffer_bytes: Size = MIRROR_BUFFER_BYTES
    max_active: Annotated[int, Meta(ge=1)] = MIRROR_ACTIVE


class OverloadActions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From which pressure on what is done (1: at the limit); null: never. Names are Envoy's."""

    shrink_heap: Pressure | None = 0.85
    disable_http_keepalive: Pressure | None = 0.9
    stop_accepting_requests: Pressure | None = 0.95
    stop_accepting_connections: Pressure | None = 0.98


class Overload(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of the process as a whole (Envoy: the overload manager); 0 for none. `max_connections` from clients; `max_requests` that run at a time; `max_memory`: resident, unset:
    nine tenths of the cgroup's limit, if it has one; `max_event_loop_lag`: how late timers may be. `refresh_interval`: how often they are looked at. `hysteresis`: an
    action ends when the pressure is so much below what it began at.
    """

    max_connections: Count = 0
    max_requests: Count = 0
    max_memory: Size | None = None
    max_event_loop_lag: Duration = 0.0
    refresh_interval: Annotated[float, Meta(ge=0.01, extra={"syntax": "duration"})] = OVERLOAD_REFRESH_SECONDS
    hysteresis: Annotated[float, Meta(ge=0, le=1)] = 0.05
    actions: OverloadActions = OverloadActions()
