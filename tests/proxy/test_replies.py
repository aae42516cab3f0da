"""`sidecar/proxy/replies.py`: errors as replies."""

from __future__ import annotations

import json
import re

import pytest

from sidecar import errors
from sidecar.codec.h1.writer import ResponseWriter
from sidecar.headers import Headers
from sidecar.message import RequestHead
from sidecar.proxy.replies import SENTENCE_LIMIT, error_reply, plugin_reply, text_reply
from sidecar.testing import make_request
from sidecar.verdicts import Reply


def every(kind: type[errors.SidecarError] = errors.SidecarError) -> list[type[errors.SidecarError]]:
    """The tree of errors, without those that end a start."""
    return [kind, *(each for child in kind.__subclasses__() if child is not errors.ConfigError for each in every(child))]


KINDS = [kind for kind in every() if kind.__module__ == "sidecar.errors"]


@pytest.mark.parametrize("kind", KINDS)
def test_problem_document(kind: type[errors.SidecarError]) -> None:
    """Every error can be told: status, code, side, sentence, hint, Proxy-Status, and the length is right."""
    head, body = error_reply(kind("a sentence"), make_request())
    problem = json.loads(body)
    assert head.status == problem["status"] == kind.status
    assert problem["type"] == f"urn:sidecar:{kind.code}" and problem["detail"] == "a sentence" and problem["hint"] and problem["side"] == kind.side
    assert head.headers.get(b"content-type") == b"application/problem+json" and head.content_length == len(body)
    assert (head.headers.get(b"proxy-status") or b"").startswith(b"sidecar; error=")


@pytest.mark.parametrize("kind", KINDS)
def test_grpc_gets_trailers_only(kind: type[errors.SidecarError]) -> None:
    """200 with grpc-status and a percent-encoded message, no body."""
    head, body = error_reply(kind("50% größer\n"), make_request("POST", headers={"content-type": "application/grpc+proto"}))
    assert (head.status, head.end_stream, body) == (200, True, b"")
    assert head.headers.get(b"grpc-status") == b"%d" % kind.grpc_status
    assert (head.headers.get(b"grpc-message") or b"").startswith(b"50%25 gr%C3%B6%C3%9Fer%0A")


def test_long_sentences_are_cut() -> None:
    """A peer's text does not leave without bound."""
    assert len(json.loads(error_reply(errors.UpstreamError("x" * 10_000))[1])["detail"]) == SENTENCE_LIMIT


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [200, 204, 304, 404])
def test_framing(method: str, status: int) -> None:
    """HEAD announces the length without the body; 204 and 304 have neither; the writer agrees."""
    request = make_request(method)
    for head, body in (plugin_reply(Reply(status, body=b"hello"), request), text_reply(status, b"text/plain", b"hello", request)):
        has_length = status in (200, 404)
        assert body == (b"hello" if has_length and method == "GET" else b"")
        assert head.end_stream is (body == b"")
        assert head.headers.get(b"content-length") == (b"5" if has_length else None)
        writer, out = ResponseWriter(), list[bytes]()
        writer.begin(request, True)
        writer.head(head, out)
        if not head.end_stream:
            writer.data(body, out)
            writer.end(None, out)


def test_plugin_cannot_frame_its_reply() -> None:
    """Length, coding and connection fields of a plugin's reply are ours."""
    fields = Headers.of([(b"Content-Length", b"99"), (b"Transfer-Encoding", b"chunked"), (b"Connection", b"x"), (b"X-A", b"b")])
    head, body = plugin_reply(Reply(200, fields, b"hi"), make_request())
    assert [name for name, _ in head.headers] == [b"x-a", b"content-length"] and head.headers.get(b"content-length") == b"2" and body == b"hi"


# RFC 9209, section 2.3, and the registry that it began.
REGISTERED = frozenset(
    [
        "dns_timeout",
        "dns_error",
        "destination_not_found",
        "destination_unavailable",
        "destination_ip_prohibited",
        "destination_ip_unroutable",
        "connection_refused",
        "connection_terminated",
        "connection_timeout",
        "connection_read_timeout",
        "connection_write_timeout",
        "connection_limit_reached",
        "tls_protocol_error",
        "tls_certificate_error",
        "tls_alert_received",
        "http_request_error",
        "http_request_denied",
        "http_response_incomplete",
        "http_response_header_section_size",
        "http_response_header_size",
        "http_response_body_size",
        "http_response_trailer_section_size",
        "http_response_trailer_size",
        "http_response_transfer_coding",
        "http_response_content_coding",
        "http_response_timeout",
        "http_upgrade_failed",
        "http_protocol_error",
        "proxy_internal_response",
        "proxy_internal_error",
        "proxy_configuration_error",
        "proxy_loop_detected",
    ]
)
CLASSES = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.SidecarError) and each is not errors.ConfigError]


@pytest.mark.parametrize("error", CLASSES, ids=lambda each: each.__name__)
def test_proxy_status_of_every_error(error: type[errors.SidecarError]) -> None:
    """A registered type, and our own code beside it; gRPC callers get it as well."""
    for request in (None, RequestHead(b"POST", b"/", b"a", Headers.of([(b"content-type", b"application/grpc")]))):
        head, _ = error_reply(error("why"), request)
        told = (head.headers.get(b"proxy-status") or b"").decode()
        found = re.fullmatch(r'sidecar; error=([a-z_]+); details="([a-z-]+)"', told)
        assert found is not None, told
        assert found[1] in REGISTERED and found[2] == error.code
        assert found[1] != "proxy_internal_response" or error.side == "policy"


FAULTS = {
    "connect-failed": "connection_refused",
    "connect-timeout": "connection_timeout",
    "upstream-handshake-failed": "tls_protocol_error",
    "upstream-closed": "connection_terminated",
    "upstream-reset": "connection_terminated",
    "upstream-stalled": "connection_write_timeout",
    "upstream-protocol-error": "http_protocol_error",
    "upstream-timeout": "http_response_timeout",
    "stream-idle-timeout": "http_response_timeout",
    "stream-duration-exceeded": "http_response_timeout",
    "upstream-overflow": "connection_limit_reached",
    "circuit-open": "destination_unavailable",
    "no-healthy-endpoint": "destination_unavailable",
    "no-route": "destination_not_found",
    "bad-request": "http_request_error",
    "denied": "http_request_denied",
    "plugin-failed": "proxy_internal_error",
}


@pytest.mark.parametrize("error", CLASSES, ids=lambda each: each.__name__)
def test_the_nearest_type(error: type[errors.SidecarError]) -> None:
    """Of those that a caller meets most."""
    head, _ = error_reply(error("why"))
    if error.code in FAULTS:
        assert f"error={FAULTS[error.code]};".encode() in (head.headers.get(b"proxy-status") or b"")
