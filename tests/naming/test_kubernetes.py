"""EndpointSlices as endpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecar.address import Address
from sidecar.model import Endpoint, Locality
from sidecar.naming import kubernetes
from sidecar.naming.kubernetes import Slice, Slices, parse_event, parse_page, parse_refusal
from sidecar.naming.places import at_once

DATA = Path(__file__).parent.parent / "data" / "discovery"
LIST = (DATA / "kubernetes-list.json").read_bytes()
WATCH = (DATA / "kubernetes-watch.jsonl").read_bytes().splitlines()


def made(*slices: dict[str, Any], port: str | int | None = None) -> Slices:
    """The slices of these."""
    known = Slices(port, "auto")
    at_once(known.replaced([msgspec.convert(each, Slice) for each in slices]))
    return known


def one(name: str, *endpoints: dict[str, Any], ports: Any = ({"name": "http", "port": 8080},), kind: str = "IPv4") -> dict[str, Any]:
    """A slice."""
    return {"metadata": {"name": name}, "addressType": kind, "endpoints": list(endpoints), "ports": list(ports)}


def at(address: str, **conditions: bool) -> dict[str, Any]:
    """An endpoint."""
    return {"addresses": [address], "conditions": conditions}


def shown(known: Slices) -> list[tuple[str, str]]:
    """(address, health) of each."""
    return [(each.address.host, each.health) for each in known.endpoints()]


def test_a_documented_list() -> None:
    """Ready ones serve, terminating ones drain while they serve, others are none; the named port; zone, pod and node are kept."""
    page = parse_page(LIST)
    assert (page.version, page.more, len(page.slices)) == ("10245", "", 3)
    known = Slices("http", "auto")
    at_once(known.replaced(list(page.slices)))
    assert known.endpoints() == (
        Endpoint(address=Address("10.244.1.5", 8080), locality=Locality(zone="eu-1a"), metadata={"pod": "pay-7d9-x1", "node": "node-a"}, hostname="pay-7d9-x1"),
        Endpoint(address=Address("10.244.2.6", 8080), locality=Locality(zone="eu-1b"), metadata={"pod": "pay-7d9-x2", "node": "node-b"}, hostname="pay-7d9-x2"),
        Endpoint(address=Address("10.244.2.8", 8080), metadata={"node": "node-b"}, hostname="pay-0", health="draining"),
    )
    assert known.problems == {}


def test_documented_events() -> None:
    """Each kind, and the version to watch on from."""
    events = [parse_event(line) for line in WATCH]
    assert [(each.kind, each.version, each.code) for each in events] == [
        ("put", "10596", 0), ("put", "10600", 0), ("bookmark", "12746", 0), ("delete", "12800", 0), ("refused", "", 410),
    ]  # fmt: skip
    known = made(one("pay", at("10.0.0.1")))
    for event, expected in zip(
        events, (["10.0.0.1", "10.244.3.1"], ["10.0.0.1", "10.244.3.2"], ["10.0.0.1", "10.244.3.2"], ["10.0.0.1"], ["10.0.0.1"]), strict=True
    ):
        if event.kind == "put" and event.slice is not None:
            at_once(known.put(event.slice))
        elif event.kind == "delete" and event.slice is not None:
            known.delete(event.slice)
        assert [each.address.host for each in known.endpoints()] == expected


@pytest.mark.parametrize(
    ("conditions", "health"),
    [
        ({}, "healthy"),
        ({"ready": True}, "healthy"),
        ({"ready": False}, ""),
        ({"ready": False, "serving": True}, ""),
        ({"terminating": True}, "draining"),
        ({"ready": False, "terminating": True}, ""),
        ({"ready": False, "serving": True, "terminating": True}, "draining"),
        ({"ready": True, "terminating": True}, "draining"),
        ({"serving": False, "terminating": True}, ""),
    ],
)
def test_conditions(conditions: dict[str, bool], health: str) -> None:
    """Unknown is ready; serving is as ready when unknown; terminating is never ready."""
    found = dict(shown(made(one("a", at("10.0.0.1"), at("10.0.0.2", **conditions)))))
    assert found.get("10.0.0.2", "") == health


def test_regions() -> None:
    """Slices tell zones alone; the region is the one that is given."""
    known = Slices(None, "auto", "eu")
    at_once(known.replaced([msgspec.convert(one("a", {**at("10.0.0.1"), "zone": "eu-1a"}, at("10.0.0.2")), Slice)]))
    assert [each.locality for each in known.endpoints()] == [Locality(region="eu", zone="eu-1a"), None]


def test_when_all_are_leaving() -> None:
    """They serve until they are gone, as with Kubernetes' own proxy."""
    assert shown(made(one("a", at("10.0.0.1", ready=False, serving=True, terminating=True)))) == [("10.0.0.1", "healthy")]


