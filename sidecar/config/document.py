"""One YAML file as nodes that know where they stand, made safe to walk.

Scalars follow the core schema of YAML 1.2, as editors do: only `true` and `false` are booleans (`on`, `off`, `yes` and `no` are strings), and a number does
not start with a 0 that some readers would take for octal. No tag runs code. Duplicate keys are errors, merge keys (`<<`) are resolved, aliases may not make the
file grow beyond `MAX_NODES`, and environment variables in values are expanded before anything looks at them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from sidecar.config.syntax import VARIABLE, expand_variables
from sidecar.errors import ConfigError, Problem

MAX_FILE_BYTES = 8 * 1024 * 1024  # a mesh of a thousand services in the full form takes about one MiB
MAX_NODES = 500_000  # after following aliases: nine lines of YAML can otherwise stand for a billion nodes
MAX_DIGITS = 40  # of an integer; 64 bits have 20
MAX_DEPTH = 64  # the full form is 14 deep; plugins' own configurations get the rest

SHOWN_CHARACTERS = 57  # of a value in a message, which shows more only when that is all
HIDDEN_CHARACTERS = 8  # of what came out of the environment, at least, to be hidden in messages: less would be found in other words, and is no password

STR = "tag:yaml.org,2002:str"
INT = "tag:yaml.org,2002:int"
FLOAT = "tag:yaml.org,2002:float"
BOOL = "tag:yaml.org,2002:bool"
NULL = "tag:yaml.org,2002:null"
MAP = "tag:yaml.org,2002:map"
SEQ = "tag:yaml.org,2002:seq"
_MERGE = "tag:yaml.org,2002:merge"
_KNOWN_TAGS = {STR, INT, FLOAT, BOOL, NULL, MAP, SEQ, _MERGE}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's way; an empty one of our own takes the place of YAML 1.1


_Loader.add_implicit_resolver(BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(INT, re.compile(r"^(?:[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(FLOAT, re.compile(r"^[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"), list("-+.0123456789"))
_Loader.add_implicit_resolver(NULL, re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(_MERGE, re.compile(r"^(?:<<)$"), ["<"])


def plain_tag(text: str) -> str:
    """The tag that `text` has when it stands in a file without quotes."""
    return str(_Loader("").resolve(ScalarNode, text, (True, False)))  # type: ignore[no-untyped-call]


class Document:
    """A file that was read: `root` (a mapping node, duplicate keys refused and merge keys resolved), `file` as given, and the `problems` found so far.

    `written` maps the id of each scalar that held `${...}` to its text before expansion; in `broken` are those that could
    not be expanded. Raises `ConfigError` when there is nothing to walk.
    """

    def __init__(self, file: str, text: str, environ: Mapping[str, str]) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.written: dict[int, str] = {}
        self.broken: set[int] = set()
        # Of those of them that hold something of the environment: what they came to, and what they may be called instead.
        self.variable: dict[int, str] = {}
        self._hidden: dict[str, str] = {}
        self._environ = environ
        self._sizes: dict[int, int] = {}
        self.written_root = self.root = self._compose(text)  # the first stays as written, when the other is replaced by what it stands for
        self._settle(self.root, "", 0)

    @classmethod
    def read(cls, file: str, environ: Mapping[str, str]) -> Document:
        """The document in `file`. Raises `ConfigError` when it cannot be read or is no YAML mapping."""
        try:
            with open(file, "rb") as stream:
                content = stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise ConfigError([Problem(f"cannot be read: {error.strerror or error}", file, 1, 1)]) from None
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError([Problem(f"the file has more than {MAX_FILE_BYTES} octets", file, 1, 1)])
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = content[: error.start]
            line = before.count(b"\n") + 1
            raise ConfigError([Problem("expected UTF-8 text", file, line, error.start - before.rfind(b"\n"))]) from None
        return cls(file, text, environ)

    def problem(self, node: Node, message: str, path: str = "", suggestion: str = "") -> Problem:
        """A problem at the place of `node`; not yet added to `problems`."""
        return Problem(self._told(message), self.file, node.start_mark.line + 1, node.start_mark.column + 1, path, self._told(suggestion))

    def _told(self, message: str) -> str:
        """`message` with `${NAME}` in the place of what came out of the environment: it may be a credential, and messages end in logs."""
        for value, written in self._hidden.items():
            message = message.replace(value, written)
        return message

    def _fatal(self, node: Node, message: str, path: str = "") -> ConfigError:
        return ConfigError([*self.problems, self.problem(node, message, path)])

    def _compose(self, text: str) -> MappingNode:
        try:
            root = _Loader(text).get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            message = ", ".join(each for each in (error.context, error.problem) if each) or "not YAML"
            raise ConfigError([Problem(message, self.file, mark.line + 1 if mark else 1, mark.column + 1 if mark else 1)]) from None
        except yaml.reader.ReaderError as error:
            before = text[: error.position]
            character = chr(error.character) if isinstance(error.character, int) else error.character
            message = f"the character {character!r} may not stand in YAML"
            raise ConfigError([Problem(message, self.file, before.count("\n") + 1, error.position - before.rfind("\n"))]) from None
        except RecursionError:
            raise ConfigError([Problem("the file is nested too deeply", self.file, 1, 1)]) from None
        if root is None:
            raise ConfigError([Problem("the file is empty; expected a mapping", self.file, 1, 1)])
        if not isinstance(root, MappingNode):
            raise self._fatal(root, f"expected a mapping, got {describe(root)}")
        return root

    def _settle(self, node: Node, path: str, depth: int) -> int:
        """Check and resolve `node` and all beneath it, once each; the number of nodes it stands for."""
        known = self._sizes.get(id(node))
        if known is not None:
            if known == 0:
                raise self._fatal(node, "this anchor contains itself", path)
            return known
        if depth > MAX_DEPTH:
            raise self._fatal(node, f"nested more than {MAX_DEPTH} deep", path)
        self._sizes[id(node)] = 0  # in progress: whoever meets it now is inside of it
        if node.tag not in _KNOWN_TAGS:
            self.problems.append(self.problem(node, f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not allowed here", path))
            node.tag = STR if isinstance(node, ScalarNode) else MAP if isinstance(node, MappingNode) else SEQ
        size = 1
        if isinstance(node, ScalarNode):
            self._expand(node, path)
        elif isinstance(node, SequenceNode):
            size += sum(self._settle(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(node.value))
        elif isinstance(node, MappingNode):
            for key, value in node.value:
                size += 1 + self._settle(value, join(path, key.value if isinstance(key, ScalarNode) else "?"), depth + 1)
            node.value = self._entries(node, path)
        if size > MAX_NODES:
            raise self._fatal(node, f"the file stands for more than {MAX_NODES} nodes once its aliases are followed", path)
        self._sizes[id(node)] = size
        return size

    def _expand(self, node: ScalarNode, path: str) -> None:
        if "${" not in node.value:
            return
        written = node.value
        node.value, wrong = expand_variables(written, self._environ)
        self.written[id(node)] = written
        self.problems.extend(self.problem(node, sentence, path) for sentence in wrong)
        if wrong:
            self.broken.add(id(node))
        elif expand_variables(written, {}) != (node.value, []):
            self.variable[id(node)] = written
            self._hide(node.value, written)
            for name in set(VARIABLE.findall(written)) & self._environ.keys():
                self._hide(self._environ[name], f"${{{name}}}")
        if node.style is None and node.tag == STR:
            node.tag = plain_tag(node.value)

    def _hide(self, value: str, written: str) -> None:
        # As messages spell it: as it is, escaped, cut off.
        for text in (value, repr(value)[1:-1], value[:SHOWN_CHARACTERS]):
            if len(text) >= HIDDEN_CHARACTERS:
                self._hidden[text] = written

    def _entries(self, node: MappingNode, path: str) -> list[tuple[Node, Node]]:
        """The pairs of a mapping: its own first, then what merge keys add."""
        own: dict[str, tuple[Node, Node]] = {}
        merged: list[Node] = []
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self.problems.append(self.problem(key, f"expected a name as key, got {describe(key)}", path))
            elif key.tag == _MERGE:
                merged.extend(value.value if isinstance(value, SequenceNode) else [value])
            elif key.value in own:
                first = own[key.value][0].start_mark
                self.problems.append(self.problem(key, f"the key {key.value!r} stands here twice, first in line {first.line + 1}", join(path, key.value)))
            else:
                own[key.value] = (key, value)
        for other in merged:
            if isinstance(other, MappingNode):
                for key, value in other.value:
                    own.setdefault(key.value, (key, value))
            else:
                self.problems.append(self.problem(other, f"expected a mapping to merge, got {describe(other)}", path))
        return list(own.values())


def join(path: str, key: str) -> str:
    """The path of `key` within the mapping at `path`."""
    return f"{path}.{key}" if path else key


def number(node: ScalarNode) -> int | float:
    """The number that a scalar tagged INT or FLOAT stands for; an infinite one for an integer that nobody can mean, which Python might refuse to read."""
    if len(node.value) > MAX_DIGITS and plain_tag(node.value) == INT:
        return -inf if node.value.startswith("-") else inf
    return int(node.value, 0) if plain_tag(node.value) == INT else float(node.value)


def describe(node: Node) -> str:
    """What a node is, for the end of "expected ..., got"."""
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    kind = {STR: "the string", INT: "the number", FLOAT: "the number", BOOL: "the boolean"}.get(node.tag)
    if kind is None:
        return "nothing"
    text = node.value if len(node.value) <= SHOWN_CHARACTERS + 3 else node.value[:SHOWN_CHARACTERS] + "..."
    return f"{kind} {text!r}" if node.tag == STR else f"{kind} {text}"


def plain(node: Node) -> Any:
    """The node as Python's dicts, lists, strings, numbers, booleans and None."""
    if isinstance(node, MappingNode):
        return {key.value: plain(value) for key, value in node.value}
    if isinstance(node, SequenceNode):
        return [plain(item) for item in node.value]
    if isinstance(node, ScalarNode) and node.tag in (INT, FLOAT):
        return number(node)
    if node.tag == BOOL:
        return node.value.lower() == "true"
    return None if node.tag == NULL else node.value
