"""One spelling for each path, so that what routes and rules look at is what the application sees.

Applied to a request's target before anything is matched; the normal form is also what is forwarded. Only the path is touched, the query never.

- percent-encoded unreserved characters are decoded (RFC 3986, section 6.2.2.2), other triplets are written in upper case
- a backslash is a slash (browsers and many servers read it so); raw octets that RFC 3986 does not allow in a path are percent-encoded
- dot segments are removed, also when written with %2e; a path that climbs above the root is refused
- slashes are merged only where asked for; an encoded slash or backslash (%2F, %5C) stays encoded: it is part of a segment
- refused: a dot segment that shows only when %2F or %5C is taken for a slash, an encoded NUL, a `%` that is no triplet, control characters, a space, a fragment
"""

from __future__ import annotations

import re
from collections.abc import Callable

_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
# RFC 3986, section 3.3: pchar without the triplet, and the slash between segments.
_PLAIN = _UNRESERVED + b"!$&'()*+,;=:@/"

# Decoding %25 would make new triplets of old text, so only unreserved characters are ever decoded.
_TRIPLETS = {b"%%%02X" % octet: bytes([octet]) if octet in _UNRESERVED else b"%%%02X" % octet for octet in range(1, 256)}
_TRIPLET = re.compile(rb"%[0-9A-Fa-f]{2}")
_BROKEN = re.compile(rb"%(?![0-9A-Fa-f]{2})|%00|[\x00-\x20\x7f#]")
_ODD = re.compile(rb"[^%" + re.escape(_PLAIN) + rb"]")
_FIRST_ODD = re.compile(rb"[^" + re.escape(_PLAIN) + rb"]").search
# "/a/..%2Fadmin" is one harmless segment here, and "/admin" to an application that decodes before it resolves. No honest client writes that.
_HIDDEN_DOTS = re.compile(rb"(?:/|%2F|%5C)\.\.?(?:%2F|%5C)|(?:%2F|%5C)\.\.?(?=/|;|$)").search
_QUESTION_MARK = ord("?")
_SLASHES = re.compile(rb"/{2,}")

# Paths that a listener remembers to be normal, and how long they may be: 100 KB at most. When it is full it starts anew.
KNOWN_PATHS = 512
KNOWN_PATH_BYTES = 128


def normalize_path(path: bytes) -> bytes | None:
    """The target in normal form, the very same object when it already is; None when it must be refused with 400.

    `path`: origin-form with its query, or b"*" or b"" (asterisk-form, CONNECT), which stay as they are.
    """
    if b"/." not in path and path[:1] == b"/":
        odd = _FIRST_ODD(path)
        if odd is None or (path[odd.start()] == _QUESTION_MARK and b"#" not in path):
            return path
    return _normalize(path, False)


def normalize_path_merging_slashes(path: bytes) -> bytes | None:
    """As `normalize_path`, and runs of slashes become one before dot segments are removed, as nginx does."""
    if b"//" not in path and b"\\" not in path:
        return normalize_path(path)
    return _normalize(path, True)


def remembering(normalize: Callable[[bytes], bytes | None]) -> Callable[[bytes], bytes | None]:
    """`normalize` with a memory for short paths without query that are normal already: services ask for the same ones over and over."""
    known: set[bytes] = set()

    def normal(path: bytes) -> bytes | None:
        if path in known:
            return path
        made = normalize(path)
        if made == path and len(path) <= KNOWN_PATH_BYTES and b"?" not in path:
            if len(known) >= KNOWN_PATHS:
                known.clear()
            known.add(path)
        return made

    return normal


def normalizer(merge_slashes: bool) -> Callable[[bytes], bytes | None]:
    """The function for this setting."""
    return normalize_path_merging_slashes if merge_slashes else normalize_path


def _normalize(target: bytes, merge_slashes: bool) -> bytes | None:
    path, mark, query = target.partition(b"?")
    if b"#" in query:
        return None
    if not path.startswith(b"/"):
        return target if target in (b"*", b"") else None
    normal: bytes | None = path
    if path.translate(None, _PLAIN):
        normal = _respell(path)
        if normal is not None and _HIDDEN_DOTS(normal) is not None:
            return None
    if normal is not None and merge_slashes:
        normal = _SLASHES.sub(b"/", normal)
    if normal is not None and b"/." in normal:
        normal = _remove_dot_segments(normal)
    if normal is None:
        return None
    return target if normal == path else normal + mark + query


def _respell(path: bytes) -> bytes | None:
    if _BROKEN.search(path) is not None:
        return None
    path = path.replace(b"\\", b"/")
    path = _ODD.sub(lambda found: b"%%%02X" % found[0][0], path)
    return _TRIPLET.sub(lambda found: _TRIPLETS[found[0].upper()], path)


def _remove_dot_segments(path: bytes) -> bytes | None:
    """RFC 3986, section 5.2.4, except that climbing above the root is refused instead of ignored: no honest client does it."""
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if not kept:
                return None
            kept.pop()
        elif segment.startswith((b"..;", b".;")):
            # Java servers drop path parameters before they look at dots: "/a/..;/admin" would be "/admin" to them alone.
            return None
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)


def wire_form(text: str) -> bytes:
    """A path as written in a configuration, in the spelling in which requests carry it after normalization.

    Raises `ValueError` when no request can look like that: not in normal form, or with a query.
    """
    return _written(text, b"")


def wire_prefix(text: str) -> bytes:
    """As `wire_form`, for a prefix, which may end within a segment ("/a/." takes "/a/.well-known")."""
    return _written(text, b"x")


def _written(text: str, rest: bytes) -> bytes:
    """`text` in that spelling, in front of `rest`."""
    if not text.startswith("/") or "?" in text:
        raise ValueError(f"a path starts with / and has no query: {text!r}")
    written = _ODD.sub(lambda found: b"%%%02X" % found[0][0], text.encode())
    normal = _normalize(written + rest, False)
    if normal != written + rest:
        instead = "" if normal is None else f"; write {normal.removesuffix(rest).decode('ascii')}"
        raise ValueError(f"no request has the path {text!r} after normalization{instead}")
    return written
