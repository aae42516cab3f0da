"""Health check `grpc`: ask grpc.health.v1.Health/Check, the gRPC health checking protocol (Envoy: GrpcHealthCheck).

The request is a message with one text field, the answer one with one number, so both are written out here instead of bringing in a protobuf library.
https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

from typing import Any

import msgspec
from zope.interface import implementer

from sidecar.codec.h1.grammar import is_authority
from sidecar.headers import Headers
from sidecar.interfaces import IHealthCheck
from sidecar.verdicts import Unwell

PATH = b"/grpc.health.v1.Health/Check"
# HealthCheckResponse.ServingStatus
STATUSES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
SERVING = 1
# A HealthCheckResponse has a handful of octets; more is something else.
ANSWER_BYTES = 4096
# google.rpc.Code, those that a health service ends with.
CODES = {1: "CANCELLED", 2: "UNKNOWN", 4: "DEADLINE_EXCEEDED", 5: "NOT_FOUND", 7: "PERMISSION_DENIED", 8: "RESOURCE_EXHAUSTED"} | {
    12: "UNIMPLEMENTED", 13: "INTERNAL", 14: "UNAVAILABLE", 16: "UNAUTHENTICATED"
}  # fmt: skip
# Those that tell of a moment rather than of the service.
PASSING = frozenset({"1", "4", "8", "14"})


@implementer(IHealthCheck)
class GRPCCheck:
    """See the module. The cluster must speak HTTP/2 (`protocol: h2`, or `auto` with an endpoint that chooses it)."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`service`: the name asked for ("" for the server as a whole). `authority`: the :authority sent (unset: the endpoint's hostname, else the
        cluster's name). `metadata`: sent along."""

        service: str = ""
        authority: str | None = None
        metadata: dict[str, str] = {}

        def __post_init__(self) -> None:
            """Raises `ValueError` for an authority or metadata that cannot be sent."""
            if self.authority is not None and not is_authority(self.authority.encode()):
                raise ValueError(f"expected a host name with or without a port, got {self.authority!r}")
            _fields(self)

    def __init__(self, config: Config, context: Any) -> None:
        self._fields = _fields(config)
        self._message = request_message(config.service)

    async def check(self, probe: Any) -> Unwell | None:
        """See `IHealthCheck`."""
        fields = self._fields.copy()
        fields.set(b"grpc-timeout", b"%dm" % max(1, int(probe.timeout_seconds * 1000)))
        answer = await probe.request(b"POST", PATH, fields, self._message, limit_bytes=ANSWER_BYTES)
        return verdict(answer)


def _fields(config: GRPCCheck.Config) -> Headers:
    """The request's fields. Raises `ValueError`."""
    fields = Headers.of([(b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"user-agent", b"sidecar-health-check")])
    if config.authority is not None:
        fields.set(b"host", config.authority.encode())
    for name, value in config.metadata.items():
        fields.set(name.lower().encode(), value.encode())
    return fields


def verdict(answer: Any) -> Unwell | None:
    """What the answer to a Check says of the endpoint."""
    if answer.version < 20:
        return Unwell("does not speak HTTP/2, which gRPC needs", at_once=True)
    if answer.status != 200:
        return Unwell(f"answered {answer.status}, not gRPC", at_once=answer.status not in (429, 502, 503, 504))
    source = answer.trailers if answer.trailers is not None and b"grpc-status" in answer.trailers else answer.headers
    code = source.get(b"grpc-status", b"").decode("latin-1")
    if not code:
        return Unwell("answered without a gRPC status", at_once=True)
    if code != "0":
        message = source.get(b"grpc-message", b"").decode("latin-1")[:200]
        name = CODES.get(int(code), code) if code.isdecimal() and len(code) < 4 else repr(code[:20])
        return Unwell(f"gRPC status {name}" + (f": {message}" if message else ""), at_once=code not in PASSING)
    try:
        status = response_status(answer.body)
    except ValueError as error:
        return Unwell(f"its answer is no HealthCheckResponse: {error}", at_once=True)
    return None if status == SERVING else Unwell(STATUSES.get(status, f"serving status {status}"), at_once=True)


def request_message(service: str) -> bytes:
    """A HealthCheckRequest in its gRPC frame: no compression, length, field 1 of type text."""
    name = service.encode()
    message = b"\x0a" + _varint(len(name)) + name if name else b""
    return b"\x00" + len(message).to_bytes(4, "big") + message


def response_status(data: bytes) -> int:
    """The status in a framed HealthCheckResponse; 0 when it is not in there, as in every protobuf message. Raises `ValueError`."""
    if len(data) < 5 or data[0] != 0 or len(data) != 5 + int.from_bytes(data[1:5], "big"):
        raise ValueError("not one uncompressed message")
    status = 0
    position = 5
    while position < len(data):
        key, position = _read_varint(data, position)
        kind = key & 7
        if kind == 0:
            value, position = _read_varint(data, position)
            if key >> 3 == 1:
                status = value
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        elif kind == 2:
            length, position = _read_varint(data, position)
            position += length
        else:
            raise ValueError("an unknown wire type")
        if position > len(data):
            raise ValueError("cut short")
    return status


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    made.append(number)
    return bytes(made)


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("cut short")
        octet = data[position]
        position += 1
        number |= (octet & 127) << shift
        if octet < 128:
            return number, position
    raise ValueError("a number of more than ten octets")
