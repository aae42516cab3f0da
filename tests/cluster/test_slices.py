"""Work in steps."""

from __future__ import annotations

from sidecar.cluster.slices import Slices


def test_a_step_is_over_after_so_many_pieces() -> None:
    """Over all who share it; a large piece ends it at once."""
    slices = Slices(3)
    assert [slices.done() for _ in range(7)] == [False, False, True, False, False, True, False]
    assert slices.done(100) and not slices.done() and not slices.done()
    slices.restart()
    assert not slices.done() and not slices.done() and slices.done()
