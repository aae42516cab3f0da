"""Authorization rules: each test by itself, and rules together."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.headers import Headers
from sidecar.model import ValueMatch
from sidecar.policy.rules import NO_ALLOW_RULE, Decision, Rule, RuleSet
from sidecar.testing import make_headers

ORDERS = "spiffe://example.org/ns/shop/sa/orders"
ADMIN = "spiffe://example.org/ns/ops/sa/admin"


def decide(rules: list[Rule], principal: str = ORDERS, method: bytes = b"GET", path: bytes = b"/a", headers: Headers | None = None) -> Decision:
    return RuleSet(tuple(rules)).decide(principal, method, path, headers or Headers())


def allow(name: str = "a", **tests: Any) -> Rule:
    return Rule(name=name, **tests)


def deny(name: str = "d", **tests: Any) -> Rule:
    return Rule(name=name, action="deny", **tests)


@pytest.mark.parametrize(
    ("tests", "matches"),
    [
        ({}, True),
        ({"principals": (ORDERS,)}, True),
        ({"principals": (ORDERS[:-1],)}, False),
        ({"principals": (ORDERS + "x", ORDERS)}, True),
        ({"principals": ("spiffe://example.org/ns/shop/*",)}, True),
        ({"principals": ("*/sa/orders",)}, True),
        ({"principals": ("*/sa/admin", "spiffe://other/*")}, False),
        ({"principals": ("*",)}, True),
        ({"not_principals": ("*",)}, False),
        ({"not_principals": (ADMIN,)}, True),
        ({"methods": ("GET", "HEAD")}, True),
        ({"methods": ("get",)}, False),
        ({"not_methods": ("GET",)}, False),
        ({"not_methods": ("POST",)}, True),
        ({"paths": ("/a",)}, True),
        ({"paths": ("/a/*",)}, False),
        ({"paths": ("/*",)}, True),
        ({"paths": ("*",)}, True),
        ({"not_paths": ("/a",)}, False),
        ({"not_paths": ("/b",)}, True),
        ({"path_regexes": ("/[a-c]",)}, True),
        ({"path_regexes": ("/",)}, False),
        ({"paths": ("/b",), "path_regexes": ("/a",)}, True),
        ({"headers": (ValueMatch(name="x-a", exact="1"),)}, True),
        ({"headers": (ValueMatch(name="x-a"), ValueMatch(name="x-b"))}, False),
        ({"principals": (ORDERS,), "methods": ("POST",)}, False),
    ],
)
def test_each_test(tests: dict[str, Any], matches: bool) -> None:
    """A rule matches when each of its tests does; the same for both actions."""
    headers = make_headers({"x-a": "1"})
    assert decide([allow(**tests)], headers=headers) == Decision(matches, "a" if matches else "")
    assert decide([deny(**tests)], headers=headers) == Decision(not matches, "d" if matches else "")


@pytest.mark.parametrize(
    ("tests", "matches"),
    [({"principals": ("*",)}, False), ({"principals": ("",)}, False), ({"principals": ("*x",)}, False), ({"not_principals": ("*",)}, True), ({}, True)],
)
def test_callers_without_a_name(tests: dict[str, Any], matches: bool) -> None:
    """They match no `principals` whatever, and every `not_principals`."""
    assert decide([allow(**tests)], principal="").allowed is matches


@pytest.mark.parametrize(
    ("rules", "decision"),
    [
        ([], Decision(True)),
        ([deny(paths=("/x",))], Decision(True)),
        ([allow(paths=("/x",))], Decision(False)),
        ([allow(), deny()], Decision(False, "d")),
        ([allow("one", paths=("/x",)), allow("two")], Decision(True, "two")),
        ([deny(shadow=True)], Decision(True, "", "d")),
        ([allow(), deny(shadow=True)], Decision(True, "a", "d")),
        ([allow(shadow=True, paths=("/x",))], Decision(True, "", NO_ALLOW_RULE)),
        ([allow(shadow=True)], Decision(True)),
        ([deny(), deny("other", shadow=True)], Decision(False, "d")),
        ([allow(paths=("/x",)), allow("b", shadow=True)], Decision(False)),
    ],
)
def test_rules_together(rules: list[Rule], decision: Decision) -> None:
    """Deny wins, an allow rule makes everything else denied, shadow rules change nothing but are told. In any order."""
    assert decide(rules) == decision
    assert decide(rules[::-1]) == decision


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ({"principals": ("a*b",)}, "rule a: a star stands at the beginning or at the end"),
        ({"principals": ("*b*",)}, "rule a: a star"),
        ({"path_regexes": ("(",)}, "rule a: not a regular expression"),
        ({"headers": (ValueMatch(name=" "),)}, "rule a: not a field name"),
    ],
)
def test_rules_that_make_no_sense(tests: dict[str, Any], message: str) -> None:
    """They cannot be made, and the sentence names the rule."""
    with pytest.raises(ValueError, match=message):
        allow(**tests)


def test_two_rules_of_one_name() -> None:
    """The record would not tell which one decided."""
    with pytest.raises(ValueError, match="two rules have the name 'a'"):
        RuleSet((allow(), allow()))
