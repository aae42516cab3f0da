"""The pages on built-in plugins are complete, and their examples are valid configuration files."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import yaml

from sidecar.config.expected import syntax_of, type_of
from sidecar.config.load import load
from sidecar.config.render import plain
from sidecar.plugins import Finder

PAGES = sorted((Path(__file__).parent.parent / "docs" / "filters").glob("*.md"))
HEADINGS = ["Purpose", "Example", "Behaviour", "Replies made", "Metrics", "Failure mode", "Security posture"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_same_headings(page: Path) -> None:
    """A reader finds the same things in the same order on each page."""
    assert re.findall(r"^## (.*)$", page.read_text(), re.MULTILINE) == HEADINGS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_are_valid(page: Path, tmp_path: Path) -> None:
    """What is shown can be copied and started."""
    (example,) = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    file = tmp_path / "sidecar.yaml"
    file.write_text(example)
    load(str(file), Finder())


def _told(page: Path) -> tuple[str, str]:
    """The kind and name that a page is about."""
    kind = re.search(r"^Kind `([a-z-]+)`(?:, name `([a-z-]+)`)?", page.read_text(), re.MULTILINE)
    assert kind is not None, page
    return kind[1], kind[2] or page.stem


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_keys_and_defaults_are_true(page: Path) -> None:
    """Every key that a plugin takes is told of, and what is written as a default in code is the default."""
    text = page.read_text()
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| `([^`|]+)` \|", text, re.MULTILINE))
    for each in type_of(Finder().load(*_told(page)).Config).fields:  # type: ignore[attr-defined]
        assert f"`{each.encode_name}`" in text or f"{each.encode_name}:" in text, each.encode_name
        written = rows.get(each.encode_name)
        if written is None or each.required:
            continue
        default = plain(each.default if each.default_factory is msgspec.NODEFAULT else each.default_factory(), defaults=False, syntax=syntax_of(each.type))
        # Of something that is not set a page may tell what takes its place.
        assert default is None or default in (written, yaml.safe_load(written)), each.encode_name


def test_every_built_in_has_a_page() -> None:
    """The kinds and names that pages begin with are those that are registered."""
    told = set(map(_told, PAGES))
    built_in = {(each.kind, each.name) for each in Finder().found() if each.target.startswith("sidecar.")}
    assert built_in - told == set()
