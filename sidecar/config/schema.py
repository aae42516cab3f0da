"""The JSON Schema (2020-12) of a configuration file, made from the same types and tables as the loader's walk, so that editors complete and check.

What a schema cannot say (names that refer to each other, regular expressions that compile, addresses used twice) only `sidecar check` finds. A plugin is
checked by the `Config` of its class. A name with a dot is a team's own plugin (`acme.api-key`): it is accepted also when it is not
installed where the schema was made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec import inspect as mi

from sidecar.address import Address
from sidecar.config.checks import AT_MOST_ONE, EXACTLY_ONE, FRAMING_FIELDS, METHODS, PLACES
from sidecar.config.expected import EXPECTED_ADDRESS, LISTS, SCALAR_FORMS, is_internal, syntax_of, type_of
from sidecar.config.render import plain
from sidecar.config.short import LISTED_KINDS, SHORT_KEYS, ShortForm, Use
from sidecar.config.syntax import DURATION_PATTERN, ENVIRONMENT_NAME, SIZE_PATTERN
from sidecar.errors import PluginLookupFailed
from sidecar.extension import KINDS
from sidecar.model import Config, FilterOverride, HeaderOps, PluginRef, RouteMatch
from sidecar.plugins import Finder
from sidecar.secret import Secret

Schema = dict[str, Any]

# Text with a variable in it may become anything, so every scalar may hold one.
_VARIABLE: Schema = {"type": "string", "pattern": r"\$\{"}
_ADDRESS = r"^(unix:.+|\[[0-9A-Fa-f:.%A-Za-z0-9_]+\]:[0-9]{1,5}|[^:\[\]\s]+:[0-9]{1,5})$"
_EMPTY: list[Any] = [None, []]
_PLUGIN_USES = (PluginRef, FilterOverride, Use)

# What holds for the keys of some structs, as the checks say it in code.
_PATH: Schema = {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^/"}, _VARIABLE]}
_NO_FRAMING: Schema = {"not": {"pattern": f"^(?i:{'|'.join(sorted(FRAMING_FIELDS | {'host'}))})$"}}
_TIGHTER: dict[type, Schema] = {
    RouteMatch: {
        "properties": {
            "prefix": _PATH,
            "segment_prefix": _PATH,
            "methods": {"items": {"not": {"enum": sorted(method.lower() for method in METHODS)}}},
        }
    },
    HeaderOps: {"properties": {"set": {"propertyNames": _NO_FRAMING}, "add": {"propertyNames": _NO_FRAMING}, "remove": {"items": _NO_FRAMING}}},
}


def json_schema(finder: Finder) -> Schema:
    """The schema as what JSON can hold. Imports every plugin that `finder` finds."""
    builder = _Builder(finder)
    short, full = builder.of(type_of(ShortForm)), builder.of(type_of(Config))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sidecar configuration",
        "type": "object",
        "if": {"anyOf": [{"required": [key]} for key in sorted(SHORT_KEYS)]},
        "then": short,
        "else": full,
        "$defs": builder.definitions,
    }


class _Builder:
    def __init__(self, finder: Finder) -> None:
        self.definitions: dict[str, Schema] = {}
        self._names: dict[type, str] = {}
        self._finder = finder

    def of(self, wanted: mi.Type) -> Schema:
        """The schema of one type; that of a struct is a reference into `definitions`."""
        syntax = syntax_of(wanted) if isinstance(wanted, mi.Metadata) else ""
        if isinstance(wanted, mi.Metadata):
            return {**self._spelled(wanted.type, syntax), **(wanted.extra_json_schema or {})} if syntax else self.of(wanted.type)
        if isinstance(wanted, mi.UnionType):
            return {"anyOf": [self.of(each) for each in wanted.types]}
        if isinstance(wanted, mi.DataclassType) and wanted.cls is Address:
            return {"type": "string", "description": EXPECTED_ADDRESS, "anyOf": [{"pattern": _ADDRESS}, {"pattern": _VARIABLE["pattern"]}]}
        if isinstance(wanted, mi.StructType | mi.DataclassType):
            return self._reference(wanted)
        if isinstance(wanted, mi.DictType):
            return _bounded({"type": "object", "additionalProperties": self.of(wanted.value_type)}, wanted, "Properties")
        if isinstance(wanted, mi.TupleType):
            items = [self.of(each) for each in wanted.item_types]
            return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
        if isinstance(wanted, LISTS):
            return _bounded({"type": "array", "items": self.of(cast(Any, wanted).item_type)}, wanted, "Items")
        return self._leaf(wanted)

    def _spelled(self, number: mi.Type, syntax: str) -> Schema:
        pattern = DURATION_PATTERN if syntax == "duration" else SIZE_PATTERN
        return {"anyOf": [_number(number), {"type": "string", "pattern": pattern, "minLength": 1}, _VARIABLE]}

    def _leaf(self, wanted: mi.Type) -> Schema:
        if isinstance(wanted, mi.StrType):
            bounds = {"minLength": wanted.min_length, "maxLength": wanted.max_length, "pattern": wanted.pattern}
            return {"type": "string", **{key: value for key, value in bounds.items() if value is not None}}
        if isinstance(wanted, mi.IntType | mi.FloatType):
            return {"anyOf": [_number(wanted), _VARIABLE]}
        if isinstance(wanted, mi.BoolType):
            return {"anyOf": [{"type": "boolean"}, _VARIABLE]}
        if isinstance(wanted, mi.LiteralType | mi.EnumType):
            values = wanted.values if isinstance(wanted, mi.LiteralType) else [each.value for each in wanted.cls]
            return {"anyOf": [{"enum": list(values)}, _VARIABLE]}
        if isinstance(wanted, mi.CustomType) and wanted.cls is Secret:
            file = {"type": "object", "properties": {"file": {"type": "string"}}, "required": ["file"], "additionalProperties": False}
            return {"anyOf": [file, {"type": "string", "pattern": rf"^\$\{{{ENVIRONMENT_NAME}\}}$"}]}
        if isinstance(wanted, mi.CustomType) and isinstance(wanted.cls, type) and issubclass(Path, wanted.cls):
            return {"type": "string", "minLength": 1}
        if isinstance(wanted, mi.NoneType):
            return {"type": "null"}
        return {} if isinstance(wanted, mi.AnyType) else {"type": "string"}

    # -- structs -----------------------------------------------------------------------------------------------------------------------------

    def _reference(self, wanted: mi.StructType | mi.DataclassType) -> Schema:
        name = self._names.get(wanted.cls)
        if name is None:
            name = wanted.cls.__qualname__ if wanted.cls.__module__.startswith("sidecar.") else f"{wanted.cls.__module__}.{wanted.cls.__qualname__}"
            while name in self.definitions:
                name += "_"
            self._names[wanted.cls] = name
            self.definitions[name] = {}  # a struct that holds itself refers to this
            self.definitions[name].update(self._struct(wanted))
        return {"$ref": f"#/$defs/{name}"}

    def _struct(self, wanted: mi.StructType | mi.DataclassType) -> Schema:
        fields = [each for each in wanted.fields if not is_internal(each.type)]
        properties = {each.encode_name: self._field(wanted.cls, each) for each in fields}
        tag_field = getattr(wanted, "tag_field", None)
        required = [each.encode_name for each in fields if each.required]
        if tag_field is not None:
            properties[tag_field] = {"const": cast(mi.StructType, wanted).tag}
            required.append(tag_field)
        schema: Schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
        conditions = [_present(key) for key in EXACTLY_ONE.get(wanted.cls, ())]
        if conditions:
            schema["oneOf"] = conditions
        schema["allOf"] = [{"not": {"allOf": [_present(one), _present(two)]}} for one, two in _pairs(AT_MOST_ONE.get(wanted.cls, ()))]
        if wanted.cls in _TIGHTER:
            schema["allOf"].append(_TIGHTER[wanted.cls])
        if wanted.cls in _PLUGIN_USES:
            schema["allOf"] += self._plugins(wanted.cls)
        if not schema["allOf"]:
            del schema["allOf"]
        if wanted.cls.__doc__ and wanted.cls.__module__.startswith("sidecar."):
            schema["description"] = " ".join(wanted.cls.__doc__.split())
        scalar_key = SCALAR_FORMS.get(wanted.cls)
        return {"anyOf": [schema, properties[scalar_key]]} if scalar_key is not None else schema

    def _field(self, cls: type, each: mi.Field) -> Schema:
        schema = self.of(each.type)
        kinds = PLACES.get((cls.__name__, each.name))
        if kinds is not None:
            narrower = {"properties": {"kind": {"enum": list(kinds)}}}
            schema = {"allOf": [schema, {"if": {"type": "array"}, "then": {"items": narrower}, "else": narrower}]}
        default = self._default(each)
        return schema if default is None else {**schema, "default": default}

    def _default(self, each: mi.Field) -> Any:
        if each.required:
            return None
        default = each.default if each.default_factory is msgspec.NODEFAULT else each.default_factory()
        made = plain(default, defaults=False, syntax=syntax_of(each.type))
        try:
            json.dumps(made)
        except TypeError:
            return None
        return made

    # -- plugins -----------------------------------------------------------------------------------------------------------------------------

    def _plugins(self, cls: type) -> list[Schema]:
        """For every plugin what its `config` must be, and for every kind the names there are."""
        found: list[Schema] = []
        for kind in KINDS if cls is not Use else LISTED_KINDS:
            names = self._finder.names(kind)
            known = {"anyOf": [{"enum": names}, {"pattern": r"\."}, {"pattern": _VARIABLE["pattern"]}]}
            found.append({"if": _is(kind=kind), "then": {"properties": {"name": known}}})
            for name in names:
                schema = self._config(kind, name)
                if schema is not None:
                    required = ["config"] if schema.pop("required") and cls is not FilterOverride else []
                    found.append({"if": _is(kind=kind, name=name), "then": {"properties": {"config": schema["config"]}, "required": required}})
        kinds: Schema = {"properties": {"kind": {"enum": list(KINDS)}}}
        override: list[Schema] = [{"anyOf": [{"required": ["config"]}, {"required": ["disabled"]}]}] if cls is FilterOverride else []
        return [kinds, *override, *found]

    def _config(self, kind: str, name: str) -> Schema | None:
        """The schema of a plugin's configuration, and whether it has to be written; None when the plugin cannot be imported here."""
        try:
            wanted = type_of(self._finder.load(kind, name).Config)  # type: ignore[attr-defined]  # the finder has looked
        except (PluginLookupFailed, TypeError, NameError):
            return None
        required = any(each.required for each in cast(mi.StructType, wanted).fields)
        own = self.of(wanted)
        return {"config": own if required else {"anyOf": [own, {"type": "null"}]}, "required": required}


def _is(**values: str) -> Schema:
    return {"properties": {key: {"const": value} for key, value in values.items()}, "required": list(values)}


def _present(key: str) -> Schema:
    return {"required": [key], "properties": {key: {"not": {"enum": _EMPTY}}}}


def _pairs(keys: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(one, two) for index, one in enumerate(keys) for two in keys[index + 1 :]]


def _number(wanted: mi.Type) -> Schema:
    assert isinstance(wanted, mi.IntType | mi.FloatType)
    bounds = {"minimum": wanted.ge, "maximum": wanted.le, "exclusiveMinimum": wanted.gt, "exclusiveMaximum": wanted.lt, "multipleOf": wanted.multiple_of}
    return {"type": "integer" if isinstance(wanted, mi.IntType) else "number", **{key: value for key, value in bounds.items() if value is not None}}


def _bounded(schema: Schema, wanted: Any, what: str) -> Schema:
    if wanted.min_length is not None:
        schema[f"min{what}"] = wanted.min_length
    if wanted.max_length is not None:
        schema[f"max{what}"] = wanted.max_length
    return schema
