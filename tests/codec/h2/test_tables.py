"""The static table, integers, and which fields have a line."""

from __future__ import annotations

import pytest
from hpack.hpack import decode_integer, encode_integer
from hpack.table import HeaderTable
from hypothesis import given, strategies as st

from sidecar.codec.h2 import tables


def test_the_static_table_is_that_of_rfc_7541() -> None:
    assert [field[:2] for field in tables.STATIC[1:]] == list(HeaderTable.STATIC_TABLE)
    assert len(tables.STATIC) == tables.STATIC_COUNT + 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"", b"v"),
        (b"Upper", b"v"),
        (b"with space", b"v"),
        (b"colon:", b"v"),
        (b":path", b"/"),
        (b"nul\x00", b"v"),
        (b"obs\x80", b"v"),
        (b"content_length", b"3"),
        (b"x_forwarded_for", b"me"),
        (b"x-forwarded_for", b"me"),
        (b"x_forwarded-proto", b"https"),
        (b"a", b"cr\rlf"),
        (b"a", b"lf\n"),
        (b"a", b"nul\x00"),
        (b"a", b"del\x7f"),
        (b"a", b" leading"),
        (b"a", b"trailing\t"),
    ],
)
def test_what_must_not_be_forwarded_has_no_line(name: bytes, value: bytes) -> None:
    """RFC 9113, section 8.2.1; control characters are refused as for HTTP/1.1."""
    assert tables.received_field(name, value) == (name, value, b"")


def test_a_good_field_has_its_line() -> None:
    assert tables.received_field(b"x-a", b"obs \x80 text") == (b"x-a", b"obs \x80 text", b"x-a: obs \x80 text\r\n")
    assert tables.received_field(b"x-a", b"") == (b"x-a", b"", b"x-a: \r\n")


def test_names_known_as_good_are_bounded() -> None:
    for number in range(3000):
        tables.received_field(b"x-%d" % number, b"")
    tables.received_field(b"x" * 100, b"")
    assert len(tables._KNOWN_NAMES) <= tables._KNOWN_NAMES_LIMIT
    assert b"x" * 100 not in tables._KNOWN_NAMES


@given(st.integers(0, 2**28), st.sampled_from([(7, 0x80), (6, 0x40), (5, 0x20), (4, 0x10), (4, 0)]))
def test_integers_are_written_as_the_oracle_does(value: int, prefix: tuple[int, int]) -> None:
    bits, pattern = prefix
    expected = encode_integer(value, bits)
    expected[0] |= pattern
    coded = tables.encode_integer(value, bits, pattern)
    assert coded == bytes(expected)
    assert decode_integer(coded, bits) == (value, len(coded))


def test_a_never_indexed_field_is_found_under_no_other() -> None:
    plain = (b"a", b"b", b"a: b\r\n")
    secret = tables.NeverIndexed(plain)
    assert secret != plain and {plain: 1}.get(secret) is None and secret[:2] == plain[:2]
