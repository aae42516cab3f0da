"""Consul's answers to /v1/health/service/NAME made into endpoints, and the rules of its blocking queries.

Shapes and rules: Consul's HTTP API documentation, "Health HTTP Endpoint" and "Blocking Queries".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec
from msgspec import Struct

from sidecar.model import Endpoint, Locality
from sidecar.naming.places import Steps, make_address, sliced

# Between two entries of Consul's compact JSON. Where these octets stand in JSON without spaces they are structure: inside a string a quotation mark has a
# backslash before it. (Checks have a "Node" as well, but that is a string.)
_BETWEEN = b'},{"Node":{'
# Octets decoded between two chances for the event loop: about two milliseconds.
PIECE_BYTES = 512 * 1024
MAX_WEIGHT = 1_000_000
# Checks that `consul maint` adds: the operator takes the instance out on purpose.
MAINTENANCE = ("_service_maintenance:", "_node_maintenance")

Status = Literal["passing", "warning", "critical", "maintenance"]


class _Place(Struct):
    region: str = msgspec.field(name="Region", default="")
    zone: str = msgspec.field(name="Zone", default="")


class _Node(Struct):
    name: str = msgspec.field(name="Node", default="")
    address: str = msgspec.field(name="Address", default="")
    locality: _Place | None = msgspec.field(name="Locality", default=None)


class _Weights(Struct):
    passing: int = msgspec.field(name="Passing", default=1)
    warning: int = msgspec.field(name="Warning", default=1)


class _Service(Struct):
    id: str = msgspec.field(name="ID", default="")
    address: str = msgspec.field(name="Address", default="")
    port: int = msgspec.field(name="Port", default=0)
    meta: dict[str, str] | None = msgspec.field(name="Meta", default=None)
    weights: _Weights | None = msgspec.field(name="Weights", default=None)
    locality: _Place | None = msgspec.field(name="Locality", default=None)


class _Check(Struct):
    id: str = msgspec.field(name="CheckID", default="")
    status: str = msgspec.field(name="Status", default="")


class _Item(Struct):
    node: _Node = msgspec.field(name="Node")
    service: _Service = msgspec.field(name="Service")
    checks: list[_Check] | None = msgspec.field(name="Checks", default=None)


_ITEMS = msgspec.json.Decoder(list[_Item])


class ConsulEndpoints(Struct, frozen=True):
    """What an answer says. `skipped`: a sentence for each instance that cannot be connected to (a port of 0, say)."""

    endpoints: tuple[Endpoint, ...]
    skipped: tuple[str, ...]


def parse(content: bytes) -> Steps[ConsulEndpoints]:
    """The endpoints of an answer's body. Raises `ValueError` when it is not such an answer."""
    endpoints: dict[object, Endpoint] = {}
    skipped: list[str] = []
    for piece in _pieces(content):
        try:
            items = _ITEMS.decode(piece)
        except msgspec.MsgspecError as error:
            raise ValueError(f"not an answer of Consul's health API: {error}") from None
        yield
        for some in sliced(items):
            for item in some:
                try:
                    endpoint = _endpoint(item)
                except ValueError as error:
                    skipped.append(f"instance {item.service.id!r} on {item.node.name!r}: {error}")
                else:
                    endpoints.setdefault(endpoint.address, endpoint)
            yield
    return ConsulEndpoints(tuple(endpoints.values()), tuple(skipped))


def _pieces(content: bytes) -> Iterable[bytes]:
    """The array in arrays of about `PIECE_BYTES`, cut between entries; at once when it is small."""
    if len(content) <= PIECE_BYTES:
        yield content
        return
    start, lead = 0, b""
    while True:
        cut = content.find(_BETWEEN, start + PIECE_BYTES)
        if cut < 0:
            yield lead + content[start:]
            return
        yield lead + content[start : cut + 1] + b"]"
        start, lead = cut + 2, b"["


def _endpoint(item: _Item) -> Endpoint:
    service = item.service
    status = _status(item.checks or ())
    weights = service.weights or _Weights()
    place = service.locality or item.node.locality
    return Endpoint(
        address=make_address(service.address or item.node.address, service.port),
        weight=min(max(weights.warning if status == "warning" else weights.passing, 0), MAX_WEIGHT),
        locality=None if place is None else Locality(region=place.region, zone=place.zone),
        metadata=service.meta or {},
        health="draining" if status == "maintenance" else "unhealthy" if status == "critical" else "healthy",
        hostname=item.node.name,
    )


def _status(checks: Iterable[_Check]) -> Status:
    """The worst of the checks, as Consul's own clients sum them up; maintenance is a critical check of a reserved name."""
    worst: Status = "passing"
    for check in checks:
        if check.id.startswith(MAINTENANCE):
            return "maintenance"
        if check.status == "critical":
            worst = "critical"
        elif check.status == "warning" and worst == "passing":
            worst = "warning"
    return worst


def next_index(text: str | None, last: int) -> int:
    """The index to wait for after an answer with this X-Consul-Index, when the one before was `last`: 0 (ask without waiting) when there is none, when it is no
    number above zero, or when it went backwards, as it does after the servers were restored from a snapshot.
    """
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 20:
        return 0
    index = int(text)
    return 0 if index < last else index
