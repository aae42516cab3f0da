"""DNS answers as endpoints."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, strategies as st

from sidecar.naming.dns_answers import MAX_WEIGHT, LookupFamily, Service, refresh_after, wanted_types, weigh


@pytest.mark.parametrize(
    ("ttl", "die", "expected"),
    [(60.0, 0.0, 60.0), (60.0, 1.0, 54.0), (0.0, 0.5, 5.0), (5.0, 1.0, 5.0), (86400.0, 0.0, 300.0), (86400.0, 1.0, 270.0), (float("inf"), 0.0, 300.0)],
)
def test_refresh_after(ttl: float, die: float, expected: float) -> None:
    """The TTL within its bounds, up to a tenth earlier."""
    assert refresh_after(ttl, 5.0, 300.0, lambda: die) == expected


@pytest.mark.parametrize(
    ("family", "expected"),
    [("auto", (("AAAA", "A"), True)), ("v4_preferred", (("A", "AAAA"), True)), ("v6_only", (("AAAA",), True)), ("all", (("A", "AAAA"), False))],
)
def test_families(family: LookupFamily, expected: object) -> None:
    """As Envoy's dns_lookup_family."""
    assert wanted_types(family) == expected


def services(*rows: tuple[int, int, int]) -> list[Service]:
    """(priority, weight, addresses) of each."""
    return [
        Service(priority, weight, 80, f"t{index}", tuple(f"10.0.{index}.{n}" for n in range(hosts))) for index, (priority, weight, hosts) in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(10, 5, 1), (10, 15, 1), (20, 0, 1)], [(0, 1), (0, 3), (1, 1)]),  # priorities without gaps, weights in their ratio
        ([(0, 0, 1), (0, 0, 1)], [(0, 1), (0, 1)]),  # all zero: equal
        ([(0, 0, 1), (0, 1, 1)], [(0, 1), (0, 10)]),  # zero beside others: hardly ever
        ([(0, 10, 2), (0, 10, 1)], [(0, 1), (0, 1), (0, 2)]),  # a target's weight is shared by its addresses
        ([(5, 1, 0), (7, 1, 1)], [(0, 1)]),  # a target without addresses takes no priority
        ([], []),
    ],
)
def test_priorities_and_weights(rows: list[tuple[int, int, int]], expected: list[tuple[int, int]]) -> None:
    """RFC 2782's numbers as an endpoint has them."""
    assert [(each.priority, each.weight) for each in weigh(services(*rows))] == expected


def test_records_of_many_priorities_are_looked_at_once() -> None:
    """An answer by TCP holds thousands: not each priority looks at all of them."""

    class Counted(int):
        comparisons = 0

        def __eq__(self, other: object) -> bool:
            Counted.comparisons += 1
            return int(self) == other

        __hash__ = int.__hash__

    weighed = weigh([Service(Counted(priority), 1, 80, "t", ("10.0.0.1",)) for priority in range(300)])
    assert [each.priority for each in weighed] == list(range(300))
    assert Counted.comparisons < 3000


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 65535), st.integers(0, 7)), max_size=8))
def test_shares_are_kept(rows: list[tuple[int, int, int]]) -> None:
    """Whatever the numbers: weights an endpoint can have, priorities without gaps, and each target gets its share as far as whole numbers can say it."""
    weighed = weigh(services(*rows))
    assert all(1 <= each.weight <= MAX_WEIGHT for each in weighed)
    assert sorted({each.priority for each in weighed}) == list(range(len({each.priority for each in weighed})))
    for priority in {each.priority for each in weighed}:
        peers = [each for each in weighed if each.priority == priority]
        total = sum(each.weight for each in peers)
        wanted = {f"t{index}": Fraction(weight * 10 or 1) for index, (_, weight, hosts) in enumerate(rows) if hosts}
        targets = {each.target for each in peers}
        for target in targets:
            share = Fraction(sum(each.weight for each in peers if each.target == target), total)
            assert abs(share - wanted[target] / sum(wanted[each] for each in targets)) < Fraction(1, 1000)
