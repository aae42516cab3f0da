"""Heads: the fields of a block become a `RequestHead` or `ResponseHead`, and back (RFC 9113, section 8).

What comes in is put into the form that HTTP/1.1 heads have behind their codec, so that nobody behind this one asks for the version: `host` stands among the
fields, cookie crumbs are one field again, an extended CONNECT (RFC 8441) is a GET with `upgrade`, and its 2xx a 101. The way out undoes it. The work on a block
that repeats is done once: `read_request` and `read_response` make a parts tuple that can be kept, `RequestHead` and `ResponseHead` are made of it each time.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from operator import itemgetter

from sidecar.codec.h1.fields import NEVER_IN_TRAILERS
from sidecar.codec.h1.grammar import is_authority
from sidecar.codec.h2.encoder import Encoder, Line
from sidecar.codec.h2.tables import ENTRY_OVERHEAD, NeverIndexed
from sidecar.codec.known import KnownFields
from sidecar.errors import HeadTooLarge
from sidecar.headers import Field, Headers
from sidecar.message import RequestHead, ResponseHead

# (method, path, authority, scheme, fields, content length or None, upgrade or None, expects 100?)
RequestParts = tuple[bytes, bytes, bytes, bytes, list[Field], int | None, bytes | None, bool]
# (status, fields, reason, content length or None)
ResponseParts = tuple[int, list[Field], bytes, int | None]

REFUSED, HOST, CONTENT_LENGTH, COOKIE, TE, EXPECT = range(6)
_KINDS = {
    # RFC 9113, section 8.2.2
    b"connection": REFUSED,
    b"proxy-connection": REFUSED,
    b"keep-alive": REFUSED,
    b"transfer-encoding": REFUSED,
    b"upgrade": REFUSED,
    b"host": HOST,
    b"content-length": CONTENT_LENGTH,
    b"cookie": COOKIE,
    b"te": TE,
    b"expect": EXPECT,
}

_NEVER_IN_TRAILERS = NEVER_IN_TRAILERS | frozenset(_KINDS)

_line = itemgetter(2)
_is_token = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_is_scheme = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*").fullmatch
# Authorities already found good. Bounded in number and length because peers choose them.
_AUTHORITIES: set[bytes] = set()
_AUTHORITIES_LIMIT = 1024
_AUTHORITY_OCTETS = 128
# Octets that a request target may have, as over HTTP/1.1: not "#", because a fragment is never sent, and none from 0x80, which have no meaning in a URI.
_PATH_OCTETS = bytes({*range(0x21, 0x7F)} - {0x23})
# More than 19 digits do not fit 63 bits, in which some ends count; a leading zero is octal to some.
_is_length = re.compile(rb"0|[1-9][0-9]{0,18}").fullmatch
_is_status = re.compile(rb"[1-9][0-9]{2}").fullmatch

# HTTP/2 has no reason phrases; a response forwarded to HTTP/1.1 gets the usual one.
_REASONS = {int(each): each.phrase.encode("ascii") for each in HTTPStatus}


class Malformed(Exception):
    """The message breaks section 8: a stream error PROTOCOL_ERROR. The text says how."""


# (pseudo-header fields, the others without Host, Content-Length or None, Host or None, 100-continue expected?)
_Sorted = tuple[dict[bytes, bytes], list[Field], int | None, bytes | None, bool]


def weigh(fields: list[Field], octets: int, count: int) -> None:
    """Raise `HeadTooLarge` when the list has more than `count` fields or weighs more than `octets` (RFC 9113, section 6.5.2)."""
    if len(fields) > count:
        raise HeadTooLarge(f"the head has more than {count} fields")
    size = ENTRY_OVERHEAD * len(fields)
    for name, value, _ in fields:
        size += len(name) + len(value)
    if size > octets:
        raise HeadTooLarge(f"the head has more than {octets} octets")


def weight(head: RequestHead) -> int:
    """What the head weighs for its receiver (RFC 9113, section 6.5.2), to the few octets by which pseudo-header fields may differ."""
    # A line has ": " and CRLF besides name and value.
    fields = head.headers.fields
    return sum(map(len, map(_line, fields))) + (ENTRY_OVERHEAD - 4) * len(fields) + 3 * (ENTRY_OVERHEAD + 8) + len(head.method) + len(head.path)


def _sort_out(fields: list[Field], allowed: frozenset[bytes]) -> _Sorted:
    """What both kinds of head have in common. One pass with everything in it, because every block that is not remembered takes it."""
    pseudo: dict[bytes, bytes] = {}
    regular: list[Field] = []
    length: int | None = None
    host: bytes | None = None
    cookies = 0
    expects = False
    kinds = _KINDS
    for field in fields:
        name, value, line = field
        if not line:
            if regular or host is not None:
                raise Malformed("a pseudo-header field stands behind others, or a field is malformed (RFC 9113 section 8.3)")
            if name not in allowed:
                raise Malformed(f"not a field here: {name[:40]!r} (RFC 9113 sections 8.2.1 and 8.3)")
            if name in pseudo:
                raise Malformed(f"{name!r} is there twice (RFC 9113 section 8.3)")
            pseudo[name] = value
            continue
        if name in kinds:
            kind = kinds[name]
            if kind == HOST:
                if host is not None or not _is_known_authority(value):
                    raise Malformed("Host is there twice, or not host[:port] (RFC 9113 section 8.3.1)")
                host = value
                continue
            if kind == CONTENT_LENGTH:
                if length is not None or _is_length(value) is None:
                    raise Malformed("Content-Length is there twice, or not one plain number (RFC 9110 section 8.6)")
                length = int(value)
            elif kind == COOKIE:
                cookies += 1
            elif kind == EXPECT:
                expects = expects or value.lower() == b"100-continue"
            elif kind == REFUSED or value.lower() != b"trailers":
                raise Malformed(f"{name.decode()} belongs to HTTP/1.1 connections (RFC 9113 section 8.2.2)")
        regular.append(field)
    if cookies > 1:
        regular = _join_cookies(regular)
    return pseudo, regular, length, host, expects


def _is_known_authority(value: bytes) -> bool:
    if value in _AUTHORITIES:
        return True
    if not is_authority(value):
        return False
    if len(value) <= _AUTHORITY_OCTETS:
        if len(_AUTHORITIES) >= _AUTHORITIES_LIMIT:
            _AUTHORITIES.clear()
        _AUTHORITIES.add(value)
    return True


def _join_cookies(fields: list[Field]) -> list[Field]:
    """One cookie field, in the place of the first (section 8.2.3)."""
    crumbs = [each for each in fields if each[0] == b"cookie"]
    value = b"; ".join([each[1] for each in crumbs])
    joined: Field = (b"cookie", value, b"cookie: " + value + b"\r\n")
    if any(type(each) is NeverIndexed for each in crumbs):
        joined = NeverIndexed(joined)
    first = fields.index(crumbs[0])
    return [*(each for each in fields[:first]), joined, *(each for each in fields[first:] if each[0] != b"cookie")]


_REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
_CONNECT_PSEUDO = _REQUEST_PSEUDO | {b":protocol"}
_RESPONSE_PSEUDO = frozenset((b":status",))
_NO_PSEUDO: frozenset[bytes] = frozenset()


def read_request(fields: list[Field], connect_protocol: bool) -> RequestParts:
    """The parts of a request's head (section 8.3.1). `connect_protocol`: we announced ENABLE_CONNECT_PROTOCOL. Raises `Malformed`."""
    pseudo, regular, length, host, expects = _sort_out(fields, _CONNECT_PSEUDO if connect_protocol else _REQUEST_PSEUDO)
    get = pseudo.get
    method = get(b":method", b"")
    if method not in _METHODS and _is_token(method) is None:
        raise Malformed(":method is missing or not a method")
    authority = get(b":authority")
    scheme = get(b":scheme")
    path = get(b":path")
    upgrade = get(b":protocol")
    if method == b"CONNECT" and upgrade is None:
        if scheme is not None or path is not None or not authority:
            raise Malformed("CONNECT has :authority, but no :scheme and :path (RFC 9113 section 8.5)")
        scheme = b"http"
        path = b""
    else:
        if scheme not in _SCHEMES and (scheme is None or _is_scheme(scheme) is None):
            raise Malformed(":scheme is missing or not a scheme")
        if not path or path.translate(None, _PATH_OCTETS) or (path[0] != 0x2F and (path != b"*" or method != b"OPTIONS")):
            raise Malformed(":path is missing or not a path")
        if upgrade is not None:
            if method != b"CONNECT" or _is_token(upgrade) is None or not authority:
                raise Malformed(":protocol needs CONNECT and :authority (RFC 8441 section 4)")
            method = b"GET"
            upgrade = upgrade.lower()
    if authority is not None and not _is_known_authority(authority):
        raise Malformed(":authority is not host[:port]")
    if authority is None:
        authority = host
    elif host is not None and host.lower() != authority.lower():
        raise Malformed("Host and :authority differ (RFC 9113 section 8.3.1)")
    if authority is None:
        raise Malformed("there is neither :authority nor Host")
    fields = [(b"host", authority, b"Host: " + authority + b"\r\n"), *regular]
    return method, path, authority, scheme, fields, length, upgrade, expects


