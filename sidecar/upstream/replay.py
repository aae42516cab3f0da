"""Which requests are simply sent again when the connection that they went to turns out to be stale."""

from __future__ import annotations

from sidecar.message import RequestHead

# RFC 9110, section 9.2.1: without a body, and lost on a stale connection, they are simply sent again.
SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})


def is_sent_again(request: RequestHead) -> bool:
    """Will its owner try once more when the connection turns out to be stale?"""
    return request.end_stream and request.method in SAFE and request.upgrade is None
