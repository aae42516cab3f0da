"""What reading a request and reading a response have in common: collecting a head over several reads, and the body behind it (RFC 9112, section 6).

The states are in the order in which a message passes them. In DEAD and TUNNEL nothing is read any more.

    HEAD --head without body--> COMPLETE            COMPLETE --next message--> HEAD
    HEAD --Content-Length-----> LENGTH --all------> COMPLETE
    HEAD --chunked------------> CHUNKED --last----> COMPLETE
    HEAD --neither, response--> UNTIL_CLOSE --eof-> COMPLETE
    any --malformed-----------> DEAD                COMPLETE --open_tunnel-------> TUNNEL
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from sidecar.codec.h1.body import ChunkedBody, end_of, has_bare_lf
from sidecar.codec.h1.fields import NO_FIELDS, FieldsRead, read_fields
from sidecar.codec.h1.grammar import CRLF, END_OF_HEAD, Malformed
from sidecar.codec.known import KnownFields
from sidecar.errors import HeadTooLarge, SidecarError, TargetTooLong
from sidecar.message import END

HEAD, LENGTH, CHUNKED, UNTIL_CLOSE, COMPLETE, TUNNEL, DEAD = range(7)

# Octets of the block of fields that a reader remembers from its last message: peers repeat themselves word for word, and comparing is cheaper than reading
# again. Blocks with secrets or ids are not kept.
KNOWN_BLOCK_BYTES = 2048

# More pieces of a body than this from one read are joined: one octet in each chunk would otherwise cost a trip through the whole path for each octet.
SMALL_CHUNKS = 8


class MessageReader:
    """One direction of one connection. Subclasses read heads and know what follows a complete message."""

    __slots__ = ("_chunks", "_head_bytes", "_head_fields", "_held", "_known", "_known_tail", "_left", "_line_is_checked", "_state", "keep_alive")

    _protected: ClassVar[re.Pattern[bytes]]

    def __init__(self, head_bytes: int, head_fields: int) -> None:
        self._head_bytes = head_bytes
        self._head_fields = head_fields
        self._state = HEAD
        self._held = bytearray()  # the beginning of an unfinished head
        self._line_is_checked = False
        self._left = 0  # octets of a body with Content-Length still to come
        self._chunks: ChunkedBody | None = None
        # The fields of the message before, and the octets from the end of its first line to the end of its head.
        self._known: FieldsRead = NO_FIELDS
        self._known_tail = END_OF_HEAD
        self.keep_alive = False

    # -- for subclasses to say ---------------------------------------------------------------------------------------------------------------

    def _read_head(self, line: bytes, block: bytes | None, data: bytes, after: int) -> list[Any]:
        """The events of a head and of what follows it in data[after:]. `block`: the lines of fields (for `_read_fields`), None when they are those of
        `_known`."""
        raise NotImplementedError

    def _check_line(self, line: bytes) -> None:
        """Raise `Malformed` if no head can begin with this line."""
        raise NotImplementedError

    def _check_octet(self, octets: bytes) -> None:
        """Raise `Malformed` if no head can begin with the first of these octets."""
        raise NotImplementedError

    def _complete(self, data: bytes, position: int) -> None:
        """The message ends before data[position:]."""
        raise NotImplementedError

    def _failure(self, problem: Malformed) -> SidecarError:
        """The error to report for it."""
        raise NotImplementedError

    # -- heads -------------------------------------------------------------------------------------------------------------------------------

    def _start(self, data: bytes, position: int) -> list[Any]:
        """The events of a message that begins at data[position]."""
        # What lies beyond the limit is not looked at, so that a head that is too long has no end.
        limit = position + self._head_bytes
        line_end = data.find(CRLF, position, limit)
        if line_end >= 0:
            tail = self._known_tail
            if data.startswith(tail, line_end):
                after = line_end + len(tail)
                if after <= limit:
                    return self._read_head(data[position:line_end], None, data, after)
            end = data.find(END_OF_HEAD, line_end, limit)
            if end >= 0:
                return self._read_head(data[position:line_end], data[line_end + 2 : end], data, end + 4)
        return self._hold_head(data, position)

    def _continue(self, data: bytes) -> list[Any]:
        """The events after more octets of a head of which some are held."""
        held = self._held
        stop = end_of(END_OF_HEAD, held, data, 0)
        if stop < 0 or len(held) + stop > self._head_bytes:
            return self._hold_head(data, 0)
        head = bytes(held) + data[:stop]
        held.clear()
        line, _, block = head[:-4].partition(CRLF)
        return self._read_head(line, block, data, stop)

    def _hold_head(self, data: bytes, position: int) -> list[Any]:
        """Keep an unfinished head, unless it can be refused at once: who speaks another protocol, or ends lines with LF alone, need not wait for a time-out."""
        held = self._held
        if not held:
            self._line_is_checked = False
        room = self._head_bytes - len(held)
        fits = len(data) - position <= room
        try:
            # The start line is judged before the size, and the size by the same octets however they were split: the answer must not depend on that.
            if not self._line_is_checked:
                self._check_start(data, position, room)
            if has_bare_lf(held, data if fits else data[: position + room], position):
                raise Malformed("a line ends with a bare LF (RFC 9112 section 2.2)")
            if not fits:
                raise Malformed(f"the head has more than {self._head_bytes} octets", HeadTooLarge)
        except Malformed as problem:
            return [self._fail(problem)]
        held += data[position:]
        return []

    def _check_start(self, data: bytes, position: int, room: int) -> None:
        held = self._held
        if not held:
            self._check_octet(data[position : position + 8])
        stop = end_of(CRLF, held, data, position)
        if 0 <= stop <= position + room:
            self._check_line((bytes(held) + data[position:stop])[:-2])
            self._line_is_checked = True
        elif len(data) - position > room:
            raise Malformed(f"the first line has more than {self._head_bytes} octets", TargetTooLong)

    # -- bodies ------------------------------------------------------------------------------------------------------------------------------

    def _read_body(self, data: bytes, position: int, events: list[Any]) -> list[Any]:
        """Append to `events` what data[position:] (not empty) holds of the body, and what ends it; returns `events`."""
        state = self._state
        if state == LENGTH:
            stop = position + self._left
            if stop > len(data):
                events.append(data[position:])
                self._left = stop - len(data)
                return events
            events.append(data[position:stop])
            events.append(END)
            self._complete(data, stop)
        elif state == CHUNKED:
            assert self._chunks is not None
            try:
                stop = self._chunks.read(data, position, events)
            except Malformed as problem:
                events.append(self._fail(problem))
                return events
            if len(events) > SMALL_CHUNKS:
                _join_chunks(events)
            if stop >= 0:
                self._complete(data, stop)
        else:
            events.append(data[position:])
        return events

    def _begin_chunks(self) -> None:
        if self._chunks is None:
            self._chunks = ChunkedBody(self._head_bytes, self._head_fields)
        else:
            self._chunks.begin()
        self._state = CHUNKED

    def _read_fields(self, block: bytes) -> FieldsRead:
        """What `read_fields` says, remembered as `_known`, with `KnownFields`, when nothing speaks against it. The list must be copied before it is changed.
        Raises `Malformed`."""
        read = read_fields(block, self._head_fields, self._protected)
        if read[7] and len(block) <= KNOWN_BLOCK_BYTES:
            self._known_tail = CRLF + block + END_OF_HEAD
            self._known = read = (KnownFields(read[0]), *read[1:])
        return read

    def _fail(self, problem: Malformed) -> SidecarError:
        self._state = DEAD
        self.keep_alive = False
        self._held.clear()
        return self._failure(problem)


def _join_chunks(events: list[Any]) -> None:
    """Make one of all pieces of the body in `events`; they stand together, after the head if there is one and before the end."""
    pieces = [each for each in events if each.__class__ is bytes]
    if len(pieces) > 1:
        first = next(index for index, each in enumerate(events) if each.__class__ is bytes)
        events[first : first + len(pieces)] = [b"".join(pieces)]
