"""Header edits of routes and of the header-edits filter, with every field rendered when configuration loads."""

from __future__ import annotations

from collections.abc import Callable

from sidecar.headers import Field, Headers, field
from sidecar.model import HeaderOps

# These describe the message's framing or its connection (RFC 9110, section 7.6.1; RFC 9112, section 6) and belong to the codec:
# a second opinion about a length splits messages.
FRAMING = frozenset({b"connection", b"content-length", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"})


def compile_ops(ops: HeaderOps | None) -> Callable[[Headers], None] | None:
    """A function that edits a head's fields: remove, then set, then add; None when there is nothing to do. What is set goes to the end.

    Raises `ValueError` for a name or value that is none, and for a name that an edit may not touch.
    """
    if ops is None:
        return None
    placed: list[Field] = [_field(name, value) for name, value in ops.set.items()]
    gone = frozenset([_field(name, "")[0] for name in ops.remove] + [each[0] for each in placed])
    placed.extend(_field(name, value) for name, value in ops.add.items())
    if not gone and not placed:
        return None
    if not gone:
        return lambda headers: headers.fields.extend(placed)

    def edit(headers: Headers) -> None:
        fields = [each for each in headers.fields if each[0] not in gone]
        fields += placed
        headers.fields = fields

    return edit


def _field(name: str, value: str) -> Field:
    lower = name.lower().encode()
    if lower in FRAMING:
        raise ValueError(f"{name} says how the message is framed, which only the codec may")
    if lower == b"host":
        raise ValueError("Host is changed by the `host` of a route's `rewrite`, so that routes and fields agree")
    return field(name.encode(), value.strip(" \t").encode())
