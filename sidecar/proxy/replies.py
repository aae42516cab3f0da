"""The only place that makes local replies: an error becomes problem+json (RFC 9457), or gRPC trailers for a gRPC caller, with Proxy-Status (RFC 9209)
beside it.
"""

from __future__ import annotations

import msgspec

from sidecar.codec import grpc
from sidecar.errors import SidecarError
from sidecar.headers import Field, Headers, field
from sidecar.message import RequestHead, ResponseHead
from sidecar.verdicts import Reply

_JSON = msgspec.json.Encoder()
_PROBLEM = field(b"content-type", b"application/problem+json")
_GRPC = field(b"content-type", b"application/grpc")

# RFC 9209, section 2.3: the registered error type nearest to each of our codes; others are sent as our own code.
_PROXY_ERRORS = {
    "connect-failed": "connection_refused",
    "connect-timeout": "connection_timeout",
    "upstream-handshake-failed": "tls_protocol_error",
    "upstream-undelivered": "destination_unavailable",
    "upstream-closed": "connection_terminated",
    "upstream-reset": "connection_terminated",
    "upstream-stalled": "connection_write_timeout",
    "upstream-body-too-large": "http_response_body_size",
    "upstream-timeout": "http_response_timeout",
    "stream-duration-exceeded": "http_response_timeout",
    "stream-idle-timeout": "http_response_timeout",
    "upstream-protocol-error": "http_protocol_error",
    "http-version-required": "http_protocol_error",
    "upstream-overflow": "connection_limit_reached",
    "circuit-open": "destination_unavailable",
    "upstream-error": "http_response_incomplete",
    "upgrade-refused": "http_request_denied",
    "draining": "proxy_internal_error",
    "no-healthy-endpoint": "destination_unavailable",
    "no-route": "destination_not_found",
    "no-cluster": "destination_not_found",
    "denied": "http_request_denied",
    "unauthenticated": "http_request_denied",
    "rate-limited": "http_request_denied",
    "concurrency-limited": "connection_limit_reached",
}
_REASONS = {
    200: b"OK", 204: b"No Content", 301: b"Moved Permanently", 302: b"Found", 303: b"See Other", 307: b"Temporary Redirect",
    308: b"Permanent Redirect", 400: b"Bad Request", 401: b"Unauthorized", 403: b"Forbidden", 404: b"Not Found", 408: b"Request Timeout",
    413: b"Content Too Large", 414: b"URI Too Long", 429: b"Too Many Requests", 431: b"Request Header Fields Too Large",
    500: b"Internal Server Error", 501: b"Not Implemented", 502: b"Bad Gateway", 503: b"Service Unavailable", 504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}  # fmt: skip
_ABOUT_BODIES = frozenset((b"content-type", b"content-encoding", b"content-language", b"content-range"))
SENTENCE_LIMIT = 500  # characters of a sentence that leave the process; a peer's own text may be in it


def is_grpc(request: RequestHead | None) -> bool:
    """Does the caller speak gRPC?"""
    return request is not None and grpc.is_content_type(request.headers.get(b"content-type"))


def problem(error: SidecarError, status: int | None = None) -> bytes:
    """The problem+json document of an error."""
    status = error.status if status is None else status
    return _JSON.encode(
        {
            "type": f"urn:sidecar:{error.code}",
            "title": _REASONS.get(status, b"").decode(),
            "status": status,
            "code": error.code,
            "side": error.side,
            "detail": error.sentence[:SENTENCE_LIMIT],
            "hint": error.hint,
        }
    )


def error_reply(error: SidecarError, request: RequestHead | None = None, extra: Headers | None = None) -> tuple[ResponseHead, bytes]:
    """Head and body of the reply to `request` (None: it could not be read). The body is b"" when the head ends the stream."""
    fields: list[Field] = [] if extra is None else list(extra.fields)
    fields.append(_proxy_status(error))
    if is_grpc(request):
        return _grpc_reply(error, fields)
    body = problem(error)
    fields.append(_PROBLEM)
    return _with_body(error.status, fields, body, request)


def plugin_reply(reply: Reply, request: RequestHead | None) -> tuple[ResponseHead, bytes]:
    """Head and body of a plugin's own reply."""
    fields = [each for each in reply.headers.fields if each[0] not in (b"content-length", b"transfer-encoding", b"connection")]
    if is_grpc(request) and not grpc.is_content_type(reply.headers.get(b"content-type")):
        return _grpc_instead(reply.status, fields, reply.body)
    return _with_body(reply.status, fields, reply.body, request)


def text_reply(status: int, content_type: bytes, body: bytes, request: RequestHead | None, extra: Headers | None = None) -> tuple[ResponseHead, bytes]:
    """Head and body of a configured answer (direct response, redirect)."""
    fields: list[Field] = [] if extra is None else list(extra.fields)
    if is_grpc(request):
        return _grpc_instead(status, fields, body)
    if body:
        fields.append(field(b"content-type", content_type))
    return _with_body(status, fields, body, request)


def grpc_trailers(error: SidecarError) -> Headers:
    """The end of a call whose answer had begun."""
    return Headers(_grpc_status(error.grpc_status, f"{error.sentence[:SENTENCE_LIMIT]} ({error.code})"))


def _with_body(status: int, fields: list[Field], body: bytes, request: RequestHead | None) -> tuple[ResponseHead, bytes]:
    if status == 204 or status == 304:
        return ResponseHead(status, Headers(fields), _REASONS.get(status, b""), content_length=None, end_stream=True), b""
    fields.append(field(b"content-length", b"%d" % len(body)))
    silent = not body or (request is not None and request.method == b"HEAD")
    return ResponseHead(status, Headers(fields), _REASONS.get(status, b""), content_length=len(body), end_stream=silent), b"" if silent else body


def _grpc_reply(error: SidecarError, fields: list[Field]) -> tuple[ResponseHead, bytes]:
    """A trailers-only response (gRPC over HTTP/2, section Responses)."""
    fields += [_GRPC, *_grpc_status(error.grpc_status, f"{error.sentence[:SENTENCE_LIMIT]} ({error.code})")]
    return ResponseHead(200, Headers(fields), b"OK", content_length=None, end_stream=True), b""


def _grpc_instead(status: int, fields: list[Field], body: bytes) -> tuple[ResponseHead, bytes]:
    """What a caller of gRPC gets in place of an answer of HTTP (Envoy: a local reply's status and body become the call's)."""
    kept = [each for each in fields if each[0] not in _ABOUT_BODIES]
    code = grpc.UNKNOWN if status == 200 else grpc.from_http_status(status)
    kept += [_GRPC, *_grpc_status(code, body[:SENTENCE_LIMIT].decode(errors="replace"))]
    return ResponseHead(200, Headers(kept), b"OK", content_length=None, end_stream=True), b""


def _grpc_status(status: int, message: str) -> list[Field]:
    return [field(b"grpc-status", b"%d" % status), field(b"grpc-message", grpc.percent(message))]


def _proxy_status(error: SidecarError) -> Field:
    token = _PROXY_ERRORS.get(
        error.code,
        "proxy_internal_error" if error.side in ("sidecar", "plugin") else "http_request_error" if error.side == "downstream" else "proxy_internal_response",
    )
    return field(b"proxy-status", f'sidecar; error={token}; details="{error.code}"'.encode())
