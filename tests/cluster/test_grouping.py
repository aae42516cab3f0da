"""Endpoints in, leaves with shares out."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given, strategies as st

from sidecar import model
from sidecar.address import Address
from sidecar.cluster.grouping import Leaf, Level, is_well, leaves, levelled, matching
from sidecar.cluster.health import Health
from sidecar.cluster.slices import Slices
from sidecar.cluster.zones import Callers
from sidecar.model import Cluster, Locality, LocalityLB

A, B, C = Locality(region="eu", zone="a"), Locality(region="eu", zone="b"), Locality(region="us", zone="c")


class Peer:
    """As the path's endpoints are."""

    def __init__(self, name: str = "x", check: str | None = None, ejected: bool = False, degraded: bool = False, **configured: Any) -> None:
        self.name = name
        self.configured = model.Endpoint(address=Address(name, 80), **configured)
        self.check_failure = check
        self.is_absent = check == "absent"
        self.is_degraded = degraded
        self.health = Health(name)
        self.health.ejected_until = 9.0 if ejected else 0.0

    def __repr__(self) -> str:
        return self.name


def finished(work: Generator[None, None, Any]) -> Any:
    """What a generator returns."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def grouped(peers: list[Peer], own: Locality | None = None, callers: Callers | None = None, **cluster: Any) -> tuple[list[Level], list[Leaf]]:
    settings = Cluster(name="c", **cluster)
    levels = finished(levelled(peers, settings, own, Slices(3), callers))
    return levels, leaves(levels, settings)


def shown(found: list[Leaf]) -> list[tuple[float, str]]:
    return [(round(leaf.share, 3), "".join(peer.name for peer in leaf.endpoints)) for leaf in found]


@pytest.mark.parametrize(
    ("peer", "well"),
    [
        (Peer(), True),
        (Peer(health="draining"), False),
        (Peer(health="unhealthy"), False),
        (Peer(check="503"), False),
        (Peer(ejected=True), False),
        (Peer(degraded=True), True),
        (Peer(health="degraded"), True),
        (Peer(health="degraded", check="503"), False),
    ],
)
def test_is_well(peer: Peer, well: bool) -> None:
    """Anybody who says that it is ill is believed."""
    assert is_well(peer) is well


def test_alike_endpoints_are_one_leaf() -> None:
    """The usual cluster; those with weight 0 and the ill ones are not in it."""
    levels, found = grouped([Peer("a"), Peer("b"), Peer("c", weight=0), Peer("d", ejected=True)])
    assert shown(found) == [(1.0, "ab")] and levels[0].counts == (2, 3)


def test_priorities() -> None:
    """The second helps the first out; the third is there for those who tried all others."""
    peers = [Peer("a"), Peer("b", check="x"), Peer("c", priority=3), Peer("d", priority=9)]
    assert shown(grouped(peers)[1]) == [(0.7, "a"), (0.3, "c"), (0.0, "d")]


def test_prefer_the_nearest() -> None:
    """Own zone, own region, the rest; priorities first; and whole ones only. What the near ones lack goes on."""
    near = {"locality_lb": LocalityLB(mode="prefer")}
    peers = [Peer("c", locality=C), Peer("b", locality=B), Peer("a", locality=A), Peer("n"), Peer("z", locality=A, priority=1)]
    assert shown(grouped(peers, A, **near)[1]) == [(1.0, "a"), (0.0, "b"), (0.0, "cn"), (0.0, "z")]
    peers.append(Peer("y", locality=A, ejected=True))
    assert shown(grouped(peers, A, **near)[1])[:2] == [(0.7, "a"), (0.3, "b")]


def test_weighted_localities() -> None:
    """By weight, less where too few are well; none where nobody is."""
    weighted = {"locality_lb": LocalityLB(mode="weighted", weights={"eu/a": 1, "eu/b": 2}), "healthy_panic_threshold": 0}
    peers = [Peer("a", locality=A), Peer("b", locality=B), Peer("c", locality=B)]
    assert shown(grouped(peers, **weighted)[1]) == [(0.333, "a"), (0.667, "bc")]
    peers[1].check_failure = "x"
    assert shown(grouped(peers, **weighted)[1]) == [(0.417, "a"), (0.583, "c")]
    peers[2].check_failure = "x"
    assert shown(grouped(peers, **weighted)[1]) == [(1.0, "a")]


ZONES = {"locality_lb": LocalityLB(mode="zone_aware", min_cluster_size=3)}


def test_zone_aware() -> None:
    """Our zone first, what it cannot bear elsewhere; zones without a share come last; later priorities know none."""
    peers = [Peer("a", locality=A), Peer("b", locality=B), Peer("c", locality=B), Peer("d", locality=C)]
    peers += [Peer("e", locality=A, priority=1), Peer("f", priority=1)]
    levels, found = grouped(peers, A, Callers({A: 1, B: 3}), **ZONES)
    assert shown(found) == [(1.0, "a"), (0.0, "bc"), (0.0, "d"), (0.0, "ef")] and levels[0].zone_routing == "all stay in our zone"
    levels, found = grouped(peers, A, Callers({A: 1, B: 1}), **ZONES)
    assert shown(found) == [(0.5, "a"), (0.0, "bc"), (0.5, "d"), (0.0, "ef")] and levels[0].zone_routing == "50% stay in our zone, which cannot bear more"
    rack = Locality(region="eu", zone="a", sub_zone="r1")
    assert shown(grouped(peers, rack, Callers({A: 1, B: 3}), **ZONES)[1])[0] == (1.0, "a")


def test_zone_aware_goes_by_those_that_are_well() -> None:
    """A zone that loses endpoints keeps less of its requests."""
    peers = [*(Peer(f"{number}", locality=A) for number in range(4)), *(Peer(name, locality=B) for name in "abcd")]
    callers = Callers({A: 1, B: 1})
    assert grouped(peers, A, callers, **ZONES)[1][0].share == 1.0
    peers[0].check_failure = peers[1].check_failure = "x"
    levels, found = grouped(peers, A, callers, **ZONES)
    assert shown(found) == [(0.667, "23"), (0.333, "abcd")] and not levels[0].is_panicking


def test_where_zones_cannot_count_they_do_not() -> None:
    """One group of all, as without; and the level says why."""
    peers = [Peer("a", locality=A), Peer("b", locality=B), Peer("c", locality=B)]
    for change, callers, settings, reason in (
        ({}, None, ZONES, "nothing is known"),
        ({}, Callers({A: 1}, "half of them are ill"), ZONES, "half of them are ill"),
        ({}, Callers({A: 1}), {"locality_lb": LocalityLB(mode="zone_aware")}, "fewer than 6"),
    ):
        levels, found = grouped(peers, A, callers, **settings, **change)
        assert shown(found) == [(1.0, "abc")] and reason in levels[0].zone_routing and found[0].key == (0, 0, None, False)
    ill = [Peer("a", locality=A, check="x"), Peer("b", locality=B, check="x"), Peer("c", locality=B)]
    levels, found = grouped(ill, A, Callers({A: 1}), **ZONES)
    assert shown(found) == [(1.0, "abc")] and levels[0].zone_routing == "no: it panics"


def test_in_panic_traffic_may_fail() -> None:
    """Nobody is used then; priorities that do not panic go on."""
    fails = LocalityLB(mode="zone_aware", fail_traffic_on_panic=True)
    peers = [Peer("a", locality=A, check="x"), Peer("b", locality=B, check="x"), Peer("c", locality=B)]
    levels, found = grouped(peers, A, Callers({A: 1}), locality_lb=fails)
    assert levels[0].is_panicking and found == []
    peers.append(Peer("z", priority=1))
    assert shown(grouped(peers, A, Callers({A: 1}), locality_lb=fails)[1])[-1][1] == "z"


def test_degraded_ones_come_after_all_others() -> None:
    """Whoever says it, discovery or a check; they get what healthy ones of all priorities lack, and those of the first priority first."""
    peers = [Peer("a"), Peer("b", degraded=True), Peer("c", health="degraded"), Peer("y", priority=1), Peer("z", priority=1, degraded=True)]
    levels, found = grouped(peers)
    assert shown(found) == [(0.467, "a"), (0.533, "y"), (0.0, "bc"), (0.0, "z")] and levels[0].counts == (1, 3) and levels[0].degraded == 2
    assert [leaf.key[3] for leaf in found] == [False, False, True, True]
    assert shown(grouped(peers[:3])[1]) == [(0.467, "a"), (0.533, "bc")]
    assert shown(grouped(peers[1:3])[1]) == [(1.0, "bc")]


def test_degraded_ones_and_places() -> None:
    """Near ones first also among them; weights of localities count for them; zones do not."""
    peers = [Peer("a", locality=A), Peer("b", locality=A, degraded=True), Peer("c", locality=B, degraded=True), Peer("d", locality=B, degraded=True)]
    assert shown(grouped(peers, A, locality_lb=LocalityLB(mode="prefer"))[1]) == [(0.7, "a"), (0.3, "b"), (0.0, "cd")]
    weighted = LocalityLB(mode="weighted", weights={"eu/a": 3, "eu/b": 1})
    assert shown(grouped(peers, **{"locality_lb": weighted})[1]) == [(0.35, "a"), (0.44, "b"), (0.21, "cd")]
    assert shown(grouped(peers, A, Callers({A: 1}), **ZONES)[1]) == [(0.35, "a"), (0.65, "bcd")]


def test_in_panic_degraded_ones_are_like_the_others() -> None:
    """All are used alike then."""
    peers = [Peer("a", check="x"), Peer("b", check="x"), Peer("c", degraded=True)]
    assert shown(grouped(peers)[1]) == [(1.0, "abc")]


def test_panic_uses_all_but_those_that_leave() -> None:
    """Draining ones only when nobody else is there."""
    peers = [Peer("a", ejected=True), Peer("b", check="x"), Peer("c", health="draining"), Peer("d", health="unhealthy")]
    levels, found = grouped(peers)
    assert levels[0].is_panicking and shown(found) == [(1.0, "abd")]
    assert shown(grouped(peers, healthy_panic_threshold=0)[1]) == []
    assert shown(grouped([peers[2]])[1]) == [(1.0, "c")]


def test_panic_uses_nobody_who_is_absent() -> None:
    """Unless all are."""
    peers = [Peer("a", ejected=True), Peer("b", check="absent"), Peer("c", check="absent"), Peer("d")]
    levels, found = grouped(peers)
    assert levels[0].is_panicking and shown(found) == [(1.0, "ad")]
    assert shown(grouped(peers[1:3])[1]) == [(1.0, "bc")]
    elsewhere = [*peers[1:3], Peer("e", check="x", priority=1)]
    assert shown(grouped(elsewhere)[1]) == [(1.0, "e")]


def test_draining_endpoints_are_missed_by_nobody() -> None:
    """Half of them leaving is no reason to spill over."""
    peers = [Peer("a"), Peer("b", health="draining"), Peer("c", priority=1)]
    assert shown(grouped(peers)[1]) == [(1.0, "a"), (0.0, "c")]


def test_matching() -> None:
    """All of it."""
    peers = [Peer("a", metadata={"v": "1", "x": "y"}), Peer("b", metadata={"v": "2"}), Peer("c")]
    for match, names in (((("v", "1"),), "a"), ((("v", "1"), ("x", "z")), ""), ((), "abc")):
        assert "".join(peer.name for peer in finished(matching(peers, match, Slices(2)))) == names


PEERS = st.builds(
    Peer,
    name=st.sampled_from("abcdefgh"),
    check=st.sampled_from([None, None, "x", "absent"]),
    ejected=st.booleans(),
    degraded=st.booleans(),
    priority=st.integers(0, 2),
    weight=st.integers(0, 2),
    locality=st.sampled_from([None, A, B, C]),
    health=st.sampled_from(["healthy", "healthy", "degraded", "draining", "unhealthy"]),
)


CALLERS = st.none() | st.builds(Callers, st.dictionaries(st.sampled_from([A, B, C]), st.integers(1, 5)))


@given(st.lists(PEERS), st.sampled_from([None, "prefer", "weighted", "zone_aware"]), st.integers(0, 100), CALLERS)
def test_whatever_there_is(peers: list[Peer], mode: Any, panic: int, callers: Callers | None) -> None:
    """No endpoint twice; every well one is in some leaf; ill ones only in panic; shares sum to 1 when anybody well is there."""
    settings = None if mode is None else LocalityLB(mode=mode, min_cluster_size=2)
    levels, found = grouped(peers, A, callers, locality_lb=settings, healthy_panic_threshold=panic)
    used = [peer for leaf in found for peer in leaf.endpoints]
    assert len(used) == len(set(used))
    well = {peer for peer in peers if is_well(peer) and peer.configured.weight}
    assert well <= set(used)
    if not any(level.is_panicking for level in levels):
        assert set(used) == well
    if any(not peer.is_absent for peer in used):
        assert not any(peer.is_absent for peer in used)
    assert sum(leaf.share for leaf in found) <= 1.0 + 1e-9
    if well:
        assert sum(leaf.share for leaf in found) == pytest.approx(1.0)
    assert len({leaf.key for leaf in found}) == len(found)
