"""Outlier detection, walked by hand through time."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sidecar.cluster.health import Health, OutlierJudge
from sidecar.model import EJECTION_PERCENT, OutlierDetection
from sidecar.outcomes import BROKEN, CONNECTED, NO_ANSWER


class Judged:
    """Some endpoints and their judge, with the clock in hand."""

    def __init__(self, count: int = 2, dice: float = 0.5, **settings: object) -> None:
        self.told: list[tuple[str, float]] = []
        self.healths = [Health(str(number)) for number in range(count)]
        self.now = 100.0
        self.judge = OutlierJudge(
            OutlierDetection(**{"max_ejection_percent": 100, **settings}),  # type: ignore[arg-type]
            self.now,
            lambda: dice,
            lambda health, seconds: self.told.append((health.name, seconds)),
        )
        for health in self.healths:
            self.judge.admit(health)

    def see(self, *statuses: int, at: int = 0) -> list[bool]:
        return [self.judge.observe(self.healths[at], status, self.now) for status in statuses]

    def walk(self, seconds: float) -> bool:
        """Time goes on, as the timer would see it; did anything change?"""
        end, changed = self.now + seconds, False
        while (next_change := self.judge.next_change()) <= end:
            self.now = next_change
            changed |= self.judge.sweep(self.now)
        self.now = end
        return changed

    @property
    def out(self) -> list[str]:
        return [health.name for health in self.healths if health.is_ejected]


def test_five_failures_in_a_row() -> None:
    """The fifth ejects, and a success in between begins anew."""
    judged = Judged()
    assert not any(judged.see(500, 500, 500, 500, 200, 500, 500, 500, 500)) and judged.out == []
    assert judged.see(500) == [True] and judged.out == ["0"]
    assert judged.told == [("0", 30.0)] and judged.healths[0].reason == "5 failures in a row"


def test_it_comes_back_on_time() -> None:
    """After the base time, not before, and with a clean slate."""
    judged = Judged()
    judged.see(*[503] * 5)
    assert not judged.walk(29.9) and judged.out == ["0"]
    assert judged.walk(0.2) and judged.out == []
    assert not any(judged.see(*[503] * 4))


def test_ejections_grow_and_are_forgiven() -> None:
    """Twice as long the second time, never above the limit; each whole interval in use forgives one, failures or not."""
    judged = Judged(max_ejection_time=70)
    for _ in range(6):
        judged.see(*[503] * 5)
        while judged.out:
            judged.walk(1)
    assert [seconds for _, seconds in judged.told] == [30.0, 60.0, 70.0, 70.0, 70.0, 70.0]
    judged.walk(9)
    for _ in range(3):
        judged.see(503, 200)
        judged.walk(10)
    judged.see(*[503] * 5)
    assert judged.told[-1][1] == 30.0


def test_an_ejection_does_not_stop_the_intervals() -> None:
    """While one is out the others are judged as always."""
    judged = Judged(10, success_rate_request_volume=10)
    judged.see(*[503] * 5)
    assert judged.out == ["0"]
    for number in range(1, 10):
        judged.see(*([500, 200] * 10 if number == 1 else [200] * 20), at=number)
    judged.walk(10.1)
    assert judged.out == ["0", "1"]


def test_a_count_that_is_not_enforced_begins_anew() -> None:
    """The dice are thrown once for each run of failures, not once for each failure more."""
    thrown: list[float] = []
    judged = Judged(enforcing_consecutive_5xx=50)
    judged.judge._dice = lambda: thrown.append(0.9) or 0.9
    assert not any(judged.see(*[500] * 14)) and len(thrown) == 2


def test_jitter() -> None:
    """A part of it is added to each ejection."""
    judged = Judged(max_ejection_time_jitter=8.0)
    judged.see(*[503] * 5)
    assert judged.told == [("0", 34.0)]


def test_gateway_failures_have_a_count_of_their_own() -> None:
    """Only 502, 503 and 504 count, and what reaches both limits is told as the narrower one."""
    judged = Judged(consecutive_5xx=0, consecutive_gateway_failure=2, enforcing_consecutive_gateway_failure=100)
    assert not any(judged.see(500, 500, 500, 502, 500, 504))
    assert judged.see(503) == [True]
    both = Judged(consecutive_5xx=2, consecutive_gateway_failure=2, enforcing_consecutive_gateway_failure=100)
    assert both.see(503, 503) == [False, True] and both.healths[0].reason == "2 gateway failures in a row"


def test_how_many_may_be_out() -> None:
    """One always, then while the share is below the limit."""
    judged = Judged(10, max_ejection_percent=20)
    for number in range(10):
        judged.see(*[503] * 5, at=number)
    assert judged.out == ["0", "1"]
    none = Judged(10, max_ejection_percent=0)
    assert not any(none.see(*[503] * 5))
    few = Judged(3, max_ejection_percent=10)
    assert few.see(*[503] * 5)[-1] and not any(few.see(*[503] * 5, at=1))


@pytest.mark.parametrize(("dice", "out"), [(0.29, True), (0.3, False)])
def test_enforcing(dice: float, out: bool) -> None:
    """In so many of 100 cases."""
    assert Judged(dice=dice, enforcing_consecutive_5xx=30).see(*[503] * 5)[-1] is out


def test_success_rate() -> None:
    """One far below the others is out at the end of the interval; nobody is with too few endpoints or requests."""
    for count, requests, out in ((10, 100, ["0"]), (4, 100, []), (10, 99, [])):
        judged = Judged(count, consecutive_5xx=0)
        for number in range(count):
            judged.see(*([500] * 60 + [200] * (requests - 60) if number == 0 else [200] * requests), at=number)
        judged.walk(9.9)
        assert judged.out == []
        judged.walk(0.2)
        assert judged.out == out


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("by_check", [False, True])
def test_nobody_goes_out_twice_for_the_same_failures(split: bool, by_check: bool) -> None:
    """One that is back within the interval, because its time was short or a check passed, is judged at its end by what came after."""
    percentages = {"enforcing_failure_percentage": 100, "enforcing_failure_percentage_local_origin": 100, "failure_percentage_threshold": 10}
    judged = Judged(5, split_external_local_origin_errors=split, base_ejection_time=1.0, **percentages)
    for number in range(5):
        judged.see(*[200] * 200, at=number)
    judged.see(*[200, 503] * 30, *[503] * 4, at=0)
    assert judged.out == ["0"]
    if by_check:
        judged.judge.forgive(judged.healths[0], judged.now)
    else:
        judged.walk(1.5)
    judged.see(*[200] * 200, at=0)
    judged.walk(20)
    assert judged.out == [] and judged.healths[0].ejections == 1


def test_failure_percentage() -> None:
    """All that fail too often, whatever the others do."""
    judged = Judged(5, consecutive_5xx=0, enforcing_success_rate=0, enforcing_failure_percentage=100)
    for number in range(5):
        judged.see(*[500] * (43 if number < 2 else 42), *[200] * (7 if number < 2 else 8), at=number)
    judged.walk(10)
    assert judged.out == ["0", "1"]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([200, 404, 500, 503]), st.floats(0, 20)), max_size=150), st.integers(0, 100))
def test_always_within_the_share_and_always_back(events: list[tuple[int, int, float]], share: int) -> None:
    """Whatever happens: never more out than one beyond the share, and everyone is back when nothing more happens."""
    judged = Judged(4, max_ejection_percent=share, consecutive_5xx=2, success_rate_minimum_hosts=2, success_rate_request_volume=2)
    for at, status, seconds in events:
        judged.see(status, at=at)
        judged.walk(seconds)
        assert len(judged.out) == 0 or 100 * (len(judged.out) - 1) < share * 4
    judged.walk(310)
    assert judged.out == []


def test_who_left_is_not_judged() -> None:
    """What comes late of it counts for nothing, and who comes back is as it was."""
    judged = Judged(3, max_ejection_percent=50, consecutive_5xx=1)
    left = judged.healths[0]
    judged.see(503)
    judged.judge.dismiss(left)
    assert judged.see(503, 503) == [False, False] and left.requests == 1
    judged.judge.forgive(left, judged.now)
    left.ejected_until = 500.0
    assert judged.see(503, at=1) == [True] and judged.see(503, at=2) == [False]
    judged.judge.admit(left)
    assert judged.see(503, at=2) == [False] and judged.walk(1000) and judged.out == []
    assert judged.see(503, at=2) == [True]


def test_the_end_of_an_interval_looks_only_at_those_it_is_about() -> None:
    """Endpoints that were asked often enough, or have something to be forgiven; of ten thousand the others cost nothing."""
    judged = Judged(100, interval=10, consecutive_5xx=1, base_ejection_time=5, success_rate_request_volume=3)
    judged.see(200, 200, at=7)
    judged.see(503, at=8)
    judged.see(200, 200, 200, 200, at=9)
    assert [[each.name for each in some] for some in (judged.judge._busy, judged.judge._marked)] == [["9"], ["8"]]
    judged.walk(10)
    assert not judged.judge._busy and [each.name for each in judged.judge._marked] == ["8"]
    judged.see(200, at=7)
    assert judged.healths[7].requests == 1, "it counts anew"
    judged.walk(20)
    assert judged.healths[8].times == 0 and not judged.judge._marked
    judged.healths[9].times = 1
    judged.judge.dismiss(judged.healths[9])
    judged.judge.admit(judged.healths[9])
    judged.walk(10)
    assert judged.healths[9].times == 0 and judged.judge.count == 100


def test_who_leaves_and_comes_back_within_an_interval_is_judged_at_its_end() -> None:
    """What it did in it still counts."""
    judged = Judged(6, consecutive_5xx=0, enforcing_failure_percentage=100, failure_percentage_request_volume=5, enforcing_success_rate=0)
    for number in range(6):
        judged.see(*[500 if number == 3 else 200] * 5, at=number)
    judged.judge.dismiss(judged.healths[3])
    judged.judge.admit(judged.healths[3])
    judged.walk(10)
    assert judged.out == ["3"]


def test_who_is_spared() -> None:
    """The limit on ejections is no secret: the endpoint says why it stays, it is told of once, and forgotten after a good interval."""
    judged = Judged(4, max_ejection_percent=10, interval=10)
    judged.see(*[500] * 5, at=0)
    judged.see(*[500] * 15, at=1)
    assert judged.out == ["0"] and judged.told == [("0", 30.0), ("1", 0.0)] and judged.judge.overflows == 3
    assert judged.healths[1].snapshot(judged.now)["spared"] == "5 failures in a row, but 1 of 4 endpoints are out already (max_ejection_percent)"
    judged.see(*[200] * 10, at=1)
    judged.walk(10)
    assert judged.healths[1].spared
    judged.walk(10)
    assert not judged.healths[1].spared


def test_who_is_spared_until_it_is_its_turn() -> None:
    """Then it is ejected, and no longer spared."""
    judged = Judged(4, max_ejection_percent=10)
    judged.see(*[500] * 5, at=0)
    judged.see(*[500] * 5, at=1)
    judged.judge.forgive(judged.healths[0], judged.now)
    judged.see(*[500] * 5, at=1)
    assert judged.out == ["1"] and not judged.healths[1].spared


@pytest.mark.parametrize("count", range(2, 30))
def test_as_many_as_may_be_ejected_leave_half(count: int) -> None:
    """By default: so ejections alone never bring panic about, and of four two may go."""
    judged = Judged(count, max_ejection_percent=EJECTION_PERCENT)
    for number in range(count):
        judged.see(*[500] * 5, at=number)
    assert count / 4 <= len(judged.out) <= count / 2
    assert OutlierDetection().max_ejection_percent == EJECTION_PERCENT


def split(count: int = 2, dice: float = 0.5, **settings: object) -> Judged:
    return Judged(count, dice, split_external_local_origin_errors=True, **settings)


def test_failures_of_our_side_count_with_the_others_by_default() -> None:
    """No connection is a failure like any other, and the keys about local origin say nothing."""
    judged = Judged(consecutive_local_origin_failure=2)
    judged.see(BROKEN, NO_ANSWER, 500, BROKEN)
    assert judged.out == [] and judged.healths[0].local_in_row == 0
    judged.see(BROKEN)
    assert judged.out == ["0"] and judged.healths[0].reason == "5 failures in a row"


def test_failures_of_our_side_count_apart_when_split() -> None:
    """They do not add up with bad answers, in either direction; a bad answer is one, and ends a row of none."""
    judged = split(consecutive_5xx=3, consecutive_local_origin_failure=4)
    judged.see(500, BROKEN, 500, NO_ANSWER, BROKEN)
    health = judged.healths[0]
    assert judged.out == [] and (health.in_row, health.local_in_row) == (2, 2)
    assert (health.requests, health.failures, health.local_requests, health.local_failures) == (2, 2, 5, 3)
    assert judged.see(BROKEN, BROKEN) == [False, True] and health.reason == "4 attempts in a row without an answer"
    assert judged.see(*[500] * 3, at=1) == [False, False, True] and judged.healths[1].reason == "3 failures in a row"


def test_a_connection_ends_a_row_without_one() -> None:
    """Of TCP more is not known; it is no answer, so a row of bad ones goes on."""
    judged = split(consecutive_5xx=2, consecutive_local_origin_failure=2)
    assert judged.see(BROKEN, CONNECTED, BROKEN, 503, CONNECTED, 503) == [False, False, False, False, False, True]
    assert judged.healths[0].requests == 2


def test_how_often_local_failures_act() -> None:
    """`enforcing_consecutive_local_origin_failure` is in percent, and 0 means never; a count of 0 switches the detector off."""
    for settings, ejected in (
        ({}, True),
        ({"enforcing_consecutive_local_origin_failure": 51}, True),
        ({"enforcing_consecutive_local_origin_failure": 50}, False),
        ({"enforcing_consecutive_local_origin_failure": 0}, False),
        ({"consecutive_local_origin_failure": 0}, False),
    ):
        judged = split(**settings)
        judged.see(*[BROKEN] * 5)
        assert (judged.out == ["0"]) is ejected, settings


def test_rates_of_answers_and_of_attempts_are_judged_apart() -> None:
    """One endpoint answers badly, another one often not at all: each is found by its own rate, and by that alone."""
    off = {"consecutive_5xx": 0, "consecutive_local_origin_failure": 0}
    for which, at, reason in (
        ({"enforcing_success_rate": 100, "enforcing_local_origin_success_rate": 0}, "8", "0.0% of its answers good where all have 90.0%"),
        ({"enforcing_success_rate": 0, "enforcing_local_origin_success_rate": 100}, "9", "50.0% of its attempts answered where all have 95.0%"),
    ):
        judged = split(10, success_rate_minimum_hosts=10, success_rate_request_volume=100, **off, **which)
        for number in range(10):
            judged.see(*[200 if number != 8 else 500] * 100, at=number)
        judged.see(*[BROKEN] * 100, at=9)
        judged.walk(10)
        assert judged.out == [at] and judged.healths[int(at)].reason == reason


def test_the_share_of_attempts_without_an_answer() -> None:
    """`enforcing_failure_percentage_local_origin` has the threshold, the hosts and the volume of the other one, and is off by default."""
    for enforcing, out in ((0, []), (100, ["4"])):
        judged = split(
            5, consecutive_local_origin_failure=0, enforcing_local_origin_success_rate=0, enforcing_failure_percentage_local_origin=enforcing,
            failure_percentage_request_volume=20,
        )  # fmt: skip
        for number in range(4):
            judged.see(*[200] * 20, at=number)
        judged.see(*[BROKEN] * 18, 200, 200, at=4)
        judged.walk(10)
        assert judged.out == out
    assert judged.healths[4].reason == "90 % of its attempts had no answer"


@pytest.mark.parametrize("make", [Judged, split])
def test_who_always_comes_last(make: object) -> None:
    """Five times in a row, and never an answer in between: it is out. By chance now and then: nothing happens, and no rate knows of it."""
    judged = make()  # type: ignore[operator]
    for _ in range(5):
        assert not any(judged.judge.lost(judged.healths[0], judged.now) for _ in range(4))
        judged.see(200)
    assert judged.healths[0].failures == 0 and judged.healths[0].requests == 5
    assert [judged.judge.lost(judged.healths[1], judged.now) for _ in range(5)] == [False, False, False, False, True]
    assert judged.out == ["1"] and judged.healths[1].requests == 0
    judged.judge.dismiss(judged.healths[0])
    assert not any(judged.judge.lost(judged.healths[0], judged.now) for _ in range(9))
