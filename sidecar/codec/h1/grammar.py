"""The grammar of request lines, status lines, authorities and field lines (RFC 9112, RFC 9110 section 5, RFC 3986), read strictly.

Each function takes whole bytes without line ends and gives a checked value or raises `Malformed`. Where the RFCs let a recipient be lenient, this does not:
whatever two implementations may read differently is refused. The connections of one process say the same lines again and again, so checked lines are
remembered in bounded dictionaries (see `sidecar.codec.h1.fields` for those of fields); what may hold a secret is never remembered.
"""

from __future__ import annotations

import ipaddress
import re

from sidecar.errors import BadHost, DownstreamError, VersionNotSupported

CRLF = b"\r\n"
END_OF_HEAD = b"\r\n\r\n"

# Entries of each dictionary of remembered lines. A sidecar sees some hundred different ones between two rotations of ids and dates; at most 1 MiB with
# `REMEMBERED_BYTES`. A full one is cleared, so nobody can make it grow.
REMEMBERED_LINES = 1024
# Octets of the longest line remembered: longer ones are cookies, tokens and other things that do not come again.
REMEMBERED_BYTES = 256
# Octets of a host name (RFC 1035, section 2.3.4).
HOST_BYTES = 255

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
is_token = re.compile(_TOKEN).fullmatch
# RFC 9112, section 3: exactly one space between the parts. The target is visible ASCII without "#": a fragment never travels, and ends that do not agree on
# where a path ends (at "#"?) route and authorize differently. Octets from 0x80 have no meaning in a URI (RFC 3986, section 2).
_REQUEST_LINE = re.compile(rb"(%b) ([!\"$-~]+) HTTP/([0-9])\.([0-9])" % _TOKEN)
_ABSOLUTE = re.compile(rb"(https?)://([^/?]*)(.*)", re.IGNORECASE)
# RFC 9112, section 4. The space before an empty reason is missing from many servers' lines: there is only one way to read that.
_STATUS_LINE = re.compile(rb"HTTP/([0-9])\.([0-9]) ([1-9][0-9][0-9])(?: ([\t -~\x80-\xff]*))?")
# RFC 3986, section 3.2.2, less what no DNS name has: sub-delims ("," joins two Host fields into one) and percent-encoding (decoded by one end only).
_AUTHORITY = re.compile(rb"(?:([A-Za-z0-9\-._~]+)|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{1,5}))?")
# What may begin a request line.
is_method_start = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz").__contains__

# (method, path, authority of the target or None, scheme of the target or None, version 10 or 11)
RequestLine = tuple[bytes, bytes, bytes | None, bytes | None, int]
# (status, reason, version 10 or 11)
StatusLine = tuple[int, bytes, int]

REQUEST_LINES: dict[bytes, RequestLine] = {}
STATUS_LINES: dict[bytes, StatusLine] = {}


class Malformed(Exception):
    """The bytes break the rules. `error`: the class that says so when a client sent them (from an application it is always `UpstreamProtocolError`)."""

    def __init__(self, sentence: str, error: type[DownstreamError] = DownstreamError) -> None:
        super().__init__(sentence)
        self.error = error


def quoted(name: bytes) -> str:
    """A short readable form of untrusted octets, for sentences. Only for names, never for values: these may be secrets."""
    return repr(name[:64])[1:]


def is_authority(value: bytes, port_required: bool = False) -> bool:
    """Is this `host[:port]`: a DNS name, an IPv4 or a bracketed IPv6 address, and a port up to 65535? No user information, nothing percent-encoded."""
    match = _AUTHORITY.fullmatch(value)
    if match is None:
        return False
    name, ipv6, port = match.groups()
    if port is None:
        if port_required:
            return False
    elif int(port) > 65535:
        return False
    if ipv6 is None:
        return len(name) <= HOST_BYTES
    try:
        ipaddress.IPv6Address(ipv6.decode("ascii"))
    except ValueError:
        return False
    return True


