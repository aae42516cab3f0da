"""Shares of priorities, against the tables of Envoy's documentation and against what must always hold."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, strategies as st

from sidecar.cluster import levels
from sidecar.cluster.levels import locality_share


def spread(counts: Sequence[tuple[int, int]], factor: int, panic: int) -> list[tuple[float, bool]]:
    """Without degraded endpoints."""
    found = levels.spread([(well, 0, total) for well, total in counts], factor, panic)
    assert not any(each.degraded for each in found)
    return [(each.share, each.panics) for each in found]


def shares(*counts: tuple[int, int], panic: int = 50, factor: int = 140) -> list[int]:
    return [round(100 * share) for share, _ in spread(counts, factor, panic)]


# (percent healthy in each priority, percent of the requests that each gets): Envoy's "Priority levels" page, with as many endpoints in each.
ENVOY = [
    ((100, 100, 100), (100, 0, 0)),
    ((72, 72, 100), (100, 0, 0)),
    ((71, 71, 100), (99, 1, 0)),
    ((50, 60, 100), (70, 30, 0)),
    ((50, 50, 100), (70, 30, 0)),
    ((25, 100, 100), (35, 65, 0)),
    ((25, 25, 100), (35, 35, 30)),
    ((25, 25, 20), (36, 36, 29)),
    ((0, 100, 100), (0, 100, 0)),
]


@pytest.mark.parametrize(("healthy", "expected"), ENVOY)
def test_spill_over(healthy: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """What a priority lacks goes to the next ones."""
    assert shares(*[(each, 100) for each in healthy], panic=0) == list(expected)


def test_panic_is_for_each_priority() -> None:
    """Together not whole: only the one below the threshold uses its ill endpoints, and its share stays that of the healthy ones."""
    assert [panics for _, panics in spread([(4, 100), (60, 100)], 140, 50)] == [True, False]
    assert shares((4, 100), (60, 100)) == [6, 94]


def test_nobody_panics_while_others_can_take_their_place() -> None:
    """The first is as good as dead, the second whole."""
    assert spread([(1, 100), (100, 100)], 140, 50) == [(pytest.approx(0.014), False), (pytest.approx(0.986), False)]


def test_all_panic() -> None:
    """Then numbers of endpoints decide; also with a priority that is empty."""
    assert spread([(1, 10), (0, 0), (2, 30)], 140, 50) == [(0.25, True), (0.0, False), (0.75, True)]


def test_nobody_well() -> None:
    """With panic everybody, without it the first one that has endpoints, where nobody will be found."""
    assert spread([(0, 5)], 140, 50) == [(1.0, True)]
    assert spread([(0, 0), (0, 5), (0, 5)], 140, 0) == [(0.0, False), (1.0, False), (0.0, False)]
    assert spread([], 140, 50) == []


@given(
    st.lists(st.integers(0, 40).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))), min_size=1),
    st.integers(0, 100),
    st.integers(100, 1000),
)
def test_shares_are_shares(counts: list[tuple[int, int]], panic: int, factor: int) -> None:
    """They sum to 1; nobody without healthy endpoints gets any unless it panics or nobody is left; nobody panics while the others make up for it."""
    result = spread(counts, factor, panic)
    assert sum(share for share, _ in result) == pytest.approx(1.0)
    assert all(-1e-9 <= share <= 1.0 + 1e-9 for share, _ in result)
    whole = sum(min(100.0, factor * well / total) for well, total in counts if total) >= 100.0
    for (share, panics), (well, total) in zip(result, counts, strict=True):
        assert not (panics and (whole or not total or 100 * well >= panic * total))
        if any(well for well, _ in counts) and not well and not panics:
            assert share == pytest.approx(0.0)


# ((healthy, degraded) percent of each priority, (to healthy, to degraded) of each): Envoy's "Degraded endpoints" section of that page, and what follows of it.
DEGRADED = [
    ([(100, 0), (100, 0)], [(100, 0), (0, 0)]),
    ([(72, 28)], [(100, 0)]),
    ([(50, 50)], [(70, 30)]),
    ([(0, 100)], [(0, 100)]),
    ([(25, 75), (25, 75)], [(35, 30), (35, 0)]),
    ([(5, 95), (100, 0)], [(7, 0), (93, 0)]),
    ([(5, 0), (5, 95)], [(7, 0), (7, 86)]),
    ([(5, 5), (5, 5)], [(25, 25), (25, 25)]),
]


@pytest.mark.parametrize(("counts", "expected"), DEGRADED)
def test_degraded_ones_get_what_healthy_ones_lack(counts: list[tuple[int, int]], expected: list[tuple[int, int]]) -> None:
    """Those of all priorities together, before anybody panics."""
    found = levels.spread([(well, degraded, 100) for well, degraded in counts], 140, 0)
    assert [(round(100 * each.share), round(100 * each.degraded)) for each in found] == expected


def test_degraded_ones_keep_from_panic() -> None:
    """They are no ill ones: a priority panics when both kinds together are too few, and then all are used alike."""
    assert not levels.spread([(10, 40, 100)], 140, 50)[0].panics
    assert levels.spread([(10, 39, 100)], 140, 50) == [(1.0, 0.0, True)]
    assert [each.panics for each in levels.spread([(10, 10, 100), (0, 60, 100)], 140, 50)] == [False, False], "together they are whole"
    assert [each.panics for each in levels.spread([(10, 10, 100), (0, 50, 100)], 140, 50)] == [True, False]


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20)), min_size=1),
    st.integers(0, 100),
    st.integers(100, 1000),
)
def test_shares_with_degraded_ones_are_shares(parts: list[tuple[int, int, int]], panic: int, factor: int) -> None:
    """They sum to 1, and degraded endpoints get nothing while healthy ones suffice."""
    found = levels.spread([(well, degraded, well + degraded + ill) for well, degraded, ill in parts], factor, panic)
    assert sum(each.share + each.degraded for each in found) == pytest.approx(1.0)
    enough = sum(min(100.0, factor * well / (well + degraded + ill)) for well, degraded, ill in parts if well) >= 100.0
    for each, (well, degraded, _) in zip(found, parts, strict=True):
        assert each.degraded >= -1e-9 and (degraded or each.degraded == pytest.approx(0.0))
        assert not (enough and (each.degraded > 1e-9 or each.panics)) and (well or each.panics or not enough or each.share == pytest.approx(0.0))


def test_locality_share() -> None:
    """The whole weight while about 71 % are well, then in proportion."""
    assert locality_share(10, 5, 7, 140) == 10
    assert locality_share(10, 1, 2, 140) == pytest.approx(7.0)
    assert locality_share(10, 0, 0, 140) == 0.0
