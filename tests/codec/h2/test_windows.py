"""Credit follows delivery, and never exceeds the window."""

from __future__ import annotations

from hypothesis import given, strategies as st

from sidecar.codec.h2.windows import ReceiveWindow


def test_credit_goes_out_when_half_a_window_was_delivered() -> None:
    window = ReceiveWindow(100, 100)
    assert window.take(100)
    assert (window.give(49), window.give(1), window.give(50)) == (0, 50, 50)
    assert (window.left, window.held, window.owed) == (100, 0, 0)


def test_more_than_the_window_is_refused() -> None:
    window = ReceiveWindow(100, 100)
    assert window.take(100) and not window.take(1)


def test_more_than_was_received_is_never_given() -> None:
    window = ReceiveWindow(100, 100)
    window.take(60)
    assert window.give(1000) == 60
    assert window.give(1000) == 0


def test_a_window_through_which_much_moves_doubles_up_to_its_bound() -> None:
    window = ReceiveWindow(100, 350)
    sizes = []
    for _ in range(12):
        octets = window.left
        window.take(octets)
        window.give(octets)
        sizes.append(window.size)
    assert sizes[:2] == [100, 200] and sizes[-1] == 350


def test_a_smaller_setting_may_make_it_negative() -> None:
    """RFC 9113, section 6.9.2."""
    window = ReceiveWindow(100, 100)
    window.take(80)
    window.resize(-50)
    assert window.left == -30
    assert window.give(80) == 80 and window.left == 50


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 120)), max_size=60), st.sampled_from([100, 400]))
def test_allowed_held_and_owed_are_always_the_whole_window(steps: list[tuple[bool, int]], most: int) -> None:
    window = ReceiveWindow(100, most)
    peer = 100  # what the peer believes it may send
    for is_taking, octets in steps:
        if is_taking:
            octets = min(octets, peer)
            assert window.take(octets)
            peer -= octets
        else:
            peer += window.give(octets)
        assert peer == window.left
        assert window.left + window.held + window.owed == window.size <= most


@given(st.lists(st.integers(0, 150), max_size=40))
def test_what_passes_on_is_taken_and_given(sizes: list[int]) -> None:
    """One step does what the two do: the same increments, the same refusals, the same window."""
    at_once, in_two = ReceiveWindow(100, 350), ReceiveWindow(100, 350)
    for octets in sizes:
        increment = at_once.pass_on(octets)
        if not in_two.take(octets):
            assert increment == -1
            return
        assert increment == in_two.give(octets)
        assert (at_once.left, at_once.held, at_once.owed, at_once.size) == (in_two.left, in_two.held, in_two.owed, in_two.size)
