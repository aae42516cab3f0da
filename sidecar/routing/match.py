"""`model.RouteMatch` as tests on a request's head."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from sidecar.matching import compile_header_match, compile_regex, compile_value_match
from sidecar.message import RequestHead
from sidecar.model import RouteMatch, ValueMatch
from sidecar.routing.normalize import wire_form, wire_prefix

HeadTest = Callable[[RequestHead], bool]
PathTest = Callable[[bytes], bool]


def compile_path(match: RouteMatch) -> PathTest | None:
    """A test of the path without query; None when the route takes every path.

    "prefix: /" takes every target, also b"*" (OPTIONS *) and b"" (CONNECT), which no other path test takes: there is no path to test.
    Raises `ValueError` for two path tests, a path that no request can have, or a broken pattern.
    """
    given = [name for name in ("path", "prefix", "segment_prefix", "regex") if getattr(match, name) is not None]
    if len(given) > 1:
        raise ValueError(f"a route has one path test, not {' and '.join(given)}")
    if match.path is not None:
        whole = b"*" if match.path == "*" else wire_form(match.path)
        return lambda path: path == whole
    if match.segment_prefix is not None and match.segment_prefix != "/":
        segments = wire_form(match.segment_prefix)
        if segments.endswith(b"/"):
            raise ValueError(f"a segment_prefix has no slash at its end: {match.segment_prefix!r}")
        below = segments + b"/"
        return lambda path: path == segments or path.startswith(below)
    if match.regex is not None:
        fullmatch = compile_regex(match.regex)
        return lambda path: fullmatch(path) is not None
    if match.prefix is not None and match.prefix != "/":
        prefix = wire_prefix(match.prefix)
        return lambda path: path.startswith(prefix)
    return None


def compile_tests(match: RouteMatch) -> tuple[HeadTest, ...]:
    """The tests on method, headers and query, cheapest first. Raises `ValueError` for one that makes no sense."""
    tests: list[HeadTest] = []
    if match.methods:
        tests.append(_method_test(frozenset(method.encode() for method in match.methods)))
    tests.extend(_header_test(each) for each in match.headers)
    tests.extend(_query_test(each) for each in match.query)
    return tuple(tests)


def _method_test(methods: frozenset[bytes]) -> HeadTest:
    return lambda head: head.method in methods


def _header_test(match: ValueMatch) -> HeadTest:
    matches = compile_header_match(match)
    return lambda head: matches(head.headers)


def _query_test(match: ValueMatch) -> HeadTest:
    """Names and values are compared decoded, so that a percent sign cannot evade a test. A repeated parameter matches when any of its values does."""
    name = match.name.encode()
    test = compile_value_match(ValueMatch(**{**{f: getattr(match, f) for f in match.__struct_fields__}, "invert": False}))
    invert = match.invert

    def matches(head: RequestHead) -> bool:
        values = query_values(head.path, name)
        return (any(test(value) for value in values) if values else test(None)) is not invert

    return matches


def query_values(path: bytes, name: bytes) -> list[bytes]:
    """The decoded values of a query parameter, in order; a parameter without "=" has the value b""."""
    values = []
    for pair in path.partition(b"?")[2].split(b"&"):
        key, _, value = pair.partition(b"=")
        if pair and _decode(key) == name:
            values.append(_decode(value))
    return values


def _decode(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))
