"""Single values: what one scalar of a file stands for when a certain type is wanted. Raises `Unfit` with a sentence for a person; knows nothing
of paths and records.

A scalar that came out of the environment is read as if it stood in the file without quotes when a number or boolean is wanted, and as text when text is wanted:
`"${PORT}"` is a number, and a service may be called `${NAME}` when that holds 1.
"""

from __future__ import annotations

import datetime
import decimal
import math
import os
import re
import uuid
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect as mi
from yaml.nodes import Node, ScalarNode

from sidecar.address import Address
from sidecar.config.document import BOOL, FLOAT, INT, NULL, STR, Document, describe, number, plain_tag
from sidecar.config.expected import EXPECTED_ADDRESS, described
from sidecar.config.suggest import did_you_mean
from sidecar.config.syntax import EXPECTED_DURATION, EXPECTED_SIZE, parse_duration, parse_size
from sidecar.secret import Secret

MAX_SECRET_BYTES = 64 * 1024  # a key file, not a disk
MAX_INTEGER = 2**63 - 1  # what the system's calls and the readers of our JSON can hold

# Types that only plugins use: what msgspec reads out of a string.
_TEXTUAL: dict[type[mi.Type], type] = {
    mi.DateTimeType: datetime.datetime,
    mi.DateType: datetime.date,
    mi.TimeType: datetime.time,
    mi.UUIDType: uuid.UUID,
    mi.DecimalType: decimal.Decimal,
}


class Unfit(Exception):
    """The scalar is not what was wanted. `suggestion`: what to write instead, or ""."""

    def __init__(self, message: str, suggestion: str = "") -> None:
        super().__init__(message)
        self.suggestion = suggestion

    @classmethod
    def for_node(cls, node: Node, expected: str, suggestion: str = "") -> Unfit:
        """The usual sentence."""
        return cls(f"expected {expected}, got {describe(node)}", suggestion)


def scalar(document: Document, node: Node, wanted: mi.Type, directory: str) -> Any:
    """The value of the simple type `wanted` (text, number, boolean, choice, path, date, ...) that `node` stands for. `directory`: what
    relative paths start from."""
    if isinstance(wanted, mi.CustomType) and isinstance(wanted.cls, type) and issubclass(Path, wanted.cls):
        return absolute(node, directory)
    if not isinstance(node, ScalarNode):
        raise Unfit.for_node(node, described(wanted))
    tag = _tag(document, node)
    if isinstance(wanted, mi.StrType):
        return _text(document, node, wanted)
    if isinstance(wanted, mi.BoolType) and tag == BOOL:
        return node.value.lower() == "true"
    if (isinstance(wanted, mi.IntType) and tag == INT) or (isinstance(wanted, mi.FloatType) and tag in (INT, FLOAT)):
        return _in_bounds(node, number(node) if isinstance(wanted, mi.IntType) else float(number(node)), wanted)
    if isinstance(wanted, mi.LiteralType | mi.EnumType):
        return _choice(document, node, wanted)
    if isinstance(wanted, mi.NoneType) and tag == NULL:
        return None
    if isinstance(wanted, mi.BoolType | mi.IntType | mi.FloatType | mi.NoneType):
        raise Unfit.for_node(node, described(wanted))
    return _textual(node, wanted)


def spelled(document: Document, node: Node, wanted: mi.Type, syntax: str) -> Any:
    """A "duration" or "size": a number, or text in that spelling."""
    expected = EXPECTED_DURATION if syntax == "duration" else EXPECTED_SIZE
    if not isinstance(node, ScalarNode) or (node.tag != STR and _tag(document, node) not in (INT, FLOAT)):
        raise Unfit.for_node(node, expected)
    if _tag(document, node) in (INT, FLOAT):
        return scalar(document, node, wanted, "")
    try:
        value = parse_duration(node.value) if syntax == "duration" else parse_size(node.value)
    except ValueError as error:
        raise Unfit(f"{error}, got {describe(node)}") from None
    return _in_bounds(node, value, wanted)


def address(node: Node) -> Address:
    """An address to listen on or to connect to."""
    if not isinstance(node, ScalarNode) or node.tag != STR:
        raise Unfit.for_node(node, EXPECTED_ADDRESS)
    try:
        return Address.parse(node.value)
    except ValueError as error:
        raise Unfit(str(error)) from None


