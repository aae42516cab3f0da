"""HPACK, receiving: stories and blocks of other encoders, broken blocks, and what is remembered."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import hpack
import pytest
from hypothesis import given, strategies as st

from sidecar.codec.h2.decoder import REMEMBERED_BLOCK_OCTETS, REMEMBERED_BLOCKS, CompressionError, Decoder
from sidecar.codec.h2.tables import NeverIndexed

STORIES = sorted((Path(__file__).parents[2] / "data" / "hpack").glob("*.json"))


def pairs(decoder: Decoder, block: bytes) -> list[tuple[bytes, bytes]]:
    return [field[:2] for field in decoder.decode(block)]


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_stories_of_other_encoders_decode_to_their_fields(path: Path) -> None:
    decoder = Decoder()
    for case in json.loads(path.read_text())["cases"]:
        if "header_table_size" in case:
            decoder._announced = int(case["header_table_size"])
        expected = [(name.encode(), value.encode()) for each in case["headers"] for name, value in each.items()]
        assert pairs(decoder, bytes.fromhex(case["wire"])) == expected


names = st.sampled_from([b":path", b"a", b"x-long-name", b"cookie", b"accept"])
values = st.one_of(st.sampled_from([b"", b"1", b"same", b"/index.html"]), st.binary(max_size=80))


@given(st.lists(st.tuples(st.lists(st.tuples(names, values), max_size=8), st.booleans(), st.none() | st.integers(0, 4096)), max_size=8))
def test_blocks_of_the_oracle_decode_to_what_went_in(blocks: list[tuple[list[tuple[bytes, bytes]], bool, int | None]]) -> None:
    """Also when the table's size changes, and when the same block comes again."""
    encoder, decoder = hpack.Encoder(), Decoder()
    for fields, huffman, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        for _ in range(2):
            assert pairs(decoder, encoder.encode(fields, huffman=huffman)) == fields
    assert decoder._size <= decoder._limit
    assert [field[:2] for field in decoder._table[62:]] == list(encoder.header_table.dynamic_entries)


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # index 0
        b"\xbe",  # index 62 of an empty table
        b"\xff\x00",  # index 127
        b"\xff",  # a cut integer
        b"\xff\xff\xff\xff\xff\xff\x01",  # an integer without end
        b"\x40",  # a literal without name
        b"\x40\x01a",  # without value
        b"\x40\x05a",  # a name that is cut
        b"\x00\x01a\x7f\xff\xff\xff\x7f",  # a value of 2**28 octets
        b"\x00\x01a\x81\x00",  # Huffman code with wrong padding
        b"\x7e\x01a",  # the name of a field beyond the tables
        b"\x82\x20",  # a size change within a block
        b"\x3f\xe2\x1f",  # 4097 octets, one more than announced
    ],
)
def test_broken_blocks_are_refused(block: bytes) -> None:
    with pytest.raises(CompressionError):
        Decoder().decode(block)


@given(st.binary(max_size=60))
def test_any_octets_decode_or_are_refused(block: bytes) -> None:
    with suppress(CompressionError):
        Decoder().decode(block)


def test_a_table_that_we_reduced_has_to_be_confirmed_by_the_next_block() -> None:
    """RFC 7541, section 4.2."""
    decoder = Decoder(100)
    decoder.decode(b"\x82")  # before the acknowledgement it may still be as it was
    decoder.remember(b"\x82", "known")
    decoder.announced(100)
    assert decoder.recall(b"\x82", str) is None
    with pytest.raises(CompressionError, match="not confirmed"):
        decoder.decode(b"\x82")
    confirmed = Decoder(100)
    confirmed.announced(100)
    assert pairs(confirmed, b"\x3f\x45\x82") == [(b":method", b"GET")]
    with pytest.raises(CompressionError, match="larger"):
        confirmed.decode(b"\x3f\x46\x82")


def test_an_entry_larger_than_the_table_empties_it() -> None:
    decoder = Decoder()
    decoder.decode(b"\x40\x01a\x01b")
    decoder.decode(b"\x40\x01a\x7f\x81\x1f" + b"x" * 4096)
    assert (decoder._table[62:], decoder._size) == ([], 0)


def test_a_never_indexed_field_says_so() -> None:
    (field,) = Decoder().decode(b"\x10\x01a\x01b")
    assert type(field) is NeverIndexed and tuple(field) == (b"a", b"b", b"a: b\r\n")


def test_what_a_block_meant_is_known_until_the_table_changes() -> None:
    decoder = Decoder()
    decoder.decode(b"\x82")
    decoder.remember(b"\x82", "meaning")
    assert decoder.recall(b"\x82", str) == "meaning"
    decoder.decode(b"\x40\x01a\x01b")
    assert decoder.recall(b"\x82", str) is None


