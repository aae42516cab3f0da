"""What probes say of one endpoint, walked through time."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sidecar.cluster.checking import HEALTHY, UNCHECKED, UNHEALTHY, CheckState, combined, with_jitter
from sidecar.model import HealthCheck, PluginRef

REF = PluginRef(kind="health-check", name="tcp")


def settings(**more: object) -> HealthCheck:
    return HealthCheck(**{"check": REF, "interval": 10.0, "interval_jitter_percent": 0, **more})  # type: ignore[arg-type]


def walk(story: str, **more: object) -> CheckState:
    """A probe each second: "+" succeeds, "-" fails, "!" fails at once."""
    state, rules = CheckState(0.0), settings(**more)
    for now, letter in enumerate(story, 1):
        if letter == "+":
            state.succeeded(rules, float(now))
        else:
            state.failed(rules, f"failure {now}", letter == "!", float(now))
    return state


@pytest.mark.parametrize(
    ("story", "state", "since"),
    [
        ("", UNCHECKED, 0),
        ("+", HEALTHY, 1),  # the first probe decides alone
        ("-", UNHEALTHY, 1),
        ("+--", HEALTHY, 1),  # two of three
        ("+---", UNHEALTHY, 4),
        ("+--+--", HEALTHY, 1),  # a success begins anew
        ("+--+---", UNHEALTHY, 7),
        ("+!", UNHEALTHY, 2),  # the endpoint says so itself
        ("-+", UNHEALTHY, 1),  # one of two
        ("-++", HEALTHY, 3),
        ("-+-+", UNHEALTHY, 1),
        ("-+-++", HEALTHY, 5),
        ("-++---", UNHEALTHY, 6),
        ("---+---", UNHEALTHY, 1),
    ],
)
def test_thresholds(story: str, state: str, since: float) -> None:
    """Three failures in a row, two successes in a row, and the first result alone."""
    walked = walk(story)
    assert (walked.state, walked.since) == (state, since)
    assert walked.probes == len(story)


def test_changes_are_told_once() -> None:
    """Only the probe that turns the state says that it did."""
    state, rules = CheckState(0.0), settings(unhealthy_threshold=2, healthy_threshold=2)
    assert state.succeeded(rules, 1.0) is True
    assert state.succeeded(rules, 2.0) is False
    assert state.failed(rules, "no", False, 3.0) is False
    assert state.failed(rules, "no", False, 4.0) is True
    assert state.failed(rules, "no", True, 5.0) is False
    assert state.succeeded(rules, 6.0) is False
    assert state.succeeded(rules, 7.0) is True


INTERVALS = {
    "interval": 10.0, "unhealthy_interval": 3.0, "unhealthy_edge_interval": 1.0, "healthy_edge_interval": 2.0, "no_traffic_interval": 60.0,
    "no_traffic_healthy_interval": 90.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("story", "with_traffic", "without"),
    [
        ("++", 10.0, 90.0),
        ("+-", 1.0, 60.0),  # at the edge: not decided yet
        ("+---", 3.0, 60.0),
        ("--", 3.0, 60.0),
        ("-+", 2.0, 90.0),  # at the other edge
        ("-++", 10.0, 90.0),
    ],
)
def test_intervals(story: str, with_traffic: float, without: float) -> None:
    """Each situation has its own interval."""
    state = walk(story)
    state.is_spread = True
    assert state.delay(settings(**INTERVALS), True, 0.0) == with_traffic
    assert state.delay(settings(**INTERVALS), False, 0.0) == without


@pytest.mark.parametrize("story", ["++", "+-", "+---", "-+"])
def test_intervals_that_are_not_given(story: str) -> None:
    """They all come from `interval`, and without traffic from `no_traffic_interval`."""
    state = walk(story)
    state.is_spread = True
    assert state.delay(settings(), True, 0.0) == 10.0
    assert state.delay(settings(), False, 0.0) == 60.0
    failing = walk("+-")
    failing.is_spread = True
    assert failing.delay(settings(unhealthy_interval=4.0), True, 0.0) == 4.0


def test_the_second_probe_is_spread() -> None:
    """Endpoints found together are asked together once, and evenly from then on."""
    state = walk("+")
    assert state.delay(settings(), True, 0.25) == 2.5
    assert state.delay(settings(), True, 0.25) == 10.0


@given(dice=st.floats(0, 1, exclude_max=True), base=st.floats(0.01, 100), jitter=st.floats(0, 10), percent=st.integers(0, 100))
def test_jitter_is_bounded(dice: float, base: float, jitter: float, percent: int) -> None:
    """Never earlier than the interval, never later than both jitters together."""
    delay = with_jitter(settings(interval_jitter=jitter, interval_jitter_percent=percent), base, dice)
    assert base <= delay <= base + jitter + base * percent / 100 + 1e-9


@given(st.text("+-!", max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_a_run_decides(story: str, down: int, up: int) -> None:
    """Whatever came before, as many failures (or successes) in a row as the threshold says end in that state."""
    assert walk(story + "-" * down, unhealthy_threshold=down, healthy_threshold=up).state is UNHEALTHY
    assert walk(story + "+" * up, unhealthy_threshold=down, healthy_threshold=up).state is HEALTHY


def test_combined() -> None:
    """All checks must say that it is well, and the first that does not gives the reason."""
    well, ill, new = walk("+"), walk("+---+"), CheckState(0.0)
    assert combined([("http", well), ("tcp", well)]) == (True, "")
    assert combined([("http", well), ("tcp", ill)]) == (False, "tcp check: failure 4")
    assert combined([("http", new), ("tcp", ill)]) == (False, "tcp check: failure 4")
    assert combined([("http", new), ("tcp", well)]) == (False, "http check: not done yet")


def test_snapshot() -> None:
    """What a person sees: the state and since when, the last result and the last failure."""
    assert CheckState(0.0).snapshot(2.0)["last_result"] == "none yet"
    assert walk("+---+").snapshot(7.0) == {
        "state": UNHEALTHY, "degraded": False, "for_seconds": 3.0, "probes": 5, "last_result": "success", "last_failure": "failure 4",
        "last_probe_seconds_ago": 2.0,
    }  # fmt: skip
    assert "in_row=1" in repr(walk("-+"))
