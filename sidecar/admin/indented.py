"""JSON as a person reads it, made piece by piece: ten megabytes at once would stop everybody's requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

LONG = 100  # what holds more values, those in its lists and dicts counted, is written item by item; an endpoint has about forty
STEP_BYTES = 32 * 1024  # so much text is made at a time


def indented(value: Any) -> Iterator[bytes]:
    """The text of `value` (dicts with strings as keys, lists, and what else JSON holds) in pieces of about `STEP_BYTES`, indented by two."""
    parts: list[bytes] = []
    size = 0
    for part in _parts(value, b"\n"):
        parts.append(part)
        size += len(part)
        if size >= STEP_BYTES:
            yield b"".join(parts)
            parts.clear()
            size = 0
    yield b"".join(parts)


def _parts(value: Any, newline: bytes) -> Iterator[bytes]:
    if not _is_large(value):
        # Within a string a newline is escaped, so each one begins a line.
        yield msgspec.json.format(msgspec.json.encode(value), indent=2).replace(b"\n", newline)
        return
    inner = newline + b"  "
    opening, closing = (b"{", b"}") if isinstance(value, dict) else (b"[", b"]")
    between = opening + inner
    if isinstance(value, dict):
        for key, each in value.items():
            yield between + msgspec.json.encode(key) + b": "
            yield from _parts(each, inner)
            between = b"," + inner
    else:
        for each in value:
            yield between
            yield from _parts(each, inner)
            between = b"," + inner
    yield newline + closing


def _is_large(value: Any) -> bool:
    return _left(value, LONG) < 0


def _left(value: Any, left: int) -> int:
    """What is left of so many values without those in this one; below 0 it was not counted to its end."""
    if not isinstance(value, dict | list | tuple):
        return left
    left -= len(value)
    for each in value.values() if isinstance(value, dict) else value:
        if left < 0:
            break
        left = _left(each, left)
    return left
