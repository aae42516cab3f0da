"""What the discovery tests share: a real reactor of their own, one who is told, and waiting for what is true."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from twisted.internet.task import deferLater

from sidecar.model import Endpoint
from sidecar.transport.reactor import SidecarReactor
from tests.transport.loopback import run_reactor

T = TypeVar("T")
SECONDS = 10.0


class Told:
    """Takes what a plugin tells. `sets`: all of them, addresses as text."""

    def __init__(self) -> None:
        self.endpoints: list[tuple[Endpoint, ...]] = []

    def __call__(self, endpoints: Sequence[Endpoint]) -> None:
        """`changed`."""
        self.endpoints.append(tuple(endpoints))

    @property
    def sets(self) -> list[list[str]]:
        """Addresses of each set in order."""
        return [[str(each.address) for each in endpoints] for endpoints in self.endpoints]

    @property
    def last(self) -> list[str]:
        """Of the newest set; empty before the first."""
        return self.sets[-1] if self.endpoints else []


def run(scenario: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """The result of `scenario(reactor)`."""
    result: T = run_reactor(SidecarReactor(), scenario, 30.0)
    return result


async def until(reactor: Any, ask: Callable[[], T]) -> T:
    """What `ask()` says once it is true; the last answer when that takes too long."""
    end = reactor.seconds() + SECONDS
    while True:
        answer = ask()
        if answer or reactor.seconds() > end:
            return answer
        await deferLater(reactor, 0.005, lambda: None)
