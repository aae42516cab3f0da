"""Heads and bodies as they go out, read again by our own readers and by h11."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, strategies as st

from sidecar.codec.h1.reader import RequestReader, ResponseReader
from sidecar.codec.h1.writer import RequestWriter, ResponseWriter
from sidecar.errors import BadFraming, PluginFailed, UpstreamProtocolError
from sidecar.headers import Headers
from sidecar.message import END, End, RequestHead, ResponseHead


def request(
    method: str = "GET", path: str = "/", length: int | None = 0, end: bool = True, fields: str = "Host: a", upgrade: bytes | None = None, version: int = 11
) -> RequestHead:
    headers = Headers.of(tuple(each.encode() for each in line.split(": ")) for line in fields.split("|") if line)  # type: ignore[misc]
    return RequestHead(method.encode(), path.encode(), b"a:1" if method == "CONNECT" else b"a", headers, version, b"http", length, end, upgrade)


def response(status: int = 200, length: int | None = None, end: bool = False, fields: str = "", upgrade: bytes | None = None) -> ResponseHead:
    headers = Headers.of(tuple(each.encode() for each in line.split(": ")) for line in fields.split("|") if line)  # type: ignore[misc]
    return ResponseHead(status, headers, b"OK", 11, length, end, upgrade)


def written(head: RequestHead) -> str:
    out: list[bytes] = []
    RequestWriter().head(head, out)
    return b"".join(out).decode()


def answered(to: RequestHead, head: ResponseHead, keep_alive: bool = True) -> tuple[str, bool]:
    out: list[bytes] = []
    writer = ResponseWriter()
    writer.begin(to, keep_alive)
    writer.head(head, out)
    return b"".join(out).decode(), writer.closes


REQUESTS = [
    (request(), "GET / HTTP/1.1|Host: a"),
    (request(fields=""), "GET / HTTP/1.1|Host: a"),
    (request(fields="X: 1|Host: b|Y: 2"), "GET / HTTP/1.1|Host: a|X: 1|Y: 2"),
    (request(fields="Host: a|Host: a"), "GET / HTTP/1.1|Host: a"),
    (request(fields="host: a|Content-Length: 0|X: 1"), "GET / HTTP/1.1|host: a|Content-Length: 0|X: 1"),
    (request("POST"), "POST / HTTP/1.1|Host: a|Content-Length: 0"),
    (request("DELETE"), "DELETE / HTTP/1.1|Host: a"),
    (request("PUT", length=None), "PUT / HTTP/1.1|Host: a|Content-Length: 0"),
    (request("PUT", length=5, end=False), "PUT / HTTP/1.1|Host: a|Content-Length: 5"),
    (request("PUT", length=5, end=False, fields="Host: a|content-LENGTH: 5|X: 1"), "PUT / HTTP/1.1|Host: a|content-LENGTH: 5|X: 1"),
    (request("GET", length=5, end=False), "GET / HTTP/1.1|Host: a|Content-Length: 5"),
    (request("PUT", length=None, end=False), "PUT / HTTP/1.1|Host: a|Transfer-Encoding: chunked"),
    # What filters left behind about framing does not count.
    (request("PUT", length=None, end=False, fields="Host: a|Content-Length: 5"), "PUT / HTTP/1.1|Host: a|Transfer-Encoding: chunked"),
    (request("PUT", length=5, end=False, fields="Host: a|Content-Length: 6|Content-Length: 5"), "PUT / HTTP/1.1|Host: a|Content-Length: 5"),
    (request("PUT", length=5, end=False, fields="Host: a|Content-Length: 5|Content-Length: 5"), "PUT / HTTP/1.1|Host: a|Content-Length: 5"),
    (request(fields="Host: a|Transfer-Encoding: chunked|Connection: X|Keep-Alive: 5|Proxy-Connection: x|Upgrade: y"), "GET / HTTP/1.1|Host: a"),
    (request("OPTIONS", "*"), "OPTIONS * HTTP/1.1|Host: a"),
    (request("CONNECT", "", fields="Host: b|Content-Length: 5"), "CONNECT a:1 HTTP/1.1|Host: a:1"),
    (request(fields="Host: a|TE: trailers"), "GET / HTTP/1.1|Host: a|TE: trailers|Connection: TE"),
    (request(upgrade=b"websocket"), "GET / HTTP/1.1|Host: a|Connection: upgrade|Upgrade: websocket"),
    (request(upgrade=b"foo/1.0", fields="Host: a|TE: trailers"), "GET / HTTP/1.1|Host: a|TE: trailers|Connection: upgrade, TE|Upgrade: foo/1.0"),
    (request("PUT", length=5, end=False, fields="Host: a|Expect: 100-continue"), "PUT / HTTP/1.1|Host: a|Expect: 100-continue|Content-Length: 5"),
]


@pytest.mark.parametrize(("head", "lines"), REQUESTS, ids=lambda value: value if isinstance(value, str) else "")
def test_request_heads(head: RequestHead, lines: str) -> None:
    """Each head goes out as the row says: spelling and order kept, framing and connection fields ours."""
    assert written(head) == lines.replace("|", "\r\n") + "\r\n\r\n"


OLD = request(version=10)
RESPONSES = [
    (request(), response(200, 5), "HTTP/1.1 200 OK|Content-Length: 5", False),
    (request(), response(200, 5, fields="content-length: 5|X: 1"), "HTTP/1.1 200 OK|content-length: 5|X: 1", False),
    (request(), response(200, 5, fields="Content-Length: 6|X: 1"), "HTTP/1.1 200 OK|X: 1|Content-Length: 5", False),
    (request(), response(200, 0, True), "HTTP/1.1 200 OK|Content-Length: 0", False),
    (request(), response(200, None, True), "HTTP/1.1 200 OK|Content-Length: 0", False),
    (request(), response(200, None), "HTTP/1.1 200 OK|Transfer-Encoding: chunked", False),
    (request(), response(200, None, fields="Content-Length: 5|Connection: x|Keep-Alive: 1|Upgrade: h2"), "HTTP/1.1 200 OK|Transfer-Encoding: chunked", False),
    (OLD, response(200, None), "HTTP/1.1 200 OK|Connection: close", True),
    (OLD, response(200, 5), "HTTP/1.1 200 OK|Content-Length: 5|Connection: keep-alive", False),
    (request("HEAD"), response(200, 5, True, "Content-Length: 5"), "HTTP/1.1 200 OK|Content-Length: 5", False),
    (request("HEAD"), response(200, None, True), "HTTP/1.1 200 OK", False),
    (request(), response(304, 5, True, "Content-Length: 5|ETag: x"), "HTTP/1.1 304 OK|Content-Length: 5|ETag: x", False),
    (request(), response(304, 5, True, "Content-Length: 5|Content-Length: 6"), "HTTP/1.1 304 OK|Content-Length: 5", False),
    (request(), response(204, 0, True, "Content-Length: 0"), "HTTP/1.1 204 OK", False),
    (request("CONNECT"), response(200, None, False, "Content-Length: 5|X: 1"), "HTTP/1.1 200 OK|X: 1", True),
    (request("CONNECT"), response(403, 1), "HTTP/1.1 403 OK|Content-Length: 1", False),
    (request(upgrade=b"websocket"), response(101, None, False, "X: 1", b"websocket"), "HTTP/1.1 101 OK|X: 1|Connection: upgrade|Upgrade: websocket", True),
    (request(), response(200, None, False, "TE: x|Host: y"), "HTTP/1.1 200 OK|TE: x|Host: y|Transfer-Encoding: chunked", False),
]


@pytest.mark.parametrize(("to", "head", "lines", "closes"), RESPONSES, ids=lambda value: value if isinstance(value, str) else "")
def test_response_heads(to: RequestHead, head: ResponseHead, lines: str, closes: bool) -> None:
    """Each head goes out as the row says, framed for the client's version and method (RFC 9112, section 6.3)."""
    assert answered(to, head) == (lines.replace("|", "\r\n") + "\r\n\r\n", closes)


