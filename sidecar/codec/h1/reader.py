"""The two readers of HTTP/1.1: bytes in, events out, no I/O (RFC 9112).

Both stop at the end of the message that they read: `RequestReader` until the exchange is over and `next_message` is called, `ResponseReader` until `expect`
says which request comes next. What breaks the rules is the last item of a result, an instance of a class of `sidecar.errors`, never raised; the reader is
dead then and gives nothing more.
"""

from __future__ import annotations

from sidecar.codec.h1.fields import CLOSE, KEEP_ALIVE, PROTECTED_IN_REQUESTS, PROTECTED_IN_RESPONSES, FieldsRead
from sidecar.codec.h1.grammar import (
    CRLF,
    REQUEST_LINES,
    STATUS_LINES,
    Malformed,
    RequestLine,
    is_method_start,
    not_a_method,
    read_request_line,
    read_status_line,
)
from sidecar.codec.h1.reading import CHUNKED, COMPLETE, DEAD, HEAD, LENGTH, TUNNEL, UNTIL_CLOSE, MessageReader
from sidecar.codec.h1.request import request_head
from sidecar.codec.h1.response import BY_CHUNKS, BY_CLOSE, BY_LENGTH, IN_TUNNEL, response_head
from sidecar.codec.known import KnownFields
from sidecar.errors import DownstreamClosed, SidecarError, UpstreamClosed, UpstreamProtocolError
from sidecar.headers import Headers
from sidecar.message import END, RequestEvent, RequestHead, ResponseEvent, ResponseHead

# Empty lines before a request line that are skipped (RFC 9112, section 2.2: old clients send one after a body). More are somebody keeping a connection open
# for nothing.
BLANK_LINES = 4
# Octets: smaller pieces of later requests are joined, up to the second number. An object for every two octets would take twenty times the memory that
# the caller counts.
SMALL_PIECE, JOINED_PIECE = 512, 4096
_NO_LINE: RequestLine = (b"", b"", None, None, 11)
# Informational answers before a final one: 100, 102 now and then, 103 once or twice.
INFORMATIONAL_HEADS = 16


