"""What holds for every file of the repository and no linter looks at."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINES = 500  # a longer file holds two ideas
EMPTY_WORDS = {"base", "common", "engine", "handler", "handlers", "helper", "helpers", "manager", "misc", "processor", "util", "utils"}
# A path or an address that is true on one machine alone.
FOREIGN = re.compile(r"(?<![\w.])/(?:work|root|home/\w+)/|\bTODO(?! ?\(#\d+\))|\bFIXME\b")


def files(*patterns: str) -> list[Path]:
    """The repository's own files that fit, sorted; nothing that was installed or built."""
    found = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    made = {".git", ".venv", ".demo", "build", "dist", "__pycache__", ".peers"}
    return sorted(path for path in found if not made & set(path.relative_to(ROOT).parts))


def name(path: Path) -> str:
    """The path as a test's id."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", files("sidecar/**/*.py", "bench/**/*.py"), ids=name)
def test_file_is_one_idea(path: Path) -> None:
    """A file has at most 500 lines and is called by its idea, not by its kind."""
    assert path.stem not in EMPTY_WORDS
    assert len(path.read_text().splitlines()) <= LINES


@pytest.mark.parametrize("path", files("tests/**/*.py"), ids=name)
def test_tests_state_promises(path: Path) -> None:
    """A test file is no package, begins with what it is about, and no test sleeps (but between two looks at a real process)."""
    tree = ast.parse(path.read_text())
    assert path.name != "__init__.py", "importlib mode needs no packages among the tests, and one would shadow the package it mirrors"
    assert ast.get_docstring(tree)
    sleeps = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep"]
    # Those that run real processes poll them, with a deadline.
    assert {"conformance", "e2e", "examples"} & set(path.parts) or not sleeps, f"time.sleep in line {sleeps}: walk a Clock instead"


@pytest.mark.parametrize("path", files("*.md", "*.cfg", "*.toml", "Makefile", ".ci/*", "*/**/*.py", "*/**/*.md", "*/**/*.yaml"), ids=name)
def test_file_is_true_everywhere(path: Path) -> None:
    """No file names a place on somebody's machine or leaves work without an issue's number."""
    if path == Path(__file__).resolve():
        return
    assert FOREIGN.findall(path.read_text(errors="replace")) == []


def test_every_package_is_a_package() -> None:
    """Each directory with Python files under sidecar/ has an __init__.py, or an installation would leave it out."""
    assert [path for path in {each.parent for each in files("sidecar/**/*.py")} if not (path / "__init__.py").exists()] == []
