"""Rules on who may do what: principal, method, path, headers; compiled once, decided for each request.

The order of rules does not matter. A matching `deny` rule decides first; then, if there is any `allow` rule, one of them must match. A rule with
`shadow: true` is only tried out: the decision is made without it, and when it would have changed an allow into a deny, that is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from sidecar.headers import Headers
from sidecar.matching import compile_header_match, compile_regex
from sidecar.model import Name, ValueMatch

Texts = tuple[str, ...]


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule: it matches when each of the tests given does; a test that is not given always does.

    `principals`: the caller's name exactly, "prefix*", "*suffix", or "*" for any caller that an authenticator named; a caller without a name matches none.
    `methods`: as sent. `paths`: the normalized path without query, exactly, "prefix*", "*suffix" or "*"; `path_regexes`: patterns for the whole of it;
    a path fits when one of both does. `headers`: all of them must match. The `not_` tests fail where their twins match: `not_principals: ["*"]` takes
    callers without a name.
    """

    name: Name
    action: Literal["allow", "deny"] = "allow"
    shadow: bool = False
    principals: Texts = ()
    not_principals: Texts = ()
    methods: Texts = ()
    not_methods: Texts = ()
    paths: Texts = ()
    not_paths: Texts = ()
    path_regexes: Texts = ()
    headers: tuple[ValueMatch, ...] = ()

    def __post_init__(self) -> None:
        """Raises `ValueError` for a rule that makes no sense, so that `sidecar check` finds it."""
        _compile(self)


class Decision(msgspec.Struct, frozen=True):
    """`allowed`, by which `rule` ("" when none matched), and the rule set that would have said no if shadow rules counted ("" when they agree)."""

    allowed: bool
    rule: str = ""
    shadow_rule: str = ""


TextTest = Callable[[bytes], bool]
NO_ALLOW_RULE = "no allow rule matched"


def compile_texts(patterns: Texts) -> TextTest | None:
    """A test for "one of these"; None when there is none. Raises `ValueError` for a star in the middle."""
    if not patterns:
        return None
    exact: set[bytes] = set()
    prefixes: list[bytes] = []
    suffixes: list[bytes] = []
    for text in patterns:
        pattern = text.encode()
        if pattern == b"*":
            prefixes.append(b"")
        elif pattern.endswith(b"*"):
            prefixes.append(pattern[:-1])
        elif pattern.startswith(b"*"):
            suffixes.append(pattern[1:])
        else:
            exact.add(pattern)
        if b"*" in pattern[1:-1] or (len(pattern) > 1 and pattern.startswith(b"*") and pattern.endswith(b"*")):
            raise ValueError(f"a star stands at the beginning or at the end, not as in {text!r}")
    return _one_of(frozenset(exact), tuple(prefixes), tuple(suffixes))


def _one_of(exact: frozenset[bytes], prefixes: tuple[bytes, ...], suffixes: tuple[bytes, ...]) -> TextTest:
    if not prefixes and not suffixes:
        return exact.__contains__
    return lambda text: text in exact or text.startswith(prefixes) or text.endswith(suffixes)


class _Compiled:
    """One rule with its tests."""

    __slots__ = ("headers", "methods", "name", "not_methods", "not_paths", "not_principals", "paths", "principals")

    def __init__(self, rule: Rule) -> None:
        self.name = rule.name
        self.principals = compile_texts(rule.principals)
        self.not_principals = compile_texts(rule.not_principals)
        self.methods = frozenset(method.encode() for method in rule.methods)
        self.not_methods = frozenset(method.encode() for method in rule.not_methods)
        self.paths = _path_test(rule)
        self.not_paths = compile_texts(rule.not_paths)
        self.headers = tuple(compile_header_match(each) for each in rule.headers)

    def matches(self, principal: bytes, method: bytes, path: bytes, headers: Headers) -> bool:
        # A caller without a name is b"", which "*" and an exact "" must not take.
        if self.principals is not None and not (principal and self.principals(principal)):
            return False
        if self.methods and method not in self.methods:
            return False
        if self.paths is not None and not self.paths(path):
            return False
        if self.not_principals is not None and principal and self.not_principals(principal):
            return False
        if method in self.not_methods or (self.not_paths is not None and self.not_paths(path)):
            return False
        for test in self.headers:  # noqa: SIM110 - a generator costs more than the tests
            if not test(headers):
                return False
        return True


def _path_test(rule: Rule) -> TextTest | None:
    texts = compile_texts(rule.paths)
    patterns = tuple(compile_regex(pattern) for pattern in rule.path_regexes)
    if not patterns:
        return texts
    return lambda path: (texts is not None and texts(path)) or any(pattern(path) is not None for pattern in patterns)


class RuleSet:
    """Rules, compiled. Raises `ValueError` for a name given twice."""

    __slots__ = ("_allow", "_allowed", "_deny", "_shadow", "looks_at_headers")

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        names = [rule.name for rule in rules]
        if len(set(names)) < len(names):
            raise ValueError(f"two rules have the name {next(name for name in names if names.count(name) > 1)!r}")
        compiled = [(rule, _compile(rule)) for rule in rules]
        self._deny = tuple(each for rule, each in compiled if rule.action == "deny" and not rule.shadow)
        self._allow = tuple(each for rule, each in compiled if rule.action == "allow" and not rule.shadow)
        self._allowed = {each.name: Decision(True, each.name) for _, each in compiled}
        # If not, the same principal, method and path are always decided in the same way.
        self.looks_at_headers = any(rule.headers for rule in rules)
        self._shadow: RuleSet | None = None
        if any(rule.shadow for rule in rules):
            self._shadow = RuleSet(tuple(msgspec.structs.replace(rule, shadow=False) for rule in rules))

    def decide(self, principal: str, method: bytes, path: bytes, headers: Headers) -> Decision:
        """The decision for one request. `principal`: "" for a caller without a name. `path`: normalized, without query."""
        decision = self._decide(principal.encode(), method, path, headers)
        if self._shadow is not None and decision.allowed:
            tried = self._shadow._decide(principal.encode(), method, path, headers)
            if not tried.allowed:
                return Decision(True, decision.rule, tried.rule or NO_ALLOW_RULE)
        return decision

    def _decide(self, principal: bytes, method: bytes, path: bytes, headers: Headers) -> Decision:
        for rule in self._deny:
            if rule.matches(principal, method, path, headers):
                return Decision(False, rule.name)
        for rule in self._allow:
            if rule.matches(principal, method, path, headers):
                return self._allowed[rule.name]
        return _DEFAULT_DENY if self._allow else _DEFAULT_ALLOW


_DEFAULT_ALLOW = Decision(True)
_DEFAULT_DENY = Decision(False)


def _compile(rule: Rule) -> _Compiled:
    try:
        return _Compiled(rule)
    except ValueError as error:
        raise ValueError(f"rule {rule.name}: {error}") from None
