"""The circuit, walked by hand through time."""

from __future__ import annotations

from hypothesis import given, strategies as st

from sidecar.cluster.circuit import Circuit
from sidecar.model import CircuitBreakers, FailureRate


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
