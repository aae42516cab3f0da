"""Fakes for testing plugins without a network: a context on a fake clock, an exchange, and makers of its parts.

    context = FakeContext("acme.api-key")
    plugin = ApiKey(ApiKey.Config(...), context)
    answer = plugin.authenticate(FakeExchange(make_request(headers={"x-api-key": "k1"})))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger
from zope.interface import implementer

from sidecar.address import Address
from sidecar.errors import SidecarError
from sidecar.facts import AttemptFacts, ConnectionFacts, Principal, TLSFacts
from sidecar.headers import Headers
from sidecar.interfaces import IExchange, IPluginContext, IProbe, IProbeConnection
from sidecar.message import RequestHead, ResponseHead
from sidecar.model import Node
from sidecar.record import ExchangeRecord

# A moment that is easy to recognize in an assertion: 2001-09-09T01:46:40Z.
STARTED = 1_000_000_000.0

Fields = Mapping[str, str] | Iterable[tuple[str, str]]


def make_headers(fields: Fields = ()) -> Headers:
    """Checked headers from text."""
    pairs = fields.items() if isinstance(fields, Mapping) else fields
    return Headers.of([(name.encode(), value.encode()) for name, value in pairs])


def make_request(method: str = "GET", path: str = "/", authority: str = "app.example", headers: Fields = (), *, has_body: bool = False) -> RequestHead:
    """A request's head as a codec would give it, with Host in its headers."""
    fields = make_headers(headers)
    if authority and b"host" not in fields:
        fields.fields[:0] = Headers.of([(b"Host", authority.encode())]).fields
    return RequestHead(method.encode(), path.encode(), authority.encode(), fields, content_length=None if has_body else 0, end_stream=not has_body)


def make_response(status: int = 200, headers: Fields = (), *, has_body: bool = False) -> ResponseHead:
    """A response's head."""
    return ResponseHead(status, make_headers(headers), content_length=None if has_body else 0, end_stream=not has_body)


def make_connection(
    peer: str = "192.0.2.1:50000", identity: str = "", *, listener: str = "inbound", direction: str = "inbound", server_name: str = ""
) -> ConnectionFacts:
    """An accepted connection. With `identity` (a SPIFFE ID) it is mutual TLS, else cleartext."""
    tls = TLSFacts(version="TLSv1.3", peer_identity=identity, server_name=server_name) if identity else None
    return ConnectionFacts(1, listener, direction, Address.parse(peer), Address.parse("192.0.2.9:15006"), tls=tls, server_name=server_name)


def make_record(**changes: Any) -> ExchangeRecord:
    """The record of a plain GET that went well, with these fields changed."""
    plain: dict[str, Any] = {
        "started": STARTED, "listener": "inbound", "direction": "inbound", "peer": "192.0.2.1", "method": "GET", "authority": "app.example",
        "path": "/", "protocol": "HTTP/1.1", "status": 200, "route": "default", "cluster": "app", "endpoint": "127.0.0.1:8080",
        "duration_ms": 5.0, "attempts": 1,
    }  # fmt: skip
    return ExchangeRecord(**{**plain, **changes})


def make_attempt(status: int = 0, error: SidecarError | None = None, headers: Fields = (), **changes: Any) -> AttemptFacts:
    """How an attempt ended, as a retry policy is told: answered with `status` and `headers`, or with `error`. `changes`: other fields of `AttemptFacts`."""
    answer = None if error is not None else make_headers(headers)
    facts = AttemptFacts(
        number=1, request=make_request(), endpoint="192.0.2.5:8080", error=error, status=status, headers=answer, trailers=None, grpc_status=None, was_sent=True,
        elapsed=0.1, remaining=None,
    )  # fmt: skip
    return attrs.evolve(facts, **changes)


@implementer(IExchange)
class FakeExchange:
    """An exchange as hooks see it. Set what a test needs; `notes` holds what was noted."""

    def __init__(
        self,
        request: RequestHead | None = None,
        *,
        response: ResponseHead | None = None,
        connection: ConnectionFacts | None = None,
        principal: Principal | str | None = None,
        route_name: str = "default",
        cluster_name: str = "",
        endpoint: Address | None = None,
    ) -> None:
        self.number = 1
        self.connection = make_connection() if connection is None else connection
        self.request = make_request() if request is None else request
        self.response = response
        self.response_trailers: Headers | None = None
        self.principal = Principal(principal) if isinstance(principal, str) else principal
        self.route_name = route_name
        self.cluster_name = cluster_name
        self.endpoint = endpoint
        self.started = STARTED
        self.request_id = b""
        self.trace: Any = None
        self.state: dict[object, Any] = {}
        self.notes: list[tuple[str, str]] = []
        # Response flags that were added, comma-separated.
        self.flags = ""
        # Counters of a gRPC call, and how it ended.
        self.grpc: Any = None
        self.grpc_status: int | None = None
        # What the route's hash policies make of the request.
        self.key: int | None = None
        self.metadata_match: tuple[tuple[str, str], ...] | None = None
        self.likeness: Any = None

    def note(self, who: str, what: str) -> None:
        """See `IExchange.note`."""
        self.notes.append((who, what))

    def add_flag(self, flag: str) -> None:
        """See `IExchange.add_flag`."""
        self.flags = f"{self.flags},{flag}" if self.flags else flag

    def hash_key(self) -> int | None:
        """See `IExchange.hash_key`."""
        return self.key


