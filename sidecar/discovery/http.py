"""Questions to the HTTP APIs that know endpoints (Consul, Kubernetes): whole answers, and streams of lines. By Twisted's Agent: no request waits for it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.python.failure import Failure
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool, ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from sidecar.discovery.files import State, read_bounded, state_of

CONNECT_SECONDS = 5.0  # Envoy: connect_timeout
# A question after so many seconds of silence, then every so many; the peer is gone when so many are not answered: after a minute (client-go's 30 s of silence).
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
MAX_CA_BYTES = 1024 * 1024
MAX_HEAD_BYTES = 256 * 1024  # of an answer, with what comes in the same read: Twisted keeps as many header fields as a server sends
PEM_END = "-----END CERTIFICATE-----"


class FetchFailed(Exception):
    """No answer, or none that can be used. A sentence for a person."""


@attrs.frozen
class Fetched:
    """A whole answer, whatever its status."""

    status: int
    body: bytes
    headers: Headers

    def field(self, name: str) -> str | None:
        """The first value of a header field."""
        values = self.headers.getRawHeaders(name)
        return values[0] if values else None


class Server:
    """One server, asked one thing at a time. `base`: "http://HOST:PORT" or "https://HOST:PORT". `ca_file`: PEM, whom to trust instead of the system's
    authorities; read again when it changes.
    """

    def __init__(self, reactor: Any, base: str, ca_file: Path | None) -> None:
        self.base = base.rstrip("/")
        self._reactor = reactor
        self._ca_file = ca_file
        self._ca_state: State = None
        self._agent: Agent | None = None
        self._pool: HTTPConnectionPool | None = None
        # Of the head that is awaited; None while a body is read.
        self._head_bytes: int | None = 0

    def fetch(self, path: str, fields: dict[str, bytes], limit: int, deadline: float) -> Deferred[Fetched]:
        """Fires with the answer to a GET whose body has at most `limit` octets and is there within `deadline` seconds; fails with `FetchFailed`, or with
        `CancelledError` when it is cancelled.
        """
        return self._ask(path, fields, deadline, deadline, lambda response: _Whole(response, limit))

    def follow(
        self, path: str, fields: dict[str, bytes], limit: int, deadline: float, lines: Callable[[list[bytes]], Deferred[None]], head_deadline: float
    ) -> Deferred[Fetched]:
        """Give `lines` the lines of an answer with status 200 as they come, in batches; nothing more is read until its Deferred fired. Fires at the end with an
        answer without body; a line that the end cuts off is dropped. With another status it is as `fetch`. A line has at most `limit` octets. The head is
        there within `head_deadline` seconds, the rest within `deadline` after it.
        """

        def reader(response: Any) -> _Body:
            return _Lines(response, limit, lines) if response.code == 200 else _Whole(response, limit)

        return self._ask(path, fields, head_deadline, deadline, reader)

    def close(self) -> None:
        """Close what is idle."""
        if self._pool is not None:
            self._pool.closeCachedConnections()

    def _takes(self, octets: int) -> bool:
        """So many more came from the server: are they not too many?"""
        if self._head_bytes is None:
            return True
        self._head_bytes += octets
        return self._head_bytes <= MAX_HEAD_BYTES

    def _ask(self, path: str, fields: dict[str, bytes], head_deadline: float, deadline: float, reader: Callable[[Any], _Body]) -> Deferred[Fetched]:
        state: dict[str, Any] = {"is_late": False, "is_cancelled": False, "running": None, "seconds": head_deadline}
        self._head_bytes = 0

        def end(why: str) -> None:
            state[why] = True
            if state["running"] is not None:
                state["running"].cancel()

        # Twisted itself fires a cancelled Deferred.
        outcome: Deferred[Fetched] = Deferred(lambda _: end("is_cancelled"))

        def expire() -> None:
            end("is_late")

        timer = self._reactor.callLater(head_deadline, expire)

        def answered(response: Any) -> Any:
            self._head_bytes = None
            if deadline != head_deadline:
                state["seconds"] = deadline
                timer.reset(deadline)
            body = reader(response)
            state["running"] = body.done
            response.deliverBody(body)
            return body.done

        def over(result: Any) -> None:
            if timer.active():
                timer.cancel()
            if state["is_cancelled"]:
                return
            if not isinstance(result, Failure):
                outcome.callback(result)
            elif state["is_late"]:
                outcome.errback(FetchFailed(f"{self.base} did not answer within {state['seconds']:g} s"))
            else:
                outcome.errback(result)

        def unanswered(failure: Failure) -> Any:
            if failure.check(CancelledError):
                return failure
            is_long = self._head_bytes is not None and self._head_bytes > MAX_HEAD_BYTES
            why = f"the head of the answer has more than {MAX_HEAD_BYTES} octets" if is_long else _words(failure)
            return Failure(FetchFailed(f"{self.base}: {why}"))

        try:
            headers = Headers({name.encode(): [value] for name, value in fields.items()})
            asked = self._current_agent().request(b"GET", (self.base + path).encode("ascii"), headers)
        except (ValueError, OSError) as error:  # a CA file that cannot be read
            timer.cancel()
            outcome.errback(FetchFailed(str(error)))
            return outcome
        state["running"] = asked
        asked.addCallbacks(answered, unanswered).addBoth(over)
        return outcome

    def _current_agent(self) -> Agent:
        """The agent for the CA file as it is now. Raises `ValueError` with a sentence."""
        state = None if self._ca_file is None else state_of(self._ca_file)
        if self._agent is None or state != self._ca_state:
            policy = BrowserLikePolicyForHTTPS(None if self._ca_file is None else _trust(self._ca_file))
            self.close()
            self._pool = HTTPConnectionPool(self._reactor, persistent=True)
            self._pool.maxPersistentPerHost = 1
            self._agent = Agent.usingEndpointFactory(self._reactor, _Endpoints(self._reactor, policy, self._takes), self._pool)
            self._ca_state = state
        return self._agent


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """As the Agent's own, with connections whose dead peers are noticed and whose answers have heads of bounded length."""

    def __init__(self, reactor: Any, policy: Any, takes: Callable[[int], bool]) -> None:
        self._reactor = reactor
        self._policy = policy
        self._takes = takes

    def endpointForURI(self, uri: Any) -> Any:
        """See `IAgentEndpointFactory`."""
        endpoint: Any = HostnameEndpoint(self._reactor, uri.host.decode("ascii"), uri.port, timeout=CONNECT_SECONDS)
        if uri.scheme == b"https":
            endpoint = wrapClientTLS(self._policy.creatorForNetloc(uri.host, uri.port), endpoint)
        return _Watched(endpoint, self._takes)


