"""What a connection speaks, told from its first octets: ordinary clients, handmade ClientHellos, rubbish."""

from __future__ import annotations

import ssl
import struct

import pytest
from hypothesis import given, strategies as st

from sidecar.codec.sniff import CLIENT_HELLO_BYTES, CLIENT_HELLO_RECORDS, H2_PREFACE, METHOD_BYTES, RAW, RAW_H2, RAW_HTTP1, TLS, Sniffed, is_tls, sniff


def client_hello(name: str | None = "payments.shop.svc", protocols: list[str] | None = None) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.create_default_context()
    if protocols:
        context.set_alpn_protocols(protocols)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def extension(kind: int, body: bytes) -> bytes:
    return struct.pack(">HH", kind, len(body)) + body


def server_name(name: bytes, kind: int = 0) -> bytes:
    entry = struct.pack(">BH", kind, len(name)) + name
    return extension(0, struct.pack(">H", len(entry)) + entry)


def hello(extensions: bytes, session: bytes = b"") -> bytes:
    """A ClientHello message made by hand, without record headers."""
    body = b"\x03\x03" + bytes(32) + bytes([len(session)]) + session + b"\x00\x02\x13\x01" + b"\x01\x00" + struct.pack(">H", len(extensions)) + extensions
    return b"\x01" + len(body).to_bytes(3, "big") + body


def records(message: bytes, size: int = 16384) -> bytes:
    return b"".join(b"\x16\x03\x01" + struct.pack(">H", len(message[at : at + size])) + message[at : at + size] for at in range(0, len(message), size))


def test_names_of_a_real_client() -> None:
    """SNI and ALPN of an ordinary ClientHello are found."""
    assert sniff(client_hello(protocols=["h2", "http/1.1"]), False) == Sniffed("tls", "payments.shop.svc", ("h2", "http/1.1"))
    assert sniff(client_hello(name=None), False) == TLS


@pytest.mark.parametrize("size", [1, 7, 100])
def test_every_beginning_needs_more(size: int) -> None:
    """Until the ClientHello is whole the answer is "more", or at the end of the connection TLS without names; also when it is spread over records."""
    message = hello(server_name(b"a.b"))
    data = records(message, size)
    for length in range(len(data)):
        assert sniff(data[:length], False) is None
        assert sniff(data[:length], True) == (TLS if length > 1 else RAW)
    assert sniff(data, False) == sniff(data + b"more", False) == Sniffed("tls", "a.b")


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        (b"a", "a"),
        (b"A.Example.ORG", "a.example.org"),
        (b"my_service.ns", "my_service.ns"),
        (b"a" * 63 + b".b", "a" * 63 + ".b"),
        (b"a" * 64, ""),
        (b"1.2.3.4", ""),
        (b"a.", ""),
        (b".a", ""),
        (b"-a", ""),
        (b"a\nb", ""),
        (b"a\n", ""),
        (b"a/b", ""),
        (b"*.a", ""),
        (b"", ""),
        (b"a." * 127 + b"b", ""),
        (b"\xe9", ""),
    ],
)
def test_server_names_are_checked(name: bytes, seen: str) -> None:
    """Only a host name counts; anything else is as good as none, and still TLS."""
    assert sniff(records(hello(server_name(name))), False) == Sniffed("tls", seen)


@pytest.mark.parametrize(
    "extensions",
    [
        extension(0, b""),
        extension(0, b"\x00"),
        extension(0, b"\x00\x09\x00\x00\x01a"),
        extension(0, b"\x00\x08\x00\x00\x01a\x00\x00\x01b"),
        server_name(b"a", kind=1),
        server_name(b"a")[:-1],
        server_name(b"a") + b"\x00\x15\x00\x05",
        server_name(b"a") + b"\x00",
        extension(16, b"\x00\x05\x02h2"),
        extension(16, b"\x00\x03\x03h2"),
        extension(16, b"\x00\x01\x00"),
        extension(16, b"\x00\x02\x01\xff"),
    ],
)
def test_malformed_hellos_are_tls_without_names(extensions: bytes) -> None:
    """Wrong lengths, lists of names and strange kinds end the search, never the program."""
    assert sniff(records(hello(extensions)), False) == TLS


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\x00\x50\x00",
        b"\x16\x03\x01\x00\x01\x01\x17\x03\x01\x00\x01\x00",
        records(b"\x01\x00\x00\x02\x03\x03"),
    ],
)
def test_other_records_are_tls_without_names(data: bytes) -> None:
    """What begins like TLS and goes on otherwise waits for nothing."""
    assert sniff(data + bytes(50), False) == TLS


def test_hellos_are_bounded() -> None:
    """A ClientHello as long as the limit is read; one longer, or in too many records, is TLS without names at once."""
    padding = CLIENT_HELLO_BYTES - len(hello(server_name(b"a") + extension(21, b""))) + 4
    assert sniff(records(hello(server_name(b"a") + extension(21, bytes(padding)))), False) == Sniffed("tls", "a")
    assert sniff(records(hello(server_name(b"a") + extension(21, bytes(padding + 1))))[:16], False) == TLS
    assert sniff(records(hello(server_name(b"a") + extension(21, bytes(CLIENT_HELLO_RECORDS))), 1), False) == TLS


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (H2_PREFACE, RAW_H2),
        (H2_PREFACE + b"\x00", RAW_H2),
        (b"PRI * HTTP/1.1\r\n", RAW_HTTP1),
        (b"PRI /", RAW_HTTP1),
        (b"GET /", RAW_HTTP1),
        (b"M-SEARCH * HTTP/1.1\r\n", RAW_HTTP1),
        (b"GET http://a", RAW_HTTP1),
        (b"GET https://a", RAW_HTTP1),
        (b"CONNECT a:1", RAW_HTTP1),
        (b"EHLO mail.example.org\r\n", RAW),
        (b"get key\r\n", RAW),
        (b"PING\r\n", RAW),
        (b"INVITE sip:a", RAW),
        (b"*1\r\n$4\r\nPING", RAW),
        (b"\x00\x01", RAW),
        (b"\x16\x02", RAW),
        (b"A" * (METHOD_BYTES + 1), RAW),
        (b" /", RAW),
        (b"GET  /", RAW),
    ],
)
def test_cleartext_protocols(data: bytes, seen: Sniffed) -> None:
    """HTTP/1 and HTTP/2 are known by their first words, everything else is raw; one more octet changes nothing."""
    assert sniff(data, False) == sniff(data + b"x", False) == seen


@pytest.mark.parametrize("data", [b"", b"P", b"PRI * HTTP/2.0\r\n", b"GET", b"GET ", b"GET ht", b"OPTIONS *", b"\x16", b"A" * METHOD_BYTES])
def test_too_little_to_tell(data: bytes) -> None:
    """What may still become HTTP waits for more; at the end of the connection it is raw."""
    assert sniff(data, False) is None
    assert sniff(data, True) == RAW


def test_first_octets_tell_tls() -> None:
    """TLS is told from its first two octets."""
    assert [is_tls(data) for data in (b"", b"\x16", b"\x16\x03", b"\x16\x01", b"G", b"\x80\x03")] == [None, None, True, False, False, False]


@given(data=st.binary(max_size=200), keep=st.integers(0, 120), eof=st.booleans())
def test_rubbish_never_raises(data: bytes, keep: int, eof: bool) -> None:
    """Whatever follows a good beginning, there is an answer, and at the end of the connection never "more"."""
    for start in (records(hello(server_name(b"a.b") + extension(16, b"\x00\x03\x02h2")))[:keep], b""):
        seen = sniff(start + data, eof)
        assert seen is not None or not eof
