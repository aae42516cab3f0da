"""Who may do what, by written rules."""

from __future__ import annotations

from typing import Any

import msgspec
from zope.interface import implementer

from sidecar.interfaces import IAuthorizer
from sidecar.policy.rules import NO_ALLOW_RULE, Rule, RuleSet
from sidecar.routing.normalize import wire_form, wire_prefix
from sidecar.verdicts import ALLOW, Allow, Deny, Shadow


@implementer(IAuthorizer)
class Rules:
    """Authorizer `rules`: a matching deny rule refuses; with any allow rule, one of them must match."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`rules`: see `sidecar.policy.rules.Rule`; their order does not matter. None at all allows everything."""

        rules: tuple[Rule, ...] = ()

        def __post_init__(self) -> None:
            """Raises `ValueError` for rules that cannot stand together or never match, so that `sidecar check` finds them."""
            RuleSet(self.rules)
            for rule in self.rules:
                check_paths(rule)

    def __init__(self, config: Config, context: object) -> None:
        self.rules = RuleSet(config.rules)
        self._allows = {rule.name: Allow(rule.name) for rule in config.rules}

    def authorize(self, exchange: Any) -> Allow | Deny | Shadow:
        """See `IAuthorizer`."""
        request = exchange.request
        principal = exchange.principal
        path = request.path
        if b"?" in path:
            path = path[: path.index(b"?")]
        decision = self.rules.decide("" if principal is None else principal.name, request.method, path, request.headers)
        if not decision.allowed:
            return Deny(*_sentence(principal, decision.rule))
        if decision.shadow_rule:
            return Shadow(*_sentence(principal, "" if decision.shadow_rule == NO_ALLOW_RULE else decision.shadow_rule))
        return self._allows.get(decision.rule, ALLOW)


def _sentence(principal: Any, rule: str) -> tuple[str, str]:
    """(reason, rule) of a refusal. It names the caller, who knows its own name, and the rule, so that its author finds it."""
    who = "an unnamed caller" if principal is None else principal.name
    if rule:
        return f"rule {rule} denies this request to {who}", rule
    return f"no rule allows this request to {who}", NO_ALLOW_RULE


def check_paths(rule: Rule) -> None:
    """Raises `ValueError` for a path that no request has after normalization: such a rule would never match, and a deny rule that never matches is a hole."""
    for text in (*rule.paths, *rule.not_paths):
        try:
            if text.startswith("/"):
                written = wire_prefix(text[:-1]) if text.endswith("*") else wire_form(text)
                if written != text.rstrip("*").encode():
                    raise ValueError(f"requests have the path {text!r} in percent-encoding: {written.decode()!r}")
            elif not text.startswith("*"):
                raise ValueError(f"a path starts with / or *: {text!r}")
        except ValueError as error:
            raise ValueError(f"rule {rule.name}: {error}") from None
