"""The bands of the house: imports go down only, and what a band may not touch it does not import.

    0  vocabulary   standard library, attrs, msgspec, zope.interface
    1  logic        the same; no Twisted, no socket, no clock, no randomness of its own
    2  path         Twisted; siblings are strangers, except that all may use `transport`
    3  application  everything

A file's imports are read with `ast`, wherever in the file they stand, so that a late import inside a function is no way around the rule.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

BANDS = {
    0: "interfaces model message headers address errors outcomes facts verdicts record secret matching",
    1: "codec routing cluster policy telemetry naming",
    2: "transport downstream proxy upstream filters discovery identity export",
    3: "config admin extension plugins context security health_checks http2 discovering overload collector lives assembly unread routes service tap cli "
    "testing __main__",
}
BAND_OF = {part: band for band, parts in BANDS.items() for part in parts.split()}

# What bands 0 and 1 leave to others: input and output, waiting, and clocks. `now` and random sources come in as arguments.
IMPURE = frozenset(
    (
        *("asyncio", "concurrent", "multiprocessing", "sched", "select", "selectors", "signal", "socket", "socketserver", "ssl", "subprocess", "threading"),
        *("secrets", "time", "OpenSSL", "requests", "treq", "twisted", "urllib3"),
    )
)
# Clocks and dice in modules that also have pure parts; with a star every name but the listed ones.
IMPURE_NAMES = {
    "os": frozenset({"getrandom", "times", "urandom"}),
    "uuid": frozenset({"uuid1", "uuid4"}),
    "random": frozenset({"*", "Random"}),
    "datetime": frozenset({"now", "today", "utcnow"}),
}
# Filters are written as a stranger would write them: of Twisted they see Deferreds, everything else is handed to them.
FILTERS_MAY_IMPORT = "twisted.internet.defer"
# Only where a process is started may its reactor be named; everybody else is given one.
ENTRY_POINTS = frozenset({"sidecar.tap", "sidecar.cli"})
# Looking for plugins reads this file in every Twisted program on the machine, so it costs next to nothing.
PLUGIN_FILES_MAY_IMPORT = ("__future__", "os", "sys", "sidecar.extension", "twisted.application", "twisted.plugin", "zope.interface")


def imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported; for `from a import b` both a and a.b. `package`: what relative imports start from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield node.lineno, base
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def impure_uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, module.name) wherever a clock or a die of a half-pure module is used, as `os.urandom` or as `from os import urandom`."""
    bound: dict[str, str] = {}  # what a half-pure module, or a class of it, is called in this file
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            bound |= {alias.asname or alias.name: alias.name for alias in node.names if alias.name in IMPURE_NAMES}
        elif isinstance(node, ast.ImportFrom) and node.module in IMPURE_NAMES:
            for alias in node.names:
                bound[alias.asname or alias.name] = node.module
                if _is_impure(node.module, alias.name):
                    yield node.lineno, f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value
            while isinstance(owner, ast.Attribute):  # datetime.datetime.now
                owner = owner.value
            module = bound.get(owner.id, "") if isinstance(owner, ast.Name) else ""
            if _is_impure(module, node.attr):
                yield node.lineno, f"{module}.{node.attr}"


def _is_impure(module: str, name: str) -> bool:
    refused = IMPURE_NAMES.get(module, frozenset())
    return (name in refused) != ("*" in refused)


