"""What an exchange knows when it is a gRPC call: its messages, and how it ended. Made only for requests that say they are one."""

from __future__ import annotations

from typing import Any

import msgspec

from sidecar.codec import grpc
from sidecar.headers import Headers
from sidecar.message import RequestHead


class GRPCCall(msgspec.Struct, eq=False, gc=False):
    """`status`: what the answer said, None while it said nothing. `head_seconds`: from the attempt's begin to the answer's head, kept for observers, who
    hear of a call when its status is known.
    """

    status: int | None = None
    head_seconds: float = 0.0
    requests: grpc.MessageCounter = msgspec.field(default_factory=grpc.MessageCounter)
    responses: grpc.MessageCounter = msgspec.field(default_factory=grpc.MessageCounter)

    def __repr__(self) -> str:
        return f"<GRPCCall status={self.status} {self.requests.count} messages up, {self.responses.count} down>"


def is_call(request: RequestHead) -> bool:
    """Is this request a call ("gRPC over HTTP2": the method is POST)?"""
    if request.method != b"POST":
        return False
    # `Headers.get`, without the call.
    for name, value, _ in request.headers.fields:
        if name == b"content-type":
            return value == grpc.CONTENT_TYPE or grpc.is_content_type(value)
    return False


def outcome(call: GRPCCall, fields: Headers | None) -> int:
    """The HTTP status that says how the call ended, by the trailers, or the head that was all of the answer. A call that says nothing is UNKNOWN."""
    value = None if fields is None else fields.get(b"grpc-status")
    if value == b"0":
        call.status = grpc.OK
        return 200
    status = grpc.status_in(fields)
    call.status = grpc.UNKNOWN if status is None else status
    return grpc.http_status(call.status)


def final_status(exchange: Any) -> int | None:
    """The status that the caller saw at the end of the exchange; None when it is no call."""
    call: GRPCCall | None = exchange.grpc
    if call is None:
        return None
    if call.status is not None:
        return call.status
    if exchange.error is not None:
        status: int = exchange.error.grpc_status
        return status
    return grpc.from_http_status(exchange.status)
