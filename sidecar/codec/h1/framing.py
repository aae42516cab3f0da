"""How bodies go out, for requests and responses alike, and the first lines of heads, checked when they are made for the first time."""

from __future__ import annotations

import re
from http import HTTPStatus

from sidecar.codec.h1.fields import may_be_trailer
from sidecar.codec.h1.grammar import CRLF, REMEMBERED_BYTES, REMEMBERED_LINES, is_authority, is_token
from sidecar.errors import PluginFailed, SidecarError
from sidecar.headers import Headers

# What becomes of body chunks: nothing is sent; counted against Content-Length; chunked; as they are.
NOTHING, IDENTITY, CHUNKED, AS_IS = range(4)

_is_target = re.compile(rb"/[!\"$-~]*|\*").fullmatch
_is_reason = re.compile(rb"[\t -~\x80-\xff]*").fullmatch

_REQUEST_LINES: dict[tuple[bytes, bytes], bytes] = {}
_STATUS_LINES: dict[tuple[int, bytes], bytes] = {}


class BodyWriter:
    """The body of one message after another."""

    __slots__ = ("_left", "_mode")

    def __init__(self) -> None:
        self._mode = NOTHING
        self._left = 0

    @property
    def is_close_delimited(self) -> bool:
        """Is the end of the connection the only end of the body (or tunnel)?"""
        return self._mode == AS_IS

    def data(self, chunk: bytes, out: list[bytes]) -> None:
        """Append a piece of the body: as one chunk when chunked (an empty one is left out: it would end the body), else as it is.

        Raises `BadFraming` (requests) or `UpstreamProtocolError` (responses), with nothing appended, when there is more than Content-Length announced.
        """
        mode = self._mode
        if mode == IDENTITY:
            left = self._left - len(chunk)
            if left < 0:
                raise self._mismatch("more octets than its Content-Length")
            self._left = left
            out.append(chunk)
        elif mode == CHUNKED:
            if chunk:
                out += (b"%x\r\n" % len(chunk), chunk, CRLF)
        elif mode == AS_IS:
            out.append(chunk)

    def end(self, trailers: Headers | None, out: list[bytes]) -> None:
        """Append what ends the body. Trailers go out only when chunked (RFC 9110, section 6.5.1, lets them be dropped otherwise), and without fields that
        must not be trailers.

        Raises as `data` does when there was less than Content-Length announced.
        """
        mode = self._mode
        self._mode = NOTHING
        if mode == CHUNKED:
            if trailers is None or not trailers.fields:
                out.append(b"0\r\n\r\n")
            else:
                out.append(b"0\r\n%b\r\n" % b"".join([field[2] for field in trailers.fields if may_be_trailer(field[0])]))
        elif mode == IDENTITY and self._left:
            raise self._mismatch(f"{self._left} octets less than its Content-Length")

    def open_tunnel(self) -> None:
        """From now on `data` goes out as it is, and `end` appends nothing."""
        self._mode = AS_IS

    def _mismatch(self, sentence: str) -> SidecarError:
        """The error for a body that is not as long as announced."""
        raise NotImplementedError


def request_line(method: bytes, target: bytes) -> bytes:
    """The line with its CRLF. Raises `PluginFailed` for a method or target that would not be read as one: a filter or rewrite made it."""
    line = _REQUEST_LINES.get((method, target))
    if line is None:
        if not (isinstance(method, bytes) and isinstance(target, bytes)) or is_token(method) is None or not _fits(method, target):
            raise PluginFailed("the request's method or path is not one any more after the filters")
        line = b"%b %b HTTP/1.1\r\n" % (method, target)
        if len(line) <= REMEMBERED_BYTES and b"?" not in target:
            if len(_REQUEST_LINES) >= REMEMBERED_LINES:
                _REQUEST_LINES.clear()
            _REQUEST_LINES[method, target] = line
    return line


def _fits(method: bytes, target: bytes) -> bool:
    return bool(is_authority(target, port_required=True) if method == b"CONNECT" else _is_target(target))


def status_line(status: int, reason: bytes) -> bytes:
    """The line with its CRLF; the usual phrase when `reason` is empty. Raises `PluginFailed` for a status or reason that would not be read as one."""
    line = _STATUS_LINES.get((status, reason))
    if line is None:
        if not (isinstance(status, int) and isinstance(reason, bytes)) or not 100 <= status <= 999 or _is_reason(reason) is None:
            raise PluginFailed("the answer's status or reason is not one any more after the filters")
        line = b"HTTP/1.1 %d %b\r\n" % (status, reason or _phrase(status))
        if len(line) <= REMEMBERED_BYTES:
            if len(_STATUS_LINES) >= REMEMBERED_LINES:
                _STATUS_LINES.clear()
            _STATUS_LINES[status, reason] = line
    return line


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""
