"""The walk over types: every type a Config may have, what it takes, and what is said when it does not."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from msgspec import Meta, Struct, field

from sidecar.address import Address
from sidecar.config.convert import FAILED, Conversion, Record
from sidecar.config.document import Document
from sidecar.model import Duration, Endpoint, Size
from sidecar.secret import Secret


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Circle(Struct, frozen=True, tag_field="shape", tag="circle"):
    radius: float


class Square(Struct, frozen=True, tag_field="shape", tag="square"):
    side: float


class Tree(Struct, frozen=True):
    name: str
    children: tuple[Tree, ...] = ()


class Even(Struct, frozen=True):
    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError(f"{self.number} is odd")


class Everything(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    text: Annotated[str, Meta(min_length=2, max_length=4)] | None = None
    pattern: Annotated[str, Meta(pattern="^[a-z]+$")] = "x"
    number: Annotated[int, Meta(ge=1, le=9)] = 1
    above: Annotated[float, Meta(gt=0)] = 1.0
    flag: bool = False
    choice: Literal["a", "b", 3] = "a"
    colour: Colour = Colour.RED
    duration: Duration | None = None
    size: Size = 0
    address: Address | None = None
    endpoint: Endpoint | None = None
    path: Path = Path("x")
    secret: Secret | None = None
    names: Annotated[list[str], Meta(min_length=1)] = field(default_factory=lambda: ["x"])
    pair: tuple[int, str] = (0, "")
    unique: frozenset[int] = frozenset()
    counts: dict[str, int] = {}  # noqa: RUF012
    anything: Any = None
    shape: Circle | Square | None = None
    either: int | str | tuple[str, ...] = 0
    tree: Tree | None = None
    even: Even | None = None
    day: datetime.date | None = None
    id: UUID | None = None
    money: Decimal | None = None


def convert(text: str, cls: type = Everything, directory: str = "/etc", checks: dict[type, Callable[[Record], None]] | None = None, **environ: str) -> Any:
    conversion = Conversion(Document(f"{directory}/f.yaml", text, environ), None, checks or {})  # type: ignore[arg-type]
    value = conversion.root(cls)
    return [str(each).partition(":")[2] for each in conversion.problems] if value is FAILED else value


GOOD = [
    ("text: abc", "text", "abc"),
    ("text: null", "text", None),
    ("number: 9", "number", 9),
    ("above: 1", "above", 1.0),
    ("flag: true", "flag", True),
    ("choice: b", "choice", "b"),
    ("choice: 3", "choice", 3),
    ("colour: blue", "colour", Colour.BLUE),
    ("duration: 250ms", "duration", 0.25),
    ("duration: 2", "duration", 2.0),
    ("duration: 0.5", "duration", 0.5),
    ("size: 64KiB", "size", 65536),
    ("size: 10", "size", 10),
    ("address: '[::1]:80'", "address", Address("::1", 80)),
    ("address: unix:/run/a", "address", Address(path="/run/a")),
    ("endpoint: 10.0.0.1:80", "endpoint", Endpoint(address=Address("10.0.0.1", 80))),
    ("endpoint: {address: 10.0.0.1:80, weight: 3}", "endpoint", Endpoint(address=Address("10.0.0.1", 80), weight=3)),
    ("path: keys/../a", "path", Path("/etc/a")),
    ("path: /b", "path", Path("/b")),
    ("path: '-'", "path", Path("-")),
    ("names: [a, b]", "names", ["a", "b"]),
    ("pair: [1, b]", "pair", (1, "b")),
    ("unique: [1, 1, 2]", "unique", frozenset({1, 2})),
    ("counts: {on: 1, 2: 3}", "counts", {"on": 1, "2": 3}),
    ("anything: {a: [1, null, x]}", "anything", {"a": [1, None, "x"]}),
    ("shape: {shape: square, side: 2}", "shape", Square(2.0)),
    ("either: 5", "either", 5),
    ("either: five", "either", "five"),
    ("either: [five]", "either", ("five",)),
    ("tree: {name: a, children: [{name: b}]}", "tree", Tree("a", (Tree("b"),))),
    ("even: {number: 2}", "even", Even(2)),
    ("day: 2024-02-29", "day", datetime.date(2024, 2, 29)),
    ("id: 12345678-1234-1234-1234-123456789abc", "id", UUID("12345678-1234-1234-1234-123456789abc")),
    ("money: '1.10'", "money", Decimal("1.10")),
]


@pytest.mark.parametrize(("text", "field", "value"), GOOD, ids=[row[0] for row in GOOD])
def test_good_values(text: str, field: str, value: object) -> None:
    """Each type takes its own spelling and gives its own value."""
    made = getattr(convert(text), field)
    assert made == value
    assert type(made) is type(value)


BAD = [
    ("text: a", "1:7: text: expected at least 2 characters, got the string 'a'"),
    ("text: abcde", "1:7: text: expected at most 4 characters, got the string 'abcde'"),
    ("text: 123", '1:7: text: expected a string, got the number 123. Put it in quotes: "123"'),
    ("text: [a]", "1:7: text: expected a string, got a list"),
    ("pattern: A", "1:10: pattern: expected text that matches ^[a-z]+$, got the string 'A'"),
    ("number: 10", "1:9: number: expected an integer from 1 to 9, got the number 10"),
    ("number: 1.5", "1:9: number: expected an integer from 1 to 9, got the number 1.5"),
    ("number: '5'", "1:9: number: expected an integer from 1 to 9, got the string '5'"),
    ("number: null", "1:9: number: expected an integer from 1 to 9, got nothing"),
    ("above: 0", "1:8: above: expected a number above 0, got the number 0"),
    ("above: 1e999", "1:8: above: expected a number above 0, got the number 1e999"),
    ("flag: yes", "1:7: flag: expected true or false, got the string 'yes'"),
    ("flag: 1", "1:7: flag: expected true or false, got the number 1"),
    ("choice: c", "1:9: choice: expected one of 3, 'a', 'b', got the string 'c'"),
    ("choice: '3'", "1:9: choice: expected one of 3, 'a', 'b', got the string '3'"),
    ("colour: bleu", "1:9: colour: expected one of 'red', 'blue', got the string 'bleu'. Did you mean 'blue'?"),
    ("duration: 5 s", "1:11: duration: expected a duration such as 250ms, 5s, 1m30s, 1h, or a number of seconds, got the string '5 s'"),
    ("duration: -1", "1:11: duration: expected a number of at least 0, got the number -1"),
    ("duration: true", "1:11: duration: expected a duration such as 250ms, 5s, 1m30s, 1h, or a number of seconds, got the boolean true"),
    ("size: 1.5", "1:7: size: expected an integer of at least 0, got the number 1.5"),
    ("size: lots", "1:7: size: expected a size such as 64KiB, 1MiB, 10MB, or a number of octets, got the string 'lots'"),
    ("address: 80", "1:10: address: expected an address: HOST:PORT, [IPV6]:PORT or unix:/PATH, got the number 80"),
    ("address: ':80'", "1:10: address: the host is missing in ':80'; write 0.0.0.0:80 or [::]:80 for every address"),
    ("address: 127.0.0.1:" + "9" * 5000, "1:10: address: expected HOST:PORT, [IPV6]:PORT or unix:/PATH, got '127.0.0.1:" + "9" * 5000 + "'"),
    ('address: "unix:/a\\0b"', "1:10: address: a UNIX socket path has no NUL in it, got '/a\\x00b'"),
    ("path: ''", "1:7: path: expected a path, got the string ''"),
    ("names: []", "1:8: names: expected at least 1 items, got 0"),
    ("names: a", "1:8: names: expected a list, got the string 'a'. Put it in brackets: [...]"),
    ("pair: [1]", "1:7: pair: expected a list of 2 items, got 1"),
    ("unique: [1, b]", "1:13: unique[1]: expected an integer, got the string 'b'"),
    ("counts: {a: b}", "1:13: counts.a: expected an integer, got the string 'b'"),
    ("counts: 1", "1:9: counts: expected a mapping, got the number 1"),
    ("shape: {shape: sqare}", "1:16: shape.shape: expected one of circle and square, got the string 'sqare'. Did you mean 'square'?"),
    ("shape: {side: 2}", "1:8: shape: the key 'shape' is missing: one of circle and square"),
    ("shape: {shape: circle}", "1:8: shape: the key 'radius' is missing: a number"),
    ("either: {a: 1}", "1:9: either: expected an integer or a string or a list, got a mapping"),
    ("tree: {name: a, children: [{nam: b}]}", "1:28: tree.children[0]: the key 'name' is missing: a string"),
    ("even: {number: 3}", "1:7: even: 3 is odd"),
    ("day: 2023-02-29", "1:6: day: expected a date, got the string '2023-02-29'"),
    ("nummer: 1", "1:1: nummer: unknown key 'nummer'. Did you mean 'number'?"),
]


@pytest.mark.parametrize(("text", "problem"), BAD, ids=[row[0] for row in BAD])
def test_bad_values(text: str, problem: str) -> None:
    """Each type says what it expected and what it got, with line, column and path."""
    found = convert(text)
    assert isinstance(found, list)
    assert problem in found


@pytest.mark.parametrize("digits", [30, 400, 5000])
def test_numbers_that_nobody_can_mean(digits: int) -> None:
    """Python reads integers of no more than 4300 digits and makes floats of no more than 308: neither limit is the reader's business, nor a traceback."""
    number = "1" * digits
    for key in ("number", "above", "duration", "size", "anything", "either", "choice"):
        convert(f"{key}: -{number}")
    assert "size: expected an integer from -9223372036854775807 to 9223372036854775807, got the number 111" in str(convert(f"size: {number}"))
    assert "size: expected an integer from" in str(convert(f"size: {number}MB"))
    assert "number: expected an integer from 1 to 9, got the number 111" in str(convert(f"number: {number}"))
    if digits > 308:
        assert "duration: expected a number of at least 0, got the number 111" in str(convert(f"duration: {number}"))


