"""The pages on built-in plugins are complete, and their examples are valid configuration files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidecar.config.load import load
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


def test_every_built_in_has_a_page() -> None:
    """The kinds and names that pages begin with are those that are registered."""
    told = set()
    for page in PAGES:
        kind = re.search(r"^Kind `([a-z-]+)`(?:, name `([a-z-]+)`)?", page.read_text(), re.MULTILINE)
        assert kind is not None, page
        told.add((kind[1], kind[2] or page.stem))
    built_in = {(each.kind, each.name) for each in Finder().found() if each.target.startswith("sidecar.")}
    assert built_in - told == set()