def read_request_line(line: bytes) -> RequestLine:
    """The parts of a request line (RFC 9112, section 3); the dictionary `REQUEST_LINES` may know it then. Raises `Malformed` with the class that fits."""
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise Malformed(_why_no_request_line(line))
    method, target, major, minor = match.groups()
    if method == b"PRI" and target == b"*":
        raise Malformed("these are the first bytes of HTTP/2, but this port speaks HTTP/1.1 in the clear")
    version = _version(major, minor)
    if method == b"CONNECT":
        parts = _connect(target, version)
    elif target.startswith(b"/"):
        parts = (method, target, None, None, version)
    elif target == b"*":
        if method != b"OPTIONS":
            raise Malformed("the target * is for OPTIONS alone (RFC 9112 section 3.2.4)")
        parts = (method, target, None, None, version)
    else:
        parts = _absolute(method, target, version)
    # Queries hold secrets now and then, and seldom come twice.
    if len(line) <= REMEMBERED_BYTES and b"?" not in target:
        if len(REQUEST_LINES) >= REMEMBERED_LINES:
            REQUEST_LINES.clear()
        REQUEST_LINES[line] = parts
    return parts


def read_status_line(line: bytes) -> StatusLine:
    """The parts of a status line (RFC 9112, section 4); the dictionary `STATUS_LINES` may know it then. Raises `Malformed`."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise Malformed("the answer does not begin with a status line of HTTP/1.1")
    major, minor, status, reason = match.groups()
    parts = (int(status), reason or b"", _version(major, minor))
    if len(line) <= REMEMBERED_BYTES:
        if len(STATUS_LINES) >= REMEMBERED_LINES:
            STATUS_LINES.clear()
        STATUS_LINES[line] = parts
    return parts


def _version(major: bytes, minor: bytes) -> int:
    # A higher minor version is understood as our own (RFC 9110, section 2.5).
    if major == b"1":
        return 10 if minor == b"0" else 11
    if major == b"0":
        raise Malformed("HTTP/0.9 is not spoken here")
    raise Malformed(f"HTTP/{major.decode()}.{minor.decode()} is not spoken on this connection", VersionNotSupported)


def _connect(target: bytes, version: int) -> RequestLine:
    if not is_authority(target, port_required=True):
        raise Malformed("CONNECT needs host:port as its target (RFC 9112 section 3.2.3)")
    return b"CONNECT", b"", target, None, version


def _absolute(method: bytes, target: bytes, version: int) -> RequestLine:
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise Malformed("the target is neither a path nor an http or https URI (RFC 9112 section 3.2)")
    scheme, authority, path = match.groups()
    if b"@" in authority:
        raise Malformed("user information in a target is refused: it hides the host (RFC 9110 section 4.2.4)", BadHost)
    if not is_authority(authority):
        raise Malformed("the authority in the target is not host[:port]", BadHost)
    if not path.startswith(b"/"):
        # RFC 9112, section 3.2.4: an OPTIONS for the whole server leaves the last proxy as "*".
        path = b"*" if method == b"OPTIONS" and not path else b"/" + path
    return method, path, authority, scheme.lower(), version


def _why_no_request_line(line: bytes) -> str:
    if not line or not is_method_start(line[0]):
        return not_a_method(line)
    parts = line.split(b" ")
    if b"\n" in line or b"\r" in line:
        return "a bare CR or LF stands in the request line (RFC 9112 section 2.2)"
    if len(parts) == 2 and not parts[1].startswith(b"HTTP/"):
        return "HTTP/0.9 is not spoken here: the request line has no version"
    if len(parts) != 3:
        return "the request line is not `METHOD TARGET HTTP/1.1` with one space between (RFC 9112 section 3)"
    if is_token(parts[0]) is None:
        return "the method has characters that are not allowed (RFC 9110 section 9.1)"
    if b"#" in parts[1]:
        return "a fragment (#) does not belong into a request target"
    if not parts[2].startswith(b"HTTP/") or len(parts[2]) != 8:
        return "the request line does not end with HTTP/1.1 or HTTP/1.0"
    return "the target has characters that are not allowed (RFC 9112 section 3.2)"


def not_a_method(start: bytes) -> str:
    """A sentence about a connection whose first octets cannot begin a request; it says so when they are TLS."""
    if start[:1] == b"\x16":
        return "these are the first bytes of TLS (a ClientHello), but this port speaks HTTP in the clear"
    return "this does not begin like an HTTP request"
