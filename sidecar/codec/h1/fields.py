"""Field lines of heads and trailers: each line becomes a `Field`, and the few that say something about the message or the connection are understood here.

`read_fields` is the only way in for heads. What it leaves in the list is what may be forwarded: hop-by-hop fields (RFC 9110, section 7.6.1) are out, so that
nobody behind the codec meets them. Lines met before are taken from a bounded dictionary together with what they mean; a line costs one look-up then and no
parsing. Credentials and ids that change with every request are never put there.
"""

from __future__ import annotations

import re

from sidecar.codec.h1.grammar import CRLF, REMEMBERED_BYTES, REMEMBERED_LINES, Malformed, is_authority, is_token, quoted
from sidecar.errors import BadFraming, BadHost, HeadTooLarge, UnknownTransferCoding
from sidecar.headers import Field, Headers

# What a line means to the codec. PLAIN and PASSING ones are just forwarded, PASSING ones are not remembered.
PLAIN, PASSING, HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, UPGRADE, TE, EXPECT, DROPPED = range(10)

_KINDS = {
    b"host": HOST,
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"te": TE,
    b"expect": EXPECT,
    b"keep-alive": DROPPED,
    b"proxy-connection": DROPPED,
}

# Options of Connection, as bits.
CLOSE, KEEP_ALIVE, UPGRADES = 1, 2, 4
_OPTIONS = {b"close": CLOSE, b"keep-alive": KEEP_ALIVE, b"upgrade": UPGRADES}
# Listing these in Connection changes nothing: they are taken out, or reduced to their end-to-end part, anyway.
_HOP_BY_HOP = frozenset((b"te", b"keep-alive", b"proxy-connection", b"upgrade", b"close"))

# A client that lists one of these in Connection wants the next hop not to see who it is, where it comes from, or how long the message is. RFC 9110, section
# 7.6.1, forbids listing fields meant for every recipient, so no honest sender is hurt. ("Connection: authorization" and the like are known as hop-by-hop
# header abuse.)
PROTECTED_IN_REQUESTS = re.compile(
    rb"host|content-length|transfer-encoding|expect|authorization|proxy-authorization|cookie|forwarded|via|x-forwarded-.*|x-real-ip|x-request-id"
)
# Some servers list Transfer-Encoding; being hop-by-hop it may be listed, and it is consumed here in any case.
PROTECTED_IN_RESPONSES = re.compile(rb"content-length")

# RFC 9110, section 6.5.1: what frames, routes, authenticates or says how to read the content comes before it or not at all.
NEVER_IN_TRAILERS = frozenset(
    (
        b"trailer",
        b"authorization",
        b"proxy-authorization",
        b"proxy-authenticate",
        b"www-authenticate",
        b"cookie",
        b"set-cookie",
        b"cache-control",
        b"content-encoding",
        b"content-range",
        b"content-type",
        b"range",
        b"max-forwards",
        b"forwarded",
    )
)

# Names that CGI, WSGI and the like cannot tell from ours, because they turn "-" into "_": a client would forge what the sidecar writes or frames by.
_FORGEABLE = re.compile(rb"content-length|transfer-encoding|x-forwarded-.*")
# Names whose values are secrets, or differ each time.
_NOT_REMEMBERED = re.compile(rb"auth|cookie|token|secret|key|session|passw|credential|signature|jwt|-id$|trace|b3")
# Everything but controls (RFC 9110, section 5.5): horizontal tab, visible ASCII with space, obs-text.
_VALUE_OCTETS = bytes([9, *range(32, 127), *range(128, 256)])

# More than 19 digits do not fit 63 bits, in which some ends count. A leading zero is octal to some.
is_length = re.compile(rb"0|[1-9][0-9]{0,18}").fullmatch

# (kind, the field, what it means: CONTENT_LENGTH the int, CONNECTION (bits, other names), UPGRADE (0, the first protocol), HOST and EXPECT a bool)
Entry = tuple[int, Field, int, frozenset[bytes]]
_NOTHING: frozenset[bytes] = frozenset()


class _Lines(dict[bytes, Entry]):
    """Lines read before; one that is not here is read."""

    def __missing__(self, line: bytes) -> Entry:
        return _read_field_line(line)


_LINES = _Lines()
_entry_of = _LINES.__getitem__
# name as sent -> (lower-case, kind, may its lines be remembered?)
_NAMES: dict[bytes, tuple[bytes, int, bool]] = {}

# (fields to forward, value of Host or None, Content-Length or -1, chunked?, bits of Connection, protocol of Upgrade or None, 100-continue expected?, nothing
# secret inside?) A tuple, because one is made for every message.
FieldsRead = tuple[list[Field], bytes | None, int, bool, int, bytes | None, bool, bool]
H2C = b"h2c"
H2C_SETTINGS = frozenset((b"http2-settings",))