def breaches(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """One sentence for each rule that `source`, the file of the dotted `module`, breaks."""
    tree = ast.parse(source)
    package = module if is_package else module.rpartition(".")[0]
    part = module.split(".")[1] if "." in module else ""
    band = BAND_OF.get(part, 0 if not part else None)
    if band is None:
        return [f"{module}: `{part}` is in no band; name one in tests/test_layers.py"]
    found = []
    for line, name in dict.fromkeys(imports(tree, package)):
        reason = _refusal(module, part, band, name)
        if reason:
            found.append(f"{module}:{line} imports {name}: {reason}")
    if band < 2:
        found += [f"{module}:{line} uses {name}: clocks and randomness are arguments in band {band}" for line, name in impure_uses(tree)]
    return found


def _refusal(module: str, part: str, band: int, name: str) -> str:
    """Why this import is not allowed, or ""."""
    if name == "twisted.internet.reactor" and module not in ENTRY_POINTS:
        return "only entry points name the reactor"
    top = name.partition(".")[0]
    if top == "sidecar":
        other = name.split(".")[1] if "." in name else ""
        return _refusal_within(part, band, other)
    if band < 2 and top in IMPURE:
        return f"band {band} has no input, output, waiting or clock"
    if part == "filters" and top == "twisted" and not (FILTERS_MAY_IMPORT + ".").startswith(name + ".") and not name.startswith(FILTERS_MAY_IMPORT + "."):
        return f"filters see nothing of Twisted but {FILTERS_MAY_IMPORT}"
    return ""


def _refusal_within(part: str, band: int, other: str) -> str:
    """Why `part` may not import `sidecar.<other>`, or ""."""
    if other not in BAND_OF or other == part:
        return ""  # a plain name of sidecar/__init__.py, such as __version__, or itself
    below = BAND_OF[other]
    if below > band:
        return f"band {band} does not look up to band {below}"
    if part == "filters" and below == 2:
        return "filters import bands 0 and 1 alone"
    if below == band and band in (1, 2) and other != "transport":
        return f"siblings of band {band} are strangers; they meet through interfaces"
    return ""


def sources(directory: str) -> list[Path]:
    """The Python files under a directory of the repository, sorted."""
    return sorted(path for path in (ROOT / directory).rglob("*.py") if "__pycache__" not in path.parts)


@pytest.mark.parametrize("path", sources("sidecar"), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    """No file of the package breaks the rules of its band."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    assert breaches(module, path.read_text(), is_package=is_package) == []


@pytest.mark.parametrize("path", sources("twisted"), ids=lambda path: str(path.relative_to(ROOT)))
def test_plugin_files_are_light(path: Path) -> None:
    """A plugin file holds names and no machinery, and its directory stays open to other packages."""
    assert path.name != "__init__.py", "twisted.plugins has no __init__.py here: Twisted finds plugin directories by its absence"
    light = tuple(f"{name}." for name in PLUGIN_FILES_MAY_IMPORT)
    assert [name for _, name in imports(ast.parse(path.read_text()), "twisted.plugins") if not f"{name}.".startswith(light)] == []


REFUSED = [
    ("sidecar.headers", "import sidecar.codec.h1", "does not look up"),
    ("sidecar.codec.h1.reader", "from sidecar.proxy import exchange", "does not look up"),
    ("sidecar.codec.h1.reader", "from sidecar import config", "does not look up"),
    ("sidecar.codec.h1.reader", "def f():\n    from ...transport import tls", "does not look up"),
    ("sidecar.codec.h1.reader", "from sidecar.routing.table import Table", "strangers"),
    ("sidecar.upstream.pool", "from ..downstream import server", "strangers"),
    ("sidecar.transport.port", "import sidecar.upstream.pool", "strangers"),
    ("sidecar.filters.edit", "import sidecar.transport.timers", "bands 0 and 1"),
    ("sidecar.filters.edit", "from twisted.internet import task", "filters see nothing"),
    ("sidecar.telemetry.trace", "import time", "clock"),
    ("sidecar.telemetry.trace", "from socket import socket", "no input"),
    ("sidecar.policy.bucket", "from twisted.internet.defer import Deferred", "no input"),
    ("sidecar.policy.bucket", "if False:\n    import asyncio.events", "no input"),
    ("sidecar.cluster.balance", "import random\nx = random.random()", "randomness"),
    ("sidecar.cluster.balance", "from random import choice", "randomness"),
    ("sidecar.telemetry.trace", "import os\nx = os.urandom(8)", "randomness"),
    ("sidecar.telemetry.trace", "import datetime\nx = datetime.datetime.now()", "clocks"),
    ("sidecar.telemetry.trace", "from datetime import datetime\nx = datetime.utcnow()", "clocks"),
    ("sidecar.telemetry.trace", "from datetime import date\nx = date.today()", "clocks"),
    ("sidecar.upstream.pool", "from twisted.internet import reactor", "entry points"),
    ("sidecar.service", "def f():\n    import twisted.internet.reactor", "entry points"),
    ("sidecar.newcomer", "", "in no band"),
]

ALLOWED = [
    ("sidecar", "import sidecar.address"),
    ("sidecar.codec.h1.reader", "from . import grammar\nfrom .state import State\nfrom sidecar.codec import sniff\nfrom sidecar.headers import Headers"),
    ("sidecar.codec.h1.reader", "from sidecar import __version__, errors"),
    ("sidecar.cluster.balance", "from random import Random\ndef f(random: Random):\n    return random.random()"),
    ("sidecar.telemetry.access", "from datetime import datetime, timezone\nx = datetime.fromtimestamp(0, timezone.utc)"),
    ("sidecar.upstream.pool", "import time\nfrom sidecar.transport import tls\nfrom twisted.internet.defer import Deferred"),
    ("sidecar.filters.edit", "from twisted.internet.defer import Deferred\nfrom twisted.internet import defer\nfrom sidecar.policy import bucket"),
    ("sidecar.assembly", "from sidecar.config import load\nfrom sidecar.upstream import pool"),
    ("sidecar.tap", "from twisted.internet import reactor"),
]


@pytest.mark.parametrize(("module", "source", "because"), REFUSED)
def test_breach_is_found(module: str, source: str, because: str) -> None:
    """The walk sees each kind of breach, relative and late imports included."""
    assert any(because in sentence for sentence in breaches(module, source))


@pytest.mark.parametrize(("module", "source"), ALLOWED)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    """The walk lets pass what the rules allow."""
    assert breaches(module, source) == []
