"""Who serves when nobody has what is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.cluster.grouping import Match
from sidecar.cluster.subsets import NOBODY, Fallbacks
from sidecar.model import SubsetLB, SubsetSelector

V1, STABLE = (("version", "v1"),), (("stage", "stable"),)
BOTH: Match = (("stage", "test"), ("version", "v1"))


def fallbacks(policy: Any = "any_endpoint", *selectors: tuple[str, str, str], default: dict[str, str] | None = None) -> Fallbacks:
    """Selectors as (keys, policy, fewer keys), keys with spaces between."""
    made = tuple(SubsetSelector(keys=tuple(keys.split()), fallback_policy=each, fallback_keys_subset=tuple(fewer.split())) for keys, each, fewer in selectors)  # type: ignore[arg-type]
    return Fallbacks(SubsetLB(fallback_policy=policy, default_subset=default or {}, subset_selectors=made))


@pytest.mark.parametrize("match", [None, V1])
def test_policies_of_the_cluster(match: Match | None) -> None:
    """For all that no selector is for, and for those who ask for nothing."""
    assert fallbacks().of(match, set()) is None
    assert fallbacks("no_fallback").of(match, set()) == NOBODY
    default = fallbacks("default_subset", default={"stage": "stable"})
    assert default.of(match, {STABLE}) == STABLE == default.default_subset
    assert default.of(match, set()) == NOBODY


def test_a_selector_is_for_just_its_keys() -> None:
    """Neither more of them nor fewer."""
    found = fallbacks("no_fallback", ("version", "any_endpoint", ""), ("stage version", "default_subset", ""), default={"stage": "stable"})
    assert found.of(V1, {STABLE}) is None
    assert found.of(BOTH, {STABLE}) == STABLE
    assert found.of(STABLE, set()) == found.of(None, {STABLE}) == NOBODY
    assert [found.policy_of(match) for match in (V1, BOTH, STABLE, None)] == [
        ("any_endpoint", True), ("default_subset", True), ("no_fallback", False), ("no_fallback", False),
    ]  # fmt: skip


def test_fewer_keys() -> None:
    """One after the other, until somebody has what is left; then the last selector decides, or the cluster."""
    chain = fallbacks("no_fallback", ("stage version zone", "keys_subset", "stage version"), ("version stage", "keys_subset", "version"))
    asked = (*BOTH, ("zone", "a"))
    assert list(chain.towards(asked)) == [BOTH, V1] and list(chain.towards(V1)) == list(chain.towards(None)) == []
    assert chain.of(asked, {BOTH, V1}) == BOTH and chain.of(asked, {V1}) == V1 and chain.of(asked, set()) == NOBODY
    assert chain.policy_of(asked) == ("no_fallback", False)
    assert fallbacks("no_fallback", ("stage version", "keys_subset", "version"), ("version", "any_endpoint", "")).of(BOTH, set()) is None
