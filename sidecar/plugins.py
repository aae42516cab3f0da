"""Finds plugins by (kind, name), and is loud about those that cannot be used.

Where it looks, in this order:

- `twisted/plugins/*.py` of every entry of `sys.path`, as Twisted does. As with imports, of two files with the same name the first one counts.
- for each `--plugin-dir DIR`: `DIR/twisted/plugins/*.py`, then `DIR/*.py`. `DIR` is added to the end of `sys.path`, so that targets can be imported from it
  and nothing in it can take the place of an installed module.

A file is run only if the word "sidecar" stands in it (directly in `DIR`: "sidecar.extension"): plugin files of other Twisted programs are left alone, and so
are modules beside the plugin files. Twisted's own
`getPlugins` is not used, because it hides a broken file in the log and wants to write a `dropin.cache` beside the files.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

import attrs
import msgspec
from zope.interface.interface import InterfaceClass

import sidecar
from sidecar import interfaces
from sidecar.config.suggest import did_you_mean, listing
from sidecar.errors import PluginLookupFailed
from sidecar.extension import KINDS, IExtension

# Files without these octets are not run: in `twisted/plugins` any word about us, beside it (where a plugin's own modules stand) the import of the declaration.
MARK = b"sidecar"
BARE_MARK = b"sidecar.extension"

# What a class of each kind provides: at least one of these.
PROMISES: dict[str, tuple[InterfaceClass, ...]] = {
    "connection-filter": (interfaces.IConnectionFilter, interfaces.IHandshakeFilter),
    "authenticator": (interfaces.IAuthenticator,),
    "authorizer": (interfaces.IAuthorizer,),
    "rate-limiter": (interfaces.IRateLimiter,),
    "filter": (
        interfaces.IRequestHeadHook,
        interfaces.IRequestBodyHook,
        interfaces.IRequestTrailersHook,
        interfaces.IResponseHeadHook,
        interfaces.IResponseBodyHook,
        interfaces.IResponseTrailersHook,
        interfaces.IExchangeDone,
    ),
    "tracer": (interfaces.ITracer,),
    "span-exporter": (interfaces.ISpanExporter,),
    "access-log": (interfaces.IAccessLog,),
    "balancer": (interfaces.IBalancer,),
    "retry-policy": (interfaces.IRetryPolicy,),
    "health-check": (interfaces.IHealthCheck,),
    "discovery": (interfaces.IDiscovery,),
    "certificate-source": (interfaces.ICertificateSource,),
}


@attrs.frozen
class Found:
    """One plugin as its file declares it. `origin`: the file. `problem`: a sentence when it cannot be used for what the declaration itself says, else ""."""

    kind: str
    name: str
    target: str
    summary: str
    origin: str
    problem: str = ""


@attrs.frozen
class Broken:
    """A plugin file that could not be run. `reason`: the last line of the traceback, with the line of the file where it happened."""

    origin: str
    reason: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"


class Finder:
    """The plugins that there are. Files are looked at when first asked, once; targets are imported when `load` first asks for them.

    `directories`: what `--plugin-dir` names. `search_path`: instead of `sys.path`.
    """

    def __init__(self, directories: Sequence[str] = (), search_path: Sequence[str] | None = None) -> None:
        self.directories = tuple(os.path.abspath(each) for each in directories)
        self._search_path = search_path
        self._found: list[Found] | None = None
        self._broken: list[Broken] = []
        self._classes: dict[tuple[str, str], type] = {}

    # -- what there is -----------------------------------------------------------------------------------------------------------------------

    def found(self) -> list[Found]:
        """All plugins, sorted by kind, name and origin; also those that cannot be used."""
        if self._found is None:
            self._found = sorted(self._scan(), key=lambda each: (each.kind, each.name, each.origin))
        return self._found

    def broken(self) -> list[Broken]:
        """The plugin files that could not be run, and directories that are not there."""
        self.found()
        return self._broken

    def duplicates(self) -> list[str]:
        """A sentence, with all origins, for each (kind, name) that is declared more than once."""
        origins: dict[tuple[str, str], list[str]] = {}
        for each in self.found():
            origins.setdefault((each.kind, each.name), []).append(each.origin)
        return [f"{kind} {name!r} is declared {len(files)} times: in {listing(files)}" for (kind, name), files in origins.items() if len(files) > 1]

    def problems(self) -> list[str]:
        """Everything that is wrong with the plugins that were found, one sentence each; empty when all is well. Does not import targets."""
        wrong = [f"{each.origin}: {each.kind} {each.name!r}: {each.problem}" for each in self.found() if each.problem]
        return [str(each) for each in self.broken()] + self.duplicates() + wrong

    def names(self, kind: str) -> list[str]:
        """The names of the plugins of `kind`, sorted."""
        return sorted({each.name for each in self.found() if each.kind == kind})

    # -- one of them -------------------------------------------------------------------------------------------------------------------------

    def load(self, kind: str, name: str) -> type:
        """The class behind (kind, name): it provides an interface of its kind and has a nested `Config`.

        Raises `PluginLookupFailed` with a sentence for a person: unknown (the known names are listed), declared twice, cannot be imported, or not
        what it claims to be.
        """
        loaded = self._classes.get((kind, name))
        if loaded is None:
            found = self._lookup(kind, name)
            loaded = self._classes[kind, name] = _checked(found, _imported(found))
        return loaded

    def _lookup(self, kind: str, name: str) -> Found:
        if kind not in KINDS:
            raise PluginLookupFailed(f"there is no kind {kind!r}; the kinds are {listing(KINDS)}. {did_you_mean(kind, KINDS)}".rstrip())
        matches = [each for each in self.found() if each.kind == kind and each.name == name]
        if not matches:
            raise PluginLookupFailed(self._unknown(kind, name))
        if len(matches) > 1:
            raise PluginLookupFailed(f"{kind} {name!r} is declared {len(matches)} times: in {listing(each.origin for each in matches)}")
        if matches[0].problem:
            raise PluginLookupFailed(f"{kind} {name!r} of {matches[0].origin} cannot be used: {matches[0].problem}")
        return matches[0]

    def _unknown(self, kind: str, name: str) -> str:
        known = self.names(kind)
        sentence = f"no {kind} is named {name!r}; known: {listing(known)}. {did_you_mean(name, known)}".rstrip()
        if self._broken:
            sentence += " These plugin files are broken and may hold it: " + "; ".join(map(str, self._broken))
        return sentence

    # -- looking -----------------------------------------------------------------------------------------------------------------------------

    def _scan(self) -> Iterator[Found]:
        seen: set[str] = set()
        for directory in self.directories:
            if not os.path.isdir(directory):
                self._broken.append(Broken(directory, "the plugin directory does not exist"))
            elif directory not in sys.path:
                sys.path.append(directory)
        for file, module_name, by_path in self._files():
            real = os.path.realpath(file)
            if real in seen:
                continue
            seen.add(real)
            try:
                with open(file, "rb") as stream:
                    if (MARK if by_path else BARE_MARK) not in stream.read():
                        continue
                module = _run(file, module_name, by_path)
            except (Exception, SystemExit) as error:
                self._broken.append(Broken(file, _last_line(error, file)))
            else:
                yield from _declarations(module, file)

    def _files(self) -> Iterator[tuple[str, str, bool]]:
        """(file, module name, is it run by its path rather than imported by its name) of every file to look at."""
        modules: set[str] = set()
        for directory in _plugin_paths(sys.path if self._search_path is None else self._search_path):
            for file, stem in _python_files(directory):
                if stem not in modules:
                    modules.add(stem)
                    yield file, f"twisted.plugins.{stem}", True
        for number, directory in enumerate(self.directories):
            for file, stem in _python_files(os.path.join(directory, "twisted", "plugins")):
                yield file, f"twisted.plugins.{stem}" if stem not in modules else f"_sidecar_plugins_{number}_{stem}", True
            for file, stem in _python_files(directory):
                yield file, stem, False


def _plugin_paths(search_path: Iterable[str]) -> list[str]:
    """The directories that make up `twisted.plugins`, in the order of `search_path`; that of this very sidecar first, so that
    it never runs with another version's built-ins."""
    roots = [os.path.dirname(os.path.dirname(os.path.abspath(sidecar.__file__)))]
    roots += [os.path.abspath(each) for each in search_path if each not in roots]
    return list(dict.fromkeys(os.path.join(root, "twisted", "plugins") for root in roots))


