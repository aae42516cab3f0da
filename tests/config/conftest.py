"""Plugins that stand in for the built-in ones, so that what is tested here is the loader and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import Meta, Struct

from sidecar.config.load import load
from sidecar.config.suggest import did_you_mean, listing
from sidecar.errors import ConfigError, PluginLookupFailed
from sidecar.model import Config, Duration, HeaderOps, Size
from sidecar.policy.rules import Rule
from sidecar.secret import Secret


class Nothing:
    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        pass


class Rules:
    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        rules: tuple[Rule, ...] = ()


class Limiter:
    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        requests: Annotated[int, Meta(ge=1)]
        per: Duration = 1.0
        burst: int | None = None

    @staticmethod
    def validate(config: Config) -> list[str]:
        return ["`burst` is below `requests`"] if config.burst is not None and config.burst < config.requests else []


class Edits:
    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        request: HeaderOps = HeaderOps()


class Lines:
    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        path: Path
        buffer: Size = 1024


class Files:
    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        certificate: Path
        key: Path
        trust: Path


class ApiKey:
    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        key: Secret
        labels: dict[str, int] = {}


class Page:
    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        path: str = "/"
        host: str | None = None
        expected_statuses: tuple[int | str, ...] = (200,)

        def __post_init__(self) -> None:
            if not self.path.startswith("/"):
                raise ValueError("a path begins with '/'")


class Served:
    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        service: str = ""


class Names:
    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        names: str | tuple[str, ...]

    @staticmethod
    def validate(config: Config) -> list[str]:
        names = (config.names,) if isinstance(config.names, str) else config.names
        return [f"no port in {name!r}" for name in names if ":" not in name]


class OneFile:
    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        path: Path


CLASSES: dict[tuple[str, str], type] = {
    ("connection-filter", "address-list"): Nothing,
    ("authenticator", "mtls"): Nothing,
    ("authenticator", "acme.api-key"): ApiKey,
    ("authorizer", "rules"): Rules,
    ("rate-limiter", "token-bucket"): Limiter,
    ("filter", "headers"): Edits,
    ("tracer", "w3c"): Nothing,
    ("span-exporter", "json"): Lines,
    ("access-log", "json"): Lines,
    ("balancer", "round-robin"): Nothing,
    ("discovery", "dns"): Names,
    ("discovery", "file"): OneFile,
    ("certificate-source", "pem-files"): Files,
    ("health-check", "http"): Page,
    ("health-check", "tcp"): Nothing,
    ("health-check", "grpc"): Served,
}


class FakeFinder:
    def load(self, kind: str, name: str) -> type:
        if (kind, name) not in CLASSES:
            known = self.names(kind)
            raise PluginLookupFailed(f"no {kind} is named {name!r}; known: {listing(known)}. {did_you_mean(name, known)}".rstrip())
        return CLASSES[kind, name]

    def names(self, kind: str) -> list[str]:
        return sorted(each for other, each in CLASSES if other == kind)

    def duplicates(self) -> list[str]:
        return []


@pytest.fixture(scope="session")
def finder() -> FakeFinder:
    """Finds the classes above."""
    return FakeFinder()


Load = Callable[..., Config]


@pytest.fixture
def loaded(tmp_path: Path, finder: FakeFinder) -> Load:
    """Loads a text as the file `sidecar.yaml` of an empty directory; keyword arguments are the environment."""

    def run(text: str, **environ: str) -> Config:
        file = tmp_path / "sidecar.yaml"
        file.write_text(text)
        return load(str(file), finder, environ)

    return run


@pytest.fixture
def refused(loaded: Load) -> Callable[..., list[str]]:
    """The problems of a text, as `line:column: path: message`; fails when there are none."""

    def run(text: str, **environ: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            loaded(text, **environ)
        return [str(problem).partition("sidecar.yaml:")[2] for problem in caught.value.problems]

    return run


@pytest.fixture(scope="session")
def problems_of(finder: FakeFinder) -> Callable[[Path, Mapping[str, str]], list[Any]]:
    """The problems of a file, empty when it loads."""

    def run(file: Path, environ: Mapping[str, str]) -> list[Any]:
        try:
            load(str(file), finder, environ)
        except ConfigError as error:
            return list(error.problems)
        return []

    return run
