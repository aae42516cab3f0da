"""A configuration written out again: as plain values (for /config_dump) and as YAML in the full form (for `sidecar config expand`)."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import attrs
import msgspec
import yaml
from msgspec import inspect as mi
from msgspec.structs import replace
from yaml.nodes import ScalarNode

from sidecar.address import Address
from sidecar.config.document import STR, plain_tag
from sidecar.config.expected import is_internal, syntax_of, type_of
from sidecar.config.syntax import escape_variables, format_duration, format_size
from sidecar.model import Config
from sidecar.naming.places import Steps, at_once, sliced
from sidecar.secret import Secret

ENDPOINTS_AT_ONCE = 50  # some milliseconds
# What may stand in YAML without quotes: no character that means anything, so that nobody has to know YAML's rules to read it.
_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./:@+-]*")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def dump(config: Config) -> dict[str, Any]:
    """The whole configuration, defaults included, as what JSON can hold; secrets are "***", and texts out of the environment are as
    written, with `${NAME}`. Keys and spellings are those of the full form, plus `origin`."""
    return at_once(dumping(config))


def dumping(config: Config) -> Steps[dict[str, Any]]:
    """The same in steps: a configuration may have thousands of endpoints."""
    made: dict[str, Any] = plain(replace(config, clusters=()), defaults=True, origins=True)
    for cluster in config.clusters:
        shown = plain(replace(cluster, endpoints=()), defaults=True, origins=True)
        made["clusters"].append(shown)
        yield
        for endpoints in sliced(cluster.endpoints, ENDPOINTS_AT_ONCE):
            shown["endpoints"] += plain(endpoints, defaults=True, origins=True)
            yield
    for path, written in config.variables.items():
        _put(made, path, written)
    return made


def _put(made: Any, path: str, text: str) -> None:
    """`text` in the place of what stands at `path`, as the loader writes paths. A key may hold dots and brackets, so every one that fits is followed."""
    if isinstance(made, list):
        number = path[1:].partition("]")[0]
        entries: Any = [(int(number), f"[{number}]")] if number.isdecimal() and int(number) < len(made) else []
    else:
        entries = [(key, key) for key in made] if isinstance(made, dict) else []
        path = path.removeprefix(".")
    for key, name in entries:
        rest = path.removeprefix(name)
        if path == name:
            made[key] = text
        elif rest != path and rest[0] in ".[":
            _put(made[key], rest, text)


def to_yaml(config: Config, defaults: bool = False) -> str:
    """The full form in YAML: loading it gives an equal configuration (but for where things stand). Comments tell where each object came from.

    `defaults`: write also what is as it would be if nothing were written. Secrets are written by where they come from, never as text.
    """
    made = plain(config, defaults=defaults, origins=True, secrets=True)
    made.pop("origin", None)
    for cluster in made.get("clusters", ()):
        if not cluster.get("discovery"):
            cluster.setdefault("endpoints", [])  # none on purpose, which has to be said
    lines = list(_lines(made, ""))
    return "\n".join(lines) + "\n" if lines else "{}\n"


def plain(value: Any, *, defaults: bool, origins: bool = False, secrets: bool = False, syntax: str = "") -> Any:
    """`value` as dicts, lists, strings, numbers, booleans and None.

    `origins`: keep the key `origin`. `secrets`: write secrets as a file can hold them, rather than "***". `syntax`: how a number is
    spelled ("duration", "size").
    """
    if syntax and isinstance(value, int | float) and not isinstance(value, bool):
        return format_duration(float(value)) if syntax == "duration" else format_size(int(value))
    if isinstance(value, msgspec.Struct) or (attrs.has(type(value)) and not isinstance(value, Address)):
        return _fields(value, defaults, origins, secrets)
    if isinstance(value, dict):
        return {str(key): plain(each, defaults=defaults, origins=origins, secrets=secrets, syntax=syntax) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, defaults=defaults, origins=origins, secrets=secrets, syntax=syntax) for each in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(each, defaults=defaults, origins=origins, secrets=secrets, syntax=syntax) for each in value), key=str)
    if isinstance(value, Secret):
        return _secret(value) if secrets else "***"
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Address | PurePath):
        return str(value)
    return value if value is None or isinstance(value, str | bool | int | float) else msgspec.to_builtins(value)


def _fields(value: Any, defaults: bool, origins: bool, secrets: bool) -> dict[str, Any]:
    cls: type = type(value)
    kind = type_of(cls)
    assert isinstance(kind, mi.StructType | mi.DataclassType)
    made: dict[str, Any] = {}
    if isinstance(kind, mi.StructType) and kind.tag_field is not None:
        made[kind.tag_field] = kind.tag
    for each in kind.fields:
        if is_internal(each.type):
            if each.name == "origin" and origins and getattr(value, each.name):
                made["origin"] = getattr(value, each.name)
            continue
        own = plain(getattr(value, each.name), defaults=defaults, origins=origins, secrets=secrets, syntax=syntax_of(each.type))
        if each.required or defaults or _without_origin(own) != _default(each, secrets):
            made[each.encode_name] = own
    # A plugin that needs no configuration has an empty one: nothing to write.
    if not defaults and made.get("config") == {}:
        del made["config"]
    return made


def _default(each: mi.Field, secrets: bool) -> Any:
    default = each.default if each.default_factory is msgspec.NODEFAULT else each.default_factory()
    return plain(default, defaults=False, secrets=secrets, syntax=syntax_of(each.type))


def _without_origin(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_origin(each) for key, each in value.items() if key != "origin"}
    return [_without_origin(each) for each in value] if isinstance(value, list) else value


def _secret(secret: Secret) -> Any:
    return {"file": secret.source[5:]} if secret.source.startswith("file:") else _Reference(secret.source)


class _Reference(str):
    """Text in which `${NAME}` means a variable and is not escaped."""

    __slots__ = ()


# -- YAML ------------------------------------------------------------------------------------------------------------------------------------


def _lines(value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            if key != "origin":
                yield from _entry(f"{indent}{_key(key)}:", each, indent)
    else:
        for each in value:
            if isinstance(each, dict) and each.get("origin"):
                yield f"{indent}# {_comment(each['origin'])}"
            body = {key: item for key, item in each.items() if key != "origin"} if isinstance(each, dict) else each
            if isinstance(body, dict | list) and body:
                nested = list(_lines(body, indent + "  "))
                first = next(index for index, line in enumerate(nested) if not line.lstrip().startswith("#"))
                yield from nested[:first]
                yield f"{indent}- {nested[first][len(indent) + 2 :]}"
                yield from nested[first + 1 :]
            else:
                yield f"{indent}- {_scalar(body)}"


def _entry(head: str, value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, dict) and set(value) - {"origin"}:
        yield head
        yield from _lines(value, indent + "  ")
    elif isinstance(value, list) and value:
        if all(not isinstance(each, dict | list) for each in value):
            yield f"{head} [{', '.join(map(_scalar, value))}]"
        else:
            yield head
            yield from _lines(value, indent + "  ")
    else:
        yield f"{head} {_scalar(value)}"


def _comment(text: str) -> str:
    return text if text.isprintable() else repr(text)


def _key(key: str) -> str:
    return key if _KEY.fullmatch(key) and _is_text(key) else _quoted(key)


def _scalar(value: Any) -> str:
    if isinstance(value, dict | list):
        return "[]" if isinstance(value, list) else "{}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    text = str(value) if isinstance(value, _Reference) else escape_variables(str(value))
    return text if _PLAIN.fullmatch(text) and not text.endswith(":") and _is_text(text) else _quoted(text)


def _is_text(word: str) -> bool:
    """Is this a string without quotes to every reader? YAML 1.1 takes `off` for a boolean and 1:30 for a number."""
    return plain_tag(word) == STR and yaml.SafeLoader("").resolve(ScalarNode, word, (True, False)) == STR  # type: ignore[no-untyped-call]


def _quoted(text: str) -> str:
    # PyYAML knows which characters need escapes; a width without end keeps it from folding.
    return str(yaml.dump(text, Dumper=yaml.SafeDumper, default_style='"', width=float("inf"), allow_unicode=True)).rstrip("\n")
