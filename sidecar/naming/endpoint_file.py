"""Endpoints out of a file in JSON or YAML, whole or refused with line and column.

    endpoints:
      - 10.0.0.5:8080
      - {address: 10.0.0.6:8080, weight: 2, priority: 1, locality: {region: eu, zone: eu-1a}, metadata: {version: v2}, health: draining, hostname: p2}

or just the list. Fields are those of `model.Endpoint`. Good JSON is read in one go, which takes milliseconds for ten thousand endpoints; everything else is
walked node by node, in steps, because YAML takes a hundred times as long and because only nodes know where they stand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, get_args

import msgspec
import yaml
from msgspec import Meta, Struct
from yaml.events import AliasEvent, MappingEndEvent, MappingStartEvent, NodeEvent, ScalarEvent, SequenceEndEvent, SequenceStartEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from sidecar.address import Address
from sidecar.model import Endpoint, Health, Locality
from sidecar.naming.places import SLICE_ITEMS, Steps, sliced

MAX_DEPTH = 8  # the form has four levels
MAX_WEIGHT = 1_000_000
MAX_PRIORITY = 128  # Envoy: LocalityLbEndpoints.priority
# What a person mends at a time; the rest is counted.
PROBLEMS_SHOWN = 5


class _Place(Struct, frozen=True, forbid_unknown_fields=True):
    region: str = ""
    zone: str = ""
    sub_zone: str = ""


class _Entry(Struct, frozen=True, forbid_unknown_fields=True):
    address: str
    weight: Annotated[int, Meta(ge=0, le=MAX_WEIGHT)] = 1
    priority: Annotated[int, Meta(ge=0, le=MAX_PRIORITY)] = 0
    locality: _Place | None = None
    metadata: dict[str, str] = {}
    health: Health = "healthy"
    hostname: str = ""


class _Whole(Struct, frozen=True, forbid_unknown_fields=True):
    endpoints: list[msgspec.Raw]


_WHOLE = msgspec.json.Decoder(_Whole)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_ENTRY: msgspec.json.Decoder[_Entry | str] = msgspec.json.Decoder(_Entry | str)


def parse(content: bytes) -> Steps[tuple[Endpoint, ...]]:
    """The endpoints in a file's `content`. Raises `ValueError` with "line:column: sentence" of the first thing that is wrong, and how many more are."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise ValueError(f"{line}:{column}: expected UTF-8 text") from None
    bare = text.lstrip()
    if bare[:1] in ("{", "["):
        yield  # each of the two takes some milliseconds for ten thousand endpoints
        try:
            entries = _WHOLE.decode(bare).endpoints if bare[0] == "{" else _LIST.decode(bare)
            found = yield from _converted(entries)
        except ValueError:  # msgspec's errors, too; the walk tells where
            pass
        else:
            return found
        text = text.replace("\t", " ")  # within JSON a tab is a space; YAML allows none there
    return (yield from _walked(text))


# -- good JSON -------------------------------------------------------------------------------------------------------------------------------


def _converted(entries: Iterable[msgspec.Raw]) -> Steps[tuple[Endpoint, ...]]:
    endpoints: list[Endpoint] = []
    taken: set[Address] = set()
    for piece in sliced(entries):
        made = [_endpoint(_ENTRY.decode(each)) for each in piece]
        taken.update(each.address for each in made)
        endpoints += made
        yield
    if len(taken) < len(endpoints):
        raise ValueError("an address stands here twice")
    return tuple(endpoints)


def _endpoint(entry: _Entry | str) -> Endpoint:
    if isinstance(entry, str):
        return Endpoint(address=_address(entry))
    place = entry.locality
    return Endpoint(
        address=_address(entry.address),
        weight=entry.weight,
        priority=entry.priority,
        locality=None if place is None else Locality(region=place.region, zone=place.zone, sub_zone=place.sub_zone),
        metadata=entry.metadata,
        health=entry.health,
        hostname=entry.hostname,
    )


def _address(text: str) -> Address:
    address = Address.parse(text)
    if not address.is_unix and address.port == 0:
        raise ValueError("nothing can be connected to at port 0")
    return address


