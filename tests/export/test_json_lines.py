"""A line of a log is a line, and text."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, strategies as st

from sidecar.export.json_lines import json_line

# What a terminal or a reader of lines obeys.
OBEYED = {*map(chr, range(32)), *map(chr, range(0x80, 0xA0)), *"\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}


@given(st.text() | st.lists(st.sampled_from(sorted(OBEYED)) | st.characters()).map("".join))
def test_no_character_of_a_value_does_anything(text: str) -> None:
    """Whatever a client writes into User-Agent, and octets of it read as Latin-1, come back the same and are inert on the way."""
    line = json_line({"a": text, text: [text]})
    assert not OBEYED & set(line.decode())
    assert json.loads(line) == {"a": text, text: [text]}


@given(st.binary())
def test_octets_of_a_header(octets: bytes) -> None:
    line = json_line(octets.decode("latin-1")).decode()
    assert len(line.splitlines()) == 1 and json.loads(line).encode("latin-1") == octets


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("\ud800", "\ud800"),
        ({"n": ["\udcff", {1, 2}]}, {"n": ["\udcff", [1, 2]]}),
        ([object], ["<class 'object'>"]),
        (["\ud800", object], ["\ud800", "<class 'object'>"]),
    ],
)
def test_what_json_cannot_say_does_not_lose_the_line(value: object, shown: object) -> None:
    """A plugin's note may be anything."""
    assert json.loads(json_line(value)) == shown


def test_structs_keep_their_fields() -> None:
    class Row(msgspec.Struct):
        who: str
        what: object

    assert json_line(Row("a", "b")) == b'{"who":"a","what":"b"}'
    assert json.loads(json_line(Row("\ud800", "b"))) == {"who": "\ud800", "what": "b"}
