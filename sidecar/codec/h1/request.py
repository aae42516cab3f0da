"""From start line and fields to a `RequestHead`: the target, the authority, and how long the body is (RFC 9112, sections 3 and 6)."""

from __future__ import annotations

from sidecar.codec.h1.fields import UPGRADES, FieldsRead
from sidecar.codec.h1.grammar import Malformed, RequestLine
from sidecar.errors import BadFraming, BadHost
from sidecar.headers import Headers
from sidecar.message import RequestHead


def request_head(line: RequestLine, read: FieldsRead, scheme: bytes) -> RequestHead:
    """The head made of its parts; `scheme` unless the target says otherwise. Does not keep the list of fields. Raises `Malformed`."""
    method, path, target_authority, target_scheme, version = line
    fields, host, length, chunked, options, upgrade, expects_continue, _ = read
    headers = Headers(fields.copy())
    if target_authority is None:
        if host is None:
            if version == 11:
                raise Malformed("there is no Host field (RFC 9112 section 3.2)", BadHost)
            host = b""
        authority = host
    else:
        authority = target_authority
        if host != authority:
            # RFC 9112, section 3.2.2: what the target says replaces what Host says.
            headers.set(b"Host", authority)
        if target_scheme is not None:
            scheme = target_scheme
    if version == 10:
        if chunked:
            raise Malformed("a message of HTTP/1.0 has a Transfer-Encoding (RFC 9112 section 6.1)", BadFraming)
        upgrade = None
        expects_continue = False
    elif upgrade is not None and not options & UPGRADES:
        upgrade = None
    if method == b"CONNECT" and (chunked or length >= 0):
        # What follows belongs to the tunnel; a length would let the next hop think otherwise.
        raise Malformed("a CONNECT request has no body (RFC 9110 section 9.3.6)", BadFraming)
    if chunked:
        return RequestHead(method, path, authority, headers, version, scheme, None, False, upgrade, expects_continue)
    if length > 0:
        return RequestHead(method, path, authority, headers, version, scheme, length, False, upgrade, expects_continue)
    # A client that sends no body does not wait for leave to send it.
    return RequestHead(method, path, authority, headers, version, scheme, 0, True, upgrade, False)