def test_close_is_said() -> None:
    """When the connection is not wanted any more the client is told."""
    assert answered(request(), response(200, 0, True), keep_alive=False) == ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", True)
    assert answered(OLD, response(200, 0, True), keep_alive=False) == ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", True)


def test_close_may_be_decided_late() -> None:
    """A drain that begins during the exchange is still told to the client: `closes` may be set until the head goes out."""
    writer = ResponseWriter()
    out: list[bytes] = []
    writer.begin(request(), True)
    writer.closes = True
    writer.head(response(200, 0, True), out)
    assert b"Connection: close\r\n" in out[0]
    assert not writer.is_close_delimited
    writer.begin(request(), True)
    assert not writer.closes


def test_informational_heads() -> None:
    """1xx heads go to HTTP/1.1 clients as they came, less the framing; an HTTP/1.0 client would take them for the answer."""
    writer = ResponseWriter()
    for version, expected in ((11, [b"HTTP/1.1 103 OK\r\nLink: x\r\n\r\n"]), (10, [])):
        out: list[bytes] = []
        writer.begin(request(version=version), True)
        writer.informational(response(103, None, True, "Link: x|Content-Length: 5|Connection: x"), out)
        assert out == expected


@pytest.mark.parametrize(("to", "head"), [(request("HEAD"), response(200, 5)), (request(), response(204, 5)), (request(), response(304, None))])
def test_bodies_that_may_not_be_are_left_out(to: RequestHead, head: ResponseHead) -> None:
    """A reply of our own to HEAD may carry a body without knowing: it is not sent."""
    writer = ResponseWriter()
    out: list[bytes] = []
    writer.begin(to, True)
    writer.head(head, out)
    writer.data(b"hello", out)
    writer.end(None, out)
    assert len(out) == 1
    assert not writer.closes