def absolute(node: Node, directory: str) -> Path:
    """A path, relative ones taken from `directory`. "-" stays: it is standard output or input wherever a path is asked for."""
    if not isinstance(node, ScalarNode) or node.tag != STR or not node.value or "\0" in node.value:
        raise Unfit.for_node(node, "a path")
    return Path(node.value) if node.value == "-" else Path(os.path.normpath(os.path.join(directory, node.value)))


def secret_file(node: Node, directory: str) -> Secret:
    """The secret in the file that `node` names, without the newline at its end."""
    file = absolute(node, directory)
    try:
        with open(file, "rb") as stream:
            content = stream.read(MAX_SECRET_BYTES + 1)
        text = content.decode("utf-8")
    except OSError as error:
        raise Unfit(f"the secret cannot be read from {file}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise Unfit(f"the secret in {file} is not UTF-8 text") from None
    if len(content) > MAX_SECRET_BYTES:
        raise Unfit(f"the secret in {file} has more than {MAX_SECRET_BYTES} octets")
    return Secret(text.removesuffix("\n").removesuffix("\r"), f"file:{file}")


def _tag(document: Document, node: ScalarNode) -> str:
    return plain_tag(node.value) if id(node) in document.written else node.tag


def _is_text(document: Document, node: ScalarNode) -> bool:
    return node.tag == STR or id(node) in document.written


def _text(document: Document, node: ScalarNode, wanted: mi.StrType) -> str:
    if not _is_text(document, node):
        raise Unfit.for_node(node, described(wanted), f'Put it in quotes: "{node.value}"' if node.tag != NULL else "")
    text = node.value
    if wanted.min_length is not None and len(text) < wanted.min_length:
        raise Unfit.for_node(node, f"at least {wanted.min_length} character{'s' if wanted.min_length > 1 else ''}")
    if wanted.max_length is not None and len(text) > wanted.max_length:
        raise Unfit.for_node(node, f"at most {wanted.max_length} characters")
    if wanted.pattern is not None and re.search(wanted.pattern, text) is None:
        raise Unfit.for_node(node, f"text that matches {wanted.pattern}")
    return str(text)


def _in_bounds(node: ScalarNode, value: float, wanted: mi.Type) -> float:
    assert isinstance(wanted, mi.IntType | mi.FloatType)
    fine = (
        (isinstance(wanted, mi.IntType) or math.isfinite(value))
        and (wanted.ge is None or value >= wanted.ge)
        and (wanted.le is None or value <= wanted.le)
        and (wanted.gt is None or value > wanted.gt)
        and (wanted.lt is None or value < wanted.lt)
        and (wanted.multiple_of is None or value % wanted.multiple_of == 0)
    )
    if not fine:
        raise Unfit.for_node(node, described(wanted))
    if isinstance(wanted, mi.IntType) and abs(value) > MAX_INTEGER:
        raise Unfit.for_node(node, f"an integer from -{MAX_INTEGER} to {MAX_INTEGER}")
    return value


def _choice(document: Document, node: ScalarNode, wanted: mi.LiteralType | mi.EnumType) -> Any:
    values = list(wanted.values) if isinstance(wanted, mi.LiteralType) else [each.value for each in wanted.cls]
    is_number = _tag(document, node) == INT
    for value in values:
        if (isinstance(value, str) and _is_text(document, node) and node.value == value) or (isinstance(value, int) and is_number and number(node) == value):
            return value if isinstance(wanted, mi.LiteralType) else wanted.cls(value)
    if node.tag != STR and node.value in values:
        raise Unfit.for_node(node, described(wanted), f'Put it in quotes: "{node.value}"')
    raise Unfit.for_node(node, described(wanted), did_you_mean(node.value, [each for each in values if isinstance(each, str)]))


def _textual(node: ScalarNode, wanted: mi.Type) -> Any:
    cls = _TEXTUAL.get(type(wanted))
    if cls is None:
        raise Unfit(f"the plugin's Config has a type that a file cannot hold: {getattr(wanted, 'cls', type(wanted).__name__)}")
    try:
        return msgspec.convert(node.value, cls)
    except msgspec.ValidationError:
        raise Unfit.for_node(node, f"a {cls.__name__}") from None
