"""What the model's types look like in a file, in words and shapes: for "expected ..., got ..." and for choosing among several types."""

from __future__ import annotations

from msgspec import inspect as mi
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from sidecar.address import Address
from sidecar.config.suggest import listing
from sidecar.config.syntax import EXPECTED_DURATION, EXPECTED_SIZE
from sidecar.model import Admin, Endpoint
from sidecar.secret import Secret

# Structs that may also be written as just the value of one of their fields.
SCALAR_FORMS: dict[type, str] = {Endpoint: "address", Admin: "address"}
EXPECTED_ADDRESS = "an address: HOST:PORT, [IPV6]:PORT or unix:/PATH"
LISTS = (mi.VarTupleType, mi.ListType, mi.SetType, mi.FrozenSetType, mi.CollectionType, mi.TupleType)


_KNOWN: dict[type, mi.Type] = {}


def type_of(cls: type) -> mi.Type:
    """What msgspec knows of a type, found out once, and with it of all structs within: it reads annotations, which takes longer than loading a file, and for
    `/config_dump` would stop a running sidecar. Raises what those raise.
    """
    if cls not in _KNOWN:
        found = mi.type_info(cls)
        _remember(found)
        _KNOWN[cls] = found
    return _KNOWN[cls]


def _remember(found: mi.Type) -> None:
    if isinstance(found, mi.StructType | mi.DataclassType) and found.cls not in _KNOWN:
        _KNOWN[found.cls] = found
        for field in found.fields:
            _remember(field.type)
    for name in ("type", "item_type", "key_type", "value_type"):
        inner = getattr(found, name, None)
        if isinstance(inner, mi.Type):
            _remember(inner)
    for inner in (*getattr(found, "types", ()), *getattr(found, "item_types", ())):
        _remember(inner)


def syntax_of(wanted: mi.Type) -> str:
    """ "duration" or "size" when values of this type have that spelling (also as one of several), else ""."""
    if isinstance(wanted, mi.UnionType):
        return next(filter(None, map(syntax_of, wanted.types)), "")
    return str((wanted.extra or {}).get("syntax", "")) if isinstance(wanted, mi.Metadata) else ""


def is_internal(wanted: mi.Type) -> bool:
    """Is this a field that the loader fills in and no file may hold?"""
    return isinstance(wanted, mi.Metadata) and bool((wanted.extra or {}).get("internal"))


def fits(node: Node, wanted: mi.Type) -> bool:
    """May a node of this shape be a `wanted`? Looks at mapping, list or scalar only."""
    if isinstance(wanted, mi.Metadata):
        return fits(node, wanted.type)
    if isinstance(wanted, mi.AnyType):
        return True
    if isinstance(wanted, mi.CustomType) and wanted.cls is Secret:
        return not isinstance(node, SequenceNode)
    if isinstance(wanted, mi.DataclassType) and wanted.cls is Address:
        return isinstance(node, ScalarNode)
    if isinstance(wanted, mi.StructType | mi.DataclassType | mi.DictType):
        return isinstance(node, MappingNode) or (isinstance(node, ScalarNode) and getattr(wanted, "cls", None) in SCALAR_FORMS)
    if isinstance(wanted, LISTS):
        return isinstance(node, SequenceNode)
    return isinstance(node, ScalarNode)


def described(wanted: mi.Type) -> str:
    """The type in words, for "expected ..."."""
    if isinstance(wanted, mi.Metadata):
        syntax = (wanted.extra or {}).get("syntax")
        return {"duration": EXPECTED_DURATION, "size": EXPECTED_SIZE}.get(syntax or "", "") or described(wanted.type)
    if isinstance(wanted, mi.UnionType):
        return " or ".join(dict.fromkeys(described(each) for each in wanted.types if not isinstance(each, mi.NoneType)))
    if isinstance(wanted, mi.DataclassType) and wanted.cls is Address:
        return EXPECTED_ADDRESS
    if isinstance(wanted, mi.StructType | mi.DataclassType):
        keys = [each.encode_name for each in wanted.fields if not is_internal(each.type)]
        return f"a mapping with keys such as {listing(keys[:4])}" if keys else "an empty mapping"
    if isinstance(wanted, mi.LiteralType | mi.EnumType):
        values = wanted.values if isinstance(wanted, mi.LiteralType) else [each.value for each in wanted.cls]
        return f"one of {', '.join(map(repr, values))}"
    if isinstance(wanted, mi.IntType | mi.FloatType):
        return _described_number(wanted)
    if isinstance(wanted, LISTS):
        return "a list"
    if isinstance(wanted, mi.CustomType) and wanted.cls is not Secret:
        return "a path"
    words: dict[type[mi.Type], str] = {
        mi.StrType: "a string",
        mi.BoolType: "true or false",
        mi.DictType: "a mapping",
        mi.NoneType: "nothing",
        mi.CustomType: "a secret: {file: PATH} or ${NAME}",
    }
    return words.get(type(wanted), "a value")


def _described_number(wanted: mi.IntType | mi.FloatType) -> str:
    word = "an integer" if isinstance(wanted, mi.IntType) else "a number"
    low = wanted.ge if wanted.ge is not None else wanted.gt
    high = wanted.le if wanted.le is not None else wanted.lt
    if low is not None and high is not None:
        return f"{word} from {low} to {high}"
    if low is not None:
        return f"{word} of at least {low}" if wanted.ge is not None else f"{word} above {low}"
    return f"{word} of at most {high}" if high is not None else word