@implementer(IStreamClientEndpoint)
class _Watched:
    """An endpoint with TCP's keep-alive: a watch is silent for minutes, and must not wait for a server whose machine is gone. A connection on which more
    octets come than `takes` is closed.
    """

    def __init__(self, endpoint: Any, takes: Callable[[int], bool]) -> None:
        self._endpoint = endpoint
        self._takes = takes

    def connect(self, factory: Any) -> Any:
        """See `IStreamClientEndpoint`."""
        factory.noisy = False  # it would say in the log that it starts and stops
        return self._endpoint.connect(factory).addCallback(self._connected)

    def _connected(self, protocol: Any) -> Any:
        received = protocol.dataReceived

        def bounded(data: bytes) -> None:
            if self._takes(len(data)):
                received(data)
            else:
                protocol.transport.abortConnection()

        protocol.dataReceived = bounded
        transport = protocol.transport
        while getattr(transport, "transport", None) is not None:  # TLS stands on another one
            transport = transport.transport
        sock = getattr(transport, "socket", None)
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in KEEPALIVE.items():
                if hasattr(socket, name):  # Linux; elsewhere it is as the system has it
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return protocol


class _Body(Protocol):
    """Reads an answer. `done` fires with a `Fetched`; cancelling it closes the connection."""

    transport: Any = None

    def __init__(self, response: Any) -> None:
        self.response = response
        self.done: Deferred[Fetched] = Deferred(self._cancelled)

    def _cancelled(self, _: object) -> None:
        # The way back to a TLS transport waits for the other side's goodbye; this does not.
        producer = getattr(self.transport, "_producer", None)
        close = getattr(producer, "abortConnection", None) or getattr(self.transport, "loseConnection", None)
        if close is not None:
            close()

    def _fail(self, sentence: str) -> None:
        self._cancelled(None)
        if not self.done.called:
            self.done.errback(FetchFailed(sentence))

    def _finish(self, body: bytes) -> None:
        if not self.done.called:
            self.done.callback(Fetched(self.response.code, body, self.response.headers))


