"""What the service does around a sidecar; the rest is tried end to end (tests/e2e/test_start.py, test_shutdown.py)."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import ensureDeferred

from sidecar import service
from sidecar.model import Config
from sidecar.testing import Clock


class Quiet:
    """A sidecar that starts and stops at once."""

    def __init__(self, *_: Any) -> None:
        pass

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass


@pytest.mark.parametrize("is_early", [False, True])
def test_memory_is_given_back_at_the_start_and_when_connections_have_settled(is_early: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice, and no timer is left, also when the service ends before the second time."""
    clock = Clock()
    begun, returned = clock.seconds(), []
    monkeypatch.setattr(service, "Sidecar", Quiet)
    monkeypatch.setattr(service, "return_memory", lambda: returned.append(clock.seconds() - begun))
    one = service.SidecarService(clock, Config(), None)  # type: ignore[arg-type]
    started = ensureDeferred(one._start())
    started.addErrback(pytest.fail)
    try:
        if not is_early:
            clock.advance(service.SETTLE_SECONDS)
    finally:
        one.stopService()
    assert returned == ([0.0] if is_early else [0.0, service.SETTLE_SECONDS])
    assert not clock.getDelayedCalls()
