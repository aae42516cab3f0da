"""Fixtures of the transport tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.logger import globalLogPublisher

from sidecar.transport.reactor import SidecarReactor
from tests.transport.loopback import REACTORS, run_reactor


@pytest.fixture
def caught_failures() -> Iterator[list[Any]]:
    """The failures that are logged during the test."""
    failures: list[Any] = []

    def observe(event: dict[str, Any]) -> None:
        if event.get("log_failure") is not None:
            failures.append(event["log_failure"])

    globalLogPublisher.addObserver(observe)
    yield failures
    globalLogPublisher.removeObserver(observe)


@pytest.fixture(params=list(REACTORS))
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """`run(scenario)` runs the coroutine function `scenario(reactor)` in each kind of reactor."""
    reactor = REACTORS[request.param]()
    return lambda scenario, timeout_seconds=10.0: run_reactor(reactor, scenario, timeout_seconds)


@pytest.fixture
def run_once() -> Callable[..., Any]:
    """`run_once(scenario)` runs it in the sidecar reactor alone, for what cannot depend on the reactor."""
    return lambda scenario, timeout_seconds=10.0: run_reactor(SidecarReactor(), scenario, timeout_seconds)
