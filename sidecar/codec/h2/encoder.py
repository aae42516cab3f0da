"""HPACK, sending (RFC 7541): fields become octets.

What a field looked like the last time is kept in one dictionary, as long as the table does not change; a repeated field costs one look-up. What to put into the
table is decided by what is seen: a field enters it at its second appearance, or later when another one would have to leave. So ids and times, different each
time, never push out what repeats. Values used once are sent as they are: Huffman coding them would take longer than sending them. Credentials are never indexed
(section 7.1).
"""

from __future__ import annotations

from sidecar.codec.h2 import huffman
from sidecar.codec.h2.tables import DEFAULT_TABLE_OCTETS, STATIC, STATIC_COUNT, NeverIndexed, encode_integer, entry_size
from sidecar.codec.known import KnownFields
from sidecar.headers import Field

# Fields remembered as seen before they are repeated; then all are forgotten. More than the heads of a few requests hold.
CANDIDATES = 128
# Appearances before a field may enter the table: when there is room, and when others must leave for it.
APPEARANCES = 2
APPEARANCES_TO_EVICT = 6
# Heads that repeat themselves, whose fields are remembered with their octets; then all are forgotten. As many as a few dozen clients send.
KNOWN_HEADS = 256
# Longer values are not worth a place in a table of 4096 octets.
LARGEST_INDEXED_OCTETS = 1024

# Guessing a secret by how well it compresses needs it in the table. A long cookie cannot be guessed in whole (section 7.1.3).
_SECRET = frozenset((b"authorization", b"proxy-authorization", b"set-cookie", b"x-api-key", b"x-auth-token", b"x-amz-security-token"))
_SHORT_COOKIE_OCTETS = 20

# Different for each message as a rule: not even worth remembering as seen.
# (method, scheme, path, authority, upgrade or None)
Line = tuple[bytes, bytes, bytes, bytes, bytes | None]

_FLEETING = frozenset(
    (
        *(b"traceparent", b"tracestate", b"x-request-id", b"x-b3-traceid", b"x-b3-spanid", b"b3", b"content-length", b"date", b"etag", b"age"),
        *(b"grpc-timeout", b"x-envoy-expected-rq-timeout-ms"),
    )
)

# RFC 9113, section 8.2.2, and Host, which is :authority here.
NOT_SENT = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"host"))


