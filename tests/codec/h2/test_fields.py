"""Heads: what is malformed, and the form that heads have in front of the codec and behind it (RFC 9113, section 8)."""

from __future__ import annotations

from typing import Any

import hpack
import pytest

from sidecar.codec.h2 import fields as heads
from sidecar.codec.h2.encoder import Encoder
from sidecar.codec.h2.fields import Malformed
from sidecar.codec.h2.tables import NeverIndexed, received_field
from sidecar.errors import HeadTooLarge
from sidecar.headers import Headers
from sidecar.message import RequestHead, ResponseHead
from tests.codec.h2.peers import GET, POST

CONNECT = [(b":method", b"CONNECT"), (b":authority", b"a:443")]
EXTENDED = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]]


def read(pairs: list[tuple[bytes, bytes]], connect_protocol: bool = True) -> RequestHead:
    method, path, authority, scheme, fields, *rest = heads.read_request([received_field(*pair) for pair in pairs], connect_protocol)
    length, upgrade, expects = rest
    return RequestHead(method, path, authority, Headers(fields), 20, scheme, length, False, upgrade, expects)


def sent(block: bytes) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in hpack.Decoder().decode(block, raw=True)]


def test_a_request_gets_the_form_it_has_behind_http_1() -> None:
    head = read([*POST, (b"content-length", b"3"), (b"expect", b"100-continue"), (b"te", b"trailers"), (b"x-a", b"1")])
    assert (head.method, head.scheme, head.authority, head.path, head.version) == (b"POST", b"http", b"a", b"/", 20)
    assert (head.content_length, head.expects_continue, head.upgrade, head.end_stream) == (3, True, None, False)
    assert b"".join(field[2] for field in head.headers.fields) == b"Host: a\r\ncontent-length: 3\r\nexpect: 100-continue\r\nte: trailers\r\nx-a: 1\r\n"


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([*GET, (b"host", b"A")], b"a"),
        ([*GET[:2], GET[3], (b"host", b"b:80")], b"b:80"),
        ([*GET[:2], (b":authority", b"[::1]:80"), GET[3]], b"[::1]:80"),
    ],
)
def test_authority_and_host_are_one(pairs: list[tuple[bytes, bytes]], expected: bytes) -> None:
    """RFC 9113, section 8.3.1."""
    head = read(pairs)
    assert head.authority == expected and head.headers.get_all(b"host") == [expected]


def test_cookie_crumbs_become_one_field_in_the_place_of_the_first() -> None:
    """RFC 9113, section 8.2.3."""
    head = read([*GET, (b"a", b"1"), (b"cookie", b"x=1"), (b"b", b"2"), (b"cookie", b"y=2")])
    assert list(head.headers)[1:] == [(b"a", b"1"), (b"cookie", b"x=1; y=2"), (b"b", b"2")]
    assert head.headers.fields[2][2] == b"cookie: x=1; y=2\r\n"


def test_a_crumb_that_must_not_be_indexed_makes_the_whole_cookie_so() -> None:
    pairs = [received_field(*pair) for pair in [*GET, (b"cookie", b"x=1")]]
    parts = heads.read_request([*pairs, NeverIndexed(received_field(b"cookie", b"y=2"))], True)
    assert type(parts[4][1]) is NeverIndexed


def test_connect_has_an_authority_and_no_path() -> None:
    head = read(CONNECT)
    assert (head.method, head.authority, head.path, head.upgrade) == (b"CONNECT", b"a:443", b"", None)


def test_an_extended_connect_is_a_get_with_upgrade() -> None:
    """RFC 8441, section 4."""
    head = read(EXTENDED)
    assert (head.method, head.authority, head.path, head.upgrade) == (b"GET", b"a", b"/", b"websocket")


