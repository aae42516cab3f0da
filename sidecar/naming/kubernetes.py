"""EndpointSlices (discovery.k8s.io/v1) and the events of a watch made into endpoints.

Shapes: Kubernetes API reference, "EndpointSlice"; lists in pieces, bookmarks and 410 Gone: Kubernetes documentation, "Kubernetes API Concepts". What conditions
mean: "EndpointSlices", section Conditions: unknown `ready` counts as ready, unknown `serving` is as `ready`, and a terminating endpoint is never ready.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import attrs
import msgspec
from msgspec import Struct, field

from sidecar.address import Address
from sidecar.model import Endpoint, Locality
from sidecar.naming.places import Steps, make_address, sliced

AddressFamily = Literal["auto", "IPv4", "IPv6"]
MAX_SLICES = 10_000  # of one service: a million endpoints of the usual slices; what a watch tells of must not fill the memory


class _Meta(Struct):
    name: str = ""
    version: str = field(name="resourceVersion", default="")
    more: str = field(name="continue", default="")


class _Conditions(Struct):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Target(Struct):
    name: str = ""


class _Endpoint(Struct):
    addresses: list[str] | None = None
    conditions: _Conditions | None = None
    hostname: str | None = None
    zone: str | None = None
    node: str | None = field(name="nodeName", default=None)
    target: _Target | None = field(name="targetRef", default=None)


class _Port(Struct):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class Slice(Struct):
    """One EndpointSlice, as far as it is looked at."""

    metadata: _Meta
    address_type: str = field(name="addressType", default="IPv4")
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None


class _List(Struct):
    metadata: _Meta
    items: list[Slice] | None = None


class _Status(Struct):
    code: int = 0
    reason: str = ""
    message: str = ""


class _Event(Struct):
    type: str
    object: msgspec.Raw


_LIST = msgspec.json.Decoder(_List)
_EVENT = msgspec.json.Decoder(_Event)
_SLICE = msgspec.json.Decoder(Slice)
_STATUS = msgspec.json.Decoder(_Status)


@attrs.frozen
class Page:
    """One piece of a list. `more`: what to ask for the next one with, "" at the end. `version`: what a watch begins after."""

    slices: tuple[Slice, ...]
    version: str
    more: str


@attrs.frozen
class Event:
    """One event of a watch. `kind`: put, delete, bookmark, or refused with the `code` and `message` of a Status. `version`: to watch on after it."""

    kind: Literal["put", "delete", "bookmark", "refused"]
    slice: Slice | None = None
    version: str = ""
    code: int = 0
    message: str = ""


def parse_page(content: bytes) -> Page:
    """A list's body. Raises `ValueError` when it is none."""
    try:
        found = _LIST.decode(content)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a list of EndpointSlices: {error}") from None
    return Page(tuple(found.items or ()), found.metadata.version, found.metadata.more)


def parse_event(line: bytes) -> Event:
    """A line of a watch. Raises `ValueError` when it is none; of a type that nobody knows yet it counts as a bookmark without version."""
    try:
        event = _EVENT.decode(line)
        if event.type == "ERROR":
            status = _STATUS.decode(event.object)
            return Event("refused", code=status.code, message=status.message or status.reason)
        found = _SLICE.decode(event.object)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not an event of a watch: {error}") from None
    version = found.metadata.version
    if event.type in ("ADDED", "MODIFIED"):
        return Event("put", found, version)
    if event.type == "DELETED":
        return Event("delete", found, version)
    return Event("bookmark", version=version)


def parse_refusal(content: bytes, status: int) -> str:
    """What the body of an answer with an error status says, in words."""
    try:
        return _STATUS.decode(content).message or f"status {status}"
    except msgspec.MsgspecError:
        return f"status {status}"


@attrs.frozen
class _Found:
    endpoint: Endpoint
    is_ready: bool
    is_serving: bool


