"""The JSON Schema says what the loader says, as far as a schema can."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sidecar.config.load import json_schema
from sidecar.plugins import Finder

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = ROOT / "tests" / "data" / "config"
CONFIGURATIONS = {"listeners", "clusters", "inbound", "outbound"}


def configurations() -> list[Path]:
    """Every YAML file among the examples that is a configuration of ours (manifests for other programs are not)."""
    found = []
    for path in sorted((ROOT / "examples").rglob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        if isinstance(content, dict) and CONFIGURATIONS & set(content):
            found.append(path)
    return found


@pytest.fixture(scope="session")
def validator() -> Any:
    """The schema with the installed plugins, checked itself, ready to validate."""
    schema = json.loads(json.dumps(json_schema(Finder())))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", configurations(), ids=lambda path: str(path.relative_to(ROOT)))
def test_accepts_every_example(validator: Any, path: Path) -> None:
    """Every configuration in the repository is right to an editor."""
    assert [error.message for error in validator.iter_errors(yaml.safe_load(path.read_text()))] == []


@pytest.mark.parametrize("path", sorted((DATA / "broken").glob("*.yaml")), ids=lambda path: path.stem)
def test_refuses_every_broken_file(validator: Any, path: Path) -> None:
    """Every broken file is wrong to an editor, too; those that only `sidecar check` sees through stand in broken_semantic."""
    assert not validator.is_valid(yaml.safe_load(path.read_text()))


ROUTE = {"route_tables": [{"name": "t", "virtual_hosts": [{"name": "v", "routes": [{}]}]}]}


def route(**keys: Any) -> dict[str, Any]:
    return {"route_tables": [{"name": "t", "virtual_hosts": [{"name": "v", "routes": [keys]}]}]}


def extension(**keys: Any) -> dict[str, Any]:
    return {"service": "a", "inbound": {"listen": "127.0.0.1:1", "app": "127.0.0.1:2"}, "extensions": [keys]}


@pytest.mark.parametrize(
    ("content", "is_good"),
    [
        ({}, True),
        ({"service": "a"}, True),
        ({"service": "a", "node": {}}, False),
        ({"node": {}, "clusters": [{"name": "c", "endpoints": ["10.0.0.1:80", {"address": "unix:/a", "weight": 0}]}]}, True),
        ({"drain_time": "1m30s"}, True),
        ({"drain_time": ""}, False),
        ({"drain_time": "30"}, False),
        ({"drain_time": "${DRAIN}"}, True),
        ({"admin": None}, True),
        ({"admin": "127.0.0.1:1"}, True),
        (route(cluster="c"), True),
        (route(), False),
        (route(cluster="c", weighted_clusters=[]), True),
        (route(cluster="c", weighted_clusters=[{"cluster": "d"}]), False),
        (route(cluster="c", match={"path": "/", "prefix": None}), True),
        (route(cluster="c", match={"path": "/", "prefix": "/"}), False),
        (route(cluster="c", origin="f:1:1"), False),
        (route(cluster="c", filters=[{"kind": "filter", "name": "headers"}]), False),
        (route(cluster="c", filters=[{"kind": "filter", "name": "headers", "disabled": True}]), True),
        (extension(kind="filter", name="headers", config={}), True),
        (extension(kind="filter", name="headers", direction="both", fail_open=True), True),
        (extension(kind="filter", name="headers", config={"requests": 1}), False),
        (extension(kind="rate-limiter", name="token-bucket"), False),
        (extension(kind="rate-limiter", name="token-bucket", config={"requests": 1}), True),
        (extension(kind="filter", name="haeders"), False),
        (extension(kind="filter", name="acme.own", config={"anything": 1}), True),
        (extension(kind="balancer", name="round-robin"), False),
    ],
)
def test_shapes(validator: Any, content: dict[str, Any], is_good: bool) -> None:
    """Both forms, alternatives, spellings, and plugins by their own Config; a team's plugin that is not here may have any."""
    assert validator.is_valid(content) is is_good


def test_plugins_that_are_found_are_checked(tmp_path: Path) -> None:
    """With a plugin directory the schema knows what its plugins may be told; one that cannot be imported may be told anything."""
    (tmp_path / "schema_probe.py").write_text(
        "from msgspec import Struct\nfrom zope.interface import implementer\nfrom sidecar.extension import Extension\n"
        "from sidecar.interfaces import IAuthenticator\n"
        "@implementer(IAuthenticator)\n"
        "class Probe:\n    class Config(Struct):\n        level: int\n        next: 'Probe.Config | None' = None\n"
        "probe = Extension('authenticator', 'acme.probe', 'schema_probe.Probe')\nlost = Extension('authenticator', 'acme.lost', 'schema_probe_nowhere.Probe')\n"
    )
    schema = json_schema(Finder([str(tmp_path)]))
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(extension(kind="authenticator", name="acme.probe", config={"level": 1}))
    assert not validator.is_valid(extension(kind="authenticator", name="acme.probe", config={"level": "high"}))
    assert not validator.is_valid(extension(kind="authenticator", name="acme.probe"))
    assert validator.is_valid(extension(kind="authenticator", name="acme.lost", config={"level": "high"}))
