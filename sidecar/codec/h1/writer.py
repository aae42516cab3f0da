"""The two writers of HTTP/1.1: messages in, bytes out, no I/O (RFC 9112, sections 6 and 7).

Each call appends to `out`, a list of byte strings that the caller joins or sends as they are; body chunks are appended as they came. The writers alone decide
the framing: fields about length or connection that filters left in a head are corrected or left out, so that no edit can split a message or join two. What
cannot be sent is raised before anything wrong is appended; the connection is of no more use then.
"""

from __future__ import annotations

from operator import itemgetter

from sidecar.codec.h1.framing import AS_IS, CHUNKED, IDENTITY, NOTHING, BodyWriter, request_line, status_line
from sidecar.codec.h1.grammar import CRLF, is_authority, is_token
from sidecar.errors import BadFraming, PluginFailed, SidecarError, UpstreamProtocolError
from sidecar.message import RequestHead, ResponseHead

# Fields that the codec owns: all others are forwarded without being looked at.
_OWNED = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"proxy-connection", b"upgrade", b"te"))
_OWNED_IN_ANSWERS = _OWNED - {b"host", b"te"}
# RFC 9110, section 8.6: methods whose requests say "no content" with Content-Length: 0.
_METHODS_WITH_CONTENT = frozenset((b"POST", b"PUT", b"PATCH"))
_name_of, _line_of = itemgetter(0), itemgetter(2)  # of a field
_METHODS_THAT_TELL = _METHODS_WITH_CONTENT | {b"CONNECT"}  # their heads need more than the fields, also without a body
_CHUNKED_LINE = b"Transfer-Encoding: chunked\r\n"
_EMPTY_LINE = b"Content-Length: 0\r\n"


class RequestWriter(BodyWriter):
    """What goes to one application: call `head`, then `data` and `end` unless the head says `end_stream`, and so on with the next request."""

    __slots__ = ()

    def head(self, head: RequestHead, out: list[bytes]) -> None:
        """Append a request's head, always HTTP/1.1 in origin, asterisk or authority form.

        Host is `head.authority`. Content-Length and Transfer-Encoding say what `head.content_length` and `head.end_stream` say. Raises `PluginFailed` when
        method, path, authority or upgrade are not what a request may have (the reader lets no such thing in), `BadFraming` when length and `end_stream`
        contradict each other.
        """
        length = head.content_length
        method = head.method
        authority = head.authority
        fields = head.headers.fields
        if head.end_stream and not length and head.upgrade is None and method not in _METHODS_THAT_TELL and fields:
            name, value, _ = fields[0]
            if name == b"host" and value == authority and _OWNED.isdisjoint(map(_name_of, fields[1:])):
                # The usual case: there is nothing to correct.
                self._mode = NOTHING
                out.append(request_line(method, head.path) + b"".join(map(_line_of, fields)) + CRLF)
                return
        lines = [request_line(method, authority if method == b"CONNECT" else head.path)]
        digits = b""
        if method == b"CONNECT":
            self._mode = NOTHING
        elif head.end_stream:
            if length:
                raise BadFraming(f"the request announces {length} octets but has no body")
            self._mode = NOTHING
            digits = b"0"
        elif length is None:
            self._mode = CHUNKED
        else:
            self._mode = IDENTITY
            self._left = length
            digits = b"%d" % length
        has_host = has_length = trailers_wanted = False
        for field in fields:
            name = field[0]
            if name not in _OWNED:
                lines.append(field[2])
            elif name == b"host":
                if not has_host and field[1] == authority:
                    has_host = True
                    lines.append(field[2])
            elif name == b"content-length":
                if not has_length and field[1] == digits:
                    has_length = True
                    lines.append(field[2])
            elif name == b"te":
                trailers_wanted = True
                lines.append(field[2])
        if not has_host:
            lines.insert(1, _host_line(authority))
        if self._mode == CHUNKED:
            lines.append(_CHUNKED_LINE)
        elif digits and not has_length and (self._mode == IDENTITY or method in _METHODS_WITH_CONTENT):
            lines.append(b"Content-Length: %b\r\n" % digits)
        if head.upgrade is not None:
            lines.append(_upgrade_lines(head.upgrade, trailers_wanted))
        elif trailers_wanted:
            lines.append(b"Connection: TE\r\n")  # RFC 9110, section 10.1.4
        lines.append(b"\r\n")
        out.append(b"".join(lines))

    def _mismatch(self, sentence: str) -> SidecarError:
        return BadFraming(f"the request has {sentence}")


