"""HPACK, sending: what we write is understood by another decoder; what enters the table, and what never may."""

from __future__ import annotations

import json
from pathlib import Path

import hpack
import pytest
from hypothesis import given, strategies as st

from sidecar.codec.h2.decoder import Decoder
from sidecar.codec.h2.encoder import CANDIDATES, KNOWN_HEADS, NOT_SENT, Encoder
from sidecar.codec.h2.tables import NeverIndexed
from sidecar.codec.known import KnownFields
from sidecar.headers import Field

STORIES = sorted((Path(__file__).parents[2] / "data" / "hpack").glob("*.json"))


def field(name: bytes, value: bytes) -> Field:
    return name, value, b"%b: %b\r\n" % (name, value)


def told(oracle: hpack.Decoder, block: bytes) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in oracle.decode(block, raw=True)]


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_stories_are_understood_by_the_oracle(path: Path) -> None:
    encoder, oracle = Encoder(), hpack.Decoder()
    for case in json.loads(path.read_text())["cases"]:
        fields = [field(name.encode(), value.encode()) for each in case["headers"] for name, value in each.items()]
        assert told(oracle, encoder.encode(fields)) == [each[:2] for each in fields if each[0] not in NOT_SENT]


fields_seen = st.tuples(
    st.sampled_from([b"a", b"accept", b":path", b"x-name", b"cookie", b"traceparent", b"authorization"]),
    st.sampled_from([b"", b"1", b"some value", b"x" * 300, b"y" * 1200]) | st.binary(max_size=20),
)


@given(st.lists(st.tuples(st.lists(fields_seen, max_size=8), st.integers(0, 2), st.none() | st.sampled_from([0, 100, 500, 4096, 65536])), max_size=12))
def test_blocks_are_understood_by_the_oracle_whatever_repeats_and_however_the_table_changes(
    blocks: list[tuple[list[tuple[bytes, bytes]], int, int | None]],
) -> None:
    encoder, oracle, ours = Encoder(), hpack.Decoder(), Decoder()
    for pairs, again, size in blocks:
        if size is not None:
            oracle.max_allowed_table_size = max(size, oracle.header_table_size)
            encoder.resize(size)
        for _ in range(1 + again * 3):
            block = encoder.encode([field(*pair) for pair in pairs])
            assert told(oracle, block) == pairs
            assert [each[:2] for each in ours.decode(block)] == pairs
        assert encoder._size <= encoder._limit
        assert encoder._size == sum(len(name) + len(value) + 32 for name, value, _ in encoder._entries)
        assert set(encoder._numbers) == set(encoder._entries)


def test_a_field_is_indexed_when_it_comes_again() -> None:
    encoder = Encoder()
    one = field(b"user-agent", b"grpc-go/1.60")
    first, second, third = (encoder.encode([one]) for _ in range(3))
    assert len(first) > len(second) > len(third) == 1
    assert encoder._entries == [(b"user-agent", b"grpc-go/1.60", b"")]


@pytest.mark.parametrize(
    "secret",
    [
        field(b"authorization", b"Bearer a"),
        field(b"proxy-authorization", b"Basic b"),
        field(b"cookie", b"short=1"),
        field(b"set-cookie", b"session=1; and much more than twenty octets"),
        NeverIndexed(field(b"x-came-so", b"v")),
    ],
)
def test_credentials_are_never_indexed(secret: Field) -> None:
    """RFC 7541, sections 6.2.3 and 7.1; also when an equal field is in the table."""
    encoder, decoder = Encoder(), Decoder()
    plain = (secret[0], secret[1], secret[2])
    for _ in range(3):
        if type(secret) is NeverIndexed:
            decoder.decode(encoder.encode([plain]))
        block = encoder.encode([secret])
        assert block[0] & 0xF0 == 0x10
        assert [each[:2] for each in decoder.decode(block)] == [secret[:2]]


@pytest.mark.parametrize("name", [b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"host"])
def test_fields_of_http_1_connections_are_left_out(name: bytes) -> None:
    """RFC 9113, section 8.2.2."""
    encoder = Encoder()
    for _ in range(2):
        assert encoder.encode([field(name, b"v")]) == b""


def test_te_says_trailers_or_nothing() -> None:
    encoder = Encoder()
    assert encoder.encode([field(b"te", b"gzip")]) == b""
    assert told(hpack.Decoder(), encoder.encode([field(b"te", b"trailers")])) == [(b"te", b"trailers")]


