"""What an exchange knows when it is a gRPC call: its messages, and how it ended. Made only for requests that say they are one."""

from __future__ import annotations

from typing import Any

import msgspec

from sidecar.codec import grpc
from sidecar.codec.grpc import PREFIX_OCTETS, read_length
from sidecar.headers import Headers
from sidecar.message import RequestHead


class GRPCCall(msgspec.Struct, eq=False, gc=False):
    """`status`: what the answer said, None while it said nothing. `requests`, `responses`: messages that began. As long as each chunk is a message, as for
    nearly all unary calls, nothing else is needed to count them.
    """

    status: int | None = None
    requests: int = 0
    responses: int = 0
    _up: grpc.MessageCounter | None = None
    _down: grpc.MessageCounter | None = None

    @property
    def is_between(self) -> bool:
        """Is there no message of the answer that is begun and not complete?"""
        return self._down is None or self._down.is_between

    def goes_up(self, chunk: bytes) -> None:
        """These octets of the request pass."""
        if self._up is None:
            size = len(chunk)
            if size >= PREFIX_OCTETS and read_length(chunk)[0] == size - PREFIX_OCTETS:
                self.requests += 1
                return
            self._up = grpc.MessageCounter(self.requests)
        self._up.feed(chunk)
        self.requests = self._up.count

    def goes_down(self, chunk: bytes) -> None:
        """These octets of the answer pass."""
        if self._down is None:
            size = len(chunk)
            if size >= PREFIX_OCTETS and read_length(chunk)[0] == size - PREFIX_OCTETS:
                self.responses += 1
                return
            self._down = grpc.MessageCounter(self.responses)
        self._down.feed(chunk)
        self.responses = self._down.count

    def __repr__(self) -> str:
        return f"<GRPCCall status={self.status} {self.requests} messages up, {self.responses} down>"


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
    # `status_in`, without the calls, for most calls.
    for name, value, _ in () if fields is None else fields.fields:
        if name == b"grpc-status":
            if value == b"0":
                call.status = grpc.OK
                return 200
            break
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
