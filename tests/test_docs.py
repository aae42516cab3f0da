"""The documentation is whole and true: links lead somewhere, examples are valid, and what is listed is what the code has."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from sidecar import errors, model
from sidecar.admin.pages import make_pages
from sidecar.admin.server import AdminServer
from sidecar.assembly import Sidecar
from sidecar.config.load import load
from sidecar.model import Config
from sidecar.plugins import Finder
from sidecar.record import ExchangeRecord
from sidecar.telemetry.exchange_metrics import ExchangeStats
from sidecar.testing import Clock

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "newsfragments" / "README.md", *DOCS.rglob("*.md")])
OPERATIONS = (DOCS / "operations.md").read_text()
# Pages whose YAML blocks are whole configuration files; the others have tests of their own.
WITH_FILES = ["discovery.md", "retries.md", "routing.md", "tcp-proxy.md", "timeouts.md", "traffic.md", "websocket.md"]
UNITS = {"": 1, "B": 1, "KiB": 1024, "MiB": 1024 * 1024, "s": 1}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(text: str) -> str:
    """The text without blocks and spans of code, in which brackets are no links."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(page: Path) -> set[str]:
    """What can stand behind # in a link to this page, as forges make it of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section(title: str) -> str:
    """A section of operations.md, with its subsections."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", OPERATIONS, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/operations.md has no section {title!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of every row of every table, without heads and rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0].startswith("`") or (len(row) > 2 and row[2].startswith("`"))]


def codes(text: str) -> set[str]:
    return {row[0].strip("`") for row in rows(text)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that is there, and a heading in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{name_of(page)} links to {target}"


def test_every_page_is_in_the_index() -> None:
    """Who starts at the index finds every page."""
    index = (DOCS / "index.md").read_text()
    missing = [name_of(page) for page in DOCS.rglob("*.md") if page.name != "index.md" and f"({page.relative_to(DOCS)})" not in index]
    assert missing == []


@pytest.mark.parametrize("page", WITH_FILES)
def test_examples_are_valid(page: str, tmp_path: Path) -> None:
    """What is shown can be copied and started."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        (tmp_path / "sidecar.yaml").write_text(block)
        load(str(tmp_path / "sidecar.yaml"), Finder())


# -- operations.md ---------------------------------------------------------------------------------------------------------------------------


def test_admin_pages_are_those_that_answer() -> None:
    """The table has every page of the admin address and no other."""
    server = AdminServer(make_pages(None), None, Clock())
    assert codes(section("Admin pages")) == {path.decode() for path in server.pages}


def test_every_error_code_is_told() -> None:
    """Each class of `errors` has a row with its code, and where a caller gets it, with its status and side."""
    table = {row[0].strip("`"): row for row in rows(section("Stable error codes"))}
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.SidecarError)]
    assert {each.code for each in classes} == set(table)
    for each in classes:
        row = table[each.code]
        if len(row) == 5:
            assert row[1:3] == [str(each.status), each.side], each.code


def test_every_response_flag_is_told() -> None:
    """Each flag stands with exactly the codes that carry it, as far as callers can get them."""
    told = {row[0].strip("`"): set(re.findall(r"`([a-z-]+)`", row[2])) for row in rows(section("Response flags"))}
    have: dict[str, set[str]] = {}
    for each in vars(errors).values():
        if isinstance(each, type) and issubclass(each, errors.SidecarError) and each.flag:
            have.setdefault(each.flag, set()).add(each.code)
    assert told == have


def test_every_field_of_the_record_is_told() -> None:
    """The table has the fields of the record, in their order."""
    assert [row[0].strip("`") for row in rows(section("The access record"))] == list(ExchangeRecord.__struct_fields__)


def test_every_metric_is_told() -> None:
    """What a sidecar registers by itself is in the table; what one protocol or plugin adds may stand on a page of its own."""
    sidecar = Sidecar(Config(), Clock(), Finder())
    ExchangeStats(sidecar.registry, sidecar.config.node, "inbound", "in")
    have = {family.name for family in sidecar.registry.families()}
    elsewhere = {name for page in DOCS.rglob("*.md") for name in re.findall(r"^\| `(\w+)` \|", page.read_text(), re.MULTILINE)}
    # HTTP/2's are too many and too alike for rows of their own: the page gives the pattern and the names.
    alike = {name: re.sub(r"^sidecar_(?:downstream|upstream)_h2_(\w+)_total$", r"`\1`", name) for name in have}
    assert len(have) > 20
    assert {name for name in have - elsewhere if alike[name] == name or alike[name] not in section("Metrics")} == set()


def test_metrics_of_the_table_exist() -> None:
    """No row of the table is about a metric that there is no more."""
    code = "".join(path.read_text() for path in (ROOT / "sidecar").rglob("*.py"))
    for name in codes(section("Metrics")):
        stem = re.sub(r"^sidecar_(downstream_connections|upstream|endpoint|plugin|mirror)_|_total$", "", name)
        assert name in code or f'"{stem}"' in code, name


LIMITS = rows(section("Limits"))


@pytest.mark.parametrize("row", LIMITS, ids=lambda row: row[2].strip("`"))
def test_limits_are_as_told(row: list[str]) -> None:
    """The default that is told is the constant's value."""
    module, _, constant = row[2].strip("`").partition(":")
    number, _, unit = row[1].partition(" ")
    assert getattr(importlib.import_module(module), constant) == float(number) * UNITS[unit]


def test_every_limit_of_the_model_is_told() -> None:
    """A limit that is added to the model has to be added to docs/operations.md as well."""
    limits = {name for name, value in vars(model).items() if name.isupper() and type(value) in (int, float)}
    assert limits - {row[2].strip("`").partition(":")[2] for row in LIMITS} == set()


def test_keys_of_limits_are_in_the_model() -> None:
    """The last part of each setting is a key of some structure of the model."""
    keys = {field for each in vars(model).values() if hasattr(each, "__struct_fields__") for field in each.__struct_fields__}
    settings = [key for row in LIMITS if row[0].startswith("`") for key in re.findall(r"`([^`]+)`", row[0])]
    assert settings
    assert {key.rpartition(".")[2] for key in settings} - keys == set()
