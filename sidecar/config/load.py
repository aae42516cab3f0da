"""A configuration file in, the immutable model out; or all that is wrong with the file at once.

text -> nodes (document) -> [short form -> full form (expansion)] -> structs (convert, checks) -> names and addresses (references) -> Config
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from sidecar.config.checks import CHECKS
from sidecar.config.convert import FAILED, Conversion, PluginFinder
from sidecar.config.document import Document
from sidecar.config.expansion import Expansion, is_short, node_paths
from sidecar.config.references import check_references
from sidecar.config.render import dump, to_yaml
from sidecar.config.short import SHORT_CHECKS, ShortForm
from sidecar.errors import ConfigError, Problem
from sidecar.model import Config
from sidecar.plugins import Finder

__all__ = ["dump", "expand", "json_schema", "load"]


def load(path: str, finder: PluginFinder | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration in the file `path`, in either form, checked as far as can be without opening anything but the secrets it names.

    `finder`: where plugins are looked up, by default those that are installed. `environ`: what `${NAME}` stands for, by default the process's environment.
    Raises `ConfigError` with every problem, in the order of the file.
    """
    document = Document.read(path, os.environ if environ is None else environ)
    return _model(document, Finder() if finder is None else finder)


def expand(path: str, finder: PluginFinder | None = None, environ: Mapping[str, str] | None = None, defaults: bool = False) -> str:
    """The file `path` in the full form, as YAML whose comments tell where each object came from; with `defaults`, all of them too.

    Loading the result gives an equal configuration, wherever it is put: paths become absolute, variables are replaced (but for secrets). Raises `ConfigError`.
    """
    return to_yaml(load(path, finder, environ), defaults)


def json_schema(finder: Finder | None = None) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a configuration file in either form, with the plugins that `finder` finds."""
    from sidecar.config.schema import json_schema as build  # imports every plugin there is

    return build(Finder() if finder is None else finder)


def _model(document: Document, finder: PluginFinder) -> Config:
    problems = [*document.problems, *_duplicates(document, finder)]
    paths: dict[int, str] = {}
    is_complete = is_right = True
    if is_short(document.root):
        paths = node_paths(document.root)
        short = Conversion(document, finder, SHORT_CHECKS, paths)
        is_complete = short.root(ShortForm) is not FAILED
        problems += short.problems
        is_right = not short.problems
        document.root = Expansion(document.root, short.failed, paths, short.directory).full()
    full = Conversion(document, finder, CHECKS, paths)
    config = full.root(Config)
    check_references(full, is_complete, is_right)
    problems += full.problems
    if problems:
        raise ConfigError(_in_order(problems))
    assert isinstance(config, Config)
    return replace(config, variables=full.variables)


def _duplicates(document: Document, finder: PluginFinder) -> list[Problem]:
    """Two plugins of the same name stop the start, whether the file uses them or not: nobody could say which one runs."""
    return [Problem(sentence, document.file, 1, 1) for sentence in finder.duplicates()]


def _in_order(problems: list[Problem]) -> list[Problem]:
    """Each problem once (what aliases and the short form share is walked more than once), in the order of the file."""
    once = {(each.line, each.column, each.path, each.message): each for each in problems}
    return sorted(once.values(), key=lambda each: (each.line, each.column))
