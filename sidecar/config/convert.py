"""The walk over the model's types that turns YAML nodes into immutable structs and collects everything that is wrong on the way.

A value that cannot be made is `FAILED` and its neighbours are still looked at, so one run finds all problems. Each struct leaves a `Record` of where it stood;
checks of one struct run at once, checks across structs (`sidecar.config.references`) read the records afterwards. What a plugin may configure is walked in the
same way: the class behind a `PluginRef` is found when its entry is met.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol, TypeVar

from msgspec import inspect as mi
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from sidecar.address import Address
from sidecar.config.document import MAP, NULL, STR, Document, describe, join, plain
from sidecar.config.expected import LISTS, SCALAR_FORMS, described, fits, is_internal, type_of
from sidecar.config.scalars import Unfit, address, scalar, secret_file, spelled
from sidecar.config.suggest import did_you_mean, listing
from sidecar.config.syntax import ENVIRONMENT_NAME
from sidecar.errors import PluginLookupFailed, Problem
from sidecar.extension import KINDS
from sidecar.model import FilterOverride, PluginRef
from sidecar.secret import Secret

_NodeT = TypeVar("_NodeT", bound=Node)

PLUGIN_USES = (PluginRef, FilterOverride)


class _Failed:
    """The value that could not be made."""

    def __repr__(self) -> str:
        return "FAILED"


FAILED: Final = _Failed()


class PluginFinder(Protocol):
    """What the walk needs of `sidecar.plugins.Finder`."""

    def load(self, kind: str, name: str, /) -> type:
        """The class behind (kind, name), or `PluginLookupFailed`."""

    def duplicates(self) -> list[str]:
        """A sentence for each (kind, name) that is declared more than once."""


class Record:
    """One struct as it stood in the file: its class, node and path, the nodes of the keys that were written, the values made of them
    (`FAILED` where none could be), and the struct around it."""

    __slots__ = ("_conversion", "cls", "field", "keys", "node", "parent", "path", "values")

    def __init__(self, conversion: Conversion, cls: type, node: Node, path: str, parent: Record | None, field: str) -> None:
        self._conversion = conversion
        self.cls = cls
        self.node = node
        self.path = path
        self.parent = parent
        self.field = field
        self.keys: dict[str, Node] = {}
        self.values: dict[str, Any] = {}

    def has(self, key: str) -> bool:
        """Was `key` written with something in it? True as well when its value is wrong."""
        return key in self.keys and self.values.get(key, FAILED) not in (None, ())

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`, or `default` when it is not there or wrong."""
        value = self.values.get(key, FAILED)
        return default if value is FAILED else value

    def problem(self, message: str, key: str = "", suggestion: str = "") -> None:
        """Something is wrong with the value of `key`, or with the whole."""
        node = self.keys.get(key)
        if node is None:
            self._conversion.report(self.node, message, self.path, suggestion)
        else:
            self._conversion.report(node, message, join(self.path, key), suggestion)

    def texts(self, key: str) -> Iterator[tuple[str, Callable[[str], None]]]:
        """Each string beneath `key` (itself, or the items of its list), and what to call with a message about it."""
        node = self.keys.get(key)
        broken = self._conversion.document.broken
        if isinstance(node, ScalarNode) and node.tag != NULL and id(node) not in broken:
            yield node.value, self._reporter(node, join(self.path, key))
        elif isinstance(node, SequenceNode):
            for index, item in enumerate(node.value):
                if isinstance(item, ScalarNode) and id(item) not in broken:
                    yield item.value, self._reporter(item, f"{join(self.path, key)}[{index}]")

    def pairs(self, key: str) -> Iterator[tuple[str, str, Callable[[str], None]]]:
        """Each name and string of the mapping beneath `key`, and what to call with a message about the pair."""
        node = self.keys.get(key)
        if isinstance(node, MappingNode):
            for name, value in node.value:
                if isinstance(value, ScalarNode) and id(value) not in self._conversion.document.broken:
                    yield name.value, value.value, self._reporter(name, join(join(self.path, key), name.value))

    def _reporter(self, node: Node, path: str) -> Callable[[str], None]:
        return lambda message: self._conversion.report(node, message, path)


Check = Callable[[Record], None]

# Keys that stand in one form of the file and were met in the other: what is said of them, after the key.
STRAYED_KEYS: dict[type, dict[str, str]] = {}