# -- nodes with their places -----------------------------------------------------------------------------------------------------------------


def _walked(text: str) -> Steps[tuple[Endpoint, ...]]:
    taken = _Taken()
    root = yield from _composed(text, taken)
    try:
        _check_root(root)
    except _Problem as problem:
        raise ValueError(str(problem)) from None
    if taken.problems:
        more = len(taken.problems) - PROBLEMS_SHOWN
        raise ValueError("; ".join(taken.problems[:PROBLEMS_SHOWN]) + (f"; and {more} more" if more > 0 else ""))
    return tuple(taken.endpoints)


class _Problem(Exception):
    """Something wrong at a node."""

    def __init__(self, node: Node, sentence: str) -> None:
        super().__init__(f"{node.start_mark.line + 1}:{node.start_mark.column + 1}: {sentence}")


class _Taken:
    """Endpoints made of nodes, and what was wrong with some."""

    def __init__(self) -> None:
        self.endpoints: list[Endpoint] = []
        self.problems: list[str] = []
        self._lines: dict[Address, int] = {}

    def take(self, node: Node) -> None:
        """One item of the list."""
        try:
            endpoint = _one(node)
            line = self._lines.setdefault(endpoint.address, node.start_mark.line + 1)
            if len(self._lines) == len(self.endpoints):
                raise _Problem(node, f"the address {endpoint.address} stands here twice, first in line {line}")
            self.endpoints.append(endpoint)
        except _Problem as problem:
            self.problems.append(str(problem))


