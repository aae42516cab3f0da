"""Frames are the octets that another implementation writes."""

from __future__ import annotations

import hyperframe.frame
import pytest

from sidecar.codec.h2 import frames


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (frames.window_update_frame(3, 7), hyperframe.frame.WindowUpdateFrame(3, 7)),
        (frames.reset_frame(5, 8), hyperframe.frame.RstStreamFrame(5, 8)),
        (frames.settings_frame({4: 65536, 5: 2**24 - 1}), hyperframe.frame.SettingsFrame(0, {4: 65536, 5: 2**24 - 1})),
        (frames.goaway_frame(9, 11, b"why"), hyperframe.frame.GoAwayFrame(0, 9, 11, b"why")),
        (frames.frame(frames.DATA, frames.END_STREAM, 1, b"abc"), hyperframe.frame.DataFrame(1, b"abc", flags=["END_STREAM"])),
        (frames.frame(frames.PING, frames.ACK, 0, b"12345678"), hyperframe.frame.PingFrame(0, b"12345678", flags=["ACK"])),
    ],
)
def test_frames_are_the_octets_that_another_implementation_writes(ours: bytes, theirs: hyperframe.frame.Frame) -> None:
    assert ours == theirs.serialize()


def test_the_head_of_a_frame_comes_back_as_written() -> None:
    large, size, kind, stream_id = frames.read_head(frames.frame(frames.HEADERS, 0x25, 2**31 - 1, b"x" * 70_000))
    assert ((large << 16) + size, kind >> 8, kind & 0xFF, stream_id) == (70_000, frames.HEADERS, 0x25, 2**31 - 1)


def test_settings_are_read_in_order_with_repetitions() -> None:
    assert frames.read_settings(bytes.fromhex("000400000001 000500004000 000400000002")) == [(4, 1), (5, 16384), (4, 2)]


def test_the_reserved_bit_is_ignored() -> None:
    assert frames.read_number(b"\xff\xff\xff\xffrest") == 2**31 - 1
