"""HPACK, receiving (RFC 7541): a block of octets becomes a list of fields.

Fields in the dynamic table are complete `Field` tuples, checked and rendered when they entered it, so that a reference to one costs a look into a list.
Whole blocks are remembered too, with what the connection made of them, for as long as the table does not change: peers that repeat themselves send the very
same octets. Some peers (nginx) never look into their table and put the same fields into it with every block. What such a block says does not depend on the
table, so it is remembered with what it adds, and this is added again: when something asks for the table, because many such blocks may come until then.
"""

from __future__ import annotations

from typing import Any

from sidecar.codec.h2 import huffman
from sidecar.codec.h2.tables import DEFAULT_TABLE_OCTETS, ENTRY_OVERHEAD, STATIC, STATIC_COUNT, NeverIndexed, entry_size, received_field
from sidecar.headers import Field

# Blocks remembered at a time, and octets of the longest one kept: at most 32 KiB of keys for a connection.
REMEMBERED_BLOCKS = 32
REMEMBERED_BLOCK_OCTETS = 1024
# When a full memory was of no use, this many blocks pass before another try: a peer whose blocks all differ pays nothing for it.
PASSED_BLOCKS = 512

# RFC 7541, section 5.1, lets us bound integers. No length or index beyond 2**28 can be meant seriously, and longer ones only cost time.
_INTEGER_OCTETS = 4


_FIRST = STATIC_COUNT + 1
_FIRST_INDEXED = 0x80 | _FIRST  # the octet that refers to the first entry of the dynamic table, and the one that takes its name
_FIRST_NAMED = 0x40 | _FIRST


class CompressionError(Exception):
    """The peer's block cannot be decoded: the connection is lost with COMPRESSION_ERROR (RFC 9113, section 4.3). The text says why."""