NO_FIELDS: FieldsRead = ([], None, -1, False, 0, None, False, True)


def read_fields(block: bytes, limit: int, protected: re.Pattern[bytes]) -> FieldsRead:
    """The fields of a head. `block`: the lines between start line and empty line, without the last CRLF. `limit`: how many fields there may be.
    `protected`: names that Connection must not list. The list of fields belongs to the caller.

    Raises `Malformed` for everything that RFC 9112, sections 5 to 7, or the rules of this module refuse. Combinations that depend on the version (and a
    missing Host) are left to the caller.
    """
    if not block:
        return NO_FIELDS
    lines = block.split(CRLF)
    if len(lines) > limit:
        raise Malformed(f"the head has more than {limit} fields", HeadTooLarge)
    fields: list[Field] = []
    keep = fields.append
    host: bytes | None = None
    length = -1
    chunked = False
    options = 0
    listed = _NOTHING
    upgrade: bytes | None = None
    expects_continue = False
    harmless = True
    for kind, field, meaning, names in map(_entry_of, lines):
        if kind == PLAIN:
            keep(field)
        elif kind == PASSING:
            keep(field)
            harmless = False
        elif kind == HOST:
            if host is not None:
                raise Malformed("there is more than one Host field (RFC 9112 section 3.2)", BadHost)
            if not meaning:
                raise Malformed("the value of Host is not host[:port] (RFC 9112 section 3.2)", BadHost)
            host = field[1]
            keep(field)
        elif kind == CONNECTION:
            options |= meaning
            if names:
                listed = listed | names
        elif kind == CONTENT_LENGTH:
            if length >= 0:
                raise Malformed("there is more than one Content-Length field (RFC 9112 section 6.3)", BadFraming)
            length = meaning
            keep(field)
        elif kind == TRANSFER_ENCODING:
            if chunked:
                raise Malformed("there is more than one Transfer-Encoding field", BadFraming)
            chunked = True
        elif kind == UPGRADE:
            if upgrade is None:
                (upgrade,) = names
        elif kind == EXPECT:
            expects_continue = expects_continue or meaning != 0
            keep(field)
        elif kind == TE:
            keep(field)
    if chunked and length >= 0:
        raise Malformed("there are both Content-Length and Transfer-Encoding (RFC 9112 section 6.1)", BadFraming)
    if listed:
        # Listed for the next hop, to which an upgrade that may pass goes on (RFC 7540, section 3.2.1); where it may not it is dropped with it.
        fields = _without_listed(fields, listed - H2C_SETTINGS if upgrade == H2C else listed, protected)
    return fields, host, length, chunked, options, upgrade, expects_continue, harmless


def read_trailers(block: bytes, limit: int) -> Headers:
    """The trailers of a chunked message, as `block` (not empty) and `limit` in `read_fields`. Raises `Malformed` as well for fields that frame, route or
    authenticate."""
    lines = block.split(CRLF)
    if len(lines) > limit:
        raise Malformed(f"there are more than {limit} trailers", HeadTooLarge)
    fields = []
    for line in lines:
        kind, field, _, _ = _LINES[line]
        if kind > PASSING or field[0] in NEVER_IN_TRAILERS:
            raise Malformed(f"the field {quoted(field[0])} must not be a trailer (RFC 9110 section 6.5.1)", BadFraming)
        fields.append(field)
    return Headers(fields)


def may_be_trailer(name: bytes) -> bool:
    """May the field with this lower-case name stand behind the content?"""
    return name not in _KINDS and name not in NEVER_IN_TRAILERS


def _read_field_line(line: bytes) -> Entry:
    """What one line means; the dictionary of lines may know it then. Raises `Malformed` (RFC 9110, section 5; RFC 9112, section 5)."""
    name, colon, value = line.partition(b":")
    known = _NAMES.get(name)
    if known is None or not colon:
        if not colon or is_token(name) is None:
            raise Malformed(_why_no_field_line(line, name, colon))
        known = _know_name(name)
    lower, kind, remember = known
    value = value.strip(b" \t")
    if value.translate(None, _VALUE_OCTETS):
        raise Malformed(f"a control character (a bare CR or LF, NUL, or another) stands in the value of {quoted(name)} (RFC 9110 section 5.5)")
    start = len(name) + 1
    # The line as it came when it is in the common form, else in that form: no end behind us has to trim.
    as_came = len(line) == start + 1 + len(value) and line[start] == 0x20
    field = (lower, value, line + CRLF if as_came else b"%b: %b\r\n" % (name, value))
    if kind == PLAIN and not (remember and len(line) <= REMEMBERED_BYTES):
        return PASSING, field, 0, _NOTHING
    entry = (PLAIN, field, 0, _NOTHING) if kind == PLAIN else _meaning(kind, field)
    if len(line) <= REMEMBERED_BYTES:
        if len(_LINES) >= REMEMBERED_LINES:
            _LINES.clear()
        _LINES[line] = entry
    return entry


