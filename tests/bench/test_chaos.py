"""What the chaos bench calls a broken promise, and that its troubles leave somebody well."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from bench.chaos.phases import BALANCE_REQUESTS, Outcome, Phase, Result, delivered_twice, row, scenario, short_scenario, table

WEIGHTS = {"a": 1, "b": 3}
CALM = Phase("calm", 1.0)


def get(status: int = 200, backend: str = "a", seconds: float = 0.01) -> Result:
    return Result(0, "GET", "get-1", status, seconds, backend, "" if status == 200 else "why")


def broken(results: list[Result], phase: Phase = CALM, twice: set[str] | None = None, recovered: dict[str, float | None] | None = None) -> list[str]:
    outcome = Outcome(phase, recovered or {}, results)
    found: list[str] = row(outcome, WEIGHTS, twice or set(), 6.0)["broken"]
    return found


def test_a_get_that_fails() -> None:
    """Is a broken promise, with its reason; no answer at all as well."""
    assert broken([get(), get(503), get(503), get(0)]) == ["GET failed: 503 why (2 times)", "GET failed: no answer why (1 times)"]


def test_a_post_may_fail_but_not_come_twice() -> None:
    """Twice at one application, or once at two."""
    post = Result(0, "POST", "post-7", 503, 0.1)
    assert broken([post]) == []
    twice = delivered_twice([Counter({"post-7": 1, "post-8": 1}), Counter({"post-7": 1}), Counter({"post-9": 2})])
    assert twice == {"post-7", "post-9"}
    assert broken([post], twice=twice) == ["POST post-7 was delivered twice"]


def test_who_comes_back_late() -> None:
    """Or never."""
    assert broken([], recovered={"a": 5.9}) == []
    assert broken([], recovered={"a": 7.0, "b": None}) == ["a was not used again within 6 s, but after 7.0 s", "b was not used again within 6 s"]


@pytest.mark.parametrize(("of_a", "is_kept"), [(BALANCE_REQUESTS // 4, True), (BALANCE_REQUESTS // 4 + 2, True), (BALANCE_REQUESTS // 4 + 3, False)])
def test_balance(of_a: int, is_kept: bool) -> None:
    """Within five percent of the weight, in calm phases with enough requests, and only there."""
    results = [get(backend="a")] * of_a + [get(backend="b")] * (BALANCE_REQUESTS - of_a)
    assert (broken(results) == []) is is_kept
    assert broken(results, Phase("trouble", 1.0, ((0, "kill"),))) == [] == broken(results[:100])
    # A phase in which somebody was slow was not calm: the machine was busy.
    assert broken([*results, get(backend="a", seconds=2.0)]) == []


def test_somebody_is_always_well() -> None:
    """Whatever the kinds; and every trouble meets only those that know it."""
    for kinds in (["python", "node", "go", "nginx", "python"], ["python", "nginx", "go"], ["python", "python"]):
        for phase in islice(scenario(kinds, ("python", "node", "go"), 1.0, 1.0), 100):
            assert len(phase.troubles) < len(kinds)
            assert all(what in ("kill", "stop") or kinds[index] != "nginx" for index, what in phase.troubles)
    assert all(len(phase.troubles) < count for count in (3, 5) for phase in short_scenario(count, 1.0, 1.0))


def test_the_table() -> None:
    """A verdict for each phase, and below it what was broken."""
    text = table([row(Outcome(CALM, {}, [get()]), WEIGHTS, set(), 6.0), row(Outcome(CALM, {"a": None}, [get(504)]), WEIGHTS, set(), 6.0)])
    lines = text.splitlines()
    assert lines[1].endswith("kept") and lines[2].endswith("BROKEN") and "never" in lines[2] and lines[3] == "calm: GET failed: 504 why (1 times)"
