"""`sidecar/admin/indented.py`: the same text as at once, in pieces that are not long."""

from __future__ import annotations

from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import given, strategies as some

from sidecar.admin.indented import STEP_BYTES, indented

SHORT = 10  # values; more are written item by item here

PLAIN = some.none() | some.booleans() | some.integers(-(2**53), 2**53) | some.text(max_size=5)
VALUES = some.recursive(
    PLAIN, lambda inner: some.lists(inner, max_size=2 * SHORT) | some.dictionaries(some.text(max_size=5), inner, max_size=2 * SHORT), max_leaves=100
)


@given(VALUES)
def test_the_text_is_the_same(value: Any) -> None:
    """As msgspec writes and indents it in one go."""
    with mock.patch("sidecar.admin.indented.LONG", SHORT):
        assert b"".join(indented(value)) == msgspec.json.format(msgspec.json.encode(value), indent=2)


def by_number(entries: list[Any]) -> dict[str, Any]:
    return {str(number): entry for number, entry in enumerate(entries)}


@pytest.mark.parametrize("make", [list, by_number, lambda entries: [{"name": "c", "endpoints": entries}]])
def test_pieces_are_short(make: Any) -> None:
    """Wherever the long list is."""
    pieces = list(indented(make([{"address": f"10.0.0.1:{number}", "text": "a\nb"} for number in range(5000)])))
    assert len(pieces) > 5 and max(map(len, pieces)) < STEP_BYTES + 1000
