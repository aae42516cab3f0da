"""`sidecar/transport/slow.py`: how much of each stream may wait."""

from __future__ import annotations

from sidecar.transport.slow import FULL_MARKS, LEAST_MARK_OCTETS, SlowStreams

HIGH = 262_144


class Stream:
    def __init__(self, number: int) -> None:
        self.id = number
        self.is_congested = False


def slow(count: int) -> tuple[SlowStreams[Stream], list[Stream]]:
    streams = [Stream(number) for number in range(count)]
    found: SlowStreams[Stream] = SlowStreams(HIGH)
    for each in streams:
        found.add(each)
    return found, streams


def test_a_few_streams_have_the_whole_mark_and_many_share() -> None:
    assert [slow(count)[0].mark for count in (0, FULL_MARKS, 2 * FULL_MARKS, 1000)] == [HIGH, HIGH, HIGH // 2, LEAST_MARK_OCTETS]


def test_what_all_may_keep_waiting_is_bounded() -> None:
    """Each stops at the mark that there was when it came."""
    found, held = SlowStreams[Stream](HIGH), 0
    for number in range(250):
        held += found.mark
        found.add(Stream(number))
    assert held < 12 << 20


def test_a_mark_that_is_small_stays() -> None:
    found: SlowStreams[Stream] = SlowStreams(1000)
    for number in range(1000):
        found.add(Stream(number))
    assert found.mark == 1000


def test_those_with_little_left_go_on_and_the_others_get_more_room() -> None:
    found, streams = slow(2 * FULL_MARKS)
    waiting = {each.id: 0 if each.id < FULL_MARKS else HIGH for each in streams}
    assert {each.id for each in found.drained(waiting.__getitem__)} == set(range(FULL_MARKS))
    assert [each.is_congested for each in streams] == [False] * FULL_MARKS + [True] * FULL_MARKS
    assert len(found) == FULL_MARKS and found.mark == HIGH


def test_a_stream_that_ends_meanwhile_is_not_told() -> None:
    found, streams = slow(2)
    told = []
    for each in found.drained(lambda number: 0):
        told.append(each)
        found.discard(streams[0])
        found.discard(streams[1])
    assert len(told) == 1 and not found
