"""Route matches as tests on heads."""

from __future__ import annotations

import pytest

from sidecar.model import RouteMatch, ValueMatch
from sidecar.routing.match import compile_path, compile_tests, query_values
from sidecar.testing import make_request


def takes(match: RouteMatch, path: bytes) -> bool:
    test = compile_path(match)
    return test is None or test(path)


@pytest.mark.parametrize(
    ("match", "yes", "no"),
    [
        (RouteMatch(), [b"/", b"/a", b"*", b""], []),
        (RouteMatch(prefix="/"), [b"/", b"*", b""], []),
        (RouteMatch(segment_prefix="/"), [b"/", b"/a"], []),
        (RouteMatch(path="/a"), [b"/a"], [b"/a/", b"/ab", b"/"]),
        (RouteMatch(path="*"), [b"*"], [b"/"]),
        (RouteMatch(prefix="/api"), [b"/api", b"/apix", b"/api/x"], [b"/ap", b"*", b""]),
        (RouteMatch(segment_prefix="/api"), [b"/api", b"/api/", b"/api/x"], [b"/apix", b"/ap"]),
        (RouteMatch(regex="/[0-9]+"), [b"/1", b"/22"], [b"/", b"/1/", b"x/1"]),
        (RouteMatch(path="/käse"), [b"/k%C3%A4se"], [b"/k"]),
    ],
)
def test_paths(match: RouteMatch, yes: list[bytes], no: list[bytes]) -> None:
    """Each path test takes what it says."""
    assert [path for path in yes if not takes(match, path)] == []
    assert [path for path in no if takes(match, path)] == []


@pytest.mark.parametrize(
    "match", [RouteMatch(path="/a", prefix="/b"), RouteMatch(regex="("), RouteMatch(path="/../a"), RouteMatch(prefix="a"), RouteMatch(segment_prefix="/a/")]
)
def test_paths_that_make_no_sense(match: RouteMatch) -> None:
    """They are found when configuration loads."""
    with pytest.raises(ValueError, match=r"path|regular|slash"):
        compile_path(match)


@pytest.mark.parametrize(
    ("match", "headers", "path", "expected"),
    [
        (RouteMatch(methods=("GET", "HEAD")), {}, "/", True),
        (RouteMatch(methods=("POST",)), {}, "/", False),
        (RouteMatch(headers=(ValueMatch(name="X-A", exact="1"),)), {"x-a": "1"}, "/", True),
        (RouteMatch(headers=(ValueMatch(name="x-a", exact="1"), ValueMatch(name="x-b"))), {"x-a": "1"}, "/", False),
        (RouteMatch(query=(ValueMatch(name="v", exact="2"),)), {}, "/?u=1&v=2", True),
        (RouteMatch(query=(ValueMatch(name="v", exact="2"),)), {}, "/?v=1&v=2", True),
        (RouteMatch(query=(ValueMatch(name="v", exact="a b"),)), {}, "/?%76=a+b", True),
        (RouteMatch(query=(ValueMatch(name="v", exact="2"),)), {}, "/", False),
        (RouteMatch(query=(ValueMatch(name="v"),)), {}, "/?v", True),
        (RouteMatch(query=(ValueMatch(name="v", present=False),)), {}, "/?w", True),
        (RouteMatch(query=(ValueMatch(name="v", exact="2", invert=True),)), {}, "/?v=1&v=2", False),
        (RouteMatch(query=(ValueMatch(name="v", exact="2", invert=True),)), {}, "/", True),
    ],
)
def test_method_headers_and_query(match: RouteMatch, headers: dict[str, str], path: str, expected: bool) -> None:
    """All of the tests must hold; a repeated parameter matches when one of its values does."""
    head = make_request("GET", path, headers=headers)
    assert all(test(head) for test in compile_tests(match)) is expected


def test_query_values() -> None:
    """Names and values are decoded, order is kept, empty pairs are nothing."""
    assert query_values(b"/?a=1&&b=2&a=%33&a", b"a") == [b"1", b"3", b""]
    assert query_values(b"/", b"") == []
