"""`sidecar/downstream/listener.py`: from accept to the chain's protocol."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from sidecar.address import Address
from sidecar.downstream.chain_match import Candidate
from sidecar.downstream.listener import ChainRuntime, ListenerRuntime
from sidecar.errors import HandshakeFailed
from sidecar.facts import TLSFacts
from sidecar.model import ChainMatch, Listener
from sidecar.proxy.steps import Account, Step
from sidecar.transport.wheel import TimerWheel
from sidecar.verdicts import ALLOW, BodyMode, Deny
from tests.memory import MemoryTransport

HELLO = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"  # a ClientHello that makes no sense is TLS all the same


class Protocol:
    """What a chain makes of a connection."""

    def __init__(self, facts: Any, closed: Any) -> None:
        self.facts = facts
        self.closed = closed
        self.drained = False

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport

    def connectionLost(self, reason: Any) -> None:
        self.closed(self)

    def drain(self) -> None:
        self.drained = True

    def abort(self, error: Any) -> None:
        self.transport.abortConnection()


class Security:
    """TLS that finishes when the test says so."""

    error: Exception | None = None

    def context(self) -> str:
        return "context"

    def check_peer(self, transport: Any, peer: Any) -> TLSFacts:
        if self.error is not None:
            raise self.error
        return TLSFacts(version="TLSv1.3", peer_identity="spiffe://a/b")

    def explain(self, transport: Any, reason: Any, peer: Any) -> str:
        return "in words"


class Listening:
    """A listener with a raw chain and, if asked for, a TLS chain told apart by the first bytes."""

    def __init__(self, *hooks: Any, tls: bool = False, mode: str = "accept", fail_open: bool = False, match_raw: bool = True, **settings: Any) -> None:
        self.clock = Clock()
        self.clock.advance(100)
        self.security = Security()
        self.accounts = [Account("connection-filter", f"f{index}", fail_open) for index in range(len(hooks))]
        steps = [Step(hook, account, 0, BodyMode(mode)) for hook, account in zip(hooks, self.accounts, strict=True)]
        candidates = [Candidate(ChainMatch(transport_protocol="raw" if tls else None), ChainRuntime("raw", None, Protocol))] if match_raw else []
        if tls:
            candidates.append(Candidate(ChainMatch(transport_protocol="tls"), ChainRuntime("tls", self.security, Protocol)))
        numbers: Iterator[int] = iter(range(1, 10**6))
        listener = Listener(name="l", address=Address("127.0.0.1", 0), direction="inbound", filter_chains=(), **settings)
        wheel = TimerWheel(self.clock)
        self.runtime = ListenerRuntime(listener, candidates, steps, wheel, self.clock.seconds, lambda *args: None, lambda: next(numbers))

    def connect(self) -> MemoryTransport:
        protocol = self.runtime._build(Address("192.0.2.1", 5))
        transport = MemoryTransport(protocol)
        protocol.makeConnection(transport)
        return transport


def chain_of(transport: MemoryTransport) -> Any:
    """The chain's protocol, None before there is one."""
    return transport.protocol if isinstance(transport.protocol, Protocol) else None


def test_plain_chain_without_filters() -> None:
    """It has the connection at once, with its facts."""
    listening = Listening()
    transport = listening.connect()
    facts = chain_of(transport).facts
    assert (facts.number, facts.listener, facts.peer, facts.tls) == (1, "l", transport.peer, None)
    assert listening.runtime.active == 1
    transport.lose()
    assert listening.runtime.active == 0 and listening.runtime.counters["closed"] == 1


def test_over_limit() -> None:
    """More than max_connections are closed at once and counted."""
    listening = Listening(max_connections=1)
    listening.connect()
    assert listening.runtime._build(Address("192.0.2.1", 5)) is None
    assert listening.runtime.counters["over_limit"] == 1 and listening.runtime.active == 1


