"""The rules authorizer: verdicts, sentences, and mistakes found at the start."""

from __future__ import annotations

import msgspec
import pytest
from zope.interface.verify import verifyObject

from sidecar.facts import Principal
from sidecar.filters.rules import Rules
from sidecar.interfaces import IAuthorizer
from sidecar.model import ValueMatch
from sidecar.policy.rules import Rule
from sidecar.testing import FakeContext, FakeExchange, make_request
from sidecar.verdicts import ALLOW, Allow, Deny, Shadow

WEB = "spiffe://example.org/ns/web/sa/frontend"


def ask(*rules: Rule, principal: str | None = WEB, method: str = "GET", path: str = "/a?x=/secret") -> object:
    return Rules(Rules.Config(rules=rules), FakeContext()).authorize(FakeExchange(make_request(method, path), principal=principal))


@pytest.mark.parametrize(
    ("rules", "answer"),
    [
        ((), ALLOW),
        ((Rule(name="a", principals=(WEB,), paths=("/a",)),), Allow("a")),
        ((Rule(name="a", methods=("POST",)),), Deny(f"no rule allows this request to {WEB}", "no allow rule matched")),
        ((Rule(name="d", action="deny", paths=("/a*",)),), Deny(f"rule d denies this request to {WEB}", "d")),
        ((Rule(name="d", action="deny", path_regexes=(".*secret",)),), ALLOW),
        ((Rule(name="d", action="deny", shadow=True),), Shadow(f"rule d denies this request to {WEB}", "d")),
        ((Rule(name="a", shadow=True, methods=("POST",)),), Shadow(f"no rule allows this request to {WEB}", "no allow rule matched")),
    ],
)
def test_answers(rules: tuple[Rule, ...], answer: object) -> None:
    """The sentence names the caller and the rule; the query is not part of the path."""
    assert ask(*rules) == answer


def test_a_caller_without_a_name() -> None:
    """It is said so."""
    assert ask(Rule(name="a", principals=("*",)), principal=None) == Deny("no rule allows this request to an unnamed caller", "no allow rule matched")


@pytest.mark.parametrize("path", ["/a/../b", "/%61", "/käse", "admin", "/a?b", "/a%"])
def test_paths_that_no_request_has(path: str) -> None:
    """A rule that could never match stops the start: as a deny rule it would be a hole."""
    for tests in ({"paths": (path,)}, {"not_paths": (path,)}):
        with pytest.raises(ValueError, match=r"rule r: .*path"):
            ask(Rule(name="r", **tests))


def test_configuration_is_strict() -> None:
    """It reads as in a file, and a misspelt test is an error: a rule without it would match too much."""
    config = msgspec.convert({"rules": [{"name": "a", "paths": ["/a*", "*.html", "*"]}]}, Rules.Config)
    assert Rules(config, FakeContext())
    with pytest.raises(msgspec.ValidationError, match="principal"):
        msgspec.convert({"rules": [{"name": "a", "principal": ["x"]}]}, Rules.Config)


def test_provides_its_interface() -> None:
    """It is an authorizer."""
    assert verifyObject(IAuthorizer, Rules(Rules.Config(), FakeContext()))


def test_remembered_answers_belong_to_principal_method_and_path() -> None:
    """The answer of one caller is never another's, and with header tests nothing is remembered."""
    allow = Rule(name="read", principals=(WEB,), methods=("GET",), paths=("/a*",))
    plugin = Rules(Rules.Config(rules=(allow,)), FakeContext())

    def answer(principal: str | None, method: str, path: str) -> object:
        exchange = FakeExchange(make_request(method, path), principal=None if principal is None else Principal(principal))
        return type(plugin.authorize(exchange))

    for _ in range(2):
        assert answer(WEB, "GET", "/a") is Allow
        assert answer(WEB, "POST", "/a") is Deny
        assert answer(WEB, "GET", "/b") is Deny
        assert answer(None, "GET", "/a") is Deny
        assert answer("spiffe://mesh.example/ns/shop/sa/other", "GET", "/a") is Deny
    by_header = Rule(name="h", headers=(ValueMatch(name="x-key", exact="1"),))
    assert Rules(Rules.Config(rules=(by_header,)), FakeContext())._known is None