class Conversion:
    """One walk over one document. `problems` grows while it goes; `records` holds every struct met, outermost first.

    `checks`: what to ask of each struct once its fields are made. `paths`: for nodes that stand elsewhere than in the file (the short form expanded), the path
    in the file, by the node's id. `directory`: what relative paths in the file start from.
    """

    def __init__(self, document: Document, finder: PluginFinder, checks: Mapping[type, Check], paths: dict[int, str] | None = None) -> None:
        self.document = document
        self.directory = os.path.dirname(os.path.abspath(document.file))
        self.problems: list[Problem] = []
        self.records: list[Record] = []
        self.failed: set[int] = set()
        # Texts that came out of the environment: path -> as written, with `${NAME}`.
        self.variables: dict[str, str] = {}
        self._finder = finder
        self._checks = checks
        self._paths = {} if paths is None else paths
        self._made: list[Node] = []

    def report(self, node: Node, message: str, path: str, suggestion: str = "") -> None:
        """Add a problem at `node`."""
        sentence = f"{message}." if suggestion else message
        self.problems.append(self.document.problem(node, sentence, self._paths.get(id(node), path), suggestion))

    def root(self, cls: type) -> Any:
        """The whole document as a `cls`, or `FAILED`."""
        return self.convert(self.document.root, type_of(cls), "", None, "")

    def convert(self, node: Node, wanted: mi.Type, path: str, owner: Record | None, field: str) -> Any:
        """The value of type `wanted` that `node` stands for, or `FAILED` when there is a problem with it."""
        before = len(self.problems)
        value = FAILED if id(node) in self.document.broken else self._convert(node, wanted, path, owner, field)
        if value is FAILED or len(self.problems) > before:
            self.failed.add(id(node))
        elif isinstance(value, str) and id(node) in self.document.variable:
            self.variables[path] = self.document.variable[id(node)]
        return value

    def _convert(self, node: Node, wanted: mi.Type, path: str, owner: Record | None, field: str) -> Any:
        if isinstance(wanted, mi.Metadata):
            syntax = (wanted.extra or {}).get("syntax")
            if syntax in ("duration", "size"):
                return self._single(node, path, lambda: spelled(self.document, node, wanted.type, syntax))
            return self._convert(node, wanted.type, path, owner, field)
        if isinstance(wanted, mi.AnyType):
            return plain(node)
        if isinstance(wanted, mi.UnionType):
            return self._union(node, wanted, path, owner, field)
        if isinstance(wanted, mi.CustomType) and wanted.cls is Secret:
            return self._secret(node, path)
        if isinstance(wanted, mi.DataclassType) and wanted.cls is Address:
            return self._single(node, path, lambda: address(node))
        if isinstance(wanted, mi.StructType | mi.DataclassType):
            return self._struct(node, wanted, path, owner, field)
        if isinstance(wanted, mi.DictType):
            return self._dict(node, wanted, path, owner, field)
        if isinstance(wanted, LISTS):
            return self._sequence(node, wanted, path, owner, field)
        return self._single(node, path, lambda: scalar(self.document, node, wanted, self.directory))

    # -- mappings ----------------------------------------------------------------------------------------------------------------------------

    def _struct(self, node: Node, wanted: mi.StructType | mi.DataclassType, path: str, owner: Record | None, field: str) -> Any:
        scalar_key = SCALAR_FORMS.get(wanted.cls)
        if scalar_key is not None and isinstance(node, ScalarNode) and node.tag != NULL:
            node = self._mapping_of(node, path, {scalar_key: node})
        if not isinstance(node, MappingNode):
            return self._wrong(node, path, described(wanted))
        record = Record(self, wanted.cls, node, path, owner, field)
        self.records.append(record)
        before = len(self.problems)
        fields = {each.encode_name: each for each in wanted.fields if not is_internal(each.type)}
        tag_field = getattr(wanted, "tag_field", None)
        for key, value in node.value:
            if key.value in fields:
                record.keys[key.value] = value
            elif key.value != tag_field:
                self._unknown_key(key, fields, wanted, path)
        for name, each in fields.items():
            if wanted.cls in PLUGIN_USES and name == "config":
                continue
            self._field(record, name, each)
        if wanted.cls in PLUGIN_USES:
            self._plugin_config(record)
        check = self._checks.get(wanted.cls)
        if check is not None:
            check(record)
        if len(self.problems) > before or FAILED in record.values.values():
            return FAILED
        return self._build(record, wanted)

    def _field(self, record: Record, name: str, each: mi.Field) -> None:
        node = record.keys.get(name)
        if node is not None:
            record.values[name] = self.convert(node, each.type, join(record.path, name), record, name)
        elif each.required:
            record.values[name] = FAILED
            self.report(record.node, f"the key {name!r} is missing: {described(each.type)}", record.path)
        elif isinstance(each.default, PluginRef):
            # A default names a plugin; its configuration is made here as for a plugin that is written.
            entry = {
                key: self._keep(record.node, ScalarNode(STR, getattr(each.default, key), record.node.start_mark, record.node.end_mark))
                for key in ("kind", "name")
            }
            record.values[name] = self.convert(self._mapping_of(record.node, record.path, entry), each.type, join(record.path, name), record, name)

    def _build(self, record: Record, wanted: mi.StructType | mi.DataclassType) -> Any:
        values = {each.name: record.values[each.encode_name] for each in wanted.fields if each.encode_name in record.values}
        if any(each.name == "origin" and is_internal(each.type) for each in wanted.fields):
            mark = record.node.start_mark
            values["origin"] = f"{self.document.file}:{mark.line + 1}:{mark.column + 1}"
        try:
            return wanted.cls(**values)
        except (ValueError, TypeError) as error:
            self.report(record.node, str(error), record.path)
            return FAILED

    def _unknown_key(self, key: ScalarNode, fields: Mapping[str, mi.Field], wanted: mi.StructType | mi.DataclassType, path: str) -> None:
        if any(each.encode_name == key.value for each in wanted.fields):
            self.report(key, "this is filled in by the sidecar and cannot be written", join(path, key.value))
            return
        strayed = STRAYED_KEYS.get(wanted.cls, {}).get(key.value)
        if strayed is not None:
            self.report(key, f"{key.value!r} {strayed}", join(path, key.value))
            return
        suggestion = did_you_mean(key.value, fields)
        expected = "" if suggestion else f"; expected {listing(fields)}" if fields else "; no key is expected here"
        self.report(key, f"unknown key {key.value!r}{expected}", join(path, key.value), suggestion)

    def _mapping_of(self, near: Node, path: str, entries: Mapping[str, Node]) -> MappingNode:
        pairs: list[tuple[Node, Node]] = [(ScalarNode(STR, key, near.start_mark, near.end_mark), value) for key, value in entries.items()]
        return self._keep(near, MappingNode(MAP, pairs, near.start_mark, near.end_mark))

    def _keep(self, near: Node, node: _NodeT) -> _NodeT:
        """`node`, made here for `near`: it has the path of that, and lives as long, because an id counts only for the living."""
        self._made.append(node)
        if id(near) in self._paths:
            self._paths[id(node)] = self._paths[id(near)]
        return node

    def _dict(self, node: Node, wanted: mi.DictType, path: str, owner: Record | None, field: str) -> Any:
        if not isinstance(node, MappingNode):
            return self._wrong(node, path, described(wanted))
        made: dict[Any, Any] = {}
        for key, value in node.value:
            # Keys are taken as written: a header field called `on` or 1 needs no quotes.
            key_node = self._keep(key, ScalarNode(STR if isinstance(wanted.key_type, mi.StrType) else key.tag, key.value, key.start_mark, key.end_mark))
            name = self.convert(key_node, wanted.key_type, join(path, key.value), owner, field)
            made_value = self.convert(value, wanted.value_type, join(path, key.value), owner, field)
            if name is not FAILED:
                made[name] = made_value
        self._check_length(node, len(node.value), wanted, path, "keys")
        return FAILED if FAILED in made.values() else made

    # -- lists -------------------------------------------------------------------------------------------------------------------------------

    def _sequence(self, node: Node, wanted: Any, path: str, owner: Record | None, field: str) -> Any:
        if not isinstance(node, SequenceNode):
            return self._wrong(node, path, described(wanted), "Put it in brackets: [...]" if isinstance(node, ScalarNode) and node.tag != NULL else "")
        if isinstance(wanted, mi.TupleType):
            types = list(wanted.item_types)
            if len(types) != len(node.value):
                self.report(node, f"expected a list of {len(types)} items, got {len(node.value)}", path)
                return FAILED
        else:
            types = [wanted.item_type] * len(node.value)
            self._check_length(node, len(node.value), wanted, path, "items")
        made = [self.convert(item, kind, f"{path}[{index}]", owner, field) for index, (item, kind) in enumerate(zip(node.value, types, strict=True))]
        if any(item is FAILED for item in made):
            return FAILED
        if isinstance(wanted, mi.VarTupleType | mi.TupleType):
            return tuple(made)
        if isinstance(wanted, mi.SetType | mi.FrozenSetType):
            return set(made) if isinstance(wanted, mi.SetType) else frozenset(made)
        return made

    def _check_length(self, node: Node, length: int, wanted: Any, path: str, what: str) -> None:
        if wanted.min_length is not None and length < wanted.min_length:
            self.report(node, f"expected at least {wanted.min_length} {what}, got {length}", path)
        if wanted.max_length is not None and length > wanted.max_length:
            self.report(node, f"expected at most {wanted.max_length} {what}, got {length}", path)

    # -- one of several ----------------------------------------------------------------------------------------------------------------------

    def _union(self, node: Node, wanted: mi.UnionType, path: str, owner: Record | None, field: str) -> Any:
        types = [each for each in wanted.types if not isinstance(each, mi.NoneType)]
        if isinstance(node, ScalarNode) and node.tag == NULL and len(types) < len(wanted.types):
            return None
        fitting = [each for each in types if fits(node, each)]
        tagged = [each for each in fitting if isinstance(each, mi.StructType) and each.tag_field is not None]
        if len(tagged) > 1 and isinstance(node, MappingNode):
            return self._tagged(node, tagged, path, owner, field)
        if len(types) == 1 or len(fitting) == 1:
            return self._convert(node, (fitting or types)[0], path, owner, field)
        # The narrow types first: text that is also a number or an address is taken for that.
        for each in sorted(fitting, key=lambda kind: isinstance(kind, mi.StrType)):
            problems, records = len(self.problems), len(self.records)
            value = self._convert(node, each, path, owner, field)
            if len(self.problems) == problems:
                return value
            del self.problems[problems:], self.records[records:]
        return self._wrong(node, path, described(mi.UnionType(types=tuple(types))))

    def _tagged(self, node: MappingNode, types: list[mi.StructType], path: str, owner: Record | None, field: str) -> Any:
        key = types[0].tag_field or ""
        tags = {str(each.tag): each for each in types}
        for name, value in node.value:
            if name.value == key and isinstance(value, ScalarNode):
                if value.value in tags:
                    return self._convert(node, tags[value.value], path, owner, field)
                return self._wrong(value, join(path, key), f"one of {listing(tags)}", did_you_mean(value.value, tags))
        self.report(node, f"the key {key!r} is missing: one of {listing(tags)}", path)
        return FAILED

    # -- single values -----------------------------------------------------------------------------------------------------------------------

    def _wrong(self, node: Node, path: str, expected: str, suggestion: str = "") -> Any:
        self.report(node, f"expected {expected}, got {describe(node)}", path, suggestion)
        return FAILED

    def _single(self, node: Node, path: str, made: Callable[[], Any]) -> Any:
        try:
            return made()
        except Unfit as error:
            self.report(node, str(error), path, error.suggestion)
            return FAILED

    def _secret(self, node: Node, path: str) -> Any:
        """A secret out of a file or the environment. What is wrong with it is said without showing it."""
        expected = "expected a secret: {file: PATH} or ${NAME}, never the text itself"
        if isinstance(node, ScalarNode):
            written = self.document.written.get(id(node), "")
            if re.fullmatch(rf"\$\{{{ENVIRONMENT_NAME}\}}", written) is None:
                self.report(node, expected, path)
                return FAILED
            return Secret(node.value, written)
        keys = {key.value: value for key, value in node.value} if isinstance(node, MappingNode) else {}
        if set(keys) != {"file"} or not isinstance(keys["file"], ScalarNode):
            self.report(node, expected, path)
            return FAILED
        return self._single(keys["file"], join(path, "file"), lambda: secret_file(keys["file"], self.directory))

    # -- plugins -----------------------------------------------------------------------------------------------------------------------------

    def _plugin_config(self, record: Record) -> None:
        """Make the `config` of a plugin's entry by the class that the entry names."""
        kind, name = record.get("kind"), record.get("name")
        node = record.keys.get("config")
        if isinstance(node, ScalarNode) and node.tag == NULL:
            node = None
        if kind is None or name is None or kind not in KINDS or (node is None and record.cls is FilterOverride):
            return
        try:
            cls = self._finder.load(kind, name)
        except PluginLookupFailed as error:
            record.problem(str(error), "name")
            return
        if node is None:
            node = self._mapping_of(record.node, record.path, {})
        path = join(record.path, "config")
        try:
            wanted = type_of(cls.Config)  # type: ignore[attr-defined]  # the finder has looked
        except Exception as error:
            record.problem(f"the Config of {kind} {name!r} cannot be read: {error}", "name")
            return
        record.values["config"] = config = self.convert(node, wanted, path, record, "config")
        validate = getattr(cls, "validate", None)
        if config is not FAILED and callable(validate):
            try:
                for sentence in validate(config):
                    self.report(node, sentence, path)
            except Exception as error:
                self.report(node, f"{kind} {name!r} could not validate its configuration: {type(error).__name__}: {error}", path)