def outline(fields: list[Field]) -> RequestHead:
    """Of a head that is not taken: its method (a HEAD wants no body) and content-type (a call of gRPC wants a status). Nothing is checked."""
    method = next((value for name, value, _ in fields if name == b":method"), b"-")
    kind = [each for each in fields if each[0] == b"content-type" and each[2]][:1]
    return RequestHead(method if _is_token(method) else b"-", b"-", b"", Headers(kind), 20)


def read_response(fields: list[Field]) -> ResponseParts:
    """The parts of a response's head (section 8.3.2). Raises `Malformed`."""
    pseudo, regular, length, _, _ = _sort_out(fields, _RESPONSE_PSEUDO)
    text = pseudo.get(b":status", b"")
    if _is_status(text) is None or text == b"101":  # section 8.6: there is no 101
        raise Malformed(":status is missing or not a status")
    status = int(text)
    return status, regular, _REASONS.get(status, b""), length


def read_trailers(fields: list[Field]) -> list[Field]:
    """The fields as trailers. Raises `Malformed` (section 8.1; RFC 9110, section 6.5.1)."""
    for name, _, line in fields:
        if not line or name in _NEVER_IN_TRAILERS:
            raise Malformed(f"not a trailer: {name[:40]!r}")
    return fields


# -- the way out -------------------------------------------------------------------------------------------------------------------------------