class RequestReader(MessageReader):
    """What one client sends. `head_bytes`: octets of a head up to and with its empty line, and of trailers; `head_fields`: how many fields either may have.
    `scheme`: how the connection was made (b"http" or b"https").

    `keep_alive`: after a head, whether the connection may be used again as far as this request says.
    """

    __slots__ = ("_blank_lines", "_ended", "_is_plain", "_later", "_later_at", "_later_bytes", "_scheme", "_usual", "_usual_line")

    _protected = PROTECTED_IN_REQUESTS

    def __init__(self, head_bytes: int, head_fields: int, scheme: bytes = b"http") -> None:
        super().__init__(head_bytes, head_fields)
        self._scheme = scheme
        self._blank_lines = 0
        self._is_plain = False  # the fields in `_known` say nothing but the host
        # A whole head of that kind, when it came twice, and its first line.
        self._usual = b""
        self._usual_line: RequestLine = _NO_LINE
        self._ended = False
        # What came behind the current message: pieces as read, the first one from `_later_at` on.
        self._later: list[bytes] = []
        self._later_at = 0
        self._later_bytes = 0

    def __repr__(self) -> str:
        return f"<RequestReader {_STATE_NAMES[self._state]} buffered={self.buffered}>"

    @property
    def buffered(self) -> int:
        """Octets held that belong to later messages or to an unfinished head."""
        return self._later_bytes + len(self._held)

    @property
    def at_message_start(self) -> bool:
        """Has nothing of a message arrived yet (an idle connection, not a slow client)?"""
        return self._state == HEAD and not self._held

    def receive(self, data: bytes) -> list[RequestEvent | SidecarError]:
        """The events in what the client sent, up to the end of the current message; what is behind it is kept for `next_message` or `open_tunnel`.

        `data`: bytes as read, of any length. Body octets are handed on as they came, in slices of `data`. The caller bounds what is kept: it looks at
        `buffered` and stops reading.
        """
        if not data:
            return []
        state = self._state
        if state == HEAD:
            if self._held:
                return self._continue(data)
            # The usual cases first: the very head of the message before, or a whole head with its fields. (Slices are compared because that is cheaper than
            # any method that takes a position.)
            usual = self._usual
            if usual and data[: len(usual)] == usual:
                return [self._bare_head(self._usual_line, data, len(usual))]
            tail = self._known_tail
            line_end = data.find(CRLF, 0, self._head_bytes)
            if line_end > 0 and data.startswith(tail, line_end):
                after = line_end + len(tail)
                if after <= self._head_bytes:
                    return self._read_head(data[:line_end], None, data, after)
            return self._start(data, 0)
        if state in (LENGTH, CHUNKED):
            return self._read_body(data, 0, [])
        if state == COMPLETE:
            later = self._later
            if later and len(data) < SMALL_PIECE and len(later[-1]) < JOINED_PIECE:
                later[-1] += data
            else:
                later.append(data)
            self._later_bytes += len(data)
        return []

    def next_message(self) -> list[RequestEvent | SidecarError]:
        """The exchange is over: the events of the next message, as far as it is here. To be called only after a complete message."""
        assert self._state in (COMPLETE, DEAD), self
        if self._state == DEAD:
            return []
        self._state = HEAD
        later = self._later
        if not later:
            return []
        data, position = self._take_later()
        events = self._start(data, position)
        if self._ended and (self._held or self._state in (LENGTH, CHUNKED)):
            events.append(self._close())
        return events

    def begin_idle(self) -> bool:
        """As `next_message` when nothing of the next message is here, which it usually is not; else False, and nothing is done."""
        if self._state != COMPLETE or self._later:
            return False
        self._state = HEAD
        return True

    def receive_eof(self) -> list[RequestEvent | SidecarError]:
        """The client ended its sending side: nothing if that was between two messages (also while an exchange goes on), else `DownstreamClosed`."""
        self._ended = True
        if self._state in (LENGTH, CHUNKED) or (self._state == HEAD and self._held):
            return [self._close()]
        return []

    def open_tunnel(self) -> bytes:
        """From now on the connection is not HTTP; the octets that came behind the request. To be called when the request is complete; `receive` gives nothing
        any more."""
        self._state = TUNNEL
        data, position = self._take_later()
        return data[position:]

    def _take_later(self) -> tuple[bytes, int]:
        later = self._later
        data = later[0] if len(later) == 1 else b"".join(later)
        position = self._later_at
        later.clear()
        self._later_at = self._later_bytes = 0
        return data, position

    def _start(self, data: bytes, position: int) -> list[RequestEvent | SidecarError]:
        if data[position] == 13:
            return self._skip_blank_lines(data, position)
        return super()._start(data, position)

    def _continue(self, data: bytes) -> list[RequestEvent | SidecarError]:
        if self._held[0] == 13:  # half of an empty line
            self._held.clear()
            return self._start(b"\r" + data, 0)
        return super()._continue(data)

    def _skip_blank_lines(self, data: bytes, position: int) -> list[RequestEvent | SidecarError]:
        while data.startswith(CRLF, position):
            position += 2
            self._blank_lines += 1
            if self._blank_lines > BLANK_LINES:
                return [self._fail(Malformed(f"more than {BLANK_LINES} empty lines stand before the request line (RFC 9112 section 2.2)"))]
        if position == len(data):
            return []
        if data.endswith(b"\r") and position == len(data) - 1:
            self._held += b"\r"
            return []
        return super()._start(data, position)

    def _read_head(self, line: bytes, block: bytes | None, data: bytes, after: int) -> list[RequestEvent | SidecarError]:
        try:
            parts = REQUEST_LINES.get(line) or read_request_line(line)
            if block is None and self._is_plain and parts[2] is None and parts[4] == 11:
                if line in REQUEST_LINES:
                    self._usual, self._usual_line = line + self._known_tail, parts
                return [self._bare_head(parts, data, after)]
            read = self._known if block is None else self._read_fields(block)
            head = request_head(parts, read, self._scheme)
        except Malformed as problem:
            return [self._fail(problem)]
        self._blank_lines = 0
        options = read[4]
        self.keep_alive = not options & CLOSE and (head.version == 11 or options & KEEP_ALIVE != 0)
        if head.end_stream:
            self._complete(data, after)
            return [head]
        length = head.content_length
        if length is None:
            self._begin_chunks()
        else:
            self._left = length
            self._state = LENGTH
        if after == len(data):
            return [head]
        return self._read_body(data, after, [head])

    def _bare_head(self, parts: RequestLine, data: bytes, after: int) -> RequestHead:
        """What `request_head` makes of fields that say nothing but the host, for HTTP/1.1 and a target in origin-form."""
        self._blank_lines = 0
        self.keep_alive = True
        self._state = COMPLETE
        if after < len(data):
            self._complete(data, after)
        known = self._known
        return RequestHead(parts[0], parts[1], known[1] or b"", Headers(known[0].copy()), 11, self._scheme, 0, True, None, False, known[0])

    def _read_fields(self, block: bytes) -> FieldsRead:
        read = super()._read_fields(block)
        _, host, length, chunked, options, upgrade, expects_continue, _ = self._known
        self._usual = b""
        self._is_plain = host is not None and length < 0 and not chunked and options in (0, KEEP_ALIVE) and upgrade is None and not expects_continue
        return read

    def _complete(self, data: bytes, position: int) -> None:
        self._state = COMPLETE
        if position < len(data):
            self._later.append(data)
            self._later_at = position
            self._later_bytes = len(data) - position

    def _check_octet(self, octets: bytes) -> None:
        if not is_method_start(octets[0]):
            raise Malformed(not_a_method(octets))

    def _check_line(self, line: bytes) -> None:
        if line not in REQUEST_LINES:
            read_request_line(line)

    def _failure(self, problem: Malformed) -> SidecarError:
        return problem.error(str(problem))

    def _close(self) -> SidecarError:
        where = "head" if self._state == HEAD else "body"
        self._state = DEAD
        self.keep_alive = False
        self._held.clear()
        return DownstreamClosed(f"the client ended its side in the middle of a request's {where}")


