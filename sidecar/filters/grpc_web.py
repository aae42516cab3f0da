"""gRPC-Web, which browsers can speak, translated to gRPC and back while it streams (PROTOCOL-WEB.md of github.com/grpc/grpc).

The two differ in three points: the content-type, the trailers (a last frame of the body instead), and text: base64 for who cannot read octets as they come.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import msgspec
from zope.interface import implementer

from sidecar.codec import grpc
from sidecar.errors import DownstreamError
from sidecar.headers import Headers
from sidecar.interfaces import IBodyInterest, IRequestBodyHook, IRequestHeadHook, IResponseBodyHook, IResponseHeadHook
from sidecar.verdicts import STREAM, Refuse

# Envoy offers the server these, because browsers say nothing of it.
ENCODINGS = b"identity,deflate,gzip"


class Translation:
    """What is known of one call. `reader`: of a request in base64. `is_text`: the answer is to be base64."""

    __slots__ = ("discards", "is_text", "reader", "suffix")

    def __init__(self, reader: grpc.Base64Reader | None, is_text: bool, suffix: bytes) -> None:
        self.reader = reader
        self.is_text = is_text
        self.suffix = suffix
        # The answer is no gRPC: its body says nothing to this caller.
        self.discards = False

    @property
    def content_type(self) -> bytes:
        """Of the answer."""
        return (grpc.WEB_TEXT if self.is_text else grpc.WEB) + self.suffix


def _kind(value: bytes | None) -> tuple[bool, bytes] | None:
    """(is it text?, "+proto" or the like) of a content-type of gRPC-Web; None for any other."""
    if value is None or not value.startswith(grpc.WEB):
        return None
    name, plus, rest = value.partition(b";")[0].strip().partition(b"+")
    if name not in (grpc.WEB, grpc.WEB_TEXT):
        return None
    return name == grpc.WEB_TEXT, plus + rest


@implementer(IBodyInterest, IRequestHeadHook, IRequestBodyHook, IResponseHeadHook, IResponseBodyHook)
class GRPCWeb:
    """Filter `grpc-web`: requests of gRPC-Web go up as gRPC, and their answers come back as gRPC-Web. Everything else passes untouched."""

    request_body_mode = response_body_mode = STREAM

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """There is nothing to choose."""

    def __init__(self, config: Config, context: Any) -> None:
        self._calls = context.counter("grpc_web_calls", "Calls of gRPC-Web translated, by the form of their requests.", ("form",))

    def request_head(self, exchange: Any) -> None:
        """See `IRequestHeadHook`."""
        request = exchange.request
        kind = _kind(request.headers.get(b"content-type")) if request.method == b"POST" else None
        if kind is None:
            return
        is_text, suffix = kind
        headers: Headers = request.headers
        wanted = _kind(headers.get(b"accept"))
        exchange.state[self] = Translation(grpc.Base64Reader() if is_text else None, is_text if wanted is None else wanted[0], suffix)
        headers.set(b"content-type", grpc.CONTENT_TYPE + suffix)
        headers.set(b"te", b"trailers")
        if b"grpc-accept-encoding" not in headers:
            headers.set(b"grpc-accept-encoding", ENCODINGS)
        headers.remove(b"x-grpc-web")
        self._calls.inc("text" if is_text else "binary")

    def takes_part(self, exchange: Any) -> bool:
        """See `IBodyInterest`."""
        return self in exchange.state

    def request_body(self, exchange: Any, chunk: bytes, end: bool) -> bytes | Refuse | None:
        """See `IRequestBodyHook`."""
        reader = exchange.state[self].reader
        if reader is None:
            return None
        try:
            data: bytes = reader.read(chunk)
        except ValueError as problem:
            return Refuse(DownstreamError(f"the body says that it is base64, and is not: {problem}"))
        if end and not reader.is_whole:
            return Refuse(DownstreamError("the body ends within four digits of base64"))
        return data

    def response_head(self, exchange: Any) -> None:
        """See `IResponseHeadHook`."""
        call = exchange.state.get(self)
        if call is None:
            return
        head = exchange.response
        if not grpc.is_content_type(head.headers.get(b"content-type")):
            # Of a proxy, or an application that speaks something else. To the caller a call has failed.
            status = grpc.UNKNOWN if head.status == 200 else grpc.from_http_status(head.status)
            head.headers.set(b"grpc-status", b"%d" % status)
            head.headers.set(b"grpc-message", grpc.percent(f"the answer is no gRPC, but one of HTTP with status {head.status}"))
            head.headers.remove(b"content-encoding")
            head.status, head.reason = 200, b"OK"
            call.discards = True
        head.headers.set(b"content-type", call.content_type)

    def response_body(self, exchange: Any, chunk: bytes, end: bool) -> bytes:
        """See `IResponseBodyHook`."""
        call = exchange.state[self]
        if call.discards:
            return b""
        if end:
            trailers = exchange.response_trailers
            chunk += grpc.trailers_frame(trailers or Headers.of([(b"grpc-status", b"%d" % grpc.UNKNOWN)]))
            if trailers is not None:
                trailers.fields = []
        return b64encode(chunk) if call.is_text and chunk else chunk