class _Whole(_Body):
    """Keeps the body."""

    def __init__(self, response: Any, limit: int) -> None:
        super().__init__(response)
        self._limit = limit
        self._chunks: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        """A part of the body."""
        self._size += len(data)
        if self._size > self._limit:
            self._chunks.clear()
            self._fail(f"the answer has more than {self._limit} octets")
        elif not self.done.called:
            self._chunks.append(data)

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008 - Twisted's signature
        """The end, in good order or not: half an answer is none."""
        if reason.check(ResponseDone):
            self._finish(b"".join(self._chunks))
        elif not self.done.called:
            self.done.errback(FetchFailed(f"the answer was cut short: {_words(reason)}"))


class _Lines(_Body):
    """Hands on whole lines."""

    def __init__(self, response: Any, limit: int, lines: Callable[[list[bytes]], Deferred[None]]) -> None:
        super().__init__(response)
        self._limit = limit
        self._lines = lines
        self._held: list[bytes] = []
        self._size = 0
        self._waiting: list[bytes] = []
        self._is_busy = False
        self._is_over = False

    def dataReceived(self, data: bytes) -> None:
        """A part of the stream, cut anywhere."""
        *whole, rest = data.split(b"\n")
        if whole:
            whole[0] = b"".join([*self._held, whole[0]])
            self._held, self._size = [], 0
            self._waiting += [line for line in whole if line.strip()]
        if rest:
            self._held.append(rest)
            self._size += len(rest)
        if self._size > self._limit:
            self._fail(f"a line has more than {self._limit} octets")
        else:
            self._hand_on()

    def _hand_on(self) -> None:
        if self._is_busy or self.done.called:
            return
        batch, self._waiting = self._waiting, []
        if not batch:
            if self._is_over:
                self._finish(b"")
            return
        self._is_busy = True
        if self.transport is not None and not self._is_over:
            self.transport.pauseProducing()
        self._lines(batch).addCallbacks(self._taken, self._refused)

    def _taken(self, _: object) -> None:
        self._is_busy = False
        if self.transport is not None and not self._is_over:
            self.transport.resumeProducing()
        self._hand_on()

    def _refused(self, failure: Failure) -> None:
        self._cancelled(None)
        if not self.done.called:
            self.done.errback(failure)

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008 - Twisted's signature
        """The end of the stream; a watch may end at any time and in any way."""
        self._is_over = True
        self._hand_on()


def _trust(ca_file: Path) -> Any:
    text = read_bounded(ca_file, MAX_CA_BYTES).decode("ascii", "replace")
    parts: Sequence[str] = [part + PEM_END for part in text.split(PEM_END)[:-1]]
    try:
        return trustRootFromCertificates([Certificate.loadPEM(part.encode()) for part in parts or ("",)])
    except Exception as error:  # OpenSSL's errors are lists of codes
        raise ValueError(f"{ca_file} holds no certificates in PEM form ({error.__class__.__name__})") from None


def _words(failure: Failure) -> str:
    """The reason of a failure; that of Twisted's wrappers is inside of them."""
    reasons = getattr(failure.value, "reasons", None)
    if reasons:
        return _words(reasons[0])
    return failure.getErrorMessage() or type(failure.value).__name__
