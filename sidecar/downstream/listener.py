"""A listener: accept, ask the connection filters, look at the first bytes, choose a filter chain, shake hands, hand over to the chain's protocol."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IHandshakeListener, IProtocol
from twisted.logger import Logger
from zope.interface import implementer

from sidecar.address import Address
from sidecar.codec.sniff import Sniffed, sniff
from sidecar.downstream.chain_match import Candidate, choose, needs_sniffing
from sidecar.errors import Draining, HandshakeFailed, SidecarError
from sidecar.facts import ConnectionFacts, TLSFacts
from sidecar.model import Listener
from sidecar.transport.original_destination import original_destination
from sidecar.verdicts import Allow, Deny

_log = Logger(namespace="sidecar.listener")


class DownstreamSecurity(Protocol):
    """What a chain with TLS needs of the identity layer; `assembly` provides it."""

    def context(self) -> Any:
        """The OpenSSL context for a new connection."""

    def check_peer(self, transport: Any, peer: Address) -> TLSFacts:
        """The facts of a finished handshake. Raises `HandshakeFailed`."""

    def explain(self, transport: Any, reason: Any, peer: Address) -> str:
        """Why the handshake failed, for a person."""


@attrs.frozen
class ChainRuntime:
    """One filter chain, ready: its TLS or None, and what makes the protocol of a connection: `make_protocol(facts, closed)`; `closed(protocol)` is called
    once when it is gone.
    """

    name: str
    security: DownstreamSecurity | None
    make_protocol: Callable[[ConnectionFacts, Callable[[Any], None]], Any]
    # Can it tell in words why a connection is refused?
    speaks_http: bool = False


class ListenerRuntime:
    """One listener. `listen(address, build_protocol)` opens the port. Counters are plain integers, read by the admin pages."""

    def __init__(
        self,
        listener: Listener,
        candidates: Sequence[Candidate],
        filters: Sequence[Any],
        wheel: Any,
        seconds: Callable[[], float],
        listen: Callable[[Address, Callable[[Any], Any], int], Any],
        next_number: Callable[[], int],
    ) -> None:
        self.listener = listener
        self.name = listener.name
        self.candidates = tuple(candidates)
        self.sniffs = needs_sniffing(self.candidates)
        # Only then is it worth a system call to ask where a redirected connection was going.
        self.matches_destinations = any(each.match.destination_port or each.match.destination_prefixes for each in self.candidates)
        # (plugin hook, account) pairs
        self.accept_filters = tuple(each for each in filters if each.mode == "accept")
        self.handshake_filters = tuple(each for each in filters if each.mode == "handshake")
        self.wheel = wheel
        self.seconds = seconds
        self.next_number = next_number
        self.port: Any = None
        # `overload.Gate` where the connections of the whole process are limited.
        self.gate: Any = None
        self.protocols: set[Any] = set()
        self.counters = {
            "accepted": 0,
            "closed": 0,
            "over_limit": 0,
            "refused": 0,
            "no_chain": 0,
            "handshake_failures": 0,
            "handshakes": 0,
            "sniff_timeouts": 0,
        }
        self._listen = listen
        self._when_empty: Callable[[], None] | None = None

    @property
    def active(self) -> int:
        """Connections open now."""
        return len(self.protocols)

    @property
    def address(self) -> Address:
        """Where it really listens (a configured port 0 becomes the port that the system chose)."""
        return self.port.address if self.port is not None else self.listener.address

    def start(self) -> None:
        """Open the port. Raises `OSError`."""
        self.port = self._listen(self.listener.address, self._build, self.listener.backlog)

    def _build(self, peer: Any) -> Any:
        counters = self.counters
        counters["accepted"] += 1
        if len(self.protocols) >= self.listener.max_connections:
            counters["over_limit"] += 1
            return None
        places = 1 if self.gate is None else self.gate.places()
        if places <= 0:
            counters["over_limit"] += 1
            if places < 0:
                return None
        acceptance = Acceptance(self, places == 0)
        self.protocols.add(acceptance)
        return acceptance

    def replace(self, old: Any, new: Any) -> None:
        """A connection was handed over."""
        self.protocols.discard(old)
        self.protocols.add(new)

    def closed(self, protocol: Any) -> None:
        """A connection is gone."""
        if protocol in self.protocols:
            self.protocols.discard(protocol)
            self.counters["closed"] += 1
        if not self.protocols and self._when_empty is not None:
            self._when_empty()

    def stop_accepting(self) -> Any:
        """Close the port; a Deferred when that is done."""
        port, self.port = self.port, None
        return None if port is None else port.stop()

    def drain(self, when_empty: Callable[[], None]) -> None:
        """Idle connections close, busy ones after their exchange; `when_empty()` is called when the last is gone."""
        self._when_empty = when_empty
        for protocol in list(self.protocols):
            protocol.drain()
        if not self.protocols:
            when_empty()

    def abort(self) -> None:
        """Close every connection now."""
        error = Draining("the drain time was over, or a second signal came, before this exchange had ended")
        for protocol in list(self.protocols):
            protocol.abort(error)

    def __repr__(self) -> str:
        return f"<ListenerRuntime {self.name} {self.address} active={self.active}>"


@implementer(IProtocol, IHandshakeListener)
class Acceptance:
    """A connection before it has a chain: filters, first bytes, handshake. Then it is replaced by the chain's protocol and gone."""

    __slots__ = ("_chain", "_done", "_handshaking", "_over_limit", "_sniffed", "_timer", "_waiting", "facts", "listener", "transport")

    def __init__(self, listener: ListenerRuntime, over_limit: bool = False) -> None:
        self.listener = listener
        self._over_limit = over_limit
        self.transport: Any = None
        self.facts: Any = None
        self._chain: Any = None
        self._done = False
        self._handshaking = False
        self._sniffed: Sniffed | None = None
        # An answer that is awaited, and the account of the filter that owes it.
        self._waiting: tuple[Deferred[Any], Any] | None = None
        self._timer: Any = None

    def makeConnection(self, transport: Any) -> None:
        """Accepted."""
        self.transport = transport
        listener = self.listener
        self.facts = ConnectionFacts(
            number=listener.next_number(),
            listener=listener.name,
            direction=listener.listener.direction,
            peer=transport.peer,
            local=transport.local,
            original_destination=original_destination(transport.socket) if listener.matches_destinations else None,
            over_limit=self._over_limit,
        )
        self._timer = listener.wheel.timer(self._timed_out)
        if listener.accept_filters:
            self._ask(listener.accept_filters, 0, self._accepted)
        else:
            self._accepted()

    def connectionMade(self) -> None:
        """Part of IProtocol; `makeConnection` does it all."""

    def dataReceived(self, data: bytes) -> None:
        """Cannot happen: a connection in this state peeks, waits or shakes hands."""
        raise AssertionError("data before a chain was chosen")

    def _ask(self, filters: Sequence[Any], index: int, proceed: Callable[[], None]) -> None:
        """Ask the connection filters in order; the transport is paused while one takes its time."""
        while index < len(filters):
            step = filters[index]
            account = step.account
            account.calls += 1
            then = self.listener.seconds()
            try:
                answer = step.hook(self.facts)
            except BaseException:  # whatever a plugin raises, SystemExit included, is the plugin's failure
                _log.failure("connection-filter {name} raised", name=account.name)
                answer = self._raised(account)
            account.seconds += self.listener.seconds() - then
            if isinstance(answer, Deferred) or inspect.iscoroutine(answer):
                self._wait(answer, account, filters, index, proceed)
                return
            if not self._passes(answer, account):
                return
            index += 1
        proceed()

    def _raised(self, account: Any) -> Any:
        account.failures += 1
        return None if account.fail_open else Deny("the connection filter failed")

    def _wait(self, answer: Any, account: Any, filters: Sequence[Any], index: int, proceed: Callable[[], None]) -> None:
        self.transport.pauseProducing()
        deferred: Deferred[Any] = ensureDeferred(answer) if inspect.iscoroutine(answer) else answer
        self._waiting = deferred, account
        timeout = self.listener.listener.handshake_timeout
        if timeout:
            self._timer.set(self.listener.seconds() + timeout)

        def failed(failure: Any) -> Any:
            if self._done:
                return None  # cancelled by us: the client is gone
            _log.failure("connection-filter {name} failed", failure, name=account.name)
            return self._raised(account)

        def answered(value: Any) -> None:
            self._waiting = None
            if not self._done and self._passes(value, account):
                self._timer.clear()
                self.transport.resumeProducing()
                self._ask(filters, index + 1, proceed)

        deferred.addErrback(failed)
        deferred.addCallback(answered)
        deferred.addErrback(self._broken)

    def _broken(self, failure: Any) -> None:
        """A mistake of our own: the connection must not stay half accepted."""
        _log.failure("accepting a connection broke", failure)
        self._close()

    def _passes(self, answer: Any, account: Any) -> bool:
        if answer is None or type(answer) is Allow:
            return True
        account.verdicts += 1
        self.listener.counters["refused"] += 1
        if isinstance(answer, Deny):
            _log.info(
                "{listener}: {name} refused a connection from {peer}: {reason}",
                listener=self.listener.name,
                name=account.name,
                peer=self.facts.peer,
                reason=answer.reason,
            )
        else:
            account.failures += 1
            _log.error("connection-filter {name} answered {answer!r}, which is neither Allow nor Deny", name=account.name, answer=answer)
        self._close()
        return False

    def _accepted(self) -> None:
        """The filters let it in: which chain?"""
        listener = self.listener
        if not listener.sniffs:
            self._choose("raw" if listener.candidates and listener.candidates[0].chain.security is None else "tls")
            return
        timeout = listener.listener.sniff_timeout
        if timeout:
            self._timer.set(listener.seconds() + timeout)
        self.transport.start_sniffing(self._peeked)

    def _peeked(self, data: bytes, eof: bool) -> None:
        sniffed = sniff(data, eof)
        if sniffed is None:
            return
        if eof and not data:
            self._close()
            return
        self._timer.clear()
        self.transport.stop_sniffing()
        self.facts = attrs.evolve(self.facts, server_name=sniffed.server_name, application_protocols=tuple(sniffed.application_protocols))
        self._choose(sniffed.transport_protocol)

    def _choose(self, transport_protocol: str) -> None:
        listener = self.listener
        chain = choose(listener.candidates, self.facts, transport_protocol)
        if chain is None:
            listener.counters["no_chain"] += 1
            _log.info(
                "{listener}: no filter chain takes a {kind} connection from {peer}", listener=listener.name, kind=transport_protocol, peer=self.facts.peer
            )
            self._close()
            return
        self._chain = chain
        if chain.security is None:
            self._hand_over()
            return
        self._handshaking = True
        timeout = listener.listener.handshake_timeout
        if timeout:
            self._timer.set(listener.seconds() + timeout)
        self.transport.startTLS(chain.security.context(), False)

    def handshakeCompleted(self) -> None:
        """TLS is up: who is it?"""
        self._handshaking = False
        self._timer.clear()
        listener = self.listener
        try:
            tls = self._chain.security.check_peer(self.transport, self.facts.peer)
        except HandshakeFailed as error:
            self._handshake_failed(error.sentence)
            self._close()
            return
        listener.counters["handshakes"] += 1
        self.facts = attrs.evolve(self.facts, tls=tls)
        if listener.handshake_filters:
            self._ask(listener.handshake_filters, 0, self._hand_over)
        else:
            self._hand_over()

    def _handshake_failed(self, sentence: str) -> None:
        listener = self.listener
        listener.counters["handshake_failures"] += 1
        _log.warn("{listener}: {sentence}", listener=listener.name, sentence=sentence)

    def _hand_over(self) -> None:
        if self._over_limit and not self._chain.speaks_http:
            self._close()
            return
        self._done = True
        self._timer.close()
        listener = self.listener
        protocol = self._chain.make_protocol(self.facts, listener.closed)
        listener.replace(self, protocol)
        self.transport.protocol = protocol
        protocol.makeConnection(self.transport)

    def _timed_out(self) -> None:
        if self._done:
            return
        if self._handshaking:
            self._handshake_failed(f"{self.facts.peer} did not finish the TLS handshake within {self.listener.listener.handshake_timeout:g} s")
            self._close()
        elif self._waiting is not None:
            self._call_off()
        else:
            # The client waits for the server to speak first: nothing to look at, so it is a raw connection.
            self.listener.counters["sniff_timeouts"] += 1
            self.transport.stop_sniffing()
            self._choose("raw")

    def connectionLost(self, reason: Any) -> None:
        """Gone before it had a chain."""
        if self._handshaking and not self._done:
            self._handshake_failed(self._chain.security.explain(self.transport, reason, self.facts.peer))
        self._done = True
        self._timer.close()
        if self._waiting is not None:
            self._call_off()
        self.listener.closed(self)

    def _call_off(self) -> None:
        """A connection filter took too long, or its answer does not matter any more."""
        assert self._waiting is not None
        (deferred, account), self._waiting = self._waiting, None
        try:
            deferred.cancel()
        except BaseException:  # its own canceller raised
            _log.failure("connection-filter {name} could not be called off", name=account.name)
            account.failures += 1
            self._close()

    def abort(self, error: SidecarError) -> None:
        """Close now."""
        self.transport.abortConnection()

    def drain(self) -> None:
        """The sidecar is going: what has not asked anything yet may finish its handshake and ask, within the drain time."""

    def _close(self) -> None:
        if not self._done:
            self._done = True
            self._handshaking = False
            self._timer.close()
            self.transport.abortConnection()

    def __repr__(self) -> str:
        return f"<Acceptance {self.facts} handshaking={self._handshaking}>"