def test_body_of_a_close_delimited_answer() -> None:
    """An HTTP/1.0 client gets a body of unknown length as it is, and no trailers."""
    writer = ResponseWriter()
    out: list[bytes] = []
    writer.begin(OLD, True)
    writer.head(response(), out)
    assert writer.is_close_delimited
    writer.data(b"a", out)
    writer.end(Headers.of([(b"X", b"y")]), out)
    assert out[1:] == [b"a"]


def test_bodies_must_have_the_announced_length() -> None:
    """Octets too many or too few are refused before anything wrong is sent, as the mistake of the side that made them; the client's connection is then not
    used again."""
    out: list[bytes] = []
    sending = RequestWriter()
    sending.head(request("PUT", length=5, end=False), out)
    sending.data(b"hell", out)
    before = out.copy()
    with pytest.raises(BadFraming, match="more"):
        sending.data(b"oo", out)
    with pytest.raises(BadFraming, match="less"):
        sending.end(None, out)
    assert out == before
    for piece in (b"hell", b"hello!"):
        writer = ResponseWriter()
        writer.begin(request(), True)
        writer.head(response(200, 5), out)
        assert not writer.closes
        before = out.copy()
        with pytest.raises(UpstreamProtocolError):
            writer.data(piece, out)
            before.append(piece)
            writer.end(None, out)
        assert out == before
        assert writer.closes


def test_contradictions_are_refused() -> None:
    """A head that announces octets and says there are none goes nowhere."""
    out: list[bytes] = []
    with pytest.raises(BadFraming):
        RequestWriter().head(request("PUT", length=5, end=True), out)
    with pytest.raises(UpstreamProtocolError):
        answered(request(), response(200, 5, True))
    assert out == []


def test_edits_cannot_split_a_request() -> None:
    """An authority, path or upgrade that a filter spoiled is not sent."""
    bad_authority = request()
    bad_authority.authority = b"a\r\nX: y"
    for head in (bad_authority, request(path="/a b"), request(upgrade=b"a\r\n")):
        out: list[bytes] = []
        with pytest.raises(PluginFailed):
            RequestWriter().head(head, out)
        assert out == []
    with pytest.raises(PluginFailed):
        answered(request(), response(101, upgrade=None))