class Decoder:
    """One direction of one connection. `table_octets`: the size of the dynamic table that we announced.

    `memory`: block -> whatever the caller made of it; cleared when the table changes. Callers put things in through `remember`, and who finds one there without
    `recall` sets `was_used`.
    """

    __slots__ = (
        "_added", "_adding", "_adding_room", "_adding_used", "_announced", "_limit", "_must_shrink", "_repeated", "_repeated_size", "_repetitions",
        "_room", "_size", "_table", "may_remember", "memory", "was_used",
    )  # fmt: skip

    def __init__(self, table_octets: int = DEFAULT_TABLE_OCTETS) -> None:
        # Both tables in one list, so that an index needs no looking which: the newest entry is at 62, the oldest is the last.
        self._table: list[Field] = list(STATIC)
        self._size = 0
        self._limit = DEFAULT_TABLE_OCTETS  # in force: what the peer's encoder uses
        self._announced = max(table_octets, DEFAULT_TABLE_OCTETS)  # the largest the peer may choose
        self._must_shrink = False
        self.memory: dict[bytes, Any] = {}
        self.may_remember = False  # did the last block change nothing, and hold nothing never to be kept?
        self._room = REMEMBERED_BLOCKS
        self.was_used = False
        # What the last block added, the newest first, if its fields do not depend on the dynamic table; else None.
        self._added: list[Field] | None = None
        # block -> (what the caller made of it, what it adds, the size of that)
        self._adding: dict[bytes, tuple[Any, list[Field], int]] = {}
        self._adding_room = REMEMBERED_BLOCKS
        self._adding_used = False
        # What remembered blocks add that the table does not have yet: so many times these fields, of this size.
        self._repeated: list[Field] = []
        self._repeated_size = 0
        self._repetitions = 0

    def __repr__(self) -> str:
        self._catch_up()
        return f"<Decoder {len(self._table) - _FIRST} entries, {self._size} of {self._limit} octets>"

    def announced(self, table_octets: int) -> None:
        """The peer acknowledged our table size: from now on it is the bound, and a smaller one than in force has to be confirmed by the next block (RFC 7541,
        section 4.2).
        """
        self._announced = table_octets
        self._must_shrink = table_octets < self._limit
        if self._must_shrink:
            # So that the next block is looked at.
            self._forget()
            self._adding.clear()

    def recall(self, block: bytes, kind: type) -> Any:
        """What `remember` was given for `block`, if it is of this type; else None, and the block has to be decoded. Once for each block that comes: one that
        adds to the table counts as having done so then.
        """
        found = self.memory.get(block)
        if found is not None:
            if type(found) is not kind:
                return None
            self.was_used = True
            return found
        adding = self._adding.get(block)
        if adding is None or type(adding[0]) is not kind:
            return None
        self._adding_used = True
        meaning, added, size = adding
        if added is not self._repeated:
            self._catch_up()
            self._repeated = added
            self._repeated_size = size
        self._repetitions += 1
        if self.memory:
            self._forget()
        return meaning

    def _catch_up(self) -> None:
        """The table has what remembered blocks add. Of many repetitions no more than fit: nothing of those before them would be left."""
        size = self._repeated_size
        repetitions, self._repetitions = self._repetitions, 0
        if repetitions:
            repetitions = min(repetitions, self._limit // size + 1)
            self._table[_FIRST:_FIRST] = self._repeated * repetitions
            self._size += size * repetitions
            if self._size > self._limit:
                self._evict()

    def remember(self, block: bytes, meaning: Any) -> None:
        """Keep `meaning` for the same octets, if the block just decoded may be kept."""
        if len(block) > REMEMBERED_BLOCK_OCTETS:
            return
        if not self.may_remember:
            if self._added:
                self._remember_adding(block, meaning, self._added)
            return
        self._room -= 1
        if self._room >= 0:
            self.memory[block] = meaning
        elif self.was_used or self._room < -PASSED_BLOCKS:
            self._forget()

    def _remember_adding(self, block: bytes, meaning: Any, added: list[Field]) -> None:
        self._adding_room -= 1
        if self._adding_room >= 0:
            self._adding[block] = meaning, added, sum(map(entry_size, added))
        elif self._adding_used or self._adding_room < -PASSED_BLOCKS:
            self._adding.clear()
            self._adding_room = REMEMBERED_BLOCKS
            self._adding_used = False

    def _forget(self) -> None:
        self.memory.clear()
        self._room = REMEMBERED_BLOCKS
        self.was_used = False

    def decode(self, block: bytes) -> list[Field]:
        """The fields of a whole block, in order. Raises `CompressionError`.

        Memory is bounded by the length of `block`: an indexed field is a reference, and Huffman coding saves three eighths at most. The caller counts what a
        list would weigh.
        """
        if self._repetitions:
            self._catch_up()
        fields: list[Field] = []
        append = fields.append
        table = self._table
        position = 0
        end = len(block)
        keep = is_fixed = True
        added: list[Field] = []
        try:
            if self._must_shrink:
                self._check_shrunk(block)
            while position < end:
                octet = block[position]
                position += 1
                if octet > 0x80:  # indexed (section 6.1)
                    if octet < 0xFF:
                        if octet >= _FIRST_INDEXED:
                            is_fixed = False
                        append(table[octet - 0x80])
                    else:
                        is_fixed = False
                        index, position = read_integer(block, position, 0x7F)
                        append(table[index])
                elif octet >= 0x40:
                    if octet == 0x80:
                        raise CompressionError("index 0 is referred to")
                    keep = False
                    if octet >= _FIRST_NAMED:
                        is_fixed = False
                    field, position = self._literal(block, position, octet & 0x3F, 0x3F)  # with incremental indexing (section 6.2.1)
                    append(field)
                    added.append(field)
                    self._add(field)
                elif octet >= 0x20:
                    if fields:
                        raise CompressionError("the table size changes within a block")  # section 4.2
                    keep = is_fixed = False
                    size, position = read_integer(block, position, 0x1F) if octet == 0x3F else (octet & 0x1F, position)
                    self._resize(size)
                else:
                    if octet & 0x0F == 0x0F:
                        # The index that follows may be beyond the static table.
                        is_fixed = False
                    field, position = self._literal(block, position, octet & 0x0F, 0x0F)
                    if octet >= 0x10:  # never indexed (section 6.2.3)
                        keep = is_fixed = False
                        field = NeverIndexed(field)
                    append(field)
        except IndexError:
            raise CompressionError("the block ends too early, or an index is beyond the tables") from None
        self.may_remember = keep
        added.reverse()
        self._added = added if is_fixed else None
        return fields

    def _check_shrunk(self, block: bytes) -> None:
        if block[0] & 0xE0 != 0x20:
            raise CompressionError("the table size that we reduced was not confirmed")
        self._must_shrink = False

    def _literal(self, block: bytes, position: int, index: int, most: int) -> tuple[Field, int]:
        """The literal field at block[position:], behind its first octet with the prefix `index` of at most `most`, and the position after it."""
        if index == 0:
            name, position = read_string(block, position)
        else:
            if index == most:
                index, position = read_integer(block, position, most)
            name = self._table[index][0]
        value, position = read_string(block, position)
        return received_field(name, value), position

    def _add(self, field: Field) -> None:
        size = entry_size(field)
        self._size += size
        self._table.insert(_FIRST, field)
        if self._size > self._limit:
            self._evict()
        if self.memory:
            self._forget()

    def _evict(self) -> None:
        """Oldest first; an entry larger than the table empties it (section 4.4)."""
        table = self._table
        size = self._size
        while size > self._limit:
            name, value, _ = table.pop()
            size -= len(name) + len(value) + ENTRY_OVERHEAD
        self._size = size

    def _resize(self, octets: int) -> None:
        if octets > self._announced:
            raise CompressionError("the table size is larger than announced")
        self._limit = octets
        if self._size > octets:
            self._evict()
        self._forget()


def read_integer(block: bytes, position: int, value: int) -> tuple[int, int]:
    """The integer whose prefix was full (`value`), and the position after it. Raises `CompressionError`, or `IndexError` when `block` ends."""
    for shift in range(0, _INTEGER_OCTETS * 7, 7):
        octet = block[position]
        position += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, position
    raise CompressionError("an integer is too long")


def read_string(block: bytes, position: int) -> tuple[bytes, int]:
    """The string at block[position:] and the position after it (section 5.2). Raises like `read_integer`."""
    first = block[position]
    position += 1
    length = first & 0x7F
    if length == 0x7F:
        length, position = read_integer(block, position, 0x7F)
    stop = position + length
    text = block[position:stop]
    if len(text) != length:
        raise CompressionError("a string ends beyond its block")
    if first >= 0x80:
        try:
            text = huffman.decode(text)
        except ValueError as problem:
            raise CompressionError(str(problem)) from None
    return text, stop