class Gate:
    """`places`: what is answered."""

    def __init__(self, places: int) -> None:
        self.left = places

    def places(self) -> int:
        return self.left


@pytest.mark.parametrize(("places", "speaks_http", "outcome"), [(1, False, "served"), (0, True, "told"), (0, False, "closed"), (-1, True, "refused")])
def test_over_the_limit_of_the_process(places: int, speaks_http: bool, outcome: str) -> None:
    """Where HTTP is spoken it is served, but marked, so that its request is refused in words; elsewhere, and when there are too many, it is closed."""
    listening = Listening()
    listening.runtime.gate = Gate(places)
    (candidate,) = listening.runtime.candidates
    listening.runtime.candidates = (Candidate(candidate.match, attrs.evolve(candidate.chain, speaks_http=speaks_http)),)
    if outcome == "refused":
        assert listening.runtime._build(Address("192.0.2.1", 5)) is None
    else:
        transport = listening.connect()
        assert transport.aborted is (outcome == "closed")
        assert outcome == "closed" or chain_of(transport).facts.over_limit is (outcome == "told")
    assert listening.runtime.counters["over_limit"] == (outcome != "served")


async def later(value: Any) -> Any:
    return value


@pytest.mark.parametrize("answer", [None, ALLOW, succeed(None), lambda: later(ALLOW)])
def test_filter_lets_pass(answer: Any) -> None:
    """Now or as an awaitable."""
    listening = Listening(lambda facts: answer() if callable(answer) else answer)
    transport = listening.connect()
    assert chain_of(transport) is not None and transport.reading


@pytest.mark.parametrize("answer", [Deny("no"), "nonsense", lambda: later(Deny("no"))])
def test_filter_refuses(answer: Any) -> None:
    """The connection is reset and counted; later filters are not asked."""
    asked: list[Any] = []
    listening = Listening(lambda facts: answer() if callable(answer) else answer, asked.append)
    transport = listening.connect()
    assert transport.aborted and chain_of(transport) is None and asked == []
    assert listening.runtime.counters["refused"] == 1 and listening.accounts[0].verdicts == 1
    transport.settle()
    assert listening.runtime.active == 0


async def broken() -> None:
    raise ValueError("x")


@pytest.mark.parametrize("fail_open", [False, True])
@pytest.mark.parametrize("wait", [False, True])
def test_filter_raises(fail_open: bool, wait: bool) -> None:
    """Closed unless it fails open."""

    def hook(facts: Any) -> Any:
        if wait:
            return broken()
        raise ValueError("x")

    listening = Listening(hook, fail_open=fail_open)
    transport = listening.connect()
    assert transport.aborted is not fail_open and (chain_of(transport) is not None) is fail_open
    assert listening.accounts[0].failures == 1


def test_filter_that_takes_its_time() -> None:
    """Nothing is read meanwhile; the answer comes, or the client goes, or time runs out."""
    waiting: list[Deferred[Any]] = []

    def hook(facts: Any) -> Any:
        waiting.append(Deferred())
        return waiting[-1]

    listening = Listening(hook, handshake_timeout=15.0)
    transport = listening.connect()
    assert not transport.reading
    waiting[0].callback(None)
    assert chain_of(transport) is not None and transport.reading
    transport = listening.connect()
    transport.lose()
    assert listening.accounts[0].failures == 0 and waiting[1].called
    transport = listening.connect()
    listening.clock.advance(15.2)
    assert transport.aborted and listening.accounts[0].failures == 1
    transport.settle()
    assert listening.runtime.active == 1


@pytest.mark.parametrize("ends", ["client", "time"])
def test_filter_that_cannot_be_called_off(ends: str) -> None:
    """What its canceller raises is its failure, and no connection stays half accepted or counted."""

    def stubborn(deferred: Any) -> None:
        raise ValueError("will not be cancelled")

    listening = Listening(lambda facts: Deferred(stubborn), handshake_timeout=15.0)
    transport = listening.connect()
    if ends == "client":
        transport.lose()
    else:
        listening.clock.advance(15.2)
        assert transport.aborted
        transport.settle()
    assert listening.runtime.active == 0 and listening.accounts[0].failures == 1


