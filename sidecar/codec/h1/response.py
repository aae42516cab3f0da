"""From status line and fields to a `ResponseHead`, and how the body behind it is delimited (RFC 9112, section 6.3)."""

from __future__ import annotations

from sidecar.codec.h1.fields import CLOSE, KEEP_ALIVE, FieldsRead
from sidecar.codec.h1.grammar import Malformed, StatusLine
from sidecar.headers import Headers
from sidecar.message import ResponseHead

# How the body ends, besides those with Content-Length.
NO_BODY, BY_LENGTH, BY_CHUNKS, BY_CLOSE, IN_TUNNEL = range(5)


def response_head(line: StatusLine, read: FieldsRead, method: bytes) -> tuple[ResponseHead, int, bool]:
    """The head of an answer to `method`, how its body is delimited, and whether the connection may be used again afterwards. Does not keep the list of
    fields. Raises `Malformed`."""
    status, reason, version = line
    fields, _, length, chunked, options, upgrade, _, _ = read
    headers = Headers(fields.copy())
    persistent = not options & CLOSE and (version == 11 or options & KEEP_ALIVE != 0)
    if status < 200 or (method == b"CONNECT" and status < 300):
        # Neither has a length (RFC 9110, section 8.6); what says otherwise is not forwarded.
        if length >= 0:
            headers.remove(b"content-length")
        if status < 200 and status != 101:
            return ResponseHead(status, headers, reason, version, None, True), NO_BODY, persistent
        if status == 101 and upgrade is None:
            raise Malformed("a 101 answer does not name its protocol in Upgrade (RFC 9110 section 7.8)")
        return ResponseHead(status, headers, reason, version, None, False, upgrade if status == 101 else None), IN_TUNNEL, False
    if chunked and version == 10:
        raise Malformed("a message of HTTP/1.0 has a Transfer-Encoding (RFC 9112 section 6.1)")
    announced = length if length >= 0 else None
    if status == 204:
        if length > 0 or chunked:
            # A server that breaks this rule may well send the body too, after the next request went out.
            persistent = False
        if length >= 0:
            headers.remove(b"content-length")
        return ResponseHead(status, headers, reason, version, 0, True), NO_BODY, persistent
    if status == 304 or method == b"HEAD":
        return ResponseHead(status, headers, reason, version, announced, True), NO_BODY, persistent
    if chunked:
        return ResponseHead(status, headers, reason, version, None, False), BY_CHUNKS, persistent
    if length > 0:
        return ResponseHead(status, headers, reason, version, length, False), BY_LENGTH, persistent
    if length == 0:
        return ResponseHead(status, headers, reason, version, 0, True), NO_BODY, persistent
    return ResponseHead(status, headers, reason, version, None, False), BY_CLOSE, False