@pytest.mark.parametrize(
    "block",
    [
        b"\x10\x01a\x01b",
        b"\x20\x82",
        b"\x00\x01a\x7f\x81\x07" + b"x" * REMEMBERED_BLOCK_OCTETS,
        *(b"\x40\x01a\x01b" + rest for rest in (b"\xbe", b"\x7e\x01c", b"\x0f\x2f\x01c", b"\x10\x01a\x01b")),
    ],
)
def test_blocks_that_depend_on_the_table_or_hold_secrets_or_are_long_are_not_remembered(block: bytes) -> None:
    decoder = Decoder()
    decoder.decode(block)
    decoder.remember(block, "meaning")
    assert decoder.recall(block, str) is None


def test_the_memory_of_blocks_is_bounded_and_not_renewed_while_it_is_of_no_use() -> None:
    decoder = Decoder()
    for number in range(10_000):
        one = b"\x00\x01a\x05%05d" % number
        decoder.decode(one)
        decoder.remember(one, number)
        assert len(decoder.memory) <= REMEMBERED_BLOCKS
    assert decoder.recall(b"\x82", str) is None
    for _ in range(1000):  # a peer that begins to repeat itself is noticed
        decoder.decode(b"\x82")
        decoder.remember(b"\x82", "meaning")
    assert decoder.recall(b"\x82", str) == "meaning"


FIELDS = [b"\x40\x01a\x01b", b"\x40\x01c\x02dd", b"\x58\x01x", b"\x76\x05nginx", b"\x88", b"\x00\x01u\x01v", b"\x0f\x0d\x013"]
LARGE = b"\x40\x01z\x7f\x81\x1f" + b"x" * 4096
FROM_TABLE = [b"\xbe", b"\xc0", b"\x7e\x01n", b"\x20\x3f\xe1\x1f"]


@given(
    st.lists(st.tuples(st.lists(st.sampled_from([*FIELDS, *FROM_TABLE, LARGE]), min_size=1, max_size=5), st.integers(1, 5), st.booleans()), max_size=60),
    st.sampled_from([100, 4096]),
)
def test_blocks_that_are_remembered_with_what_they_add_say_the_same(blocks: list[tuple[list[bytes], int, bool]], table_octets: int) -> None:
    """Whatever a peer repeats, in whatever order: fields and table are those of a decoder that remembers nothing."""
    remembering, forgetful = Decoder(), Decoder()
    for decoder in (remembering, forgetful):
        decoder._limit = table_octets
    for pieces, looks in [(pieces, looks) for pieces, times, looks in blocks for _ in range(times)]:
        block = b"".join(sorted(pieces, key=lambda piece: piece != FROM_TABLE[3]))
        try:
            expected = forgetful.decode(block)
        except CompressionError:
            return
        fields = remembering.recall(block, list)
        if fields is None:
            fields = remembering.decode(block)
            remembering.remember(block, fields)
        assert fields == expected
        if looks:
            remembering._catch_up()
            assert (remembering._table, remembering._size) == (forgetful._table, forgetful._size)


def test_a_block_that_adds_is_known_the_second_time() -> None:
    """As nginx sends: names from the static table, put into the table with every response. What was meant for another kind of block adds nothing."""
    decoder = Decoder()
    block = b"\x88\x76\x05nginx\x5c\x011"
    decoder.decode(block)
    decoder.remember(block, ("parts",))
    assert decoder.recall(block, list) is None and len(decoder._table) == 64
    assert decoder.recall(block, tuple) == ("parts",)
    assert repr(decoder) == "<Decoder 4 entries, 180 of 4096 octets>"
    assert [field[:2] for field in decoder._table[62:]] == [(b"content-length", b"1"), (b"server", b"nginx")] * 2
    decoder.announced(100)
    assert decoder.recall(block, tuple) is None, "the peer has to confirm the smaller table first"


def test_as_much_as_fits_is_kept_of_blocks_that_repeat() -> None:
    """One block and a half here: 105 octets for fields of 34 and 35."""
    remembering, forgetful = Decoder(), Decoder()
    remembering._limit = forgetful._limit = 105
    block = FIELDS[0] + FIELDS[1]
    remembering.remember(block, remembering.decode(block))
    forgetful.decode(block)
    assert remembering.decode(FIELDS[2]) == forgetful.decode(FIELDS[2])
    for _ in range(9):
        assert remembering.recall(block, list) == forgetful.decode(block)
    remembering._catch_up()
    assert (remembering._table[62:], remembering._size) == (forgetful._table[62:], 104)


def test_the_memory_of_blocks_that_add_is_bounded() -> None:
    """A peer whose blocks all differ pays for a few of them, and one that begins to repeat itself is noticed."""
    decoder = Decoder()
    for number in range(3000):
        one = b"\x40\x01a\x05%05d" % number
        decoder.decode(one)
        decoder.remember(one, number)
        assert len(decoder._adding) <= REMEMBERED_BLOCKS
    for _ in range(1000):
        decoder.decode(b"\x40\x01a\x01b")
        decoder.remember(b"\x40\x01a\x01b", "meaning")
    assert decoder.recall(b"\x40\x01a\x01b", str) == "meaning"
