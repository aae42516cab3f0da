"""What the service does around a sidecar; the rest is tried end to end (tests/e2e/test_start.py, test_shutdown.py)."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import TimeoutError, ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import FilteringLogObserver, ILogObserver, LogLevel, formatEvent, globalLogPublisher
from twisted.names import client, dns
from twisted.python import log
from zope.interface import implementer

from sidecar import service
from sidecar.model import Config
from sidecar.testing import Clock
from sidecar.transport.reactor import SidecarReactor
from tests.transport.loopback import run_reactor


class Quiet:
    """A sidecar that starts and stops at once."""

    def __init__(self, *_: Any) -> None:
        pass

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass


def test_nothing_is_said_of_the_sockets_of_dns() -> None:
    """A question says nothing to the log, whether it is answered or not; other old-style lines of Twisted's are kept."""
    lines: list[str] = []

    def observe(event: Any) -> None:
        if event["log_level"] > LogLevel.debug:
            lines.append(formatEvent(event))

    quiet = FilteringLogObserver(implementer(ILogObserver)(observe), [service.unless_about_sockets])

    async def scenario(reactor: Any) -> None:
        globalLogPublisher.addObserver(quiet)
        try:
            resolver = client.Resolver(servers=[("127.0.0.1", 1)], timeout=(0.05,), reactor=reactor)
            with pytest.raises(TimeoutError):
                await resolver.queryUDP([dns.Query(b"a.example")])
            log.msg("3 starting on 5")
            await deferLater(reactor, 0.02, lambda: None)
        finally:
            globalLogPublisher.removeObserver(quiet)

    run_reactor(SidecarReactor(), scenario, 10.0)
    assert lines == ["3 starting on 5"]


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
