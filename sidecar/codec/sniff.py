"""What a connection speaks, seen from its first bytes before TLS (RFC 8446 section 4.1.2, RFC 6066 section 3, RFC 7301, RFC 9113 section 3.4).

Pure functions over all bytes received so far. Nothing here is trusted: a ClientHello that makes no sense is TLS all the same, only without names; the
handshake will refuse it.
"""

from __future__ import annotations

import re
import struct

import attrs

# Octets of a ClientHello. Post-quantum key shares make some of 2 KiB; what is longer is still TLS, its names are not looked for.
CLIENT_HELLO_BYTES = 16 * 1024
# Records over which it may be spread: clients use one, or two to split the name. A thousand records of one octet each would have to be joined again after
# every read.
CLIENT_HELLO_RECORDS = 64
# Octets of a method: the longest registered one has 17 (UPDATEREDIRECTREF).
METHOD_BYTES = 24

H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_HANDSHAKE_RECORD = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_ALPN = 16
_HOST_NAME = 0

# RFC 6066, section 3: a DNS name without a trailing dot, never an address (whose last label is a number). "_" is not allowed in host names and common all the
# same.
_host_name = re.compile(r"(?=.{1,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*(?![0-9]+$)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?").fullmatch
_method = re.compile(rb"[A-Z][A-Z-]*").fullmatch
# What may stand behind `METHOD `: mail, chat and cache protocols have words there, too, but none of these.
_TARGETS = (b"/", b"* HTTP/", b"http://", b"https://")


@attrs.frozen
class Sniffed:
    """What the first bytes say. `transport_protocol`: "tls" or "raw". `server_name`: lower-case name from SNI, "" without one. `application_protocols`: from
    ALPN; for "raw" one of ("http/1.1",), ("h2",) and ()."""

    transport_protocol: str
    server_name: str = ""
    application_protocols: tuple[str, ...] = ()


TLS = Sniffed("tls")
RAW = Sniffed("raw")
RAW_HTTP1 = Sniffed("raw", "", ("http/1.1",))
RAW_H2 = Sniffed("raw", "", ("h2",))


def is_tls(first: bytes) -> bool | None:
    """Do these first bytes begin a TLS handshake (a record of type 22, major version 3)? None while there are too few to tell."""
    if not first:
        return None
    if first[0] != _HANDSHAKE_RECORD:
        return False
    return first[1] == 3 if len(first) > 1 else None


def sniff(data: bytes, eof: bool) -> Sniffed | None:
    """What the connection speaks. `data`: everything received so far, at least the beginning of it; `eof`: no more will come. None when more is needed, never
    when `eof`.

    Asks for at most `CLIENT_HELLO_BYTES` and the headers of their records. The caller bounds the waiting: in a protocol in which the server speaks first
    nothing comes.
    """
    tls = is_tls(data)
    if tls is None:
        return RAW if eof else None
    if tls:
        return _sniff_tls(data) or (TLS if eof else None)
    return _sniff_http(data) or (RAW if eof else None)


def _sniff_http(data: bytes) -> Sniffed | None:
    if data.startswith(H2_PREFACE):
        return RAW_H2
    if H2_PREFACE.startswith(data):
        return None
    method, space, target = data[: METHOD_BYTES + 1].partition(b" ")
    if len(method) > METHOD_BYTES or not _method(method):
        return RAW
    if not space:
        return None
    if method == b"CONNECT":
        return RAW_HTTP1
    target = data[len(method) + 1 : len(method) + 9]
    if target.startswith(_TARGETS):
        return RAW_HTTP1
    if any(each.startswith(target) for each in _TARGETS):
        return None
    return RAW


def _sniff_tls(data: bytes) -> Sniffed | None:
    """`TLS` with names once the ClientHello is whole, without when it is not well-formed or too long; None when more is needed."""
    message = _client_hello(data)
    if message is None:
        return None
    try:
        return _read_client_hello(message)
    except (IndexError, struct.error, UnicodeDecodeError):
        return TLS


def _client_hello(data: bytes) -> bytes | None:
    """The body of the first handshake message, joined from its records; b"" when it is not a ClientHello or too long, None when it is not complete."""
    message = b""
    position = 0
    for _ in range(CLIENT_HELLO_RECORDS):
        if len(data) < position + 5:
            return None
        if data[position] != _HANDSHAKE_RECORD:
            return b""
        length = int.from_bytes(data[position + 3 : position + 5], "big")
        if not 0 < length <= CLIENT_HELLO_BYTES:
            return b""
        message += data[position + 5 : position + 5 + length]
        position += 5 + length
        if len(message) >= 4:
            wanted = int.from_bytes(message[1:4], "big")
            if message[0] != _CLIENT_HELLO or wanted > CLIENT_HELLO_BYTES:
                return b""
            if len(message) >= 4 + wanted:
                return message[4 : 4 + wanted]
        if len(data) < position:
            return None
    return b""


def _read_client_hello(message: bytes) -> Sniffed:
    """Raises `IndexError`, `struct.error` or `UnicodeDecodeError` when it is cut short or has wrong lengths."""
    position = 2 + 32  # version, random
    position += 1 + message[position]  # session id
    position += 2 + _length(message, position)  # cipher suites
    position += 1 + message[position]  # compression methods
    end = position + 2 + _length(message, position)
    position += 2
    if end > len(message):
        raise IndexError
    name = ""
    protocols: tuple[str, ...] = ()
    while position < end:
        kind, length = struct.unpack_from(">HH", message, position)
        position += 4
        if position + length > end:
            raise IndexError
        body = message[position : position + length]
        position += length
        if kind == _SERVER_NAME:
            name = _server_name(body)
        elif kind == _ALPN:
            protocols = _protocols(body)
    return Sniffed("tls", name, protocols)


def _length(message: bytes, position: int) -> int:
    return int(struct.unpack_from(">H", message, position)[0])


def _server_name(body: bytes) -> str:
    """The first entry, when it is a host name; there is no other kind, and a list of two is an attempt to be read differently."""
    kind, length = struct.unpack_from(">BH", body, 2)
    if _length(body, 0) != len(body) - 2 or kind != _HOST_NAME or 5 + length != len(body):
        raise IndexError
    name = body[5:].decode("ascii").lower()
    return name if _host_name(name) else ""


def _protocols(body: bytes) -> tuple[str, ...]:
    if _length(body, 0) != len(body) - 2:
        raise IndexError
    names = []
    position = 2
    while position < len(body):
        length = body[position]
        if length == 0 or position + 1 + length > len(body):
            raise IndexError
        names.append(body[position + 1 : position + 1 + length].decode("ascii"))
        position += 1 + length
    return tuple(names)
