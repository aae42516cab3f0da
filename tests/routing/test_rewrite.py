"""Rewrites and redirects, and what they must not do."""

from __future__ import annotations

import pytest

from sidecar.errors import DownstreamError
from sidecar.model import Redirect, Rewrite, RouteMatch
from sidecar.routing.rewrite import compile_redirect, compile_rewrite
from sidecar.testing import make_request


def rewritten(rewrite: Rewrite, match: RouteMatch, path: str) -> bytes:
    apply = compile_rewrite(rewrite, match)
    assert apply is not None
    head = make_request(path=path)
    apply(head)
    return head.path


@pytest.mark.parametrize(
    ("rewrite", "match", "path", "expected"),
    [
        (Rewrite(prefix="/v2"), RouteMatch(prefix="/v1"), "/v1/x?y=1", b"/v2/x?y=1"),
        (Rewrite(prefix="/"), RouteMatch(segment_prefix="/api"), "/api/x", b"/x"),
        (Rewrite(prefix="/"), RouteMatch(segment_prefix="/api"), "/api?x", b"/?x"),
        (Rewrite(prefix="/new/"), RouteMatch(prefix="/old/"), "/old/x", b"/new/x"),
        (Rewrite(prefix="/app"), RouteMatch(), "/x", b"/appx"),
        (Rewrite(prefix="/app/"), RouteMatch(), "/x", b"/app/x"),
        (Rewrite(prefix="/b"), RouteMatch(path="/a"), "/a?q", b"/b?q"),
        (Rewrite(prefix="/a"), RouteMatch(prefix="/k\xe4"), "/k%C3%A4/x", b"/a/x"),
        (Rewrite(regex="/users/([0-9]+)", substitution=r"/u/\1"), RouteMatch(), "/users/7/x?y=/users/8", b"/u/7/x?y=/users/8"),
        (Rewrite(regex="(?i)/A", substitution="/b"), RouteMatch(), "/a", b"/b"),
        (Rewrite(prefix="/b"), RouteMatch(), "*", b"*"),
        (Rewrite(prefix="/b/"), RouteMatch(prefix="/a"), "/a.x", b"/b/.x"),
    ],
)
def test_paths(rewrite: Rewrite, match: RouteMatch, path: str, expected: bytes) -> None:
    """What the route matched is replaced, the query stays, and the result is in normal form."""
    assert rewritten(rewrite, match, path) == expected


@pytest.mark.parametrize(
    ("rewrite", "match", "path"),
    [
        (Rewrite(prefix="/"), RouteMatch(prefix="/a"), "/a../x"),
        (Rewrite(prefix="/b/c/"), RouteMatch(prefix="/a"), "/a../x"),
        (Rewrite(prefix="/b/."), RouteMatch(prefix="/a"), "/a./x"),
        (Rewrite(regex="/a", substitution="/b/"), RouteMatch(), "/a../x"),
        (Rewrite(regex="/a", substitution=""), RouteMatch(), "/a"),
    ],
)
def test_a_rewrite_cannot_leave_its_new_prefix(rewrite: Rewrite, match: RouteMatch, path: str) -> None:
    """Two harmless halves that make a dot segment, or no path at all, are refused."""
    with pytest.raises(DownstreamError):
        rewritten(rewrite, match, path)


def test_host() -> None:
    """The authority and Host change together; Host stays first."""
    apply = compile_rewrite(Rewrite(host="backend.example:81"), RouteMatch())
    assert apply is not None
    head = make_request(headers={"accept": "*/*"})
    apply(head)
    assert head.authority == b"backend.example:81"
    assert list(head.headers) == [(b"host", b"backend.example:81"), (b"accept", b"*/*")]
    assert head.path == b"/"


def test_nothing_to_rewrite() -> None:
    """No function is made, so nothing is called."""
    assert compile_rewrite(None, RouteMatch()) is None
    assert compile_rewrite(Rewrite(), RouteMatch()) is None


@pytest.mark.parametrize(
    ("rewrite", "match"),
    [
        (Rewrite(prefix="/a", regex="b", substitution="c"), RouteMatch()),
        (Rewrite(regex="b"), RouteMatch()),
        (Rewrite(substitution="b"), RouteMatch()),
        (Rewrite(prefix="/a"), RouteMatch(regex=".*")),
        (Rewrite(prefix="a"), RouteMatch()),
        (Rewrite(regex="(", substitution=""), RouteMatch()),
        (Rewrite(regex="a", substitution=r"\1"), RouteMatch()),
        (Rewrite(regex="a", substitution="ä"), RouteMatch()),
        (Rewrite(host="a\r\nb"), RouteMatch()),
    ],
)
def test_rewrites_that_make_no_sense(rewrite: Rewrite, match: RouteMatch) -> None:
    """They are found when configuration loads."""
    with pytest.raises(ValueError, match=r"rewrite|path|value"):
        compile_rewrite(rewrite, match)


@pytest.mark.parametrize(
    ("redirect", "match", "authority", "path", "expected"),
    [
        (Redirect(scheme="https"), RouteMatch(), "a.example", "/x?y", b"https://a.example/x?y"),
        (Redirect(scheme="https"), RouteMatch(), "A.example:80", "/", b"https://a.example/"),
        (Redirect(scheme="https"), RouteMatch(), "a.example:8080", "/", b"https://a.example:8080/"),
        (Redirect(scheme="https", port=8443), RouteMatch(), "a.example:80", "/", b"https://a.example:8443/"),
        (Redirect(host="b.example"), RouteMatch(), "a.example:8080", "/x", b"http://b.example/x"),
        (Redirect(host="b.example", port=81), RouteMatch(), "a.example", "/x", b"http://b.example:81/x"),
        (Redirect(path="/new"), RouteMatch(), "[::1]:80", "/old?q", b"http://[::1]:80/new?q"),
        (Redirect(path="/new?z=1"), RouteMatch(), "a.example", "/old?q", b"http://a.example/new?z=1"),
        (Redirect(path="/new", strip_query=True), RouteMatch(), "a.example", "/old?q", b"http://a.example/new"),
        (Redirect(prefix="/v2"), RouteMatch(prefix="/v1"), "a.example", "/v1/x", b"http://a.example/v2/x"),
        (Redirect(strip_query=True), RouteMatch(), "", "//evil.example/?q", b"/evil.example/"),
        (Redirect(prefix="/v2"), RouteMatch(), "a.example", "*", b"http://a.example/"),
    ],
)
def test_redirects(redirect: Redirect, match: RouteMatch, authority: str, path: str, expected: bytes) -> None:
    """Parts that are not given stay as the client sent them."""
    head = make_request(path=path, authority=authority)
    assert compile_redirect(redirect, match)(head) == expected


@pytest.mark.parametrize("redirect", [Redirect(path="/a", prefix="/b"), Redirect(path="a"), Redirect(host="a\nb"), Redirect(path="/a\r\nb: c")])
def test_redirects_that_make_no_sense(redirect: Redirect) -> None:
    """They are found when configuration loads."""
    with pytest.raises(ValueError, match=r"redirect|value"):
        compile_redirect(redirect, RouteMatch())
