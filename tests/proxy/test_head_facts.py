"""What the proxy reads in a request's fields, and that it is not read twice, nor kept when a filter changed it."""

from __future__ import annotations

from typing import Any

import pytest
from zope.interface import implementer

from sidecar.codec.known import KnownFields
from sidecar.headers import Headers
from sidecar.interfaces import IRequestHeadHook
from sidecar.message import RequestHead
from sidecar.proxy.head_facts import HeadFacts, facts_of, learn
from tests.memory import World
from tests.proxy.test_hints import Hinted

Pairs = list[tuple[bytes, bytes]]


@pytest.mark.parametrize(
    ("pairs", "facts"),
    [
        ([], HeadFacts()),
        ([(b"Accept", b"*/*")], HeadFacts()),
        ([(b"Content-Type", b"application/grpc")], HeadFacts(speaks_grpc=True)),
        ([(b"Content-Type", b"application/grpc+proto")], HeadFacts(speaks_grpc=True)),
        ([(b"Content-Type", b"application/grpc-web")], HeadFacts()),
        ([(b"Content-Type", b"text/plain"), (b"Content-Type", b"application/grpc")], HeadFacts()),
        ([(b"grpc-timeout", b"250m")], HeadFacts(call_timeout=0.25)),
        ([(b"grpc-timeout", b"soon")], HeadFacts()),
        ([(b"User-Agent", b"caf\xe9"), (b"User-Agent", b"other")], HeadFacts(agent="café")),
        ([(b"x-envoy-expected-rq-timeout-ms", b"5")], HeadFacts(expects_time=True)),
    ],
)
def test_facts(pairs: Pairs, facts: HeadFacts) -> None:
    """Of several fields with one name the first counts; what breaks its grammar is not there."""
    assert facts_of(Headers.of(pairs).fields) == facts


@pytest.mark.parametrize("name", [b"X-Forwarded-For", b"x-forwarded-proto", b"x-request-id", b"X-Forwarded-Client-Cert", b"x_forwarded_client-cert"])
def test_what_hops_tell(name: bytes) -> None:
    """Found in whatever spelling, each time that it is there."""
    fields = Headers.of([(b"Accept", b"*/*"), (name, b"1"), (b"User-Agent", b"a"), (name, b"2")]).fields
    assert facts_of(fields).forwarded == [fields[1], fields[3]]


def test_known_fields_are_read_once() -> None:
    """What was read stays with them, whatever became of one request's own fields."""
    known = KnownFields(Headers.of([(b"User-Agent", b"a")]).fields)
    request = RequestHead(b"GET", b"/", b"app", Headers([]), known=known)
    facts = learn(request)
    assert facts.agent == "a" and known.facts is facts


@implementer(IRequestHeadHook)
class Renamed:
    """Filter: other fields than the client sent."""

    def request_head(self, exchange: Any) -> None:
        headers = exchange.request.headers
        headers.set(b"User-Agent", b"renamed")
        headers.add(b"x-envoy-expected-rq-timeout-ms", b"7")
        headers.set(b"Content-Type", b"application/grpc")


def test_a_filters_changes_count() -> None:
    """Records, counts of calls and the time that is told go by the fields as filters left them, for each request of a client that repeats itself."""
    world = Hinted("pass", plugins=(Renamed(),))
    for attempt in range(3):
        _, app = world.send(b"POST /a HTTP/1.1\r\nHost: app\r\nUser-Agent: curl\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n")
        head = bytes(app.written).lower()
        assert head.count(b"x-envoy-expected-rq-timeout-ms: 15000\r\n") == head.count(b"x-envoy-expected-rq-timeout-ms") == attempt + 1
        app.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert world.records[-1].user_agent == "renamed" and world.records[-1].grpc_status is not None


def test_a_routes_changes_count() -> None:
    """The same of what the route sets."""
    world = World()
    world.route.edit_request = lambda headers: headers.set(b"User-Agent", b"edited")
    _, app = world.send(b"GET /a HTTP/1.1\r\nHost: app\r\nUser-Agent: curl\r\n\r\n")
    app.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert world.records[-1].user_agent == "edited"