def test_values_of_a_wrong_type_are_the_plugins_fault() -> None:
    """A filter's text for octets, or None, is refused as `PluginFailed`, which becomes an answer; any other exception would look like a broken application."""
    for spoiled in ({"method": "GET"}, {"path": None}, {"path": "/a"}):
        head = request()
        for name, value in spoiled.items():
            setattr(head, name, value)
        with pytest.raises(PluginFailed):
            RequestWriter().head(head, [])
    for name, value in (("status", "200 OK"), ("status", None), ("reason", "OK")):
        answer = response(200, 0, True)
        setattr(answer, name, value)
        with pytest.raises(PluginFailed):
            answered(request(), answer)


def test_http10_without_host() -> None:
    """A request of HTTP/1.0 without Host goes on as HTTP/1.1 with an empty one (RFC 9112, section 3.2)."""
    head = request(fields="", version=10)
    head.authority = b""
    assert written(head) == "GET / HTTP/1.1\r\nHost: \r\n\r\n"


# -- both ends -------------------------------------------------------------------------------------------------------------------------------

_token = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+.^`|~", min_size=1, max_size=12).map(lambda text: b"X-" + text.encode())
_value = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20).map(lambda text: text.encode("latin-1"))
_fields = st.lists(st.tuples(_token, _value), max_size=6).map(Headers.of)
_trailers = st.none() | st.lists(st.tuples(_token, _value), min_size=1, max_size=3).map(Headers.of)
_path = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), max_size=20).map(lambda text: b"/" + text.encode())
_chunks = st.lists(st.binary(max_size=40), max_size=5)


def received(reader: RequestReader | ResponseReader, octets: bytes, cut: int) -> tuple[object, bytes, object]:
    """Head, body and end of one message, read in two pieces."""
    events: list[object] = [*reader.receive(octets[:cut]), *reader.receive(octets[cut:])]
    head, *rest = events
    end = rest.pop() if rest and isinstance(rest[-1], End) else None
    assert all(isinstance(each, bytes) for each in rest), rest
    return head, b"".join(each for each in rest if isinstance(each, bytes)), end


@given(path=_path, fields=_fields, chunks=_chunks, trailers=_trailers, counted=st.booleans(), cut=st.integers(0, 400))
def test_requests_arrive_as_they_were_sent(path: bytes, fields: Headers, chunks: list[bytes], trailers: Headers | None, counted: bool, cut: int) -> None:
    """What our writer sends our reader gives back, counted or chunked, and the end of the octets is the end of the message."""
    body = b"".join(chunks)
    headers = Headers.of([(b"Host", b"a")])
    headers.fields += fields.fields
    sent = RequestHead(b"PUT", path, b"a", headers, content_length=len(body) if counted else None, end_stream=False)
    out: list[bytes] = []
    writer = RequestWriter()
    writer.head(sent, out)
    for chunk in chunks:
        writer.data(chunk, out)
    writer.end(trailers, out)
    reader = RequestReader(65536, 100)
    head, got, end = received(reader, b"".join(out), cut)
    assert isinstance(head, RequestHead)
    assert (head.method, head.path, head.authority) == (b"PUT", path, b"a")
    assert [each for each in head.headers.fields if each[0] != b"content-length"] == headers.fields
    assert got == body
    assert reader.buffered == 0
    if counted:
        assert end is (END if body else None)
    else:
        assert isinstance(end, End)
        assert end.trailers == trailers


@given(fields=_fields, chunks=_chunks, trailers=_trailers, counted=st.booleans(), cut=st.integers(0, 400), status=st.sampled_from([200, 404, 503]))
def test_answers_arrive_as_they_were_sent(fields: Headers, chunks: list[bytes], trailers: Headers | None, counted: bool, cut: int, status: int) -> None:
    """The same for answers, and the connection is good for another."""
    body = b"".join(chunks)
    out: list[bytes] = []
    writer = ResponseWriter()
    writer.begin(request(), True)
    writer.head(ResponseHead(status, fields.copy(), b"", 11, len(body) if counted else None, False), out)
    for chunk in chunks:
        writer.data(chunk, out)
    writer.end(trailers, out)
    reader = ResponseReader(65536, 100)
    reader.expect(b"GET")
    head, got, end = received(reader, b"".join(out), cut)
    assert isinstance(head, ResponseHead)
    assert head.status == status
    assert [each for each in head.headers.fields if each[0] != b"content-length"] == fields.fields
    assert got == body
    assert reader.finished
    assert reader.keep_alive
    if not counted:
        assert isinstance(end, End)
        assert end.trailers == trailers


def in_h11(connection: h11.Connection, octets: bytes) -> tuple[list[tuple[bytes, bytes]], bytes, list[tuple[bytes, bytes]]]:
    connection.receive_data(octets)
    head = connection.next_event()
    assert isinstance(head, h11.Request | h11.Response)
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    return list(head.headers.raw_items()), body, list(event.headers)


@given(path=_path, fields=_fields, chunks=_chunks, trailers=_trailers, counted=st.booleans())
def test_h11_reads_what_we_write(path: bytes, fields: Headers, chunks: list[bytes], trailers: Headers | None, counted: bool) -> None:
    """An independent implementation understands our requests as we meant them."""
    body = b"".join(chunks)
    head = RequestHead(b"PUT", path, b"a", fields, content_length=len(body) if counted else None, end_stream=False)
    out: list[bytes] = []
    writer = RequestWriter()
    writer.head(head, out)
    for chunk in chunks:
        writer.data(chunk, out)
    writer.end(trailers, out)
    got_fields, got_body, got_trailers = in_h11(h11.Connection(h11.SERVER), b"".join(out))
    assert got_fields[1 : 1 + len(fields)] == [(each[2].partition(b":")[0], each[1]) for each in fields.fields]
    assert got_body == body
    assert got_trailers == ([] if counted or trailers is None else list(trailers))


@given(path=_path, fields=_fields, chunks=_chunks, trailers=_trailers, counted=st.booleans(), cut=st.integers(0, 400))
def test_we_read_what_h11_writes(path: bytes, fields: Headers, chunks: list[bytes], trailers: Headers | None, counted: bool, cut: int) -> None:
    """We understand an independent implementation's requests as they were meant."""
    body = b"".join(chunks)
    connection = h11.Connection(h11.CLIENT)
    framing = (b"Content-Length", b"%d" % len(body)) if counted else (b"Transfer-Encoding", b"chunked")
    octets = connection.send(h11.Request(method="POST", target=path, headers=[(b"Host", b"a"), *fields, framing])) or b""
    for chunk in chunks:
        octets += connection.send(h11.Data(data=chunk)) or b""
    octets += connection.send(h11.EndOfMessage(headers=[] if counted or trailers is None else list(trailers))) or b""
    head, got, end = received(RequestReader(65536, 100), octets, cut)
    assert isinstance(head, RequestHead)
    assert head.path == path
    assert [each for each in head.headers if each[0] != b"content-length"] == [(b"host", b"a"), *fields]
    assert got == body
    if isinstance(end, End) and not counted:
        assert end.trailers == trailers


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@given(fields=_fields, body=st.binary(max_size=60), status=st.sampled_from([200, 204, 304, 404]), known=st.booleans())
def test_h11_and_we_agree_on_answers(method: str, fields: Headers, body: bytes, status: int, known: bool) -> None:
    """For any status and method h11 and our reader find the same body in what our writer sends."""
    writer = ResponseWriter()
    out: list[bytes] = []
    writer.begin(request(method), True)
    writer.head(ResponseHead(status, fields, b"", 11, len(body) if known else None, False), out)
    writer.data(body, out)
    writer.end(None, out)
    octets = b"".join(out)
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    _, theirs, _ = in_h11(connection, octets)
    reader = ResponseReader(65536, 100)
    reader.expect(method.encode())
    _, ours, _ = received(reader, octets, len(octets) // 2)
    assert ours == theirs == (b"" if method == "HEAD" or status in (204, 304) else body)
    assert reader.keep_alive
