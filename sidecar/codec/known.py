"""The fields of heads that come again and again: who writes them remembers by them what they looked like the last time."""

from __future__ import annotations

from typing import Any

from sidecar.headers import Field


class KnownFields(list[Field]):
    """The fields of the last head of a peer that repeats itself, never changed; and the answer's head that HTTP/1.1 last wrote with just these fields:
    `written` is what went out for `shape`, the rest of what decides about it, and `mode` is how its body goes out. HTTP/2, whose octets differ by connection,
    keeps them there.

    `facts`: what the proxy read in the fields of a request (`proxy.head_facts`). `is_traced`: is there trace context among them? None until somebody looks.
    """

    __slots__ = ("facts", "is_traced", "mode", "shape", "written")

    facts: Any
    is_traced: bool | None
    shape: tuple[object, ...] | None
    written: bytes
    mode: int

    def __init__(self, fields: list[Field]) -> None:
        super().__init__(fields)
        self.facts = self.is_traced = self.shape = None