def test_an_address_in_two_slices() -> None:
    """While slices are rearranged: it is one endpoint, ready if one of them says so."""
    leaving = at("10.0.0.1", ready=False, serving=True, terminating=True)
    assert shown(made(one("a", leaving), one("b", at("10.0.0.1"), at("10.0.0.2")))) == [("10.0.0.1", "healthy"), ("10.0.0.2", "healthy")]


def test_both_families() -> None:
    """A pod with an address of each is one endpoint: the IPv4 one, where there is any."""
    six = one("six", at("fd00::1"), kind="IPv6")
    assert shown(made(six, one("four", at("10.0.0.1")))) == [("10.0.0.1", "healthy")]
    assert shown(made(six, one("four"))) == [("fd00::1", "healthy")]


def test_ports() -> None:
    """By name or number; without either the only TCP port; else a sentence that lists them."""
    ports = (
        {"name": "http", "port": 8080, "protocol": "TCP"},
        {"name": "grpc", "port": 9090, "protocol": "TCP"},
        {"name": "dns", "port": 53, "protocol": "UDP"},
    )
    for port, expected in (("grpc", 9090), (8080, 8080)):
        assert [each.address.port for each in made(one("a", at("10.0.0.1"), ports=ports), port=port).endpoints()] == [expected]
    assert [each.address.port for each in made(one("a", at("10.0.0.1"), ports=({"name": "", "port": 80},))).endpoints()] == [80]
    with pytest.raises(ValueError, match=r"expected one port, or the name of one as `port`; slice a has: http 8080, grpc 9090"):
        made(one("a", at("10.0.0.1"), ports=ports))
    with pytest.raises(ValueError, match="expected the port 'http2'; slice a has: http 8080"):
        made(one("a", at("10.0.0.1")), port="http2")


def test_a_port_that_only_some_pods_have() -> None:
    """Those without it are left out and told of. In a rollout to a version without the port the sidecar must not be stuck with old pods that are gone."""
    new = one("new", at("10.0.0.2"), ports=({"name": "web", "port": 9090},))
    known = made(one("old", at("10.0.0.1")), new, port="http")
    assert shown(known) == [("10.0.0.1", "healthy")]
    assert known.problems == {"new": "expected the port 'http'; slice new has: web 9090"}
    at_once(known.put(msgspec.convert(one("old", at("10.0.0.3")), Slice)))
    assert shown(known) == [("10.0.0.3", "healthy")]
    assert list(known.problems) == ["new"]
    with pytest.raises(ValueError, match="expected the port 'http'; slice new has: web 9090"):
        at_once(known.put(msgspec.convert(one("old"), Slice)))
    assert shown(known) == [("10.0.0.3", "healthy")]  # nobody has it any more: a mistake, and no empty cluster
    known.delete(msgspec.convert(new, Slice))
    assert known.problems == {}
    at_once(known.put(msgspec.convert(one("old"), Slice)))
    assert shown(known) == []


def test_slices_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many a watch tells of."""
    monkeypatch.setattr(kubernetes, "MAX_SLICES", 2)
    known = made(one("a", at("10.0.0.1")), one("b", at("10.0.0.2")))
    with pytest.raises(ValueError, match="the service has more than 2 slices"):
        at_once(known.put(msgspec.convert(one("c", at("10.0.0.3")), Slice)))
    assert len(shown(known)) == 2


def test_what_cannot_be_used() -> None:
    """Is left out and told, and the rest serves."""
    known = made(one("a", at("not an address"), at("10.0.0.1"), {"addresses": []}), one("b", at("pay.example"), kind="FQDN"))
    assert shown(known) == [("10.0.0.1", "healthy")]
    assert list(known.problems.values()) == [
        "slice a: expected an IP address or a host name, got 'not an address'",
        "slice b: addresses of the type 'FQDN' are not supported",
    ]
    at_once(known.put(msgspec.convert(one("a", at("10.0.0.1")), Slice)))
    known.delete(msgspec.convert(one("b"), Slice))
    assert known.problems == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"upstream connect error", b'{"items": []}'])
def test_what_is_no_list(content: bytes) -> None:
    """An error page is not taken for an empty service."""
    with pytest.raises(ValueError, match="not a list of EndpointSlices"):
        parse_page(content)


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"type": "ADDED"}', b'{"type": "ADDED", "object": {"spec": 1}}'])
def test_what_is_no_event(line: bytes) -> None:
    """Half a line is none."""
    with pytest.raises(ValueError, match="not an event of a watch"):
        parse_event(line)


def test_refusals() -> None:
    """In the API's own words, where it has any."""
    assert parse_refusal(b'{"kind": "Status", "message": "endpointslices is forbidden"}', 403) == "endpointslices is forbidden"
    assert parse_refusal(b"<html>", 502) == "status 502"