def is_forgery(lower: bytes) -> bool:
    """May this name, in lower case, be taken for one of ours by who turns "-" into "_"?"""
    return b"_" in lower and _FORGEABLE.fullmatch(lower.replace(b"_", b"-")) is not None


def _know_name(name: bytes) -> tuple[bytes, int, bool]:
    lower = name.lower()
    if is_forgery(lower):
        raise Malformed(f"the field {quoted(name)} is a framing or forwarding field with _ for -, which some servers take for the real one")
    known = (lower, _KINDS.get(lower, PLAIN), _NOT_REMEMBERED.search(lower) is None)
    if len(name) <= REMEMBERED_BYTES:
        if len(_NAMES) >= REMEMBERED_LINES:
            _NAMES.clear()
        _NAMES[name] = known
    return known


def _why_no_field_line(line: bytes, name: bytes, colon: bytes) -> str:
    if line[:1] in (b" ", b"\t"):
        return "a field line begins with white space (obs-fold, RFC 9112 section 5.2)"
    if not colon:
        return "a field line has no colon, or there is a bare CR or LF (RFC 9112 section 5)"
    if not name:
        return "a field line has no name before its colon (RFC 9112 section 5)"
    if name[-1:] in (b" ", b"\t"):
        return f"there is white space between the field name {quoted(name)} and the colon (RFC 9112 section 5.1)"
    return f"not a field name: {quoted(name)} (RFC 9110 section 5.1)"


def _meaning(kind: int, field: Field) -> Entry:
    value = field[1]
    if kind == HOST:
        return kind, field, int(is_authority(value)), _NOTHING
    if kind == CONTENT_LENGTH:
        if is_length(value) is None:
            raise Malformed("Content-Length is not one plain number of at most 19 digits (RFC 9110 section 8.6)", BadFraming)
        return kind, field, int(value), _NOTHING
    if kind == TRANSFER_ENCODING:
        _check_coding(value)
    elif kind == CONNECTION:
        return _connection(field)
    elif kind == UPGRADE:
        protocol = value.partition(b",")[0].strip(b" \t").lower()
        name, slash, version = protocol.partition(b"/")
        if is_token(name) is None or (slash and is_token(version) is None):
            raise Malformed("the value of Upgrade is not a protocol (RFC 9110 section 7.8)")
        return kind, field, 0, frozenset((protocol,))
    elif kind == TE:
        return _te(field)
    elif kind == EXPECT:
        return kind, field, int(value.lower() == b"100-continue"), _NOTHING
    return kind, field, 0, _NOTHING


def _check_coding(value: bytes) -> None:
    """Nothing but one `chunked`. We decode no other coding, and cannot forward what we do not decode (RFC 9112, section 6.1)."""
    codings = [each.strip(b" \t").lower() for each in value.split(b",")]
    if codings == [b"chunked"]:
        return
    if not all(is_token(each) for each in codings):
        raise Malformed("the value of Transfer-Encoding is not a list of codings (RFC 9112 section 6.1)", BadFraming)
    if b"chunked" in codings[:-1]:
        raise Malformed("chunked is not the last transfer coding, or is there twice (RFC 9112 section 6.1)", BadFraming)
    raise Malformed("a transfer coding other than chunked", UnknownTransferCoding)


def _connection(field: Field) -> Entry:
    options = 0
    names = set()
    for each in field[1].split(b","):
        option = each.strip(b" \t").lower()
        if not option:  # empty elements of a list are allowed (RFC 9110, section 5.6.1.2)
            continue
        if is_token(option) is None:
            raise Malformed("the value of Connection is not a list of options (RFC 9110 section 7.6.1)")
        bit = _OPTIONS.get(option)
        if bit is not None:
            options |= bit
        elif option not in _HOP_BY_HOP:
            names.add(option)
    return CONNECTION, field, options, frozenset(names)


def _te(field: Field) -> Entry:
    """Only `trailers` is about the whole way; codings are between neighbours (RFC 9110, section 10.1.4)."""
    codings = [each.strip(b" \t").lower() for each in field[1].split(b",")]
    if b"trailers" not in codings:
        return DROPPED, field, 0, _NOTHING
    if len(codings) > 1:
        name = field[2].partition(b":")[0]
        field = (field[0], b"trailers", b"%b: trailers\r\n" % name)
    return TE, field, 0, _NOTHING


def _without_listed(fields: list[Field], listed: frozenset[bytes], protected: re.Pattern[bytes]) -> list[Field]:
    for name in listed:
        if protected.fullmatch(name):
            raise Malformed(f"Connection lists {quoted(name)}, which is for every recipient (RFC 9110 section 7.6.1)")
    return [each for each in fields if each[0] not in listed]
