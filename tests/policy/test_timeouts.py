"""Header fields about time, read and written."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sidecar.model import MaxStreamDuration
from sidecar.policy.timeouts import grpc_timeout, grpc_timeout_seconds, milliseconds, stream_duration


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"250m", 0.25),
        (b"5u", 5e-6),
        (b"99999999n", 0.099999999),
        (b"0m", 0.0),
        (None, None),
        (b"", None),
        (b"5", None),
        (b"S", None),
        (b"5s", None),
        (b"123456789S", None),
        (b"-1S", None),
        (b"1.5S", None),
        (b" 1S", None),
    ],
)
def test_grpc_timeout_is_read(value: bytes | None, seconds: float | None) -> None:
    """Digits and a unit; anything else is nothing."""
    assert grpc_timeout_seconds(value) == (None if seconds is None else pytest.approx(seconds))


@given(st.floats(0, 1e12))
def test_grpc_timeout_is_written(seconds: float) -> None:
    """What is written can be read, and promises no more than there is, and little less."""
    read = grpc_timeout_seconds(grpc_timeout(seconds))
    assert read is not None and read <= seconds + 1e-9
    assert read >= min(seconds, 99_999_999 * 3600) * 0.999 - 0.001 or seconds > 1e5


@given(st.binary(max_size=20))
def test_anything_is_read(value: bytes) -> None:
    """A caller cannot break it."""
    for seconds in (grpc_timeout_seconds(value), milliseconds(value)):
        assert seconds is None or seconds >= 0


def test_milliseconds() -> None:
    """Whole numbers of a sensible length."""
    assert [milliseconds(each) for each in (b"1500", b"0", b"-1", b"1.5", b"", None, b"9" * 13)] == [1.5, 0.0, None, None, None, None, None]


@pytest.mark.parametrize(
    ("limits", "asked", "seconds"),
    [
        ({}, None, 0.0),
        ({"max_stream_duration": 5.0}, None, 5.0),
        ({"max_stream_duration": 5.0}, 2.0, 5.0),
        ({"max_stream_duration": 5.0, "grpc_timeout_header_max": 0.0}, 20.0, 20.0),
        ({"max_stream_duration": 5.0, "grpc_timeout_header_max": 10.0}, 20.0, 10.0),
        ({"max_stream_duration": 5.0, "grpc_timeout_header_max": 10.0}, 2.0, 2.0),
        ({"max_stream_duration": 5.0, "grpc_timeout_header_max": 10.0}, None, 5.0),
        ({"grpc_timeout_header_max": 0.0, "grpc_timeout_header_offset": 0.5}, 2.0, 1.5),
        ({"grpc_timeout_header_max": 0.0, "grpc_timeout_header_offset": 5.0}, 2.0, 2.0),
    ],
)
def test_stream_duration(limits: dict[str, float], asked: float | None, seconds: float) -> None:
    """The caller's time counts where that is configured, up to the limit, less the offset if that leaves something."""
    assert stream_duration(MaxStreamDuration(**limits), asked) == seconds
