"""The files on docs/balancing.md load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidecar.config.load import load
from sidecar.plugins import Finder

PAGE = (Path(__file__).parent.parent / "docs" / "balancing.md").read_text()


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_files_of_the_page_load(tmp_path: Path, text: str) -> None:
    """What the page shows can be used."""
    (tmp_path / "page.yaml").write_text(text)
    assert load(str(tmp_path / "page.yaml"), Finder(), {})
