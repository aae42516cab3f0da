"""Files in, models or all problems out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.load import expand, load
from sidecar.config.render import plain
from sidecar.errors import ConfigError
from sidecar.plugins import Finder

ROOT = Path(__file__).resolve().parent.parent.parent
BROKEN = sorted((ROOT / "tests" / "data" / "config").glob("broken*/*.yaml"))
EXAMPLES = sorted((ROOT / "examples" / "config").glob("*.yaml"))

Problems = Callable[[Path, Mapping[str, str]], list[Any]]


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_broken_files(problems_of: Problems, path: Path) -> None:
    """A broken file has exactly the problems that stand beside it: all of them, in its order, each with line, column, path and what was expected."""
    found = [str(problem).removeprefix(f"{path}:") for problem in problems_of(path, {})]
    assert found == path.with_suffix(".problems").read_text().splitlines()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_expand_to_themselves(path: Path, tmp_path: Path) -> None:
    """Each example loads with the built-in plugins, and so does its full form, wherever that is put, to the same model."""
    finder = Finder()
    model = load(str(path), finder, {})
    for defaults in (False, True):
        copy = tmp_path / "expanded.yaml"
        copy.write_text(expand(str(path), finder, {}, defaults))
        assert plain(load(str(copy), finder, {}), defaults=True) == plain(model, defaults=True)


def test_relative_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finder: Any) -> None:
    """A file may be named relatively; what it names starts from where it stands, not from the working directory."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "s.yaml").write_text(
        "certificates: [{name: a, source: {kind: certificate-source, name: pem-files, config: {certificate: c, key: k, trust: ../t}}}]"
    )
    monkeypatch.chdir(tmp_path)
    config = load("etc/s.yaml", finder, {}).certificates[0]
    assert (str(config.source.config.certificate), str(config.source.config.trust)) == (f"{tmp_path}/etc/c", f"{tmp_path}/t")
    assert config.origin == "etc/s.yaml:1:16"


def test_the_process_environment_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finder: Any) -> None:
    """Without `environ` variables are those of the process."""
    file = tmp_path / "s.yaml"
    file.write_text("node: {service: '${SIDECAR_TEST_NAME}'}")
    monkeypatch.setenv("SIDECAR_TEST_NAME", "orders")
    assert load(str(file), finder).node.service == "orders"


def test_duplicate_plugins_stop_the_start(tmp_path: Path, finder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two plugins of one name are a problem of every file, because nobody could say which one runs."""
    file = tmp_path / "s.yaml"
    file.write_text("{}")
    monkeypatch.setattr(finder, "duplicates", lambda: ["filter 'a' is declared 2 times: in x and y"], raising=False)
    with pytest.raises(ConfigError, match="declared 2 times: in x and y"):
        load(str(file), finder, {})


def test_loading_is_light() -> None:
    """What only `sidecar schema` and the tests need is not imported to load a file."""
    code = "import sys, sidecar.config.load\n"
    code += "print([name for name in ('jsonschema', 'click', 'twisted.internet', 'OpenSSL', 'sidecar.config.schema') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    "text",
    [
        "drain_time: ${TOKEN}",
        "drain_time: x ${TOKEN}",
        "admin: {address: '${TOKEN}'}",
        "clusters: [{name: a, endpoints: [], bind_address: 'http://me:${TOKEN}@host'}]",
        "clusters: [{name: a, endpoints: [], protocol: '${TOKEN}${TOKEN}${TOKEN}${TOKEN}${TOKEN}'}]",
    ],
)
def test_messages_tell_nothing_of_the_environment(refused: Callable[..., list[str]], text: str) -> None:
    """They end in logs; what is shown in its place is the variable."""
    [problem] = refused(text, TOKEN="hunter2-'hunter2'")
    assert "hunter" not in problem
    assert "${TOKEN}" in problem


def test_short_values_are_told(refused: Callable[..., list[str]]) -> None:
    """Nobody's password is that short, and it would be found in other words."""
    assert "got the string 'soon'" in refused("drain_time: ${WHEN}", WHEN="soon")[0]
