"""The sidecar reactor: everything that any reactor does, and less ado for our own transports."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet import protocol
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore, IReactorFDSet, IReactorTCP, IReactorThreads, IReactorTime, IReactorUNIX
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from sidecar.transport import reactor as reactor_module
from sidecar.transport.reactor import SidecarReactor
from sidecar.transport.readiness import at_turn_end
from tests.transport.loopback import Server, Wire, eventually, pair, turns

Run = Callable[..., Any]


def test_provides_what_reactors_provide() -> None:
    """It is a reactor like any other."""
    reactor = SidecarReactor()
    for interface in (IReactorCore, IReactorFDSet, IReactorTCP, IReactorThreads, IReactorTime, IReactorUNIX):
        assert verifyObject(interface, reactor)
    reactor._poller.close()


def test_stock_transports_take_the_stock_way(run_once: Run) -> None:
    """Twisted's own TCP classes work on it; what their protocols raise is caught, and everybody else goes on."""

    class Raising(protocol.Protocol):
        def dataReceived(self, data: bytes) -> None:
            raise ZeroDivisionError

        def connectionLost(self, reason: Any = None) -> None:
            lost.append(reason)

    lost: list[Any] = []

    async def scenario(reactor: Any) -> None:
        factory = protocol.Factory.forProtocol(Raising)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        server = Server(reactor)
        near, far = await pair(reactor, server, Wire())
        client = Wire()
        connector = protocol.ClientFactory()
        connector.buildProtocol = lambda address: client  # type: ignore[assignment,return-value]
        client.logPrefix = lambda: "client"  # type: ignore[attr-defined]
        reactor.connectTCP("127.0.0.1", port.getHost().port, connector)
        await eventually(reactor, lambda: client.transport is not None)
        client.transport.write(b"x")
        await eventually(reactor, lambda: lost and client.is_lost)
        assert lost[0].check(ZeroDivisionError)
        far.transport.write(b"y")
        await eventually(reactor, lambda: near.data == b"y")

    run_once(scenario)


def test_timed_calls(run_once: Run) -> None:
    """Timed calls come in order and in time, also those made, moved and cancelled meanwhile, and none of them keeps the reactor from sleeping."""
    order: list[str] = []

    async def scenario(reactor: Any) -> None:
        reactor.callLater(0.02, order.append, "second")
        reactor.callLater(0.01, order.append, "first")
        reactor.callLater(100000000, order.append, "never").reset(0.03)
        reactor.callLater(3, order.append, "no").cancel()
        far_away = reactor.callLater(10_000_000, order.append, "no")
        await eventually(reactor, lambda: len(order) == 3)
        assert order == ["first", "second", "never"]
        far_away.cancel()

    run_once(scenario)


def test_the_wait_until_a_far_call_is_one_that_the_kernel_can_express(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timed call in months does not ask for a wait that epoll_wait(2) refuses; without timed calls the wait has no end."""
    reactor = SidecarReactor()
    waits: list[Any] = []
    monkeypatch.setattr(reactor, "doPoll", waits.append)
    reactor.running = True
    reactor._turn()
    reactor.callLater(10_000_000, int)
    reactor._turn()
    reactor._turn()
    assert waits == [None] + [reactor_module.LONGEST_WAIT_SECONDS] * 2
    reactor._poller.close()


def test_calls_at_the_end_of_a_turn(run_once: Run, caught_failures: list[Any]) -> None:
    """They come in order, never within the request for them, before the reactor waits for anything; one that raises stops nobody."""
    order: list[str] = []

    async def scenario(reactor: Any) -> None:
        def again() -> None:
            order.append("first")
            reactor.at_turn_end(lambda: order.append("asked for at the end of a turn"))

        reactor.at_turn_end(again)
        reactor.at_turn_end(lambda: 1 / 0)
        reactor.at_turn_end(sys.exit)
        reactor.at_turn_end(lambda: order.append("second"))
        assert not order
        far_away = reactor.callLater(10_000_000, int)  # the only event there may be
        done: Deferred[None] = Deferred()
        reactor.at_turn_end(lambda: reactor.at_turn_end(lambda: done.callback(None)))
        await done
        far_away.cancel()
        assert order == ["first", "second", "asked for at the end of a turn"]

    run_once(scenario)
    assert [failure.type for failure in caught_failures] == [ZeroDivisionError, SystemExit]


def test_any_reactor_calls_at_the_end_of_a_turn() -> None:
    """Where there is no such thing it is a timed call."""
    clock, calls = Clock(), []
    at_turn_end(clock)(lambda: calls.append(1))
    assert not calls
    clock.advance(0)
    assert calls == [1]


def test_a_raising_timed_call_stops_nobody(run_once: Run, caught_failures: list[Any]) -> None:
    """What a timed call raises is logged."""

    async def scenario(reactor: Any) -> None:
        reactor.callLater(0, lambda: 1 / 0)
        await turns(reactor)

    run_once(scenario)
    assert len(caught_failures) == 1


def test_threads_wake_it(run_once: Run) -> None:
    """A call from a thread is made at once although nothing else is due."""

    async def scenario(reactor: Any) -> None:
        await turns(reactor)
        done: Deferred[int] = Deferred()
        thread = threading.Thread(target=lambda: reactor.callFromThread(done.callback, 1))
        thread.start()
        assert await done == 1
        thread.join()

    run_once(scenario)


def test_an_error_in_the_loop_is_logged_and_survived(run_once: Run, caught_failures: list[Any]) -> None:
    """A descriptor that breaks its promise does not end the process."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor)
        near, far = await pair(reactor, server, Wire())
        stock = near.transport.doRead

        def raise_once() -> None:
            near.transport.doRead = stock
            raise ZeroDivisionError

        near.transport.doRead = raise_once
        far.transport.write(b"x")
        await eventually(reactor, lambda: near.data == b"x")

    run_once(scenario)
    assert [failure.type for failure in caught_failures] == [ZeroDivisionError]


def test_events_of_descriptors_that_left_are_dropped(run_once: Run, caught_failures: list[Any]) -> None:
    """A connection that another one ends within the same turn is not called any more."""

    class Killer(Wire):
        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            for each in wires:
                if each is not self:
                    each.transport._lose(None)

    wires: list[Any] = []

    async def scenario(reactor: Any) -> None:
        server = Server(reactor, make=Killer)
        _, first = await pair(reactor, server, Wire())
        _, second = await pair(reactor, server, Wire())
        wires.extend(server.wires)
        first.transport.write(b"x")
        second.transport.write(b"x")
        await eventually(reactor, lambda: sum(wire.received for wire in wires))
        await turns(reactor)
        assert sum(wire.received for wire in wires) == 1

    run_once(scenario)
    assert not caught_failures


def test_connections_leave_no_cycles(run_once: Run) -> None:
    """A finished connection is freed without the garbage collector's help."""

    async def scenario(reactor: Any) -> None:
        server = Server(reactor)
        near, far = await pair(reactor, server, Wire())
        far.transport.loseConnection()
        await eventually(reactor, lambda: near.is_lost and far.is_lost)
        server.wires.clear()
        await turns(reactor)
        gc.disable()
        try:
            import weakref

            for wire in (near, far):
                transport = weakref.ref(wire.transport)
                wire.transport = None
                assert transport() is None
        finally:
            gc.enable()

    run_once(scenario)


def test_install(monkeypatch: Any) -> None:
    """`install` makes it the process's reactor."""
    installed: list[Any] = []
    monkeypatch.setattr(reactor_module, "installReactor", installed.append)
    reactor_module.install()
    assert type(installed[0]) is SidecarReactor
    installed[0]._poller.close()
