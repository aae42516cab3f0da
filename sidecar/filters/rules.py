"""Who may do what, by written rules."""

from __future__ import annotations

from typing import Any

import msgspec
from zope.interface import implementer

from sidecar.interfaces import IAuthorizer
from sidecar.policy.rules import NO_ALLOW_RULE, Rule, RuleSet
from sidecar.routing.normalize import wire_form, wire_prefix
from sidecar.verdicts import ALLOW, Allow, Deny, Shadow

# Answers that are remembered, and for how long paths: 200 KB at most. When it is full it starts anew, so that nobody can make it grow.
KNOWN_ANSWERS = 512
KNOWN_PATH_BYTES = 128

_QUESTION_MARK = ord("?")  # looking for b"?" in octets makes an error first, because it is no number


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
        # (principal, method, path) -> the answer of last time, where nothing else counts.
        self._known: dict[tuple[str, bytes, bytes], Allow | Deny | Shadow] | None = None if self.rules.looks_at_headers else {}

    def authorize(self, exchange: Any) -> Allow | Deny | Shadow:
        """See `IAuthorizer`."""
        request = exchange.request
        principal = exchange.principal
        path = request.path
        if _QUESTION_MARK in path:
            path = path[: path.index(b"?")]
        known = self._known
        if known is None or len(path) > KNOWN_PATH_BYTES:
            return self._decide(exchange, path)
        key = ("" if principal is None else principal.name, request.method, path)
        answer = known.get(key)
        if answer is None:
            if len(known) >= KNOWN_ANSWERS:
                known.clear()
            answer = known[key] = self._decide(exchange, path)
        return answer

    def _decide(self, exchange: Any, path: bytes) -> Allow | Deny | Shadow:
        request = exchange.request
        principal = exchange.principal
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