class Slices:
    """The slices of one service, and the endpoints that they make. `port`: its name or number; None for the only one. `region`: what slices do not tell."""

    def __init__(self, port: str | int | None, family: AddressFamily, region: str = "") -> None:
        self._port = port
        self._family = family
        self._region = region
        self._found: dict[str, tuple[str, list[_Found]]] = {}
        # Those that have endpoints and not the port that is meant: name -> which ports they have.
        self._portless: dict[str, str] = {}
        # A sentence for each slice of which something could not be used.
        self.problems: dict[str, str] = {}

    def replaced(self, slices: list[Slice]) -> Steps[None]:
        """These and no others. What was known stays until all are converted. Raises `ValueError` when the port that is meant is nowhere."""
        problems: dict[str, str] = {}
        portless: dict[str, str] = {}
        found = {}
        for each in slices:
            found[each.metadata.name] = (each.address_type, (yield from self._converted(each, problems, portless)))
        _check_ports(found, portless)
        self._found, self._portless, self.problems = found, portless, problems | portless

    def put(self, changed: Slice) -> Steps[None]:
        """This one is new, or changed. Raises `ValueError` when the port that is meant is then nowhere."""
        name = changed.metadata.name
        problems: dict[str, str] = {}
        portless = {key: sentence for key, sentence in self._portless.items() if key != name}
        found = {**self._found, name: (changed.address_type, (yield from self._converted(changed, problems, portless)))}
        if len(found) > MAX_SLICES:
            raise ValueError(f"the service has more than {MAX_SLICES} slices")
        _check_ports(found, portless)
        self.problems.pop(name, None)
        self.problems |= problems | portless
        self._found, self._portless = found, portless

    def delete(self, gone: Slice) -> None:
        """This one is gone."""
        self._found.pop(gone.metadata.name, None)
        self._portless.pop(gone.metadata.name, None)
        self.problems.pop(gone.metadata.name, None)

    def endpoints(self) -> tuple[Endpoint, ...]:
        """All of them, each address once (while slices are rearranged, an endpoint may stand in two). Terminating ones drain; without any that is ready they
        serve on, as with Kubernetes' own proxy: a service whose last instances go should fail no sooner than they.
        """
        ready: dict[Address, Endpoint] = {}
        leaving: dict[Address, Endpoint] = {}
        for each in self._all():
            if each.is_ready:
                ready[each.endpoint.address] = each.endpoint
            elif each.is_serving:
                leaving[each.endpoint.address] = each.endpoint
        if not ready:
            return tuple(leaving.values())
        drain = msgspec.structs.replace
        return (*ready.values(), *(drain(each, health="draining") for address, each in leaving.items() if address not in ready))

    def _all(self) -> Iterator[_Found]:
        family = self._family
        if family == "auto":
            # A pod of a service with both families stands in a slice of each, and is one endpoint all the same.
            family = "IPv4" if any(kind == "IPv4" and found for kind, found in self._found.values()) else "IPv6"
        for kind, found in self._found.values():
            if kind == family:
                yield from found

    def _converted(self, each: Slice, problems: dict[str, str], portless: dict[str, str]) -> Steps[list[_Found]]:
        found: list[_Found] = []
        if each.address_type not in ("IPv4", "IPv6"):
            problems[each.metadata.name] = f"slice {each.metadata.name}: addresses of the type {each.address_type!r} are not supported"
            return found
        if not each.endpoints:
            return found  # which may have no ports either
        try:
            port = self._port_of(each)
        except ValueError as error:
            portless[each.metadata.name] = str(error)
            return found
        for piece in sliced(each.endpoints):
            for endpoint in piece:
                try:
                    made = _converted(endpoint, port, self._region)
                except ValueError as error:
                    problems[each.metadata.name] = f"slice {each.metadata.name}: {error}"
                else:
                    if made is not None:
                        found.append(made)
            yield
        return found

    def _port_of(self, each: Slice) -> int:
        """The port that is meant, of those that the slice has. Raises `ValueError` with a sentence that lists them."""
        ports = [port for port in each.ports or () if port.port is not None and port.protocol in (None, "TCP")]
        meant = [port for port in ports if self._port is None or self._port in (port.name or "", port.port)]
        if len(meant) == 1:
            assert meant[0].port is not None
            return meant[0].port
        listed = ", ".join(f"{port.name or '(no name)'} {port.port}" for port in ports) or "none"
        wanted = "one port, or the name of one as `port`" if self._port is None else f"the port {self._port!r}"
        raise ValueError(f"expected {wanted}; slice {each.metadata.name} has: {listed}")


def _check_ports(found: Mapping[str, tuple[str, list[_Found]]], portless: Mapping[str, str]) -> None:
    """Pods without the port are left out beside others that have it: a new version may lack it, and the old one must not be stuck with endpoints that are gone.
    Where none has it, it is a mistake, and no reason to serve nobody. Raises `ValueError`.
    """
    if portless and not any(endpoints for _, endpoints in found.values()):
        raise ValueError(next(iter(portless.values())))


def _converted(endpoint: _Endpoint, port: int, region: str) -> _Found | None:
    """None for one that gets no requests: not ready, and not ending in good order either."""
    conditions = endpoint.conditions or _Conditions()
    is_ending = bool(conditions.terminating)
    is_ready = conditions.ready is not False and not is_ending
    serving = conditions.serving if conditions.serving is not None else conditions.ready is not False
    if not endpoint.addresses or not (is_ready or (is_ending and serving)):
        return None
    pod = endpoint.target.name if endpoint.target is not None else ""
    metadata = {key: value for key, value in (("pod", pod), ("node", endpoint.node)) if value}
    made = Endpoint(
        address=make_address(endpoint.addresses[0], port),  # the others mean the same; "EndpointSlice" says that clients use the first
        locality=None if not endpoint.zone else Locality(region=region, zone=endpoint.zone),
        metadata=metadata,
        hostname=endpoint.hostname or pod,
    )
    return _Found(made, is_ready, serving)
