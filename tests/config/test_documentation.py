"""docs/configuration.md is true: every key and default stands in it, and its files load."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import yaml

from sidecar import model
from sidecar.config import short
from sidecar.config.expected import is_internal, syntax_of, type_of
from sidecar.config.load import load
from sidecar.config.render import plain
from sidecar.plugins import Finder

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "configuration.md").read_text()
STRUCTS = [
    cls
    for module in (short, model)
    for cls in vars(module).values()
    if isinstance(cls, type) and issubclass(cls, msgspec.Struct) and f"{cls.__module__}.".startswith(f"{module.__name__}.")
]


def rows(name: str) -> dict[str, str]:
    """key -> default of the table under a heading."""
    section = re.search(rf"^#### {name}\n(.*?)(?=^#)", PAGE + "\n#", re.MULTILINE | re.DOTALL)
    assert section is not None, f"no section for {name}"
    return {
        cells[1].strip().strip("`"): cells[3].strip() for line in section[1].splitlines() if (cells := line.split("|"))[1:] and cells[1].strip().startswith("`")
    }


@pytest.mark.parametrize("cls", STRUCTS, ids=lambda cls: cls.__name__)
def test_every_key_is_told(cls: type) -> None:
    """Each struct has a section with all of its keys, in order, and no others, with the defaults that they have."""
    table = rows(cls.__name__)
    fields = [each for each in type_of(cls).fields if not is_internal(each.type)]  # type: ignore[attr-defined]
    assert list(table) == [each.encode_name for each in fields]
    for each in fields:
        if each.required:
            assert table[each.encode_name] == "required"
            continue
        default = plain(each.default if each.default_factory is msgspec.NODEFAULT else each.default_factory(), defaults=False, syntax=syntax_of(each.type))
        written = yaml.safe_load(table[each.encode_name].strip("`"))
        assert written == default or (each.name == "admin" and written == "127.0.0.1:15000"), each.name


def test_links_lead_somewhere() -> None:
    """Every link within the page has its heading."""
    headings = {heading.lower() for heading in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([a-z]+)\)", PAGE)) <= headings


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_files_of_the_page_load(tmp_path: Path, text: str) -> None:
    """What the page shows can be used."""
    (tmp_path / "page.yaml").write_text(text)
    assert load(str(tmp_path / "page.yaml"), Finder(), {})


def test_the_page_shows_what_check_prints(problems_of: Callable[..., list[object]]) -> None:
    """The problems on the page are those of the file."""
    path = Path("tests/data/config/broken/unknown-key.yaml")
    for problem in problems_of(ROOT / path, {}):
        assert str(problem).replace(f"{ROOT}/", "") in PAGE
