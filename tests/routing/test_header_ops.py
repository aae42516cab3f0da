"""Header edits, and the fields they may not touch."""

from __future__ import annotations

import pytest

from sidecar.model import HeaderOps
from sidecar.routing.header_ops import compile_ops
from sidecar.testing import make_headers

BEFORE = [("A", "1"), ("b", "2"), ("a", "3")]


@pytest.mark.parametrize(
    ("ops", "after"),
    [
        (HeaderOps(add={"A": "4"}), [(b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"a", b"4")]),
        (HeaderOps(set={"a": "4"}), [(b"b", b"2"), (b"a", b"4")]),
        (HeaderOps(remove=("A",)), [(b"b", b"2")]),
        (HeaderOps(remove=("a",), set={"b": "5"}, add={"a": "6"}), [(b"b", b"5"), (b"a", b"6")]),
        (HeaderOps(set={"c": ""}), [(b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"c", b"")]),
    ],
)
def test_edits(ops: HeaderOps, after: list[tuple[bytes, bytes]]) -> None:
    """Remove, then set, then add; also the second time."""
    edit = compile_ops(ops)
    assert edit is not None
    for _ in range(2):
        headers = make_headers(BEFORE)
        edit(headers)
        assert list(headers) == after


def test_nothing_to_do() -> None:
    """No function is made, so nothing is called."""
    assert compile_ops(None) is None
    assert compile_ops(HeaderOps()) is None


@pytest.mark.parametrize(
    "ops",
    [HeaderOps(set={n: "x"}) for n in ("Host", "Content-Length", "transfer-encoding", "a b", "")]
    + [HeaderOps(add={"a": "x\r\ny: z"}), HeaderOps(remove=("Connection",))],
)
def test_framing_stays_with_the_codec(ops: HeaderOps) -> None:
    """No edit can change a message's framing, its authority, or split it in two."""
    with pytest.raises(ValueError, match=r"field|framed|Host"):
        compile_ops(ops)
