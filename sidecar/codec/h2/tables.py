"""What HPACK's two sides share: the static table (RFC 7541, appendix A), integers, and fields as the codec keeps them.

A field from the wire is a `Field` like any other. Its third part, the line for HTTP/1.1, is made when the field enters a table, once. The line is empty for
what must never be forwarded as a line: pseudo-header fields, and anything RFC 9110 or RFC 9113, section 8.2.1, does not allow; so one look at the line tells
the good from the rest.
"""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.codec.h1.fields import is_forgery
from sidecar.headers import Field

ENTRY_OVERHEAD = 32  # RFC 7541, section 4.1, and RFC 9113, section 6.5.2: octets counted for each field beside its name and value
DEFAULT_TABLE_OCTETS = 4096  # the size before any SETTINGS

_STATIC = b"""
:authority|:method GET|:method POST|:path /|:path /index.html|:scheme http|:scheme https|:status 200|:status 204|:status 206|:status 304|:status 400
:status 404|:status 500|accept-charset|accept-encoding gzip, deflate|accept-language|accept-ranges|accept|access-control-allow-origin|age|allow
authorization|cache-control|content-disposition|content-encoding|content-language|content-length|content-location|content-range|content-type|cookie
date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|link|location|max-forwards
proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after|server|set-cookie|strict-transport-security|transfer-encoding|user-agent|vary
via|www-authenticate
"""

_NAME_OCTETS = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
_VALUE_OCTETS = bytes([9, *range(32, 127), *range(128, 256)])
_EDGES = b" \t"

# Names already found good. Bounded in number and length because the peer chooses them.
_KNOWN_NAMES: set[bytes] = set()
_KNOWN_NAMES_LIMIT = 1024
_KNOWN_NAME_OCTETS = 64


class NeverIndexed(tuple[bytes, bytes, bytes]):
    """A field that came as "never indexed" and must leave so (RFC 7541, section 6.2.3).

    It is equal to nothing but itself, so that no table ever finds it under an equal field that may be indexed.
    """

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other


def received_field(name: bytes, value: bytes) -> Field:
    """The field with its line; the line is b"" when it must not be forwarded (see above)."""
    if (name in _KNOWN_NAMES or _is_name(name)) and not value.translate(None, _VALUE_OCTETS) and value.strip(_EDGES) == value:
        return name, value, name + b": " + value + b"\r\n"
    return name, value, b""


def _is_name(name: bytes) -> bool:
    if not name or name.translate(None, _NAME_OCTETS) or is_forgery(name):
        return False
    if len(name) <= _KNOWN_NAME_OCTETS:
        if len(_KNOWN_NAMES) >= _KNOWN_NAMES_LIMIT:
            _KNOWN_NAMES.clear()
        _KNOWN_NAMES.add(name)
    return True


def entry_size(field: Field) -> int:
    """Octets that `field` counts for in a dynamic table and in a header list."""
    return len(field[0]) + len(field[1]) + ENTRY_OVERHEAD


def _static_fields() -> Iterator[Field]:
    for entry in _STATIC.strip().replace(b"\n", b"|").split(b"|"):
        name, _, value = entry.partition(b" ")
        yield received_field(name, value)


# Index 1 to 61; index 0 stands for nothing.
STATIC: tuple[Field, ...] = ((b"", b"", b""), *_static_fields())
STATIC_COUNT = 61


def encode_integer(value: int, prefix_bits: int, pattern: int) -> bytes:
    """`value` with a prefix of `prefix_bits` bits, the bits before it from `pattern` (RFC 7541, section 5.1)."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes((pattern | value,))
    out = bytearray((pattern | most,))
    value -= most
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