class ResponseWriter(BodyWriter):
    """What goes to one client: `begin` for each exchange, then `informational` heads, `head`, `data` and `end`.

    `closes`: decided at `head`: the connection must be closed after this answer (or after the tunnel that it opens).
    Who sets it before `head` has the client told so.
    """

    __slots__ = ("_method", "_version", "closes")

    def __init__(self) -> None:
        super().__init__()
        self._method = b""
        self._version = 11
        self.closes = False

    def begin(self, request: RequestHead, keep_alive: bool) -> None:
        """The next answer is for `request`; `keep_alive`: both the client and we wish to use the connection again."""
        self._method = request.method
        self._version = request.version
        self.closes = not keep_alive
        self._mode = NOTHING

    def informational(self, head: ResponseHead, out: list[bytes]) -> None:
        """Append a 1xx head (not 101); nothing for an HTTP/1.0 client, which would take it for the answer (RFC 9110, section 15.2)."""
        if self._version == 10:
            return
        lines = [status_line(head.status, head.reason)]
        lines.extend(field[2] for field in head.headers.fields if field[0] not in _OWNED_IN_ANSWERS)
        lines.append(b"\r\n")
        out.append(b"".join(lines))

    def head(self, head: ResponseHead, out: list[bytes]) -> None:
        """Append the final head (or a 101), always HTTP/1.1, with the framing that fits the client and the method (RFC 9112, section 6.3).

        What `data` is given for an answer without a body (to HEAD, 204, 304) is not sent. Raises `UpstreamProtocolError` when length and `end_stream`
        contradict each other, `PluginFailed` when the reason is not one.
        """
        status = head.status
        length = head.content_length
        known = head.known
        if known is not None:
            shape = (status, head.reason, length, head.end_stream, self._method, self._version, self.closes)
            if known.shape == shape and known == head.headers.fields:
                self._mode = known.mode
                self._left = length or 0
                out.append(known.written)
                return
        lines = [status_line(status, head.reason)]
        digits = b""
        keeps_length = False
        if status == 101 or (self._method == b"CONNECT" and status < 300):
            self._mode = NOTHING
            self.closes = True
        elif status == 304 or self._method == b"HEAD":
            self._mode = NOTHING
            keeps_length = True
        elif status == 204:
            self._mode = NOTHING
        elif length is not None:
            if head.end_stream and length:
                raise self._mismatch(f"an announced length of {length} octets but no body")
            self._mode = IDENTITY
            self._left = length
            digits = b"%d" % length
        elif head.end_stream:
            self._mode = NOTHING
            digits = b"0"
        elif self._version == 10:
            self._mode = AS_IS
            self.closes = True
        else:
            self._mode = CHUNKED
        has_length = False
        for field in head.headers.fields:
            name = field[0]
            if name not in _OWNED_IN_ANSWERS:
                lines.append(field[2])
            elif name == b"content-length" and not has_length and (keeps_length or field[1] == digits):
                has_length = True
                lines.append(field[2])
        if digits and not has_length:
            lines.append(_EMPTY_LINE if digits == b"0" else b"Content-Length: %b\r\n" % digits)
        elif self._mode == CHUNKED:
            lines.append(_CHUNKED_LINE)
        if status == 101:
            lines.append(_upgrade_lines(head.upgrade or b"", False))
        elif not self.closes:
            if self._version == 10:
                lines.append(b"Connection: keep-alive\r\n")
        elif self._method != b"CONNECT" or status >= 300:
            lines.append(b"Connection: close\r\n")
        lines.append(b"\r\n")
        written = b"".join(lines)
        out.append(written)
        if known is not None and (self._mode == IDENTITY or self._mode == CHUNKED) and known == head.headers.fields:
            known.shape, known.written, known.mode = shape, written, self._mode

    def _mismatch(self, sentence: str) -> SidecarError:
        self.closes = True
        return UpstreamProtocolError(f"the answer has {sentence}")


def _host_line(authority: bytes) -> bytes:
    # RFC 9112, section 3.2: Host is sent even when there is nothing to say (an HTTP/1.0 client sent none).
    if authority and not is_authority(authority):
        raise PluginFailed("the request's authority is not host[:port] any more after the filters")
    return b"Host: %b\r\n" % authority


def _upgrade_lines(protocol: bytes, trailers_wanted: bool) -> bytes:
    name, slash, version = protocol.partition(b"/")
    if is_token(name) is None or (slash and is_token(version) is None):
        raise PluginFailed("the protocol to upgrade to is not one")
    options = b"upgrade, http2-settings" if protocol == b"h2c" else b"upgrade"
    return b"Connection: %b\r\nUpgrade: %b\r\n" % (options + b", TE" if trailers_wanted else options, protocol)