MALFORMED: list[Any] = [
    ("no method", GET[1:]),
    ("no scheme", [GET[0], *GET[2:]]),
    ("no path", GET[:3]),
    ("empty path", [*GET[:3], (b":path", b"")]),
    ("path without slash", [*GET[:3], (b":path", b"index")]),
    ("asterisk for GET", [*GET[:3], (b":path", b"*")]),
    ("path with a space", [*GET[:3], (b":path", b"/a b")]),
    ("path beyond ASCII", [*GET[:3], (b":path", b"/a\xff")]),
    ("path with a fragment", [*GET[:3], (b":path", b"/a#b")]),
    ("method with a space", [(b":method", b"GET /"), *GET[1:]]),
    ("scheme with a colon", [GET[0], (b":scheme", b"http:"), *GET[2:]]),
    ("user information", [*GET[:2], (b":authority", b"u@a"), GET[3]]),
    ("authority with a line end", [*GET[:2], (b":authority", b"a\r\nb: c"), GET[3]]),
    ("two authorities", [*GET[:2], (b":authority", b"a,b"), GET[3]]),
    ("authority in percent-encoding", [*GET[:2], (b":authority", b"a%2eb"), GET[3]]),
    ("authority with no number for its port", [*GET[:2], (b":authority", b"a:"), GET[3]]),
    ("authority with too large a port", [*GET[:2], (b":authority", b"a:65536"), GET[3]]),
    ("empty authority", [*GET[:2], (b":authority", b""), GET[3]]),
    ("neither authority nor host", [*GET[:2], GET[3]]),
    ("twice", [*GET, (b":path", b"/")]),
    ("unknown pseudo field", [*GET, (b":unknown", b"1")]),
    ("pseudo field of responses", [*GET, (b":status", b"200")]),
    ("pseudo field behind a field", [*GET[:3], (b"a", b"1"), GET[3]]),
    ("pseudo field behind host", [*GET[:3], (b"host", b"a"), GET[3]]),
    ("upper case", [*GET, (b"X-A", b"1")]),
    ("empty name", [*GET, (b"", b"1")]),
    ("line end in a value", [*GET, (b"a", b"1\r\nb: 2")]),
    ("white space around a value", [*GET, (b"a", b" 1")]),
    ("connection", [*GET, (b"connection", b"close")]),
    ("keep-alive", [*GET, (b"keep-alive", b"1")]),
    ("proxy-connection", [*GET, (b"proxy-connection", b"close")]),
    ("transfer-encoding", [*GET, (b"transfer-encoding", b"chunked")]),
    ("upgrade", [*GET, (b"upgrade", b"websocket")]),
    ("te", [*GET, (b"te", b"gzip")]),
    ("te with more", [*GET, (b"te", b"trailers, gzip")]),
    ("other host", [*GET, (b"host", b"b")]),
    ("two hosts", [*GET, (b"host", b"a"), (b"host", b"a")]),
    ("bad length", [*GET, (b"content-length", b"+1")]),
    ("octal length", [*GET, (b"content-length", b"010")]),
    ("two lengths", [*GET, (b"content-length", b"1"), (b"content-length", b"1")]),
    ("forged length", [*GET, (b"content_length", b"1")]),
    ("CONNECT with a path", [*CONNECT, (b":path", b"/")]),
    ("CONNECT with a scheme", [*CONNECT, (b":scheme", b"http")]),
    ("CONNECT without authority", [*CONNECT[:1], (b"host", b"a")]),
    ("protocol without CONNECT", [*GET, (b":protocol", b"websocket")]),
    ("protocol that is none", [EXTENDED[0], (b":protocol", b"a b"), *EXTENDED[2:]]),
    ("extended CONNECT without path", EXTENDED[:-1]),
]


@pytest.mark.parametrize("pairs", [each[1] for each in MALFORMED], ids=[each[0] for each in MALFORMED])
def test_malformed_requests_are_refused(pairs: list[tuple[bytes, bytes]]) -> None:
    """RFC 9113, sections 8.2 and 8.3."""
    with pytest.raises(Malformed):
        read(pairs)


def test_protocol_is_unknown_unless_it_was_announced() -> None:
    with pytest.raises(Malformed):
        read(EXTENDED, connect_protocol=False)


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [(b":status", b"20")],
        [(b":status", b"0200")],
        [(b":status", b"abc")],
        [(b":status", b"099")],
        [(b":status", b"101")],
        [(b":status", b"200"), (b":status", b"200")],
        [(b":status", b"200"), (b":path", b"/")],
        [(b"a", b"1"), (b":status", b"200")],
        [(b":status", b"200"), (b"connection", b"close")],
        [(b":status", b"200"), (b"A", b"close")],
    ],
)
def test_malformed_responses_are_refused(pairs: list[tuple[bytes, bytes]]) -> None:
    """RFC 9113, sections 8.3.2 and 8.6."""
    with pytest.raises(Malformed):
        heads.read_response([received_field(*pair) for pair in pairs])


