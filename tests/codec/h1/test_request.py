"""What the codec makes of good requests: the table `rows/good_requests.txt`, targets, upgrades, expectations."""

from __future__ import annotations

import pytest

from sidecar.codec.h1.reader import RequestReader
from sidecar.message import RequestHead
from tests.codec.h1.table_files import octets, rows


@pytest.mark.parametrize("row", rows("good_requests"), ids=lambda row: row[0][:60])
def test_good_requests(row: list[str]) -> None:
    """Each row of the table gives the head, body and remaining fields that the row says."""
    head, *rest = RequestReader(65536, 100).receive(octets(row[0]))
    assert isinstance(head, RequestHead)
    assert [head.method, head.path, head.authority, str(head.version), str(head.content_length), str(head.end_stream)] == [
        row[1].encode(),
        row[2].encode(),
        row[3].encode(),
        *row[4:7],
    ]
    assert b"".join(each for each in rest if isinstance(each, bytes)) == row[7].encode()
    assert [name.decode() for name, _ in head.headers] == row[8].split()
    assert bool(rest) is not head.end_stream


def only_head(data: bytes, scheme: bytes = b"http") -> RequestHead:
    (head,) = RequestReader(65536, 100, scheme).receive(data)
    assert isinstance(head, RequestHead)
    return head


def test_scheme_of_the_connection_or_the_target() -> None:
    """The scheme is that of the connection unless the target names one."""
    assert only_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"https").scheme == b"https"
    assert only_head(b"GET HTTPS://a/ HTTP/1.1\r\nHost: a\r\n\r\n").scheme == b"https"


def test_absolute_target_replaces_host() -> None:
    """Whoever stands behind us sees in Host what the target says (RFC 9112, section 3.2.2)."""
    assert only_head(b"GET http://b/ HTTP/1.1\r\nX: 1\r\nHost: a\r\nY: 2\r\n\r\n").headers.fields[1] == (b"host", b"b", b"Host: b\r\n")
    assert only_head(b"GET http://b/ HTTP/1.0\r\n\r\n").headers.get(b"host") == b"b"


@pytest.mark.parametrize(
    ("fields", "upgrade"),
    [
        ("Connection: Upgrade\r\nUpgrade: WebSocket\r\n", b"websocket"),
        ("Connection: keep-alive, upgrade\r\nUpgrade: h2c, foo\r\n", b"h2c"),
        ("Upgrade: websocket\r\n", None),
        ("Connection: upgrade\r\n", None),
    ],
)
def test_upgrade_needs_connection(fields: str, upgrade: bytes | None) -> None:
    """An Upgrade field counts only when Connection lists it, and never goes on as a field."""
    head = only_head(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields.encode() + b"\r\n")
    assert head.upgrade == upgrade
    assert len(head.headers) == 1


def test_upgrade_is_for_http11() -> None:
    """An HTTP/1.0 client cannot upgrade (RFC 9110, section 7.8), nor does it wait for a 100 (section 10.1.1)."""
    head, *_ = RequestReader(65536, 100).receive(b"POST / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx")
    assert isinstance(head, RequestHead)
    assert head.upgrade is None
    assert not head.expects_continue


def test_expectations() -> None:
    """100-continue is noticed when there is a body to wait with; the field stays, as do unknown expectations."""
    reader = RequestReader(65536, 100)
    for value, length, expected in ((b"100-Continue", 5, True), (b"100-continue", 0, False), (b"teapot", 5, False)):
        (head, *_) = reader.receive(b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: %b\r\nContent-Length: %d\r\n\r\n%b" % (value, length, b"x" * length))
        assert isinstance(head, RequestHead)
        assert head.expects_continue is expected
        assert head.headers.get(b"expect") == value
        reader.next_message()