def _composed(text: str, taken: _Taken) -> Steps[Node | None]:
    """The first document's root node; aliases are the nodes that they name. PyYAML composes at one go only, so its events are put together here. Items of the
    list are taken as they end and not kept: half a million nodes would make the collector stop everything for a tenth of a second.
    """
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    stack: list[tuple[Node, list[Node]]] = []
    anchors: dict[str, Node] = {}
    try:
        for count, event in enumerate(yaml.parse(text, Loader=loader), 1):
            if count % SLICE_ITEMS == 0:
                yield
            node = _begun(event, anchors)
            if isinstance(event, SequenceStartEvent | MappingStartEvent):
                assert node is not None
                if len(stack) >= MAX_DEPTH:
                    raise ValueError(f"{_mark(event)}: nested more than {MAX_DEPTH} deep")
                stack.append((node, []))
                continue
            if isinstance(event, SequenceEndEvent | MappingEndEvent):
                node, children = stack.pop()
                node.value = children if isinstance(node, SequenceNode) else list(zip(children[::2], children[1::2], strict=True))
            if node is None:
                continue  # the stream's and document's own
            if not stack:
                return node
            if _is_list(stack):
                taken.take(node)
            else:
                stack[-1][1].append(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = ", ".join(each for each in (error.context, error.problem) if each) or "not YAML"
        raise ValueError(f"{mark.line + 1 if mark else 1}:{mark.column + 1 if mark else 1}: {message}") from None
    except yaml.reader.ReaderError as error:
        raise ValueError(f"1:1: {error.reason} (character {error.position + 1} of the file)") from None
    return None


def _is_list(stack: list[tuple[Node, list[Node]]]) -> bool:
    """Is the innermost open node the list of endpoints: the root, or what stands there under `endpoints`?"""
    if not isinstance(stack[-1][0], SequenceNode):
        return False
    if len(stack) == 1:
        return True
    keys = stack[0][1]
    return len(stack) == 2 and len(keys) % 2 == 1 and isinstance(keys[-1], ScalarNode) and keys[-1].value == "endpoints"


def _begun(event: Any, anchors: dict[str, Node]) -> Node | None:
    """The node that an event stands for or begins; None for other events."""
    if not isinstance(event, NodeEvent):
        return None
    if isinstance(event, AliasEvent):
        if event.anchor not in anchors:
            raise ValueError(f"{_mark(event)}: there is no anchor {event.anchor!r} before this")
        return anchors[event.anchor]
    node: Node
    start: Any = event.start_mark
    end: Any = event.end_mark
    if isinstance(event, ScalarEvent):
        node = ScalarNode("", event.value, start, end, style=event.style)
    elif isinstance(event, SequenceStartEvent):
        node = SequenceNode("", [], start, end)
    else:
        assert isinstance(event, MappingStartEvent)
        node = MappingNode("", [], start, end)
    if event.anchor is not None:
        anchors[event.anchor] = node
    return node


def _mark(event: Any) -> str:
    return f"{event.start_mark.line + 1}:{event.start_mark.column + 1}"


def _check_root(root: Node | None) -> None:
    """Is it a list, or a mapping with one under `endpoints`? Raises `_Problem` or `ValueError`."""
    if root is None:
        raise ValueError("1:1: the file is empty; expected a list of endpoints")
    if isinstance(root, MappingNode):
        listed = _fields(root, ("endpoints",)).get("endpoints")
        if listed is None:
            raise _Problem(root, "the key 'endpoints' is missing: a list")
        root = listed
    if isinstance(root, ScalarNode) and not root.value.strip() and not root.style:
        raise _Problem(root, "expected a list of endpoints, got nothing; write [] for none")
    if not isinstance(root, SequenceNode):
        raise _Problem(root, f"expected a list of endpoints, got {_what(root)}")


def _one(node: Node) -> Endpoint:
    if isinstance(node, ScalarNode):
        return Endpoint(address=_address_of(node))
    if not isinstance(node, MappingNode):
        raise _Problem(node, f"expected an address or a mapping, got {_what(node)}")
    fields = _fields(node, Endpoint.__struct_fields__)
    if "address" not in fields:
        raise _Problem(node, "the key 'address' is missing: HOST:PORT, [IPV6]:PORT or unix:/PATH")
    made: dict[str, Any] = {"address": _address_of(fields["address"])}
    for key, most in (("weight", MAX_WEIGHT), ("priority", MAX_PRIORITY)):
        if key in fields:
            made[key] = _number(fields[key], most)
    if "health" in fields:
        made["health"] = _text(fields["health"])
        if made["health"] not in get_args(Health):
            raise _Problem(fields["health"], f"expected one of {', '.join(get_args(Health))}, got {made['health']!r}")
    if "hostname" in fields:
        made["hostname"] = _text(fields["hostname"])
    if "metadata" in fields:
        made["metadata"] = _texts(fields["metadata"], None)
    if "locality" in fields and not _is_null(fields["locality"]):
        made["locality"] = Locality(**_texts(fields["locality"], Locality.__struct_fields__))
    return Endpoint(**made)


def _fields(node: MappingNode, known: Iterable[str] | None) -> Mapping[str, Node]:
    found: dict[str, Node] = {}
    names = None if known is None else tuple(known)
    for key, value in node.value:
        if not isinstance(key, ScalarNode):
            raise _Problem(key, f"expected a name as key, got {_what(key)}")
        if names is not None and key.value not in names:
            raise _Problem(key, f"unknown key {key.value!r}; expected {', '.join(names)}")
        if key.value in found:
            raise _Problem(key, f"the key {key.value!r} stands here twice")
        found[key.value] = value
    return found


def _texts(node: Node, known: Iterable[str] | None) -> dict[str, str]:
    if not isinstance(node, MappingNode):
        raise _Problem(node, f"expected a mapping, got {_what(node)}")
    return {key: _text(value) for key, value in _fields(node, known).items()}


def _text(node: Node) -> str:
    """Text as it is written: `version: 1.10` needs no quotes."""
    if not isinstance(node, ScalarNode):
        raise _Problem(node, f"expected a string, got {_what(node)}")
    return str(node.value)


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and not node.style and node.value in ("", "~", "null")


def _number(node: Node, most: int) -> int:
    text = _text(node)
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= most):
        raise _Problem(node, f"expected an integer from 0 to {most}, got {text!r}")
    return int(text)


def _address_of(node: Node) -> Address:
    try:
        return _address(_text(node))
    except ValueError as error:
        raise _Problem(node, str(error)) from None


def _what(node: Node) -> str:
    if isinstance(node, ScalarNode):
        return f"{node.value[:60]!r}" if node.value or node.style else "nothing"
    return "a list" if isinstance(node, SequenceNode) else "a mapping"
