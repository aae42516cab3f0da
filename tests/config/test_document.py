"""A file as nodes: what YAML means here, and what makes a file unsafe to walk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar.config.document import MAX_DEPTH, MAX_FILE_BYTES, Document, plain
from sidecar.errors import ConfigError


def read(text: str, **environ: str) -> Any:
    document = Document("f.yaml", text, environ)
    assert document.problems == []
    return plain(document.root)


def problems(text: str, **environ: str) -> list[str]:
    try:
        return [str(each) for each in Document("f.yaml", text, environ).problems]
    except ConfigError as error:
        return [str(each) for each in error.problems]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True),
        ("False", False),
        ("off", "off"),
        ("yes", "yes"),
        ("on", "on"),
        ("12", 12),
        ("-3", -3),
        ("0x1f", 31),
        ("0o17", 15),
        ("017", "017"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("2001-01-01", "2001-01-01"),
        ("~", None),
        ("", None),
        ("null", None),
        ('"12"', "12"),
        ("10.0.0.1:80", "10.0.0.1:80"),
    ],
)
def test_scalars_are_those_of_the_core_schema(written: str, value: object) -> None:
    """YAML 1.2's core schema, as editors read it; nothing that only some readers take for a number or a boolean."""
    read_value = read(f"a: {written}")["a"]
    assert read_value == value
    assert type(read_value) is type(value)


def test_merge_keys() -> None:
    """`<<` adds what is not there; of several the first wins; what is written itself always does."""
    text = "one: &one {a: 1, b: 1}\ntwo: &two {b: 2, c: 2}\nboth: {<<: [*one, *two], a: 0}\n"
    assert read(text)["both"] == {"a": 0, "b": 1, "c": 2}
    assert problems("a: {<<: 5}") == ["f.yaml:1:9: a: expected a mapping to merge, got the number 5"]


def test_variables_in_values_only() -> None:
    """Values are expanded and then read as if written so; quoted ones stay text, keys stay as they are."""
    assert read('a: ${N}\nb: "${N}"\n"${N}": x\n', N="5") == {"a": 5, "b": "5", "${N}": "x"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "f.yaml:1:1: the file is empty; expected a mapping"),
        ("# only a comment\n", "f.yaml:1:1: the file is empty; expected a mapping"),
        ("[a]", "f.yaml:1:1: expected a mapping, got a list"),
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: a: the key 'a' stands here twice, first in line 1"),
        ("a: {x: 1, x: 2}", "f.yaml:1:11: a.x: the key 'x' stands here twice, first in line 1"),
        ("[a]: 1", "f.yaml:1:1: expected a name as key, got a list"),
        ("a: !!python/object/apply:os.system [id]", "f.yaml:1:4: a: the tag !!python/object/apply:os.system is not allowed here"),
        ("a: !mine b", "f.yaml:1:4: a: the tag !mine is not allowed here"),
        ("a: &a [*a]", "f.yaml:1:4: a[0]: this anchor contains itself"),
        ("a: *b", "f.yaml:1:4: found undefined alias 'b'"),
        ("a: 1\n---\nb: 1\n", "f.yaml:2:1: expected a single document in the stream, but found another document"),
        ("a: b: c", "f.yaml:1:5: mapping values are not allowed here"),
        ("a: 1\nb: \x01\n", "f.yaml:2:4: the character '\\x01' may not stand in YAML"),
        ("a: ${N}", "f.yaml:1:4: a: the environment variable N is not set; set it, or give a default: ${N:-default}"),
    ],
)
def test_unsafe_files(text: str, problem: str) -> None:
    """What cannot be walked, or means two things, is a problem with its place."""
    assert problems(text) == [problem]


def test_aliases_may_not_explode() -> None:
    """Nine lines that stand for a billion nodes are refused at once; aliases as such are welcome."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    [problem] = problems("\n".join(lines))
    assert "once its aliases are followed" in problem
    assert read("\n".join(lines[:3]))["a1"] == [["x"] * 10] * 10


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 100_000])
def test_nesting_is_bounded(depth: int) -> None:
    """A file nested without end is a problem, not a crash."""
    [problem] = problems("a: " + "[" * depth + "]" * depth)
    assert "nested" in problem


def test_unreadable_files(tmp_path: Path) -> None:
    """A file that is not there, is no text, or is far too large is told with its name."""
    file = tmp_path / "f.yaml"
    with pytest.raises(ConfigError, match=r"f\.yaml:1:1: cannot be read: No such file"):
        Document.read(str(file), {})
    file.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(ConfigError, match=r"f\.yaml:2:4: expected UTF-8"):
        Document.read(str(file), {})
    file.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="octets"):
        Document.read(str(file), {})
    file.write_bytes("\ufeffa: 1\n".encode())
    assert plain(Document.read(str(file), {}).root) == {"a": 1}
