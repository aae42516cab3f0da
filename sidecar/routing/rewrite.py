"""What a route changes of the target and authority on the way up, and where its redirects lead.

A rewrite must leave the path in normal form: with the prefix `/a` rewritten to `/b/`, the harmless `/a../x` would become `/b/../x` and leave `/b/`.
Such a request is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sidecar.errors import DownstreamError
from sidecar.headers import field
from sidecar.message import RequestHead
from sidecar.model import Redirect, Rewrite, RouteMatch
from sidecar.routing.domains import host_of
from sidecar.routing.normalize import normalize_path, wire_form, wire_prefix

HeadRewrite = Callable[[RequestHead], None]


def compile_rewrite(rewrite: Rewrite | None, match: RouteMatch) -> HeadRewrite | None:
    """A function that changes a head in place; None when there is nothing to change.

    It raises `DownstreamError` when the rewritten path is not in normal form. Raises `ValueError` for a rewrite that makes no sense with this match.
    """
    if rewrite is None:
        return None
    if rewrite.prefix is not None and rewrite.regex is not None:
        raise ValueError("a rewrite has a prefix or a regex, not both")
    if (rewrite.regex is None) is not (rewrite.substitution is None):
        raise ValueError("a rewrite's regex and substitution belong together")
    path: Callable[[bytes], bytes] | None = None
    if rewrite.prefix is not None:
        path = _prefix_rewrite(rewrite.prefix, match)
    elif rewrite.regex is not None and rewrite.substitution is not None:
        path = _regex_rewrite(rewrite.regex, rewrite.substitution)
    host = None if rewrite.host is None else field(b"Host", rewrite.host.encode())
    if path is None and host is None:
        return None

    def apply(head: RequestHead) -> None:
        # "*" and the empty target of CONNECT are no paths.
        if path is not None and head.path.startswith(b"/"):
            head.path = path(head.path)
        if host is not None:
            head.authority = host[1]
            headers = head.headers
            headers.fields = [host, *(each for each in headers.fields if each[0] != b"host")]

    return apply


def _prefix_rewrite(prefix: str, match: RouteMatch) -> Callable[[bytes], bytes]:
    new = wire_prefix(prefix)
    length = _matched_bytes(match)
    whole = match.path is not None

    def rewrite(path: bytes) -> bytes:
        rest = path[length:]
        # "/api" to "/" makes "/x" of "/api/x", not "//x".
        if rest.startswith(b"/") and new.endswith(b"/"):
            rest = rest[1:]
        rewritten = new + rest
        # Only a remainder that starts within a segment can make a dot segment of two harmless halves.
        return _checked(rewritten) if not whole and (rest.startswith(b".") or new.endswith(b".")) else rewritten

    return rewrite


def _matched_bytes(match: RouteMatch) -> int:
    if match.regex is not None:
        raise ValueError("a prefix rewrite needs a route that matches a prefix or a path; with a regex use `regex` and `substitution`")
    if match.path is not None:
        return len(wire_form(match.path))
    return len(wire_prefix(match.segment_prefix or match.prefix or "/"))


def _regex_rewrite(regex: str, substitution: str) -> Callable[[bytes], bytes]:
    try:
        pattern = re.compile(regex.encode())
        template = substitution.encode("ascii")
        # Compiles the template, so that a group that does not exist is found now and not with the first request.
        re.compile(regex.encode() + b"|").sub(template, b"")
    except (re.error, IndexError, UnicodeEncodeError) as error:
        raise ValueError(f"the rewrite {regex!r} to {substitution!r} is broken: {error}") from None

    def rewrite(target: bytes) -> bytes:
        path, mark, query = target.partition(b"?")
        new = pattern.sub(template, path)
        return target if new == path else _checked(new + mark + query)

    return rewrite


def _checked(path: bytes) -> bytes:
    if not path.startswith(b"/") or normalize_path(path) != path:
        raise DownstreamError("the path is no longer in normal form after the route's rewrite")
    return path


def compile_redirect(redirect: Redirect, match: RouteMatch) -> Callable[[RequestHead], bytes]:
    """A function from a request to the value of Location: an absolute URI, or only a path when the client named no authority (HTTP/1.0).

    With `host` and no `port` the client's port is dropped; when only the scheme changes, the old scheme's default port is.
    A `path` with a query replaces the client's query too.
    Raises `ValueError` for parts that cannot stand in a URI.
    """
    if redirect.path is not None and redirect.prefix is not None:
        raise ValueError("a redirect has a path or a prefix, not both")
    change = None if redirect.prefix is None else _prefix_rewrite(redirect.prefix, match)
    fixed, fixed_mark, fixed_query = (redirect.path or "/").encode().partition(b"?")
    if not fixed.startswith(b"/"):
        raise ValueError(f"a redirect's path starts with /: {redirect.path!r}")
    # As part of a field value it must not split the answer.
    field(b"Location", (redirect.host or "").encode() + fixed + fixed_query)

    def location(head: RequestHead) -> bytes:
        path, mark, query = head.path.partition(b"?")
        if redirect.path is not None:
            path = fixed
            if fixed_mark:
                mark, query = fixed_mark, fixed_query
        elif change is not None and path.startswith(b"/"):
            path = change(path)
        target = (path if path.startswith(b"/") else b"/") + (b"" if redirect.strip_query else mark + query)
        scheme = redirect.scheme.encode() if redirect.scheme else head.scheme
        authority = _redirect_authority(redirect, scheme, head)
        if not authority:
            # Without an authority "//evil.example/" would name a host.
            return b"/" + target.lstrip(b"/")
        return scheme + b"://" + authority + target

    return location


def _redirect_authority(redirect: Redirect, scheme: bytes, head: RequestHead) -> bytes:
    host = host_of(head.authority)
    port = head.authority[len(host) + 1 :]
    if redirect.host is not None:
        host, port = redirect.host.encode(), b""
    elif scheme != head.scheme and port == (b"80" if head.scheme == b"http" else b"443"):
        port = b""
    if redirect.port is not None:
        port = b"%d" % redirect.port
    return host + b":" + port if host and port else host