def _python_files(directory: str) -> list[tuple[str, str]]:
    """(file, module name) of the Python files in `directory`, sorted; none when there is no such directory."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    return [(os.path.join(directory, name), name[:-3]) for name in names if name.endswith(".py") and name[:-3].isidentifier() and name != "__init__.py"]


def _run(file: str, module_name: str, by_path: bool) -> ModuleType:
    """The module of a plugin file. `by_path`: run exactly this file; else import it by name, so that a target in the same file is the same class."""
    known = sys.modules.get(module_name)
    if known is not None and os.path.realpath(getattr(known, "__file__", None) or "") == os.path.realpath(file):
        return known
    if not by_path:
        module = importlib.import_module(module_name)
        if os.path.realpath(getattr(module, "__file__", None) or "") != os.path.realpath(file):
            raise ImportError(f"the module name {module_name!r} is taken by {getattr(module, '__file__', None) or 'a built-in module'}; rename the file")
        return module
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if known is None:
        sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if sys.modules.get(module_name) is module:
            del sys.modules[module_name]
        raise
    return module


def _declarations(module: ModuleType, file: str) -> Iterator[Found]:
    """What a plugin file declares: its module-level values that provide `IExtension`."""
    seen: list[object] = []
    for value in list(vars(module).values()):
        # A second name for the same object is no second plugin.
        if isinstance(value, (type, ModuleType)) or not IExtension.providedBy(value) or any(value is each for each in seen):
            continue
        seen.append(value)
        yield Found(str(value.kind), str(value.name), str(value.target), str(value.summary), file, _declaration_problem(value))


def _declaration_problem(extension: Any) -> str:
    if extension.kind not in KINDS:
        return f"there is no kind {extension.kind!r}; the kinds are {listing(KINDS)}. {did_you_mean(str(extension.kind), KINDS)}".rstrip()
    if not isinstance(extension.name, str) or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", extension.name) is None:
        return f"the name {extension.name!r} may hold only letters, digits, '.', '_' and '-'"
    if not isinstance(extension.target, str) or not all(part.isidentifier() for part in extension.target.split(".")) or "." not in extension.target:
        return f"the target {extension.target!r} is not 'package.module.Class'"
    return ""


def _last_line(error: BaseException, file: str) -> str:
    """The last line of the traceback, and where in `file` it came from."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if os.path.realpath(frame.filename) == os.path.realpath(file)]
    if isinstance(error, SyntaxError) and error.filename == file and error.lineno:
        lines.append(error.lineno)
    last = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    return f"line {lines[-1]}: {last}" if lines else last


