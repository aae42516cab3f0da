"""The circuit, walked by hand through time."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sidecar.cluster.circuit import CLOSED, DEFAULT, HALF_OPEN, HIGH, OPEN, Circuit
from sidecar.model import CircuitBreakers, CircuitLimits, FailureRate


def circuit(**rate: float) -> Circuit:
    settings = FailureRate(**{"minimum_requests": 4, "open_time": 5.0, "probes": 2, **rate})  # type: ignore[arg-type]
    return Circuit(CircuitBreakers(failure_rate=settings), 0.0)


def run(it: Circuit, *outcomes: bool | None, at: float = 1.0) -> str:
    """Requests one after the other: the state after them."""
    for failed in outcomes:
        assert it.enter(at) == ""
        it.leave(at, failed, at)
    return it.state


def test_max_requests() -> None:
    """So many at a time, and one more when one is over."""
    it = Circuit(CircuitBreakers(max_requests=2), 0.0)
    assert it.enter(0) == it.enter(0) == ""
    assert "2 requests run already (circuit_breakers.max_requests)" in it.enter(0) and it.refused == 1
    it.leave(0, True, 1)
    assert it.enter(1) == "" and it.state == "closed"


def test_priorities_are_counted_apart() -> None:
    """What one fills the other has; each has limits of its own, by default the same numbers, and the sentence names them."""
    it = Circuit(CircuitBreakers(max_requests=1, max_retries=1, high=CircuitLimits(max_requests=2)), 0.0)
    assert it.enter(0) == "" and "(circuit_breakers.max_requests)" in it.enter(0)
    assert it.enter(0, HIGH) == it.enter(0, HIGH) == "" and "2 requests run already (circuit_breakers.high.max_requests)" in it.enter(0, HIGH)
    assert it.running == 3 and it.snapshot()["running_high"] == 2
    it.leave(0, False, 1, HIGH)
    assert it.enter(1, HIGH) == "" and it.enter(1, DEFAULT)
    assert it.enter_retry() == "" and "circuit_breakers.max_retries" in it.enter_retry()
    assert it.enter_retry(HIGH) == it.enter_retry(HIGH) == "", "the high ones have no such limit here"
    same = Circuit(CircuitBreakers(max_requests=1, max_retries=1), 0.0)
    assert same.enter(0) == same.enter(0, HIGH) == "" and same.enter(0) and same.enter(0, HIGH)
    assert same.enter_retry(HIGH) == "" and same.enter_retry() == "" and "circuit_breakers.high.max_retries" in same.enter_retry(HIGH)
    same.leave_retry(HIGH)
    assert same.enter_retry(HIGH) == ""


def test_attempts_beside() -> None:
    """They take places of the limit and give them back, and there are none while the circuit is not closed."""
    it = Circuit(CircuitBreakers(max_requests=2), 0.0)
    assert it.enter(0) == it.enter_beside() == "" and it.enter_beside() and it.running == 2
    it.leave_beside()
    assert it.running == 1 and it.enter_beside() == ""
    it = circuit()
    run(it, True, True, True, True)
    assert "4 of 4 requests failed" in it.enter_beside() and it.running == 0


def test_who_may_wait() -> None:
    """By priority; without a limit everybody."""
    it = Circuit(CircuitBreakers(max_pending=2, high=CircuitLimits(max_pending=1)), 0.0)
    assert it.why_not_wait([1, 5, DEFAULT]) == "" and "2 requests wait" in it.why_not_wait([2, 0, DEFAULT])
    assert it.why_not_wait([9, 0, HIGH]) == "" and "(circuit_breakers.high.max_pending)" in it.why_not_wait([0, 1, HIGH])
    assert Circuit(CircuitBreakers(), 0.0).why_not_wait([10_000, 0, DEFAULT]) == ""


# (state, what happens) -> state; a window of 10 s, 4 requests, 5 s open, 2 probes. Times are absolute.
TRANSITIONS = [
    ("below the rate", [(1, False), (1, False), (1, False), (1, True)], CLOSED),
    ("too few requests", [(1, True), (1, True), (1, True)], CLOSED),
    ("at the rate", [(1, True), (1, True), (1, False), (1, False)], OPEN),
    ("the window ends between", [(1, True), (1, True), (12, True), (12, True)], CLOSED),
    ("open, not for long enough", [(1, True)] * 4 + [(5.9, None)], OPEN),
    ("one probe passes", [(1, True)] * 4 + [(6, False)], HALF_OPEN),
    ("all probes pass", [(1, True)] * 4 + [(6, False), (6, False)], CLOSED),
    ("the first probe fails", [(1, True)] * 4 + [(6, True)], OPEN),
    ("the second probe fails", [(1, True)] * 4 + [(6, False), (6, True)], OPEN),
    ("a probe goes away", [(1, True)] * 4 + [(6, None)], HALF_OPEN),
    ("half-open again after it opened again", [(1, True)] * 4 + [(6, True), (11, False)], HALF_OPEN),
    ("closed again, and the count begins anew", [(1, True)] * 4 + [(6, False), (6, False), (7, True), (7, True), (7, True)], CLOSED),
    ("and opens again", [(1, True)] * 4 + [(6, False), (6, False), (7, True), (7, True), (7, True), (7, True)], OPEN),
]


@pytest.mark.parametrize(("what", "steps", "state"), TRANSITIONS, ids=lambda value: value if isinstance(value, str) else "")
def test_transitions(what: str, steps: list[tuple[float, bool | None]], state: str) -> None:
    """Every way from one state to another, walked by the clock."""
    it = circuit()
    for now, failed in steps:
        if not it.enter(now):
            it.leave(now, failed, now)
    assert it.state == state and it.running == 0


def test_it_opens_at_the_rate() -> None:
    """Not before there are enough requests, and not below the rate; who goes away counts for nothing."""
    it = circuit()
    assert run(it, True, None, None, False, False, True) == "open"
    assert "2 of 4 requests failed" in it.enter(5.9) and it.opened == 1
    assert run(circuit(), True, True, True) == "closed"
    assert run(circuit(), True, False, False, False, True, False) == "closed"


def test_windows() -> None:
    """What was before the window is forgotten."""
    it = circuit(window=10)
    assert run(it, True, True, True, at=1) == "closed"
    assert run(it, True, False, False, at=12) == "closed"


def test_half_open() -> None:
    """After the time a few requests probe at once; all succeed: closed. One fails: open again, for as long."""
    it = circuit()
    run(it, True, True, True, True, at=1)
    assert it.enter(5.9) and it.enter(6.0) == "" == it.enter(6.0)
    assert it.state == "half-open" and it.enter(6.0)
    it.leave(6.0, False, 6.5)
    assert it.enter(6.5)
    it.leave(6.0, False, 7)
    assert it.state == "closed" and run(it, False, at=8) == "closed"
    it = circuit()
    run(it, True, True, True, True, at=1)
    assert run(it, True, at=6) == "open" and "a probe failed" in it.enter(10.9)
    assert it.enter(11.0) == ""


def test_a_probe_whose_client_goes_away_gives_its_place_back() -> None:
    """Or the circuit would stay half-open for ever."""
    it = circuit()
    run(it, True, True, True, True, at=1)
    assert run(it, None, None, None, at=7) == "half-open"
    assert run(it, False, False, at=8) == "closed"


def test_old_news() -> None:
    """A request from before the circuit opened is no probe, and does not open it again later."""
    it = circuit()
    assert it.enter(0.5) == ""
    run(it, True, True, True, True, at=1)
    assert it.enter(6.0) == ""
    it.leave(0.5, True, 6.1)
    assert it.state == "half-open" and it.probing == 1
    it.leave(6.0, False, 6.2)
    assert run(it, False, at=6.3) == "closed"


@given(st.lists(st.tuples(st.sampled_from(["enter", "good", "bad", "gone"]), st.floats(0, 4)), max_size=80))
def test_counts_never_drift(steps: list[tuple[str, float]]) -> None:
    """Whatever happens: what runs is what entered and did not leave, probes stay within their number, and in the end requests pass again."""
    it, now, inside = circuit(), 0.0, []
    for what, seconds in steps:
        now += seconds
        if what == "enter":
            if not it.enter(now):
                inside.append(now)
        elif inside:
            it.leave(inside.pop(0), {"good": False, "bad": True, "gone": None}[what], now)
        assert it.running == len(inside) and 0 <= it.probing <= 2
    for entered_at in inside:
        it.leave(entered_at, False, now)
    for _ in range(3):
        now += 6.0
        if not it.enter(now):
            it.leave(now, False, now)
    assert it.state == "closed" and it.running == 0
