"""`sidecar/codec/grpc.py`: statuses, message prefixes and gRPC-Web's frames."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given, strategies as st

from sidecar.codec import grpc
from sidecar.headers import Headers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;charset=utf-8", True),
        (b"application/grpc-web", False),
        (b"application/grpc-web-text+proto", False),
        (b"application/grpcish", False),
        (b"application/json", False),
        (None, False),
    ],
)
def test_content_type(value: bytes | None, expected: bool) -> None:
    assert grpc.is_content_type(value) is expected


@pytest.mark.parametrize(("value", "expected"), [(b"0", 0), (b"14", 14), (b"", 2), (b"-1", 2), (b"1e3", 2), (b"99999", 2), (None, None)])
def test_status_of_trailers(value: bytes | None, expected: int | None) -> None:
    """What is no number is UNKNOWN; what is not there is None."""
    assert grpc.status_in(Headers.of([] if value is None else [(b"grpc-status", value)])) == expected
    assert grpc.status_in(None) is None


@pytest.mark.parametrize(("status", "http"), [(0, 200), (1, 499), (2, 500), (4, 504), (7, 403), (12, 501), (14, 503), (16, 401), (17, 500), (-1, 500)])
def test_what_a_status_counts_as(status: int, http: int) -> None:
    assert grpc.http_status(status) == http


@pytest.mark.parametrize(("http", "status"), [(200, 0), (400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (503, 14), (504, 14), (500, 2), (302, 2)])
def test_status_of_an_answer_that_is_no_grpc(http: int, status: int) -> None:
    assert grpc.from_http_status(http) == status


def message(size: int, flag: int = 0) -> bytes:
    return bytes((flag,)) + size.to_bytes(4, "big") + b"m" * size


@given(sizes=st.lists(st.integers(0, 300), max_size=20), cuts=st.lists(st.integers(1, 40), min_size=1))
def test_messages_are_counted_however_they_are_cut(sizes: list[int], cuts: list[int]) -> None:
    """Any chunking gives the same count, and at the end nothing is open."""
    counter = grpc.MessageCounter()
    octets = b"".join(map(message, sizes))
    position = turn = 0
    while position < len(octets):
        counter.feed(octets[position : position + cuts[turn % len(cuts)]])
        position += cuts[turn % len(cuts)]
        turn += 1
    assert counter.count == len(sizes) and counter.is_between


def test_a_message_that_is_cut_is_open() -> None:
    counter = grpc.MessageCounter()
    for piece, between, count in ((b"", True, 0), (b"\0\0", False, 0), (b"\0\0\3", False, 1), (b"ab", False, 1), (b"c", True, 1), (message(0), True, 2)):
        counter.feed(piece)
        assert (counter.is_between, counter.count) == (between, count)


def test_percent_encoding() -> None:
    assert grpc.percent("ja: 100% – é\n") == b"ja: 100%25 %E2%80%93 %C3%A9%0A"


def test_trailers_of_grpc_web() -> None:
    """PROTOCOL-WEB.md: the flag's highest bit, the length, lines."""
    assert grpc.trailers_frame(Headers.of([(b"Grpc-Status", b"0"), (b"x", b"y")])) == b"\x80\0\0\0\x16grpc-status: 0\r\nx: y\r\n"


@given(pieces=st.lists(st.binary(max_size=40), max_size=8), cuts=st.lists(st.integers(1, 9), min_size=1))
def test_text_is_read_however_it_is_cut(pieces: list[bytes], cuts: list[int]) -> None:
    """Pieces with padding of their own, one behind the other."""
    text = b"".join(map(b64encode, pieces))
    reader = grpc.Base64Reader()
    out = b""
    position = turn = 0
    while position < len(text):
        out += reader.read(text[position : position + cuts[turn % len(cuts)]])
        position += cuts[turn % len(cuts)]
        turn += 1
    assert out == b"".join(pieces) and reader.is_whole


@pytest.mark.parametrize("text", [b"a===", b"a*bc", b"====", b"=abc", b"ab=c", b"ab\r\n"])
def test_what_is_no_base64_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="base64"):
        grpc.Base64Reader().read(text)
