"""Who gets how much, where zones count."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sidecar.cluster.zones import Callers, mixed, why_not, zone_of, zone_shares
from sidecar.model import ZONE_CLUSTER_SIZE, Locality, LocalityLB

ZONES = {name: Locality(region="eu", zone=name) for name in "abcd"}
COUNTS = st.dictionaries(st.sampled_from(sorted(ZONES)), st.integers(1, 50), min_size=1)


def counts(**numbers: int) -> dict[Locality, int]:
    return {ZONES[name]: number for name, number in numbers.items()}


@pytest.mark.parametrize(
    ("well", "callers", "shares"),
    [
        # As many of the endpoints as of the callers, or more: nothing leaves.
        ({"a": 3, "b": 3}, {"a": 2, "b": 2}, {"a": 1.0, "b": 0.0}),
        ({"a": 4, "b": 2}, {"a": 1, "b": 1}, {"a": 1.0, "b": 0.0}),
        # Envoy's own example: 20 % of the callers, 10 % of the endpoints; half of it can stay.
        ({"a": 1, "b": 9}, {"a": 2, "b": 8}, {"a": 0.5, "b": 0.5}),
        # What goes elsewhere goes where endpoints are to spare, and not where they are needed.
        ({"a": 2, "b": 4, "c": 4}, {"a": 5, "b": 4, "c": 1}, {"a": 0.4, "b": 0.0, "c": 0.6}),
        # No endpoint in our zone; nobody of us there, as far as is known.
        ({"b": 3, "c": 1}, {"a": 1, "b": 1, "c": 2}, {"b": 1.0, "c": 0.0}),
        ({"a": 1, "b": 3}, {"b": 1}, {"a": 1.0, "b": 0.0}),
        ({"b": 1, "c": 3}, {"b": 1}, {"b": 0.0, "c": 1.0}),
    ],
)
def test_shares(well: dict[str, int], callers: dict[str, int], shares: dict[str, float]) -> None:
    """For a caller in zone a."""
    found = zone_shares(ZONES["a"], counts(**well), counts(**callers))
    assert {zone.zone: round(share, 3) for zone, share in found.items()} == shares


@given(COUNTS, COUNTS)
def test_no_endpoint_gets_more_than_its_share(well: dict[str, int], callers: dict[str, int]) -> None:
    """With all callers together, wherever they are: every endpoint has the same to do where each zone with callers is known."""
    everybody = sum(callers.values())
    load = dict.fromkeys(well, 0.0)
    for zone, count in callers.items():
        shares = zone_shares(ZONES[zone], counts(**well), counts(**callers))
        assert sum(shares.values()) == pytest.approx(1.0) and set(shares) == set(counts(**well))
        for other, share in shares.items():
            load[other.zone] += share * count / everybody
    for zone, part in load.items():
        fair = well[zone] / sum(well.values())
        # One that has more endpoints than callers is filled up by the others, as far as these have any to send.
        assert part <= fair + 1e-9 or callers.get(zone, 0) / everybody == pytest.approx(part) or part == pytest.approx(fair)


def test_what_is_narrower_than_a_zone_does_not_count() -> None:
    """Racks are one zone, and who says nothing is in a zone of its own."""
    assert zone_of(Locality(region="eu", zone="a", sub_zone="r7")) == ZONES["a"] == zone_of(ZONES["a"])
    assert zone_of(None) == Locality()


def test_why_it_is_not_done() -> None:
    """Each reason in words."""
    settings = LocalityLB(mode="zone_aware")
    enough, callers = counts(a=ZONE_CLUSTER_SIZE - 1, b=1), Callers(counts(a=1))
    assert why_not(settings, enough, callers) == ""
    assert why_not(settings, enough, None) == why_not(settings, enough, Callers({})) == "no: nothing is known of the callers (local_cluster_name)"
    assert why_not(settings, enough, Callers(counts(a=1), "it is dark")) == "no: it is dark"
    assert why_not(settings, counts(a=4, b=1), callers) == "no: fewer than 6 endpoints are healthy (min_cluster_size)"
    assert why_not(settings, counts(a=6), callers) == "no: there is one zone"


def test_a_part_of_the_requests() -> None:
    """`routing_enabled` percent by zone, the rest by numbers of endpoints."""
    found = mixed({ZONES["a"]: 1.0, ZONES["b"]: 0.0}, counts(a=1, b=3), 60)
    assert found == pytest.approx({ZONES["a"]: 0.7, ZONES["b"]: 0.3})
