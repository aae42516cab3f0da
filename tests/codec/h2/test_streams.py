"""The table of a stream's life, against RFC 9113, section 5.1."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sidecar.codec.h2 import streams
from sidecar.codec.h2.streams import (
    CLOSED,
    HALF_LOCAL,
    HALF_REMOTE,
    IDLE,
    IGNORE,
    INPUT_COUNT,
    MISUSE,
    OPEN,
    RECV_DATA,
    RECV_DATA_END,
    RECV_HEAD,
    RECV_HEAD_END,
    RECV_RESET,
    RECV_WINDOW,
    REFUSE_CLOSED,
    REFUSE_IDLE,
    REFUSE_STREAM,
    RESET_RECEIVED,
    RESET_SENT,
    SEND_END,
    SEND_HEAD,
    SEND_RESET,
    TABLE,
    TAKE,
    Stream,
)


@given(st.lists(st.integers(0, INPUT_COUNT - 1), max_size=40))
def test_every_input_in_every_state_has_an_action_and_leads_to_a_state(inputs: list[int]) -> None:
    state = IDLE
    for each in inputs:
        action, state = TABLE[state][each]
        assert TAKE <= action <= MISUSE and IDLE <= state <= RESET_RECEIVED


def test_the_table_is_whole() -> None:
    assert len(TABLE) == len(streams.STATE_NAMES) and all(len(row) == INPUT_COUNT for row in TABLE)


@pytest.mark.parametrize("state", [CLOSED, RESET_SENT, RESET_RECEIVED])
def test_nothing_leaves_the_closed_states(state: int) -> None:
    assert {after for _, after in TABLE[state]} <= {CLOSED, RESET_SENT, RESET_RECEIVED}


@pytest.mark.parametrize(
    ("state", "given", "action", "after"),
    [
        # RFC 9113, section 5.1, state by state.
        (IDLE, RECV_HEAD, TAKE, OPEN),
        (IDLE, RECV_HEAD_END, TAKE, HALF_REMOTE),
        (IDLE, RECV_DATA, REFUSE_IDLE, IDLE),
        (IDLE, RECV_WINDOW, REFUSE_IDLE, IDLE),
        (IDLE, RECV_RESET, REFUSE_IDLE, IDLE),
        (IDLE, SEND_HEAD, TAKE, OPEN),
        (OPEN, RECV_DATA_END, TAKE, HALF_REMOTE),
        (OPEN, SEND_END, TAKE, HALF_LOCAL),
        (OPEN, RECV_RESET, TAKE, RESET_RECEIVED),
        (OPEN, SEND_RESET, TAKE, RESET_SENT),
        (HALF_LOCAL, RECV_DATA, TAKE, HALF_LOCAL),
        (HALF_LOCAL, RECV_DATA_END, TAKE, CLOSED),
        (HALF_LOCAL, SEND_END, MISUSE, HALF_LOCAL),
        (HALF_REMOTE, RECV_DATA, REFUSE_STREAM, RESET_SENT),
        (HALF_REMOTE, RECV_WINDOW, TAKE, HALF_REMOTE),
        (HALF_REMOTE, SEND_END, TAKE, CLOSED),
        (CLOSED, RECV_DATA, REFUSE_CLOSED, CLOSED),
        (CLOSED, RECV_WINDOW, IGNORE, CLOSED),
        (RESET_SENT, RECV_HEAD, IGNORE, RESET_SENT),
        (RESET_RECEIVED, RECV_DATA, REFUSE_STREAM, RESET_SENT),
        (RESET_RECEIVED, SEND_END, IGNORE, RESET_RECEIVED),
    ],
)
def test_the_table_says_what_rfc_9113_says(state: int, given: int, action: int, after: int) -> None:
    assert TABLE[state][given] == (action, after)


def test_a_stream_shows_its_state() -> None:
    assert repr(Stream(3, HALF_REMOTE, 7)) == "<Stream 3 half-closed (remote), 0 queued, may send 7>"