class Encoder:
    """One direction of one connection. `table_octets`: the most that we want to use, whatever the peer offers."""

    __slots__ = ("_candidates", "_entries", "_known", "_limit", "_most", "_names", "_newest", "_numbers", "_size", "lines", "rendered", "resizes")

    def __init__(self, table_octets: int = DEFAULT_TABLE_OCTETS) -> None:
        self._most = table_octets
        self._limit = DEFAULT_TABLE_OCTETS
        self._size = 0
        self._entries: list[Field] = []  # oldest first
        self._newest = 0  # the number of the newest entry; they count from 1
        self._numbers: dict[Field, int] = {}
        self._names: dict[bytes, int] = {}  # a name -> the newest entry that has it
        self._candidates: dict[Field, int] = {}
        self.resizes: list[int] = []  # sizes to tell at the start of the next block
        # field -> its octets, right as long as the table is as it is; b"" for what is not sent. Looked into directly by `encode`'s callers too.
        self.rendered: dict[Field, bytes] = {}
        # The same for all the pseudo-header fields of a request, if each of them stands in a table.
        self.lines: dict[Line, bytes] = {}
        # id of known fields -> (these, their octets or None; see `_learn`)
        self._known: dict[int, tuple[KnownFields, bytes | None]] = {}
        if table_octets < DEFAULT_TABLE_OCTETS:
            self.resize(DEFAULT_TABLE_OCTETS)

    def __repr__(self) -> str:
        return f"<Encoder {len(self._entries)} entries, {self._size} of {self._limit} octets>"

    def resize(self, table_octets: int) -> None:
        """The peer announced this table size; the next block tells what we make of it (section 4.2: the smallest in between, then the last)."""
        size = min(table_octets, self._most)
        if size == self._limit:
            return
        self._limit = size
        self._evict(0)
        smallest = min([*self.resizes, size])
        self.resizes = [smallest, size] if smallest < size else [size]
        self._table_changed()

    def encode(self, fields: list[Field], first: bytes = b"") -> bytes:
        """The block of `fields`, behind `first`, octets already rendered by `piece` or from the static table. Fields not for HTTP/2 are left out."""
        if self.resizes:
            first = self.take_resizes() + first
        get = self.rendered.get
        pieces = [*map(get, fields)]
        for index, octets in enumerate(pieces):
            if octets is None:
                field = fields[index]
                name, value, _ = field
                start = _FLEETING_STARTS.get(name)
                if start is not None and len(value) < 0x7F and type(field) is tuple:
                    # An id or a time, another one in each message.
                    pieces[index] = start + _LENGTHS[len(value)] + value
                    continue
                newest = self._newest
                pieces[index] = self.piece(field)
                if self._newest != newest:
                    # The table has changed, and with it what the fields behind this one look like.
                    pieces[index + 1 :] = map(get, fields[index + 1 :])
        return first + b"".join(pieces)  # type: ignore[arg-type]

    def encode_known(self, known: KnownFields, fields: list[Field], first: bytes) -> bytes:
        """`encode` for a head that begins with fields which are kept and come again: their octets are kept, too, as long as the table is as it is."""
        count = len(known)
        kept = self._known.get(id(known))
        if kept is None:
            block = self.encode(fields, first)
            self._learn(known)
            return block
        octets = kept[1]
        if octets is None:
            return self.encode(fields, first)
        if len(fields) == count:
            return first + octets if fields == known else self.encode(fields, first)
        if fields[:count] != known:
            return self.encode(fields, first)
        pieces = [first, octets]
        rendered = self.rendered
        for field in fields[count:]:
            start = _FLEETING_STARTS.get(field[0])
            if start is None:
                piece = rendered.get(field)
                pieces.append(self.piece(field) if piece is None else piece)
            else:
                value = field[1]
                length = len(value)
                if length < 0x7F and type(field) is tuple:
                    pieces += (start, _LENGTHS[length], value)
                else:
                    pieces.append(self.piece(field))
        return b"".join(pieces)

    def _learn(self, known: KnownFields) -> None:
        """Keep the octets of these fields, which were just encoded; None when one of them may still enter the table, or must not be kept."""
        pieces = [self._lasting(field) for field in known]
        octets = None if None in pieces else b"".join(pieces)  # type: ignore[arg-type]
        if len(self._known) >= KNOWN_HEADS:
            self._known.clear()
        # The fields stand beside their octets, so that nothing else gets their id.
        self._known[id(known)] = known, octets

    def _lasting(self, field: Field) -> bytes | None:
        name, value, _ = field
        start = _FLEETING_STARTS.get(name)
        if start is not None and len(value) < 0x7F and type(field) is tuple:
            return start + _LENGTHS[len(value)] + value
        return self.rendered.get(field)

    def keep_line(self, line: Line, octets: bytes) -> None:
        """These are the octets of a request's pseudo-header fields as long as the table is as it is."""
        if len(self.lines) >= CANDIDATES:
            self.lines.clear()
        self.lines[line] = octets

    def take_resizes(self) -> bytes:
        """The table size updates due at the start of a block."""
        octets = b"".join([encode_integer(each, 5, 0x20) for each in self.resizes])
        self.resizes = []
        return octets

    def piece(self, field: Field) -> bytes:
        """The octets of one field that `rendered` does not have; it may have them afterwards, and the table may have changed."""
        name, value, _ = field
        if type(field) is NeverIndexed or name in _SECRET or (name == b"cookie" and len(value) < _SHORT_COOKIE_OCTETS):
            return self._literal(field, 4, 0x10)
        if name in NOT_SENT or (name == b"te" and value.lower() != b"trailers"):
            return self._keep(field, b"")
        plain = (name, value, b"")
        index = _STATIC_INDEX.get(plain, 0)
        if index == 0:
            number = self._numbers.get(plain)
            if number is not None:
                index = STATIC_COUNT + 1 + self._newest - number
        if index:
            return self._keep(field, encode_integer(index, 7, 0x80))
        if name in _FLEETING:
            return self._literal(field, 4, 0x00)
        if self._is_worth_a_place(plain):
            octets = self._literal(plain, 6, 0x40, True)
            self._add(plain)
            return octets
        return self._literal(field, 4, 0x00)

    def _keep(self, field: Field, octets: bytes) -> bytes:
        if len(self.rendered) >= CANDIDATES:
            self.rendered.clear()
        self.rendered[field] = octets
        return octets

    def _literal(self, field: Field, prefix_bits: int, pattern: int, is_lasting: bool = False) -> bytes:
        name, value, _ = field
        index = _STATIC_NAMES.get(name, 0)
        if index == 0:
            number = self._names.get(name)
            if number is not None:
                index = STATIC_COUNT + 1 + self._newest - number
        head = encode_integer(index, prefix_bits, pattern) if index else bytes((pattern,)) + _string(name, is_lasting)
        return head + _string(value, is_lasting)

    def _is_worth_a_place(self, field: Field) -> bool:
        seen = self._candidates.get(field, 0) + 1
        size = entry_size(field)
        if size > LARGEST_INDEXED_OCTETS or size > self._limit:
            return False
        if seen >= (APPEARANCES if self._size + size <= self._limit else APPEARANCES_TO_EVICT):
            self._candidates.pop(field, None)
            return True
        if len(self._candidates) >= CANDIDATES:
            self._candidates.clear()
        self._candidates[field] = seen
        return False

    def _add(self, field: Field) -> None:
        size = entry_size(field)
        self._evict(size)
        self._entries.append(field)
        self._size += size
        self._newest += 1
        self._numbers[field] = self._newest
        self._names[field[0]] = self._newest
        self._table_changed()

    def _table_changed(self) -> None:
        self.rendered.clear()
        self.lines.clear()
        self._known.clear()

    def _evict(self, room: int) -> None:
        """Let the oldest go until `room` octets fit."""
        gone = 0
        for field in self._entries:
            if self._size + room <= self._limit:
                break
            self._size -= entry_size(field)
            number = self._numbers.pop(field)
            if self._names[field[0]] == number:
                del self._names[field[0]]
            gone += 1
        del self._entries[:gone]


def _string(text: bytes, is_lasting: bool) -> bytes:
    if is_lasting:
        coded = huffman.encode(text)
        if len(coded) < len(text):
            return encode_integer(len(coded), 7, 0x80) + coded
    if len(text) < 0x7F:
        return bytes((len(text),)) + text
    return encode_integer(len(text), 7, 0x00) + text


# The lengths of strings that are not Huffman-coded and shorter than the prefix can tell.
_LENGTHS = tuple(bytes((length,)) for length in range(0x7F))
_STATIC_INDEX: dict[Field, int] = {(name, value, b""): index for index, (name, value, _) in reversed(list(enumerate(STATIC))) if index and value}
_STATIC_NAMES: dict[bytes, int] = {name: index for index, (name, _, _) in reversed(list(enumerate(STATIC))) if index}
# How a field that is never indexed in a table begins, up to its value (RFC 7541, section 6.2.2).
_FLEETING_STARTS = {
    name: encode_integer(_STATIC_NAMES[name], 4, 0x00) if name in _STATIC_NAMES else b"\x00" + _string(name, False) for name in _FLEETING
}