def test_what_differs_each_time_does_not_push_out_what_repeats() -> None:
    encoder = Encoder()
    steady = field(b"user-agent", b"u")
    for number in range(1000):
        encoder.encode([steady, field(b"x-request-id", b"%d" % number), field(b"x-unknown", b"%d" % number)])
    assert encoder._entries == [(b"user-agent", b"u", b"")]
    assert len(encoder._candidates) <= CANDIDATES and len(encoder.rendered) <= CANDIDATES


def test_a_full_table_changes_for_what_comes_often_only() -> None:
    encoder = Encoder(200)
    for number in range(10):
        for _ in range(2):
            encoder.encode([field(b"x-%d" % number, b"v" * 20)])
    assert [each[0] for each in encoder._entries] == [b"x-0", b"x-1", b"x-2"]
    for _ in range(6):
        encoder.encode([field(b"often", b"v" * 20)])
    assert [each[0] for each in encoder._entries] == [b"x-1", b"x-2", b"often"]


def test_the_smallest_and_the_last_size_are_told() -> None:
    """RFC 7541, section 4.2."""
    encoder = Encoder()
    for size in (2000, 100, 300, 65536):
        encoder.resize(size)
    assert encoder.encode([]).hex() == "3f45" + "3fe11f"
    assert encoder.encode([]) == b""
    assert Encoder(1000).encode([]).hex() == "3fc907"


_HEADS = [
    KnownFields([field(b"host", b"app"), field(b"x-plain", b"a"), field(b"date", b"now")]),
    KnownFields([field(b"x-plain", b"a"), field(b"x-other", b"b" * 40), field(b"x-plain", b"a")]),
    KnownFields([field(b"authorization", b"secret"), field(b"accept", b"*/*")]),
    KnownFields([field(b"content-length", b"9" * 130), field(b"x-long", b"c" * 2000)]),
    KnownFields([NeverIndexed(field(b"x-token", b"never")), field(b"x-plain", b"a")]),
    KnownFields([field(b"x-plain", b"%d" % number) for number in range(30)]),
    KnownFields([]),
]
_ADDED = [field(b"x-request-id", b"1"), field(b"x-added", b"always"), field(b"x-plain", b"a"), field(b"x-other", b"b" * 40)]


@given(
    st.lists(
        st.tuples(
            st.integers(0, len(_HEADS) - 1), st.lists(st.sampled_from(_ADDED), max_size=2), st.sampled_from(["", "", "", "dropped", "turned"]),
            st.sampled_from([None, None, None, None, 0, 100, 4096]),
        ),
        max_size=40,
    )
)  # fmt: skip
def test_known_heads_are_understood_by_the_oracle_whatever_the_table_does(steps: list[tuple[int, list[Field], str, int | None]]) -> None:
    """Octets that are kept for a head are right as long as they are used: fields are added, taken away or turned round, the table changes and shrinks."""
    encoder, oracle = Encoder(), hpack.Decoder()
    oracle.max_allowed_table_size = 4096
    for number, added, change, size in steps:
        if size is not None:
            encoder.resize(size)
        known = _HEADS[number]
        fields = [*(known[1:] if change == "dropped" else known[::-1] if change == "turned" else known), *added]
        assert told(oracle, encoder.encode_known(known, fields, b"")) == [each[:2] for each in fields if each[0] not in NOT_SENT]


def test_a_head_that_comes_again_is_kept_when_all_of_it_is_settled() -> None:
    encoder = Encoder()
    plain, secret = KnownFields([field(b"x-plain", b"a"), field(b"date", b"now")]), KnownFields([field(b"authorization", b"secret")])
    blocks = [encoder.encode_known(plain, [*plain], b"") for _ in range(4)]
    # A literal, a literal that enters the table, and from then on the reference to it.
    assert len(blocks[0]) >= len(blocks[1]) > len(blocks[2]) == len(blocks[3])
    oracle = hpack.Decoder()
    for block in blocks:
        assert told(oracle, block) == [(b"x-plain", b"a"), (b"date", b"now")]
    for fields in ([*plain, field(b"age", b"1")], plain[1:], plain[::-1], [*plain, *plain], [], [field(b"age", b"1"), *plain]):
        assert told(oracle, encoder.encode_known(plain, fields, b"")) == [each[:2] for each in fields]
    for _ in range(4):
        encoder.encode_known(secret, [*secret], b"")
    assert [kept[1] for kept in encoder._known.values()] == [blocks[3], None]
    encoder.encode([field(b"x-new", b"1")] * 2)  # enters the table
    assert not encoder._known


def test_the_memory_of_heads_is_bounded() -> None:
    encoder = Encoder()
    heads = [KnownFields([field(b"date", b"%d" % number)]) for number in range(2 * KNOWN_HEADS)]
    for head in heads:
        encoder.encode_known(head, [*head], b"")
    assert len(encoder._known) <= KNOWN_HEADS
