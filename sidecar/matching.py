"""Tests on one text value, shared by routes and rules: compiled once from `model.ValueMatch`, asked for every request.

Regular expressions are Python's. They come from the configuration, never from a request, but a pattern such as `(a+)+` can take very long on a hostile
value: write patterns without nested repetition.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sidecar.headers import Headers, field
from sidecar.model import ValueMatch

ValueTest = Callable[[bytes | None], bool]


def compile_regex(text: str) -> Callable[[bytes], object]:
    """The `fullmatch` of a pattern, on bytes. Raises `ValueError` with the pattern and what is wrong in it."""
    try:
        return re.compile(text.encode()).fullmatch
    except re.error as error:
        raise ValueError(f"not a regular expression: {text!r}: {error}") from None


def compile_value_match(match: ValueMatch) -> ValueTest:
    """A test of a value, or of None where there is none. `invert` is plain negation: what is absent does not match, so it matches when inverted.

    Raises `ValueError` when more than one test is given, or for a broken pattern.
    """
    given = [name for name in ("exact", "prefix", "suffix", "contains", "regex", "present") if getattr(match, name) is not None]
    if len(given) > 1:
        raise ValueError(f"the match on {match.name} has more than one test: {', '.join(given)}")
    test = _compile(match)
    if match.invert:
        return lambda value: not test(value)
    return test


def _compile(match: ValueMatch) -> ValueTest:
    if match.exact is not None:
        exact = match.exact.encode()
        return lambda value: value == exact
    if match.prefix is not None:
        prefix = match.prefix.encode()
        return lambda value: value is not None and value.startswith(prefix)
    if match.suffix is not None:
        suffix = match.suffix.encode()
        return lambda value: value is not None and value.endswith(suffix)
    if match.contains is not None:
        part = match.contains.encode()
        return lambda value: value is not None and part in value
    if match.regex is not None:
        fullmatch = compile_regex(match.regex)
        return lambda value: value is not None and fullmatch(value) is not None
    if match.present is False:
        return lambda value: value is None
    return lambda value: value is not None


def compile_header_match(match: ValueMatch) -> Callable[[Headers], bool]:
    """A test on a head's fields. A repeated field is one value, joined by commas in order (RFC 9110, section 5.3; Envoy does the same).

    Raises `ValueError` as `compile_value_match` does, and for a name that is not a field name.
    """
    name = field(match.name.encode(), b"")[0]
    test = compile_value_match(match)

    def matches(headers: Headers) -> bool:
        values = headers.get_all(name)
        if len(values) > 1:
            return test(b",".join(values))
        return test(values[0] if values else None)

    return matches
