"""What exchanges that are alike share, and that nothing is shared by those that are not."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from msgspec.structs import asdict

from sidecar.errors import UpstreamReset
from sidecar.facts import Principal, TLSFacts
from sidecar.message import ResponseHead
from sidecar.proxy import record
from sidecar.proxy.grpc_call import GRPCCall
from sidecar.proxy.record import LIKENESS_OCTETS, LIKENESSES, likeness_of
from sidecar.record import CommonFields, ExchangeRecord, OwnFields
from tests.memory import OK, World


def test_the_record_is_both_parts() -> None:
    """In their order, so that a line written in two parts is the line of the whole."""
    assert ExchangeRecord.__struct_fields__ == CommonFields.__struct_fields__ + OwnFields.__struct_fields__


def ended(path: str = "/a", agent: str = "curl") -> Any:
    """An exchange that went well, with the world that it is of."""
    world = World()
    return world, ask(world, path, agent)


def ask(world: World, path: str = "/a", agent: str = "curl") -> Any:
    _, app = world.send(f"GET {path} HTTP/1.1\r\nHost: app\r\nUser-Agent: {agent}\r\n\r\n".encode())
    app.receive(OK)
    return world.exchanges[-1]


def test_those_alike_share() -> None:
    """Whatever each has for itself."""
    world, first = ended()
    world.clock.advance(1)
    second = ask(world)
    assert first.likeness is second.likeness and first.request_id != second.request_id
    one, other = (asdict(each) for each in world.records)
    assert {name for name in one if one[name] != other[name]} <= set(OwnFields.__struct_fields__)
    assert [one[name] for name in ("method", "path", "status", "user_agent", "grpc_status")] == ["GET", "/a", 200, "curl", None]


CHANGES: list[tuple[str, Any]] = [
    ("path", b"/b"),
    ("route_name", "other"),
    ("cluster_name", "other"),
    ("endpoint_text", "192.0.2.1:1"),
    ("response", ResponseHead(404, None)),  # type: ignore[arg-type]
    ("_response_sent", False),
    ("principal", Principal("someone")),
    ("upstream_tls", TLSFacts(peer_identity="spiffe://a/b")),
    ("upstream_tls", TLSFacts()),
    ("grpc", GRPCCall(status=0)),
    ("grpc", GRPCCall(status=5)),
    ("grpc", GRPCCall()),
]


@pytest.mark.parametrize("changes", [*combinations(CHANGES, 1), *combinations(CHANGES, 2)])
def test_those_unlike_do_not(changes: tuple[tuple[str, Any], ...]) -> None:
    """Every field of the record is of the exchange itself, though there were others like it but for one or two things."""
    _, exchange = ended()
    before = exchange.likeness
    for name, value in changes:
        setattr(exchange, name, value)
    found = likeness_of(exchange)
    assert found is not before
    assert asdict(found.fields) == asdict(record._common_fields(exchange))
    assert found is likeness_of(exchange)


@pytest.mark.parametrize(("path", "agent"), [("/b", "curl"), ("/a", "wget"), ("/a?b", "curl")])
def test_what_clients_say_counts(path: str, agent: str) -> None:
    world, first = ended()
    second = ask(world, path, agent)
    assert second.likeness is not first.likeness
    assert (second.likeness.fields.path, second.likeness.fields.user_agent) == (path, agent)


def test_failures_are_not_kept() -> None:
    """Their sentences differ; nor what has flags."""
    world, exchange = ended()
    kept = len(world.http.likenesses)
    exchange.flags = "X"
    assert likeness_of(exchange) is not likeness_of(exchange) and likeness_of(exchange).fields.flags == "X"
    exchange.error = UpstreamReset("gone")
    assert likeness_of(exchange).fields.flags == "UR,X" and likeness_of(exchange).fields.detail == "gone"
    assert len(world.http.likenesses) == kept


def test_clients_cannot_fill_memory() -> None:
    """Long ones are not kept, and of short ones no more than the limit."""
    world, exchange = ended()
    for number in range(LIKENESSES + 10):
        exchange.path = b"/%d" % number
        likeness_of(exchange)
    assert len(world.http.likenesses) <= LIKENESSES
    world.http.likenesses.clear()
    exchange.path = b"/" * LIKENESS_OCTETS
    likeness_of(exchange)
    assert not world.http.likenesses


@pytest.mark.parametrize(("part", "value"), [("principal", 5), ("principal", []), ("trace", object()), ("request.method", "GET"), ("request.authority", None)])
def test_what_cannot_be_recorded_is_left_out(part: str, value: Any) -> None:
    """A plugin's mistake costs what it assigned, and not the record: filters that count exchanges in and out are told of the end of each."""
    world = World()
    _, app = world.send(b"GET /a HTTP/1.1\r\nHost: app\r\n\r\n")
    exchange = world.exchanges[0]
    if part.startswith("request."):
        setattr(exchange.request, part[8:], value)
    else:
        setattr(exchange, part, value)
    app.receive(OK)
    world.ended_once(200)
    assert world.records[0].path == "/a" and world.records[0].principal == ""
