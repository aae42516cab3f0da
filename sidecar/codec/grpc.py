"""What of gRPC a proxy has to understand: who speaks it, how a call ended, where messages begin; and gRPC-Web's other spelling of the same.

Sources: "gRPC over HTTP2" (PROTOCOL-HTTP2.md), "gRPC Web" (PROTOCOL-WEB.md), "HTTP to gRPC Status Code Mapping", all in github.com/grpc/grpc/doc.
Between gRPC's statuses and HTTP's this maps as Envoy does, so that detectors and dashboards made for HTTP see the same.
"""

from __future__ import annotations

from binascii import Error as Base64Error, a2b_base64
from struct import Struct

import msgspec

from sidecar.headers import Headers

CONTENT_TYPE = b"application/grpc"
WEB = b"application/grpc-web"
WEB_TEXT = b"application/grpc-web-text"

OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED = range(9)
FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, UNAUTHENTICATED = range(9, 17)

# By gRPC status; Envoy: Grpc::Utility::grpcToHttpStatus.
_HTTP_STATUSES = (200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401)
# "HTTP to gRPC Status Code Mapping"; what is not in it is UNKNOWN.
_STATUSES = {400: INTERNAL, 401: UNAUTHENTICATED, 403: PERMISSION_DENIED, 404: UNIMPLEMENTED, **dict.fromkeys((429, 502, 503, 504), UNAVAILABLE)}

PREFIX_OCTETS = 5  # a flag, and the message's length in four octets
read_length = Struct(">xI").unpack_from  # of a whole prefix: (octets of the message,)
TRAILERS_FLAG = 0x80  # gRPC-Web: what follows is no message but the trailers


def is_content_type(value: bytes | None) -> bool:
    """Does this content-type say gRPC (and not gRPC-Web)?"""
    return value is not None and value.startswith(CONTENT_TYPE) and value[16:17] in (b"", b"+", b";")


def http_status(status: int) -> int:
    """The HTTP status that says nearest the same: what counts as failure for a call counts as one for detectors."""
    return _HTTP_STATUSES[status] if 0 <= status < len(_HTTP_STATUSES) else 500


def from_http_status(status: int) -> int:
    """The gRPC status of an answer that is none of gRPC's, by its HTTP status."""
    return OK if status == 200 else _STATUSES.get(status, UNKNOWN)


def status_in(fields: Headers | None) -> int | None:
    """`grpc-status` of trailers, or of a head that is the whole answer. None when there is none; UNKNOWN for what is no status."""
    value = None if fields is None else fields.get(b"grpc-status")
    if value is None:
        return None
    return int(value) if value.isdigit() and len(value) < 4 else UNKNOWN


def percent(text: str) -> bytes:
    """Percent-Encoded, for `grpc-message`: printable ASCII but "%" stays."""
    return b"".join(b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in text.encode()).strip()


class MessageCounter(msgspec.Struct, eq=False, gc=False):
    """Counts the length-prefixed messages of one direction while they pass, by looking at their prefixes alone. `count`: messages begun."""

    count: int = 0
    _left: int = 0  # octets of the message that are still to come
    _prefix: bytes = b""  # what is here of a prefix that was cut

    @property
    def is_between(self) -> bool:
        """Is there no message that is begun and not complete?"""
        return not self._left and not self._prefix

    def feed(self, chunk: bytes) -> None:
        """These octets pass. Nothing is kept but a prefix that is cut in two."""
        size = len(chunk)
        position = self._left
        if position > size:
            self._left = position - size
            return
        if self._prefix:
            missing = PREFIX_OCTETS - len(self._prefix)
            if size < missing:
                self._prefix += chunk
                return
            position = missing + int.from_bytes((self._prefix + chunk[:missing])[1:], "big")
            self._prefix = b""
            self.count += 1
        while position + PREFIX_OCTETS <= size:
            position += PREFIX_OCTETS + int.from_bytes(chunk[position + 1 : position + PREFIX_OCTETS], "big")
            self.count += 1
        if position < size:
            self._prefix = bytes(chunk[position:])
            self._left = 0
        else:
            self._left = position - size

    def __repr__(self) -> str:
        return f"<MessageCounter {self.count}>"


# -- gRPC-Web ------------------------------------------------------------------------------------------------------------------------------------


def trailers_frame(trailers: Headers) -> bytes:
    """The trailers as gRPC-Web has them, behind the last message: as lines of HTTP/1.1, names in lower case."""
    block = b"".join(b"%b: %b\r\n" % (name, value) for name, value, _ in trailers.fields)
    return b"%c%b%b" % (TRAILERS_FLAG, len(block).to_bytes(4, "big"), block)


class Base64Reader:
    """The octets behind gRPC-Web's text: base64 by pieces, each piece perhaps padded (PROTOCOL-WEB.md), cut anywhere."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    @property
    def is_whole(self) -> bool:
        """Is there nothing left of a group of four?"""
        return not self._held

    def read(self, chunk: bytes) -> bytes:
        """What `chunk` completes. Raises `ValueError` for what is no base64."""
        data = self._held + chunk if self._held else chunk
        end = len(data) & ~3
        self._held = bytes(data[end:])
        out = []
        start = 0
        while start < end:
            # A piece ends with the group that has its padding; what follows is the next piece.
            padding = data.find(b"=", start, end)
            stop = end if padding < 0 else (padding & ~3) + 4
            try:
                out.append(a2b_base64(data[start:stop], strict_mode=True))
            except Base64Error as problem:
                raise ValueError(f"no base64: {problem}") from None
            start = stop
        return out[0] if len(out) == 1 else b"".join(out)

    def __repr__(self) -> str:
        return f"<Base64Reader {self._held!r}>"