class ResponseReader(MessageReader):
    """What one application answers. Limits as for `RequestReader`.

    `finished`: the answer to the last `expect` is complete. `keep_alive`: when finished, whether the connection may carry another request; false as soon as
    there are octets that answer nothing: they would be taken for the answer to the next request.
    """

    __slots__ = ("_informational", "_method", "_tunnelled", "_usual", "_usual_answer", "finished")

    _protected = PROTECTED_IN_RESPONSES

    def __init__(self, head_bytes: int, head_fields: int) -> None:
        super().__init__(head_bytes, head_fields)
        self._method = b""
        self._state = COMPLETE
        self._informational = 0
        # The whole head of an answer with the fields in `_known`, a counted body and nothing unusual; and (method asked, status, reason, length).
        self._usual = b""
        self._usual_answer = (b"", 0, b"", 0)
        self._tunnelled: list[bytes] = []
        self.finished = True
        self.keep_alive = True

    def __repr__(self) -> str:
        return f"<ResponseReader {_STATE_NAMES[self._state]} to {self._method!r} keep_alive={self.keep_alive}>"

    def expect(self, method: bytes) -> None:
        """The next octets answer a request with this method (RFC 9112, section 6.3: HEAD and CONNECT change how an answer ends). Call it before `receive`,
        once for each request, and only when the answer before is finished and `keep_alive` is true."""
        assert self._state == COMPLETE and self.keep_alive, self
        self._method = method
        self._state = HEAD
        self._informational = 0
        self.finished = False

    def receive(self, data: bytes) -> list[ResponseEvent | SidecarError]:
        """The events in what the application sent, up to the end of the expected answer: informational heads, the final one, body, `End`. `data`: bytes as
        read, of any length."""
        if not data:
            return []
        state = self._state
        if state == HEAD:
            if self._held:
                return self._continue(data)
            # The usual cases first: the very head of the answer before, or a whole head with its fields.
            usual = self._usual
            if usual and data[: len(usual)] == usual and self._usual_answer[0] == self._method:
                return self._read_usual(data, len(usual))
            tail = self._known_tail
            line_end = data.find(CRLF, 0, self._head_bytes)
            if line_end > 0 and data.startswith(tail, line_end):
                after = line_end + len(tail)
                if after <= self._head_bytes:
                    return self._read_head(data[:line_end], None, data, after)
            return self._start(data, 0)
        if LENGTH <= state <= UNTIL_CLOSE:
            return self._read_body(data, 0, [])
        if state == COMPLETE:
            self.keep_alive = False
        elif state == TUNNEL:
            self._tunnelled.append(data)
        return []

    def receive_eof(self) -> list[ResponseEvent | SidecarError]:
        """The application ended its sending side: the `End` of a body that ends so, nothing when no answer is awaited or a tunnel is open, else
        `UpstreamClosed`."""
        state = self._state
        self.keep_alive = False
        if state == UNTIL_CLOSE:
            self._state = COMPLETE
            self.finished = True
            return [END]
        if state == HEAD:
            self._state = DEAD
            if self._held or self._informational:
                return [UpstreamClosed("the application closed the connection in the middle of its answer's head")]
            return [UpstreamClosed("the application closed the connection without an answer")]
        if state in (LENGTH, CHUNKED):
            self._state = DEAD
            return [UpstreamClosed("the application closed the connection in the middle of its answer's body")]
        return []

    def open_tunnel(self) -> bytes:
        """From now on the connection is not HTTP; the octets that came behind the 101, or the 2xx to CONNECT. `receive` need not be called any more."""
        data = b"".join(self._tunnelled)
        self._tunnelled.clear()
        return data

    def _read_head(self, line: bytes, block: bytes | None, data: bytes, after: int) -> list[ResponseEvent | SidecarError]:
        try:
            parts = STATUS_LINES.get(line) or read_status_line(line)
            read = self._known if block is None else self._read_fields(block)
            head, ending, persistent = response_head(parts, read, self._method)
            if head.is_informational:
                return self._read_informational(head, data, after)
        except Malformed as problem:
            return [self._fail(problem)]
        self.keep_alive = persistent
        if ending == BY_LENGTH:
            assert head.content_length is not None
            self._left = head.content_length
            self._state = LENGTH
            if persistent and head.version == 11 and read[0].__class__ is KnownFields and line in STATUS_LINES:
                head.known = read[0]
                self._usual = line + self._known_tail
                self._usual_answer = (self._method, head.status, head.reason, head.content_length)
        elif ending == BY_CHUNKS:
            self._begin_chunks()
        elif ending == BY_CLOSE:
            self._state = UNTIL_CLOSE
        elif ending == IN_TUNNEL:
            self._state = TUNNEL
            if after < len(data):
                self._tunnelled.append(data[after:])
            return [head]
        else:
            self._complete(data, after)
            return [head]
        if after == len(data):
            return [head]
        return self._read_body(data, after, [head])

    def _read_usual(self, data: bytes, after: int) -> list[ResponseEvent | SidecarError]:
        """The head of the answer before, to the same method."""
        _, status, reason, length = self._usual_answer
        known = self._known[0]
        head = ResponseHead(status, Headers(known.copy()), reason, 11, length, False, None, known)
        self.keep_alive = True
        if len(data) - after == length:
            self._state = COMPLETE
            self.finished = True
            return [head, data[after:], END]
        self._left = length
        self._state = LENGTH
        return [head] if after == len(data) else self._read_body(data, after, [head])

    def _read_fields(self, block: bytes) -> FieldsRead:
        self._usual = b""
        return super()._read_fields(block)

    def _read_informational(self, head: ResponseEvent, data: bytes, after: int) -> list[ResponseEvent | SidecarError]:
        self._informational += 1
        if self._informational > INFORMATIONAL_HEADS:
            raise Malformed(f"there are more than {INFORMATIONAL_HEADS} informational answers before the final one")
        if after == len(data):
            return [head]
        return [head, *self._start(data, after)]

    def _complete(self, data: bytes, position: int) -> None:
        self._state = COMPLETE
        self.finished = True
        if position < len(data):
            self.keep_alive = False

    def _check_octet(self, octets: bytes) -> None:
        if not b"HTTP/1.".startswith(octets[:7]):
            raise Malformed("the answer does not begin with a status line of HTTP/1.1")

    def _check_line(self, line: bytes) -> None:
        if line not in STATUS_LINES:
            read_status_line(line)

    def _failure(self, problem: Malformed) -> SidecarError:
        return UpstreamProtocolError(str(problem))


_STATE_NAMES = ("head", "length", "chunked", "until-close", "complete", "tunnel", "dead")