# -- targets ---------------------------------------------------------------------------------------------------------------------------------


def _imported(found: Found) -> Any:
    module_name, _, class_name = found.target.rpartition(".")
    what = f"{found.kind} {found.name!r} (declared in {found.origin})"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if f"{module_name}.".startswith(f"{missing}."):
            raise PluginLookupFailed(f"{what} names the target {found.target!r}, but there is no module {missing!r}") from error
        raise PluginLookupFailed(f"{what} needs the module {missing!r}, which is not installed; {_how_to_install(missing, module_name)}") from error
    except (Exception, SystemExit) as error:
        raise PluginLookupFailed(f"{what} cannot be imported: {_last_line(error, '')}") from error
    try:
        return getattr(module, class_name)
    except AttributeError:
        raise PluginLookupFailed(f"{what}: {module_name} has no class {class_name!r}. {did_you_mean(class_name, vars(module))}".rstrip()) from None


def _how_to_install(missing: str, module_name: str) -> str:
    """What to do about a missing module: the extra of the plugin's own distribution that brings it, else the package itself."""
    package = re.sub(r"[-_.]+", "-", missing.partition(".")[0]).lower()
    import importlib.metadata  # half a megabyte, for who misses something

    for distribution in importlib.metadata.packages_distributions().get(module_name.partition(".")[0], ()):
        for requirement in importlib.metadata.requires(distribution) or ():
            extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", requirement)
            name = re.match(r"[A-Za-z0-9._-]+", requirement)
            if extra is not None and name is not None and package in re.sub(r"[-_.]+", "-", name[0]).lower():
                return f"install the extra: pip install '{distribution}[{extra[1]}]'"
    return f"install the package that provides {missing.partition('.')[0]!r}"


def _checked(found: Found, target: Any) -> type:
    what = f"{found.kind} {found.name!r}: {found.target}"
    if not isinstance(target, type):
        raise PluginLookupFailed(f"{what} is not a class")
    promises = PROMISES[found.kind]
    if not any(promise.implementedBy(target) for promise in promises):
        raise PluginLookupFailed(f"{what} does not implement {' or '.join(promise.__name__ for promise in promises)} (zope.interface's @implementer)")
    config = getattr(target, "Config", None)
    if not (isinstance(config, type) and issubclass(config, msgspec.Struct)):
        raise PluginLookupFailed(f"{what} has no nested class Config (a msgspec.Struct)")
    return target
