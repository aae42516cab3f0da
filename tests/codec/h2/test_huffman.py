"""The Huffman code, against another implementation."""

from __future__ import annotations

import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given, strategies as st

from sidecar.codec.h2 import huffman

ORACLE = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


@given(st.binary(max_size=200))
def test_encoding_agrees_with_the_oracle_and_decoding_undoes_it(text: bytes) -> None:
    coded = huffman.encode(text)
    assert coded == ORACLE.encode(text)
    assert huffman.decode(coded) == text


def test_every_octet_survives() -> None:
    every = bytes(range(256))
    assert huffman.decode(huffman.encode(every)) == every


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\xff\xff\xff\xff", "EOS"),
        (b"\x18\xff\xff\xff\xff\xff", "EOS inside"),
        (b"\x1f\xff", "more than seven bits of padding"),
        (b"\x18", "padding with a zero"),  # "a" is 00011, then 000
        (b"\xff", "nothing but padding, a whole octet of it"),
    ],
)
def test_bad_padding_and_eos_are_refused(data: bytes, why: str) -> None:
    """RFC 7541, section 5.2."""
    with pytest.raises(ValueError):
        huffman.decode(data)


@given(st.binary(min_size=1, max_size=12))
def test_any_octets_either_decode_to_what_encodes_back_or_are_refused(data: bytes) -> None:
    try:
        text = huffman.decode(data)
    except ValueError:
        return
    assert huffman.encode(text) == data


def test_what_was_decoded_is_remembered_within_bounds() -> None:
    """Peers choose the strings: long ones are not kept, and the number of the others never passes its limit."""
    for number in range(3 * huffman._DECODED_LIMIT):
        text = b"id-%d" % number
        assert huffman.decode(huffman.encode(text)) == huffman.decode(huffman.encode(text)) == text
        assert len(huffman._DECODED) <= huffman._DECODED_LIMIT
    long = huffman.encode(b"a" * 500)
    huffman.decode(long)
    assert long not in huffman._DECODED


def test_what_is_wrong_is_refused_each_time() -> None:
    """Nothing of a broken string is remembered."""
    for _ in range(2):
        with pytest.raises(ValueError, match="padding"):
            huffman.decode(b"\x00")
