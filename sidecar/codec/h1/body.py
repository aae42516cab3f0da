"""Chunked bodies, taken apart as they arrive (RFC 9112, section 7.1): what is there of a chunk is handed on at once, nothing waits for a whole one.

`end_of` is how every reader of this package looks for the end of something that may be split between reads: each octet is searched once.
"""

from __future__ import annotations

import re
from typing import Any

from sidecar.codec.h1.fields import read_trailers
from sidecar.codec.h1.grammar import CRLF, END_OF_HEAD, REMEMBERED_LINES, Malformed
from sidecar.errors import BadFraming, HeadTooLarge
from sidecar.message import END, End

# Octets of one chunk's size line with its extensions. Nobody uses extensions; what is longer is an attempt to be read differently, or to keep us busy.
CHUNK_LINE_BYTES = 4096
# Octets of extensions in one message: they are dropped, so a sender could otherwise make us read for ever without a byte of body.
EXTENSION_BYTES = 16 * 1024

# RFC 9112, section 7.1.1, without the "bad white space" around ";" and "=", at which parsers differ. 16 hex digits are 64 bits; more overflow somewhere.
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_SIZE_LINE = re.compile(rb'([0-9A-Fa-f]{1,16})((?:;%b(?:=(?:%b|"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"))?)*)' % (_TOKEN, _TOKEN))

_SIZES: dict[bytes, int] = {}

_SIZE, _DATA, _DATA_END, _DATA_LF, _TRAILERS = range(5)


def end_of(terminator: bytes, held: bytearray, data: bytes, position: int) -> int:
    """The position in `data` behind the first `terminator` of held + data[position:]; -1 when there is none. `held` is known to contain none."""
    if held:
        reach = len(terminator) - 1
        tail = bytes(held[-reach:])
        index = (tail + data[position : position + reach]).find(terminator)
        if index >= 0:
            return position + index + reach + 1 - len(tail)
    index = data.find(terminator, position)
    return index + len(terminator) if index >= 0 else -1


def has_bare_lf(held: bytearray, data: bytes, position: int) -> bool:
    """Does data[position:], coming after `held`, have an LF without a CR before it? Asked only of what does not end yet, so that a client that ends lines so
    need not wait for a time-out."""
    pairs = data.count(CRLF, position)
    if held and held[-1] == 13 and data.startswith(b"\n", position):
        pairs += 1
    return data.count(b"\n", position) != pairs


class ChunkedBody:
    """One chunked body at a time. `head_bytes` and `head_fields` limit the trailers."""

    __slots__ = ("_extension_bytes", "_head_bytes", "_head_fields", "_held", "_left", "_state")

    def __init__(self, head_bytes: int, head_fields: int) -> None:
        self._head_bytes = head_bytes
        self._head_fields = head_fields
        self._held = bytearray()
        self.begin()

    def begin(self) -> None:
        """Expect the first chunk of a new body."""
        self._state = _SIZE
        self._left = 0
        self._extension_bytes = 0
        self._held.clear()

    def read(self, data: bytes, position: int, events: list[Any]) -> int:
        """Append the chunks in data[position:] to `events`, and the `End` when it is there. Returns the position behind the body, or -1 when it goes on (then
        all of `data` was taken). Raises `Malformed`; what was appended before is valid."""
        size = len(data)
        while True:
            if self._state == _SIZE:
                position = self._read_size(data, position)
                if position < 0:
                    return -1
                if self._left == 0:
                    return self._read_end(data, position, events)
                self._state = _DATA
            if self._state == _DATA:
                stop = position + self._left
                if stop > size:
                    if position < size:
                        events.append(data[position:])
                        self._left = stop - size
                    return -1
                events.append(data[position:stop])
                position = stop
                self._state = _DATA_END
            if self._state == _TRAILERS:
                return self._read_end(data, position, events)
            position = self._read_data_end(data, position)
            if position < 0:
                return -1

    def _read_size(self, data: bytes, position: int) -> int:
        """Set `_left` from a size line and return the position behind it; -1 when it is not complete."""
        held = self._held
        stop = end_of(CRLF, held, data, position)
        line_bytes = len(held) + (stop if stop >= 0 else len(data)) - position
        if line_bytes > CHUNK_LINE_BYTES:
            raise Malformed(f"the line with a chunk's size has more than {CHUNK_LINE_BYTES} octets", BadFraming)
        if stop < 0:
            if has_bare_lf(held, data, position):
                raise Malformed("a bare LF stands in the line with a chunk's size (RFC 9112 section 7.1)", BadFraming)
            held += data[position:]
            return -1
        if held:
            line = bytes(held + data[position:stop])[:-2]
            held.clear()
        else:
            line = data[position : stop - 2]
        left = _SIZES.get(line)
        self._left = self._parse_size(line) if left is None else left
        return stop

    def _parse_size(self, line: bytes) -> int:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise Malformed("the size of a chunk is not 1 to 16 hexadecimal digits with well-formed extensions (RFC 9112 section 7.1)", BadFraming)
        digits, extensions = match.groups()
        size = int(digits, 16)
        if extensions:
            self._extension_bytes += len(extensions)
            if self._extension_bytes > EXTENSION_BYTES:
                raise Malformed(f"the chunk extensions of one message have more than {EXTENSION_BYTES} octets", BadFraming)
            return size
        if len(_SIZES) >= REMEMBERED_LINES:
            _SIZES.clear()
        _SIZES[line] = size
        return size

    def _read_data_end(self, data: bytes, position: int) -> int:
        """The position behind the CRLF that closes a chunk's data, -1 when it is not complete."""
        if self._state == _DATA_END and data.startswith(CRLF, position):
            self._state = _SIZE
            return position + 2
        for octet in data[position : position + 2]:
            if octet != (13 if self._state == _DATA_END else 10):
                raise Malformed("the data of a chunk is not followed by CRLF (RFC 9112 section 7.1)", BadFraming)
            position += 1
            if self._state == _DATA_LF:
                self._state = _SIZE
                return position
            self._state = _DATA_LF
        return -1

    def _read_end(self, data: bytes, position: int, events: list[Any]) -> int:
        """After the last chunk: trailers up to an empty line."""
        held = self._held
        if self._state != _TRAILERS:
            if data.startswith(CRLF, position):
                events.append(END)
                return position + 2
            self._state = _TRAILERS
            # The line end of the last chunk is part of what ends the trailers when there are none.
            held += CRLF
        stop = end_of(END_OF_HEAD, held, data, position)
        if len(held) + (stop if stop >= 0 else len(data)) - position > self._head_bytes:
            raise Malformed(f"the trailers have more than {self._head_bytes} octets", HeadTooLarge)
        if stop < 0:
            if has_bare_lf(held, data, position):
                raise Malformed("a bare LF stands in the trailers (RFC 9112 section 2.2)")
            held += data[position:]
            return -1
        block = bytes(held + data[position:stop])[2:-4]
        held.clear()
        events.append(End(read_trailers(block, self._head_fields)) if block else END)
        return stop