class FakeCounter:
    """What `FakeContext.counter` gives. `values`: counts by label values."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.label_names = labels
        self.values: dict[tuple[str, ...], int] = {}

    def inc(self, *label_values: str, by: int = 1) -> None:
        """Count. Raises `ValueError` for a wrong number of label values."""
        if len(label_values) != len(self.label_names):
            raise ValueError(f"this counter has the labels {self.label_names}")
        self.values[label_values] = self.values.get(label_values, 0) + by

    @property
    def value(self) -> int:
        """The sum over all label values."""
        return sum(self.values.values())


@attrs.frozen
class FakeAnswer:
    """An answer of `FakeHTTPClient` or `FakeProbe`; the last two are for the latter."""

    status: int = 200
    headers: Headers = attrs.field(factory=Headers)
    body: bytes = b""
    trailers: Headers | None = None
    version: int = 11


class FakeHTTPClient:
    """A client that answers from `answer(method, path, headers, body)`: a `FakeAnswer`, a `SidecarError` to fail with, or a Deferred of an answer.

    `requests` holds what was asked.
    """

    def __init__(self, answer: Callable[[bytes, bytes, Headers, bytes], FakeAnswer | SidecarError | Deferred[FakeAnswer]]) -> None:
        self._answer = answer
        self.requests: list[tuple[bytes, bytes, Headers, bytes]] = []

    def request(self, method: bytes, path: bytes, headers: Headers | None = None, body: bytes = b"", timeout_seconds: float = 5.0) -> Deferred[FakeAnswer]:
        """See `IPluginContext.http_client`."""
        asked = (method, path, Headers() if headers is None else headers, body)
        self.requests.append(asked)
        answer = self._answer(*asked)
        if isinstance(answer, Deferred):
            return answer
        return fail(answer) if isinstance(answer, SidecarError) else succeed(answer)


@implementer(IPluginContext)
class FakeContext:
    """A plugin's context. `clock`: a `twisted.internet.task.Clock` to advance, at `STARTED` first. `counters`, `gauges` (functions): by name. `clients`:
    HTTP clients by cluster. `reactor`: a running one, for plugins that open sockets; it is then the clock as well.
    """

    def __init__(
        self, name: str = "test", *, node: Node | None = None, clients: Mapping[str, FakeHTTPClient] | None = None, reactor: Any = None
    ) -> None:
        self.name = name
        self.clock: Any = Clock() if reactor is None else reactor
        if reactor is None:
            self.clock.rightNow = STARTED
        self.reactor = self.clock
        self.log = Logger(namespace=name)
        self.node = Node() if node is None else node
        self.entry = ""
        self.counters: dict[str, FakeCounter] = {}
        self.gauges: dict[str, Callable[[], float]] = {}
        self._clients = dict(clients or {})

    def counter(self, name: str, help: str, labels: tuple[str, ...] = ()) -> FakeCounter:
        """See `IPluginContext.counter`."""
        return self.counters.setdefault(name, FakeCounter(labels))

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """See `IPluginContext.gauge`."""
        self.gauges[name] = read

    def http_client(self, cluster: str) -> FakeHTTPClient:
        """See `IPluginContext.http_client`; the clusters are those of `clients`."""
        if cluster not in self._clients:
            raise ValueError(f"there is no cluster {cluster!r}")
        return self._clients[cluster]


@implementer(IProbeConnection)
class FakeProbeConnection:
    """A connection whose other end sends `pieces`, one for each `receive`, and then ends. `sent`: what was written."""

    def __init__(self, *pieces: bytes) -> None:
        self.sent = b""
        self.is_closed = False
        self._pieces = list(pieces)

    def send(self, data: bytes) -> None:
        """See `IProbeConnection.send`."""
        self.sent += data

    def receive(self) -> Deferred[bytes]:
        """See `IProbeConnection.receive`."""
        return succeed(self._pieces.pop(0) if self._pieces else b"")

    def close(self) -> None:
        """See `IProbeConnection.close`."""
        self.is_closed = True


@implementer(IProbe)
class FakeProbe:
    """A probe of an endpoint that answers requests with `answer` and connects with `connection`; either may be a `SidecarError` to fail with. `requests`:
    what was asked, as (method,
    path, headers, body)."""

    def __init__(
        self,
        answer: FakeAnswer | SidecarError | None = None,
        connection: FakeProbeConnection | SidecarError | None = None,
        *,
        address: str = "192.0.2.5:8080",
        hostname: str = "app",
        timeout_seconds: float = 1.0,
    ) -> None:
        self.cluster = "app"
        self.address = Address.parse(address)
        self.hostname = hostname
        self.timeout_seconds = timeout_seconds
        self.requests: list[tuple[bytes, bytes, Headers, bytes]] = []
        self._answer = FakeAnswer() if answer is None else answer
        self._connection = FakeProbeConnection() if connection is None else connection

    def request(self, method: bytes, path: bytes, headers: Headers | None = None, body: bytes = b"", limit_bytes: int = 65536) -> Deferred[FakeAnswer]:
        """See `IProbe.request`."""
        self.requests.append((method, path, Headers() if headers is None else headers, body))
        return fail(self._answer) if isinstance(self._answer, SidecarError) else succeed(self._answer)

    def connect(self) -> Deferred[FakeProbeConnection]:
        """See `IProbe.connect`."""
        return fail(self._connection) if isinstance(self._connection, SidecarError) else succeed(self._connection)