@pytest.mark.parametrize(("data", "name"), [(b"GET / HTTP/1.1\r\n", "raw"), (HELLO, "tls")])
def test_first_bytes_choose_the_chain(data: bytes, name: str) -> None:
    """Permissive: cleartext and TLS on the same port."""
    listening = Listening(tls=True)
    transport = listening.connect()
    assert chain_of(transport) is None
    transport.peeker(data, True)
    if name == "raw":
        assert chain_of(transport).facts.application_protocols == ("http/1.1",)
        return
    assert transport.tls_started == ("context", False) and chain_of(transport) is None
    transport.protocol.handshakeCompleted()
    assert chain_of(transport).facts.tls.peer_identity == "spiffe://a/b"
    assert listening.runtime.counters["handshakes"] == 1


def test_too_few_bytes_wait() -> None:
    """More is waited for; a close without a byte is just that."""
    listening = Listening(tls=True)
    transport = listening.connect()
    transport.peeker(b"\x16", False)
    assert chain_of(transport) is None and not transport.closing
    other = listening.connect()
    other.peeker(b"", True)
    assert other.closing


def test_server_first_protocols_do_not_hang() -> None:
    """Who says nothing within the sniff timeout gets the raw chain."""
    listening = Listening(tls=True, sniff_timeout=5.0)
    transport = listening.connect()
    listening.clock.advance(5.2)
    assert chain_of(transport) is not None and listening.runtime.counters["sniff_timeouts"] == 1


def test_no_chain() -> None:
    """Strict: cleartext is closed and counted."""
    listening = Listening(tls=True, match_raw=False)
    transport = listening.connect()
    transport.peeker(b"GET / HTTP/1.1\r\n", True)
    assert transport.aborted and listening.runtime.counters["no_chain"] == 1


@pytest.mark.parametrize("how", ["lost", "refused", "late"])
def test_handshake_fails(how: str) -> None:
    """Counted once, whatever the reason."""
    listening = Listening(tls=True, handshake_timeout=15.0)
    transport = listening.connect()
    transport.peeker(HELLO, True)
    if how == "lost":
        transport.lose()
    elif how == "refused":
        listening.security.error = HandshakeFailed("who are you")
        transport.protocol.handshakeCompleted()
    else:
        listening.clock.advance(15.2)
    transport.settle()
    assert transport.lost and listening.runtime.active == 0
    assert listening.runtime.counters["handshake_failures"] == 1 and listening.runtime.counters["handshakes"] == 0


@pytest.mark.parametrize("answer", [None, Deny("no")])
def test_handshake_filter(answer: Any) -> None:
    """Asked with TLS facts, before the chain's protocol exists; never on cleartext."""
    asked: list[Any] = []

    def hook(facts: Any) -> Any:
        asked.append(facts.tls)
        return answer

    listening = Listening(hook, tls=True, mode="handshake")
    transport = listening.connect()
    transport.peeker(HELLO, True)
    transport.protocol.handshakeCompleted()
    assert asked[0].version == "TLSv1.3" and (chain_of(transport) is not None) is (answer is None)
    raw = listening.connect()
    raw.peeker(b"GET / HTTP/1.1\r\n", True)
    assert len(asked) == 1 and chain_of(raw) is not None


def test_drain_and_abort() -> None:
    """Every connection is told; the last one to go is reported."""
    listening = Listening()
    transports = [listening.connect() for _ in range(2)]
    empty: list[int] = []
    listening.runtime.drain(lambda: empty.append(1))
    assert all(each.protocol.drained for each in transports) and empty == []
    listening.runtime.abort()
    for each in transports:
        each.settle()
    assert empty == [1]
