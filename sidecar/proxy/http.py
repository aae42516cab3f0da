"""What all exchanges of one HTTP filter chain share: routes, plugins, clocks, accounts. Built by `sidecar.assembly`, read-only on the path."""

from __future__ import annotations

import itertools
import random
import uuid
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from sidecar.facts import ConnectionFacts
from sidecar.headers import Field, field
from sidecar.message import RequestHead
from sidecar.model import HTTPManager
from sidecar.record import Likeness

# CGI and WSGI applications cannot tell "_" from "-" in a field's name, so every spelling that they would read as x-forwarded-client-cert is the same field to
# us.
CERTIFICATE_NAMES = frozenset(b"x%cforwarded%cclient%ccert" % dashes for dashes in itertools.product(b"-_", repeat=3))


class Caller:
    """One downstream connection as its exchanges see it, with the fields that every request of it gets rendered once."""

    __slots__ = ("added", "facts", "forwarded_client_cert", "forwarded_for", "forwarded_proto", "identity", "peer", "peer_text")

    def __init__(self, facts: ConnectionFacts, settings: HTTPManager) -> None:
        self.facts = facts
        self.peer = facts.peer.host or str(facts.peer)
        self.peer_text = str(facts.peer)
        tls = facts.tls
        # None: in the clear.
        self.identity = None if tls is None else tls.peer_identity
        self.forwarded_client_cert: Field | None = None
        if settings.forwarded_client_cert == "set" and tls is not None and tls.forwarded_client_cert:
            self.forwarded_client_cert = field(b"x-forwarded-client-cert", tls.forwarded_client_cert)
        self.forwarded_for: Field | None = None
        if settings.forwarded_for and not facts.peer.is_unix:
            self.forwarded_for = field(b"X-Forwarded-For", self.peer.encode())
        self.forwarded_proto = field(b"x-forwarded-proto", b"http" if tls is None else b"https")
        # What a request is given that has none of these fields.
        self.added = [each for each in (self.forwarded_client_cert, self.forwarded_for, self.forwarded_proto) if each is not None]


class HTTPRuntime:
    """One `HTTPManager`, compiled. Also the tally of what is running and what was done, as plain integers for the admin pages."""

    __slots__ = (
        "access_logs",
        "active",
        "bad_requests",
        "clock",
        "draining",
        "exporters",
        "find_route",
        "gate",
        "keeps_certificate",
        "likenesses",
        "line_logs",
        "log",
        "name",
        "normalize_path",
        "number",
        "observe",
        "requests",
        "sample",
        "seconds",
        "settings",
        "stale_retries",
        "tracer",
        "tunnel_octets",
        "tunnels",
        "tunnels_opened",
        "upgrades",
        "wants_record",
        "wheel",
    )  # fmt: skip

    def __init__(self, name: str, settings: HTTPManager, clock: Any, wheel: Any) -> None:
        self.name = name
        self.settings = settings
        self.clock = clock
        self.seconds: Callable[[], float] = clock.seconds
        self.wheel = wheel
        self.log = Logger(namespace="sidecar.http")
        self.find_route: Callable[[RequestHead], Any] = lambda head: None
        self.normalize_path: Callable[[bytes], bytes | None] = lambda path: path
        # Steps; those that are `ILineLog`s are called for each exchange with the two parts of its record, the others with all of it.
        self.access_logs: tuple[Any, ...] = ()
        self.line_logs: tuple[Any, ...] = ()
        # What exchanges were like, by all that makes it out; see `record.likeness_of`.
        self.likenesses: dict[Any, Likeness] = {}
        self.tracer: Any = None
        self.exporters: tuple[Any, ...] = ()
        self.sample = 1.0
        # observe(exchange, duration seconds): counts a finished exchange
        self.observe: Callable[[Any, float], None] = lambda exchange, duration: None
        self.wants_record = False
        self.upgrades = frozenset(name.lower().encode() for name in settings.upgrades)
        self.keeps_certificate = settings.forwarded_client_cert == "keep"
        self.draining = False
        # `overload.Gate`: asked for every request, while there is anything to ask.
        self.gate: Any = None
        self.number = 0
        self.active = 0
        self.requests = 0
        self.bad_requests = 0
        self.stale_retries = 0
        # Tunnels that are open, how many there were of each protocol, and the octets (from clients, to clients) of those that are closed.
        self.tunnels: set[Any] = set()
        self.tunnels_opened: dict[str, int] = {}
        self.tunnel_octets = (0, 0)

    def caller(self, facts: ConnectionFacts) -> Caller:
        """What exchanges of this connection need of it."""
        return Caller(facts, self.settings)

    def tunnel_opened(self, exchange: Any, protocol: str) -> None:
        """An exchange became a tunnel. `protocol`: one of those configured, or "connect"."""
        self.tunnels.add(exchange)
        self.tunnels_opened[protocol] = self.tunnels_opened.get(protocol, 0) + 1

    def tunnel_closed(self, exchange: Any) -> None:
        """It is over."""
        if exchange in self.tunnels:
            self.tunnels.discard(exchange)
            received, sent = self.tunnel_octets
            self.tunnel_octets = (received + exchange.request_bytes, sent + exchange.response_bytes)

    def octets_of_tunnels(self) -> tuple[int, int]:
        """(from clients, to clients), those of open tunnels included."""
        received, sent = self.tunnel_octets
        return received + sum(each.request_bytes for each in self.tunnels), sent + sum(each.response_bytes for each in self.tunnels)


# 74 random bits for the process, and a count that begins anywhere: as different from all others as 122 random bits for each, at a tenth of the cost.
_PREFIX = str(uuid.uuid4())[:24].encode()
_counter = itertools.count(random.SystemRandom().getrandbits(40))
_ENDS = tuple(b"%02x" % number for number in range(256))
_ids: list[bytes] = []  # of which nobody has had one


def new_request_id() -> bytes:
    """A UUID (the form of RFC 9562, version 4) as text. Not a secret: it only tells requests apart."""
    if not _ids:
        begin = b"%b%010x" % (_PREFIX, next(_counter) & 0xFFFFFFFFFF)
        _ids.extend([begin + end for end in _ENDS])
    return _ids.pop()
