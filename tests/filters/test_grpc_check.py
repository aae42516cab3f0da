"""The health check `grpc`: its two messages, octet by octet, and hostile answers."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from twisted.internet.defer import ensureDeferred

from sidecar.filters.grpc_check import GRPCCheck, request_message, response_status, verdict
from sidecar.headers import Headers
from sidecar.testing import FakeAnswer, FakeContext, FakeProbe
from sidecar.verdicts import Unwell


def framed(message: bytes) -> bytes:
    return b"\x00" + len(message).to_bytes(4, "big") + message


@pytest.mark.parametrize(
    ("service", "message"),
    [("", b""), ("a", b"\x0a\x01a"), ("é", b"\x0a\x02\xc3\xa9"), ("x" * 300, b"\x0a\xac\x02" + b"x" * 300)],
)
def test_request(service: str, message: bytes) -> None:
    """HealthCheckRequest: one text field, absent when empty."""
    assert request_message(service) == framed(message)


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"", 0),
        (b"\x08\x01", 1),
        (b"\x08\x00\x08\x01", 1),  # the last one counts
        (b"\x12\x02hi\x08\x01", 1),  # fields that we do not know: octets, 64 and 32 bits, a number
        (b"\x11" + bytes(8) + b"\x1d" + bytes(4) + b"\x20\xac\x02\x08\x02", 2),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 2**64 - 1),
    ],
)
def test_response(message: bytes, status: int) -> None:
    """HealthCheckResponse: its status, whatever else later versions send."""
    assert response_status(framed(message)) == status


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x00\x00\x00\x00",
        b"\x01\x00\x00\x00\x02\x08\x01", b"\x00\x00\x00\x00\x03\x08\x01", framed(b"\x08\x01") * 2, framed(b"\x08"), framed(b"\x12\x05hi"),
        framed(b"\x0b"), framed(b"\x08" + b"\xff" * 11), framed(b"\x11\x00"),
    ],
)  # fmt: skip
def test_no_message(data: bytes) -> None:
    """What is cut short, compressed, or no protobuf is an error."""
    with pytest.raises(ValueError, match=r"cut short|uncompressed|wire type|ten octets"):
        response_status(data)


@given(st.binary(max_size=40))
def test_any_octets(data: bytes) -> None:
    """Whatever comes, there is a verdict."""
    answer = FakeAnswer(200, Headers.of([(b"grpc-status", b"0")]), framed(data), version=20)
    assert verdict(answer) is None or isinstance(verdict(answer), Unwell)


@pytest.mark.parametrize(("code", "at_once"), [(b"12", True), (b"5", True), (b"16", True), (b"14", False), (b"4", False), (b"1", False), (b"8", False)])
def test_statuses_of_the_moment_wait_for_the_threshold(code: bytes, at_once: bool) -> None:
    """Those of the service do not."""
    found = verdict(FakeAnswer(200, Headers.of([(b"grpc-status", code)]), version=20))
    assert found is not None and found.at_once is at_once


def test_http_1_is_no_grpc() -> None:
    """It says so."""
    assert verdict(FakeAnswer()) == Unwell("does not speak HTTP/2, which gRPC needs", at_once=True)


def test_what_is_asked() -> None:
    """The request of the protocol, with the time that there is."""
    probe = FakeProbe(FakeAnswer(200, Headers(), framed(b"\x08\x01"), Headers.of([(b"grpc-status", b"0")]), 20), timeout_seconds=0.25)
    results: list[object] = []
    check = GRPCCheck(GRPCCheck.Config(service="a", authority="b.example", metadata={"X-Probe": "1"}), FakeContext("grpc"))
    ensureDeferred(check.check(probe)).addBoth(results.append)
    assert results == [None]
    ((method, path, headers, body),) = probe.requests
    assert (method, path, body) == (b"POST", b"/grpc.health.v1.Health/Check", framed(b"\x0a\x01a"))
    assert headers.get(b"grpc-timeout") == b"250m" and headers.get(b"host") == b"b.example" and headers.get(b"x-probe") == b"1"


def test_metadata_that_cannot_be_sent_is_refused() -> None:
    """When the configuration is read."""
    with pytest.raises(ValueError, match="x y"):
        GRPCCheck.Config(metadata={"x y": "1"})
    with pytest.raises(ValueError, match="expected a host name"):
        GRPCCheck.Config(authority="a b")