def test_a_response_gets_the_usual_reason() -> None:
    parts = heads.read_response([received_field(b":status", b"404"), received_field(b"content-length", b"7")])
    assert parts == (404, [received_field(b"content-length", b"7")], b"Not Found", 7)
    assert heads.read_response([received_field(b":status", b"799")])[2] == b""


@pytest.mark.parametrize("pair", [(b":path", b"/"), (b"content-length", b"1"), (b"A", b"1"), (b"host", b"a"), (b"connection", b"a"), (b"set-cookie", b"a")])
def test_what_frames_or_routes_is_no_trailer(pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(Malformed):
        heads.read_trailers([received_field(*pair)])


def test_a_list_is_weighed_as_rfc_9113_says() -> None:
    """Section 6.5.2: 32 octets for each field."""
    fields = [received_field(b"a", b"bc")] * 3
    heads.weigh(fields, 105, 3)
    with pytest.raises(HeadTooLarge):
        heads.weigh(fields, 104, 3)
    with pytest.raises(HeadTooLarge):
        heads.weigh(fields, 105, 2)


def test_a_request_goes_out_with_pseudo_fields_first_and_without_those_of_http_1() -> None:
    head = RequestHead(b"PUT", b"/p?q", b"a:80", Headers.of([(b"Host", b"a:80"), (b"X-A", b"1"), (b"TE", b"trailers"), (b"Keep-Alive", b"5")]), scheme=b"https")
    assert sent(heads.write_request(head, Encoder())) == [
        (b":method", b"PUT"),
        (b":scheme", b"https"),
        (b":path", b"/p?q"),
        (b":authority", b"a:80"),
        (b"x-a", b"1"),
        (b"te", b"trailers"),
    ]


def test_connect_and_upgrades_go_out_as_connect() -> None:
    assert sent(heads.write_request(read(CONNECT), Encoder())) == CONNECT
    assert sorted(sent(heads.write_request(read(EXTENDED), Encoder()))) == sorted(EXTENDED)


def test_a_request_without_host_has_no_authority() -> None:
    assert b":authority" not in dict(sent(heads.write_request(RequestHead(b"GET", b"/", b"", Headers()), Encoder())))


@pytest.mark.parametrize(("status", "expected"), [(200, b"200"), (101, b"200"), (103, b"103"), (418, b"418"), (404, b"404")])
def test_a_response_goes_out_with_its_status(status: int, expected: bytes) -> None:
    assert sent(heads.write_response(ResponseHead(status, Headers.of([(b"A", b"1")])), Encoder())) == [(b":status", expected), (b"a", b"1")]


def test_a_changed_table_size_is_told_before_the_first_field() -> None:
    for write, head in ((heads.write_request, read(GET)), (heads.write_response, ResponseHead(200, Headers()))):
        encoder = Encoder()
        encoder.resize(0)
        assert write(head, encoder)[:1] == b"\x20"  # type: ignore[operator]


def test_what_a_head_weighs_for_its_receiver() -> None:
    """RFC 9113, section 6.5.2; a few octets do not matter."""
    head = RequestHead(b"POST", b"/a?b", b"app.example", Headers.of([(b"host", b"app.example"), (b"x-a", b"b" * 50)]), 20, b"https")
    pairs = [(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/a?b"), (b":authority", b"app.example"), (b"x-a", b"b" * 50)]
    assert abs(heads.weight(head) - sum(len(name) + len(value) + 32 for name, value in pairs)) < 16


def test_the_outline_of_a_head_that_is_not_taken() -> None:
    """Its first content-type, if that is well-formed; a method that is none is left out."""
    rows = [(b":method", b"PUT"), (b"content-type", b"application/grpc"), (b"content-type", b"b"), (b"x-a", b"c")]
    outline = heads.outline([received_field(*each) for each in rows])
    assert outline.method == b"PUT" and list(outline.headers) == [(b"content-type", b"application/grpc")]
    assert heads.outline([received_field(b":method", b"a b"), received_field(b"content-type", b"\x00")]).headers.fields == []