_METHODS = {b"GET": b"\x82", b"POST": b"\x83"}
_SCHEMES = {b"http": b"\x86", b"https": b"\x87"}
_STATUSES = {200: b"\x88", 204: b"\x89", 206: b"\x8a", 304: b"\x8b", 400: b"\x8c", 404: b"\x8d", 500: b"\x8e"}


def _pseudo(encoder: Encoder, name: bytes, value: bytes) -> bytes:
    field = (name, value, b"")
    octets = encoder.rendered.get(field)
    return encoder.piece(field) if octets is None else octets


def write_request(head: RequestHead, encoder: Encoder) -> bytes:
    """The block of a request's head. Fields of HTTP/1.1 connections and Host are left out."""
    line = (head.method, head.scheme, head.path, head.authority, head.upgrade)
    start = encoder.lines.get(line) or _write_line(head, line, encoder)
    known = head.known
    return encoder.encode(head.headers.fields, start) if known is None else encoder.encode_known(known, head.headers.fields, start)


def _write_line(head: RequestHead, line: Line, encoder: Encoder) -> bytes:
    """The octets of the pseudo-header fields, which `line` stands for."""
    # Before anything else, because the pieces below may refer to the table.
    start = resizes = encoder.take_resizes() if encoder.resizes else b""
    method = head.method
    if head.upgrade is not None:
        start += _pseudo(encoder, b":method", b"CONNECT") + _pseudo(encoder, b":protocol", head.upgrade)
    else:
        start += _METHODS.get(method) or _pseudo(encoder, b":method", method)
    if method != b"CONNECT":
        path = head.path
        start += (_SCHEMES.get(head.scheme) or _pseudo(encoder, b":scheme", head.scheme)) + (b"\x84" if path == b"/" else _pseudo(encoder, b":path", path))
    # A request of HTTP/1.0 without Host has no authority, and an empty one must not be sent.
    if head.authority:
        start += _pseudo(encoder, b":authority", head.authority)
    rendered = encoder.rendered
    if (
        not resizes
        and head.upgrade is None
        and method in _METHODS
        and head.scheme in _SCHEMES
        and (b":authority", head.authority, b"") in rendered
        and (head.path == b"/" or (b":path", head.path, b"") in rendered)
    ):
        # All of it is as the table has it now.
        encoder.keep_line(line, start)
    return start


def write_response(head: ResponseHead, encoder: Encoder) -> bytes:
    """The block of a response's head. A 101 is a 200 here (RFC 8441, section 5)."""
    start = encoder.take_resizes() if encoder.resizes else b""
    status = 200 if head.status == 101 else head.status
    start += _STATUSES.get(status) or _pseudo(encoder, b":status", b"%d" % status)
    known = head.known
    return encoder.encode(head.headers.fields, start) if known is None else encoder.encode_known(known, head.headers.fields, start)


def lasting_request(parts: RequestParts) -> RequestParts:
    """The same, to be kept for the next such head."""
    return (*parts[:4], KnownFields(parts[4]), *parts[5:])


def lasting_response(parts: ResponseParts) -> ResponseParts:
    """The same, to be kept for the next such head."""
    status, fields, reason, length = parts
    return status, KnownFields(fields), reason, length