def test_all_problems_at_once() -> None:
    """A wrong value does not hide its neighbours."""
    found = convert("number: 0\nnames: [1, 2]\ntree: {nam: x}\nshape: 5\n")
    assert sorted(each.split(" ")[0] for each in found) == ["1:9:", "2:12:", "2:9:", "3:7:", "3:8:", "4:8:"]


def test_variables_take_the_wanted_type() -> None:
    """What comes out of the environment is a number where a number is wanted and text where text is, quoted or not."""
    made = convert('number: "${N}"\npattern: ${T}\ntext: ${N}${N}\nflag: "${F}"\nduration: "${N}"\nchoice: "${N}"', N="3", T="abc", F="true")
    assert (made.number, made.pattern, made.text, made.flag, made.duration, made.choice) == (3, "abc", "33", True, 3.0, 3)


def test_unset_variables_are_told_once(refused: Callable[..., list[str]]) -> None:
    """What an unset variable would have been is not judged as well."""
    assert refused("service: ${A}\ninbound: {listen: '${A}', app: 127.0.0.1:80, mtls: disabled, timeout: '${A}'}") == [
        f"{place}: the environment variable A is not set; set it, or give a default: ${{A:-default}}"
        for place in ("1:10: service", "2:19: inbound.listen", "2:71: inbound.timeout")
    ]


