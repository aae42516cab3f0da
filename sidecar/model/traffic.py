"""What is done with traffic besides carrying it: mirroring. See `sidecar.model`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from sidecar.model.scalars import MIRROR_ACTIVE, MIRROR_BUFFER_BYTES, MIRROR_TIMEOUT_SECONDS, Duration, FinePercent, Name, Size, ValueMatch


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
