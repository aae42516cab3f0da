"""Stages of overload and the limits of cgroups."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies

from sidecar.model import OverloadActions
from sidecar.policy.overload import CONNECTIONS, LAG, MEMORY, TRIGGERS, Stages, cgroup_limit


def test_stages_come_in_order() -> None:
    """As memory grows: first the heap, then keep-alive, then requests, then connections; and back, later than they came."""
    stages = Stages(OverloadActions(), 0.05)
    seen: list[tuple[str, str]] = []
    for percent in (80, 85, 90, 95, 98, 100, 96, 94, 92, 89, 86, 84, 79):
        seen += stages.update({MEMORY: percent / 100})
    assert [name for name, why in seen if why] == ["shrink_heap", "disable_http_keepalive", "stop_accepting_requests", "stop_accepting_connections"]
    assert [name for name, why in seen if not why] == ["stop_accepting_connections", "stop_accepting_requests", "disable_http_keepalive", "shrink_heap"]
    assert all(count == 1 for count in stages.begun.values())


def test_it_does_not_flicker() -> None:
    """Around the threshold the action stays on."""
    stages = Stages(OverloadActions(), 0.05)
    assert [stages.update({MEMORY: pressure}) for pressure in (0.951, 0.949, 0.951, 0.91)][1:] == [[], [], []]
    assert stages.update({MEMORY: 0.89}) == [("stop_accepting_requests", "")]


@pytest.mark.parametrize(("resource", "actions"), [(LAG, 3), (CONNECTIONS, 1), (MEMORY, 4)])
def test_each_resource_has_its_actions(resource: str, actions: int) -> None:
    """Many connections refuse nobody's request."""
    stages = Stages(OverloadActions(), 0.0)
    assert stages.update({resource: 1.0}) == [(name, resource) for name, resources in TRIGGERS.items() if resource in resources]
    assert sum(bool(why) for why in stages.reasons.values()) == actions
    assert stages.snapshot()["disable_http_keepalive"] == {"begins_at": 0.9, "active": True, "because_of": resource, "times": 1}


def test_one_that_is_off_never_begins() -> None:
    """null in the configuration."""
    stages = Stages(OverloadActions(stop_accepting_requests=None, stop_accepting_connections=None, disable_http_keepalive=None, shrink_heap=None), 0.0)
    assert stages.update({MEMORY: 5.0}) == []


@given(strategies.lists(strategies.floats(0.0, 3.0), max_size=50), strategies.floats(0.0, 1.0))
def test_on_is_where_it_should_be(pressures: list[float], hysteresis: float) -> None:
    """At or above the threshold always on, below threshold less hysteresis always off."""
    stages = Stages(OverloadActions(), hysteresis)
    for pressure in pressures:
        stages.update({MEMORY: pressure})
        is_on = bool(stages.reasons["stop_accepting_requests"])
        assert is_on if pressure >= 0.95 else not is_on or pressure >= 0.95 - hysteresis


V2 = "0::/kubepods/pod1/c2\n"
V1 = "11:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n"


@pytest.mark.parametrize(
    ("cgroups", "files", "limit"),
    [
        (V2, {"/sys/fs/cgroup/kubepods/pod1/c2/memory.max": "268435456\n"}, 268435456),
        (V2, {"/sys/fs/cgroup/kubepods/pod1/c2/memory.max": "max\n", "/sys/fs/cgroup/kubepods/memory.max": "1000000\n"}, 1000000),
        # With a namespace of its own a container sees itself as the root.
        ("0::/\n", {"/sys/fs/cgroup/memory.max": "5000000\n"}, 5000000),
        (V1, {"/sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": "7000000\n"}, 7000000),
        (V1, {"/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        (V2, {}, None),
        ("", {}, None),
        ("nonsense", {}, None),
    ],
)
def test_limits_of_cgroups(cgroups: str, files: dict[str, str], limit: int | None) -> None:
    """The least of the groups around the process, of both versions; no limit is none."""
    assert cgroup_limit(cgroups, files.get) == limit
