"""The `sidecar` command: what it prints, where, and with which status."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sidecar.cli import LAZY_COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = str(ROOT / "examples" / "config" / "short-form.yaml")
BROKEN = str(ROOT / "tests" / "data" / "config" / "broken" / "unknown-key.yaml")

Run = Callable[..., Result]


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs the command with arguments."""
    path = list(sys.path)
    yield lambda *arguments: CliRunner().invoke(main, arguments)
    sys.path[:] = path


@pytest.fixture
def plugin_dir(tmp_path: Path) -> Path:
    (tmp_path / "twisted" / "plugins").mkdir(parents=True)
    return tmp_path


def test_check_good_files(run: Run) -> None:
    """Good files are named on standard output, with status 0."""
    result = run("check", EXAMPLE, EXAMPLE)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{EXAMPLE}: ok\n" * 2, "")


def test_check_broken_files(run: Run) -> None:
    """Problems are lines on standard error that an editor can jump to, with status 1; good files are still named."""
    result = run("check", BROKEN, EXAMPLE)
    assert (result.exit_code, result.stdout) == (1, f"{EXAMPLE}: ok\n")
    assert result.stderr.splitlines() == [
        f"{BROKEN}:1:1: listners: unknown key 'listners'. Did you mean 'listeners'?",
        f"{BROKEN}:4:5: clusters[0].endponts: unknown key 'endponts'. Did you mean 'endpoints'?",
        "2 problems",
    ]


def test_check_a_file_that_is_not_there(run: Run, tmp_path: Path) -> None:
    """A missing file is a problem of that file, not a traceback."""
    result = run("check", str(tmp_path / "gone.yaml"))
    assert (result.exit_code, result.stderr) == (1, f"{tmp_path}/gone.yaml:1:1: cannot be read: No such file or directory\n1 problem\n")


def test_check_warns_of_broken_plugins(run: Run, plugin_dir: Path) -> None:
    """A broken plugin file that the configuration does not need is a warning; a name that is taken twice is a problem."""
    (plugin_dir / "twisted" / "plugins" / "acme_cli.py").write_text("sidecar = 1 / 0\n")
    result = run("check", "--plugin-dir", str(plugin_dir), EXAMPLE)
    assert result.exit_code == 0
    assert result.stderr == f"warning: {plugin_dir}/twisted/plugins/acme_cli.py: line 1: ZeroDivisionError: division by zero\n"
    (plugin_dir / "twisted" / "plugins" / "acme_cli.py").write_text("from sidecar.extension import Extension\na = Extension('filter', 'headers', 'acme.A')\n")
    result = run("check", "--plugin-dir", str(plugin_dir), EXAMPLE)
    assert result.exit_code == 1
    assert "filter 'headers' is declared 2 times" in result.stderr


@pytest.mark.parametrize("arguments", [("check",), ("check", "--plugin-dirs", "x", EXAMPLE), ("config",), ("chek",), ("config", "expand")])
def test_usage(run: Run, arguments: tuple[str, ...]) -> None:
    """A command that is not understood has status 2."""
    assert run(*arguments).exit_code == 2


def test_schema(run: Run) -> None:
    """The schema is JSON and names the draft that it follows."""
    result = run("schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_config_expand(run: Run, tmp_path: Path) -> None:
    """The full form is printed; it is itself a good file."""
    result = run("config", "expand", EXAMPLE)
    assert result.exit_code == 0
    assert f"# {EXAMPLE}:11:3\n  - name: inbound\n" in result.stdout
    (tmp_path / "full.yaml").write_text(result.stdout)
    assert run("check", str(tmp_path / "full.yaml")).exit_code == 0
    assert len(run("config", "expand", "--defaults", EXAMPLE).stdout) > len(result.stdout)


def test_config_expand_of_a_broken_file(run: Run) -> None:
    """Nothing is printed on standard output, so that a pipe gets nothing wrong."""
    result = run("config", "expand", BROKEN)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("2 problems\n")


def test_plugins(run: Run, plugin_dir: Path) -> None:
    """One line each: kind, name, origin, and what it is for."""
    (plugin_dir / "twisted" / "plugins" / "acme_cli.py").write_text(
        "from sidecar.extension import Extension\na = Extension('filter', 'acme.a', 'acme.A', 'does a')\n"
    )
    result = run("plugins", "--plugin-dir", str(plugin_dir))
    assert result.exit_code == 0
    rows = [line.split(maxsplit=3) for line in result.stdout.splitlines()]
    assert ["filter", "acme.a", f"{plugin_dir}/twisted/plugins/acme_cli.py", "does a"] in rows
    assert [row[:2] for row in rows] == sorted(row[:2] for row in rows)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sidecar = 1 / 0\n", "line 1: ZeroDivisionError: division by zero"),
        ("from sidecar.extension import Extension\na = Extension('filter', 'headers', 'acme.A')\n", "filter 'headers' is declared 2 times: in "),
        ("from sidecar.extension import Extension\na = Extension('fillter', 'a', 'acme.A')\n", "there is no kind 'fillter'"),
    ],
)
def test_plugins_that_are_wrong(run: Run, plugin_dir: Path, text: str, problem: str) -> None:
    """Broken and duplicate plugins are told on standard error, with status 1; the list is printed all the same."""
    (plugin_dir / "twisted" / "plugins" / "acme_cli.py").write_text(text)
    result = run("plugins", "--plugin-dir", str(plugin_dir))
    assert result.exit_code == 1
    assert "round-robin" in result.stdout
    assert result.stderr.startswith("error: ") and problem in result.stderr


def test_lazy_commands(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that live elsewhere are listed without being imported, and imported when used."""
    monkeypatch.setitem(LAZY_COMMANDS, "later", ("sidecar.nowhere", "later", "Comes later."))
    result = run("--help")
    assert result.exit_code == 0
    assert "Comes later." in result.stdout and "ca " in result.stdout
    assert isinstance(run("later").exception, ModuleNotFoundError)
    assert run("ca", "--help").exit_code == 0
