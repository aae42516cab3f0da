"""Who serves requests for endpoints that are not there (Envoy: subset fallback policies)."""

from __future__ import annotations

from collections.abc import Container, Iterator

from sidecar.cluster.grouping import Match
from sidecar.model import SubsetLB

# In the place of a match: no endpoint serves. No route asks for nothing in particular in this way.
NOBODY: Match = ()


class Fallbacks:
    """What `config` says. `default_subset`: its match, None where it has none."""

    __slots__ = ("_policy", "_selectors", "default_subset")

    def __init__(self, config: SubsetLB) -> None:
        self.default_subset: Match | None = tuple(sorted(config.default_subset.items())) or None
        self._policy = config.fallback_policy
        self._selectors = {frozenset(each.keys): each for each in config.subset_selectors}

    def towards(self, match: Match | None) -> Iterator[Match]:
        """The matches with fewer keys that a request with this one falls back to, one after the other."""
        while match:
            selector = self._selectors.get(frozenset(key for key, _ in match))
            if selector is None or selector.fallback_policy != "keys_subset":
                return
            match = tuple((key, value) for key, value in match if key in selector.fallback_keys_subset)
            yield match

    def policy_of(self, match: Match | None) -> tuple[str, bool]:
        """What decides about requests with this match in the end when nobody has it, and does a selector say so?"""
        for fewer in self.towards(match):
            match = fewer
        selector = self._selectors.get(frozenset(key for key, _ in match or ()))
        return (self._policy, False) if selector is None else (selector.fallback_policy, True)

    def of(self, match: Match | None, known: Container[Match | None]) -> Match | None:
        """The match whose endpoints serve those who ask for `match`, which is not among the `known` ones that have endpoints; None for any endpoint, or
        `NOBODY`."""
        for fewer in self.towards(match):
            if fewer in known:
                return fewer
        policy, _ = self.policy_of(match)
        if policy == "default_subset" and self.default_subset in known:
            return self.default_subset
        return None if policy == "any_endpoint" else NOBODY