def test_secrets(tmp_path: Path) -> None:
    """A secret comes out of a file, without the newline at its end, or out of the environment, whole."""
    (tmp_path / "key").write_text("hunter2\n")
    made = convert("secret: {file: key}", directory=str(tmp_path)).secret
    assert (made.reveal(), made.source) == ("hunter2", f"file:{tmp_path}/key")
    made = convert("secret: ${KEY}", KEY="hunter2").secret
    assert (made.reveal(), made.source) == ("hunter2", "${KEY}")


@pytest.mark.parametrize("text", ["hunter2", "'hunter2'", "${KEY:-hunter2}", "x${KEY}", "[hunter2]", "{file: [hunter2]}", "{text: hunter2}"])
def test_secrets_are_not_written(text: str) -> None:
    """A secret's text in the file is refused, and not shown."""
    [problem] = convert(f"secret: {text}", KEY="hunter2")
    assert "expected a secret: {file: PATH} or ${NAME}" in problem
    assert "hunter2" not in problem


def test_secrets_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is missing, too long or no text is told."""
    assert "No such file" in convert("secret: {file: gone}", directory=str(tmp_path))[0]
    (tmp_path / "key").write_bytes(b"\xff")
    assert "UTF-8" in convert("secret: {file: key}", directory=str(tmp_path))[0]
    (tmp_path / "key").write_bytes(b"a" * 70_000)
    assert "octets" in convert("secret: {file: key}", directory=str(tmp_path))[0]


def test_checks_see_what_was_written() -> None:
    """A check is asked of each struct, also of one with wrong fields, and its problems stand at their keys."""
    seen = []

    def check(record: Record) -> None:
        seen.append((record.path, sorted(record.keys), record.has("children"), record.get("name", "?")))
        record.problem("no", "name")

    found = convert("tree: {name: a, children: [{name: 1}, {name: c, children: []}]}", checks={Tree: check})
    assert seen == [
        ("tree.children[0]", ["name"], False, "?"),
        ("tree.children[1]", ["children", "name"], False, "c"),
        ("tree", ["children", "name"], True, "a"),
    ]
    assert [each for each in found if each.endswith("no")] == ["1:35: tree.children[0].name: no", "1:46: tree.children[1].name: no", "1:14: tree.name: no"]


def test_a_type_that_no_file_holds() -> None:
    """A plugin's Config with a type that YAML cannot say is the plugin's mistake, and told as that."""

    class Odd(Struct):
        raw: bytes

    assert "has a type that a file cannot hold" in convert("raw: abc", Odd)[0]


def test_plugin_configs(loaded: Callable[..., Any], refused: Callable[..., list[str]]) -> None:
    """A plugin's configuration is made by its class, with the same care; `validate` adds what types cannot say."""
    text = "service: a\ninbound: {listen: 127.0.0.1:80, app: 127.0.0.1:81, mtls: disabled}\nextensions:\n- {kind: rate-limiter, name: token-bucket, config: %s}"
    [plugin] = loaded(text % "{requests: 5, per: 1m}").listeners[0].filter_chains[0].http.http_filters
    assert (plugin.config.requests, plugin.config.per, plugin.config.burst) == (5, 60.0, None)
    assert refused(text % "{requests: 5, burst: 1}") == ["4:52: extensions[0].config: `burst` is below `requests`"]
    assert refused(text % "{request: 5}") == [
        "4:52: extensions[0].config: the key 'requests' is missing: an integer of at least 1",
        "4:53: extensions[0].config.request: unknown key 'request'. Did you mean 'requests'?",
    ]


def test_plugins_in_defaults_are_configured(loaded: Callable[..., Any]) -> None:
    """A plugin that nobody wrote, because it is the default, gets its configuration all the same."""
    [cluster] = loaded("clusters: [{name: a, endpoints: []}]").clusters
    assert cluster.balancer.config is not None
    assert cluster.balancer.origin.endswith("sidecar.yaml:1:12")


def test_origins(loaded: Callable[..., Any]) -> None:
    """Every object that has an origin knows its line and column."""
    config = loaded("clusters:\n  - name: a\n    endpoints: []\n  - {name: b, endpoints: []}\n")
    assert [cluster.origin.rpartition("/")[2] for cluster in config.clusters] == ["sidecar.yaml:2:5", "sidecar.yaml:4:5"]
