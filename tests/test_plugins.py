"""Plugins are found by kind and name, and whatever is wrong with one is said aloud."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidecar.errors import PluginLookupFailed
from sidecar.extension import KINDS
from sidecar.plugins import PROMISES, Finder

DECLARE = "from sidecar.extension import Extension\n"
TARGET = """from msgspec import Struct
from zope.interface import implementer
from sidecar.interfaces import IAuthenticator

@implementer(IAuthenticator)
class Key:
    class Config(Struct, forbid_unknown_fields=True):
        key: str

@implementer(IAuthenticator)
class NoConfig:
    pass

class NoInterface:
    class Config(Struct):
        pass

not_a_class = 5
"""
BUILT_IN = {
    "access-log": ["json"],
    "authenticator": ["mtls"],
    "authorizer": ["rules"],
    "balancer": ["least-request", "maglev", "peak-ewma", "random", "ring-hash", "round-robin"],
    "certificate-source": ["pem-files"],
    "connection-filter": ["address-list"],
    "discovery": ["consul", "dns", "file", "kubernetes", "static"],
    "filter": ["adaptive-concurrency", "cors", "fault", "grpc-web", "headers"],
    "health-check": ["grpc", "http", "tcp"],
    "rate-limiter": ["token-bucket"],
    "retry-policy": ["conditions"],
    "span-exporter": ["json"],
    "tracer": ["w3c"],
}
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def clean_imports() -> Iterator[None]:
    """What a test imports or adds to the path is taken back, so that no test sees another's plugins."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("acme", "twisted.plugins.acme", "_sidecar_plugins")):
            del sys.modules[name]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., str]:
    """A directory with these files (name -> text); `twisted/plugins/x.py` is written `x.py` under `plugins`."""

    def run(files: dict[str, str] | None = None, plugins: dict[str, str] | None = None) -> str:
        directory = tmp_path / f"dir{next(_numbers)}"
        (directory / "twisted" / "plugins").mkdir(parents=True)
        for name, text in (files or {}).items():
            (directory / name).write_text(text)
        for name, text in (plugins or {}).items():
            (directory / "twisted" / "plugins" / name).write_text(text)
        return str(directory)

    return run


def own(finder: Finder) -> list[tuple[str, str]]:
    return [(each.kind, each.name) for each in finder.found() if each.name.startswith("acme")]


def test_built_in_plugins() -> None:
    """Every kind has at least one of the sidecar's own, declared in the same way as a stranger's, and a promise it must keep."""
    finder = Finder(search_path=[])
    assert {kind: finder.names(kind) for kind in KINDS} == BUILT_IN
    assert finder.problems() == []
    assert set(PROMISES) == set(KINDS)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in BUILT_IN.items() for name in names])
def test_built_in_plugins_can_be_used(kind: str, name: str) -> None:
    """Each of them is there, keeps its kind's promise, and can be configured."""
    assert Finder(search_path=[]).load(kind, name).__module__.startswith("sidecar.")


def test_installed_plugins(make: Callable[..., str]) -> None:
    """A file under twisted/plugins of anything on the path is found."""
    installed = make(plugins={"acme_dropin.py": DECLARE + "a = Extension('filter', 'acme.a', 'acme.A')\n"})
    finder = Finder(search_path=[installed])
    assert own(finder) == [("filter", "acme.a")]
    assert next(each for each in finder.found() if each.name == "acme.a").origin == f"{installed}/twisted/plugins/acme_dropin.py"


def test_plugin_directory_with_modules(make: Callable[..., str]) -> None:
    """A bare directory has its plugin files under twisted/plugins, and the modules they name beside."""
    directory = make({"acme_keys.py": TARGET}, {"acme_dropin.py": DECLARE + "k = Extension('authenticator', 'acme.key', 'acme_keys.Key')\n"})
    finder = Finder([directory], search_path=[])
    assert "acme_keys" not in sys.modules
    assert finder.load("authenticator", "acme.key").__name__ == "Key"
    assert finder.load("authenticator", "acme.key") is finder.load("authenticator", "acme.key")


def test_plugin_in_one_file(make: Callable[..., str]) -> None:
    """One file directly in the directory may hold the plugin and its declaration."""
    directory = make({"acme_key.py": TARGET + DECLARE + "key = Extension('authenticator', 'acme.key', 'acme_key.Key')\n"})
    finder = Finder([directory], search_path=[])
    assert finder.load("authenticator", "acme.key") is sys.modules["acme_key"].Key


def test_files_of_others_are_left_alone(make: Callable[..., str]) -> None:
    """A file that does not speak of the sidecar is not run, and neither are modules beside plugin files."""
    directory = make({"acme_mod.py": "# for the sidecar\n1 / 0\n"}, {"acme_other.py": "1 / 0\n", "acme-odd.py": "sidecar = 1 / 0\n"})
    finder = Finder([directory], search_path=[])
    assert (own(finder), finder.problems()) == ([], [])


def test_first_on_the_path_counts(make: Callable[..., str]) -> None:
    """Of two files with the same name on the path the first is the module, as for imports."""
    one, two = (make(plugins={"acme_dropin.py": DECLARE + f"a = Extension('filter', 'acme.{name}', 'acme.A')\n"}) for name in ("one", "two"))
    assert own(Finder(search_path=[one, two])) == [("filter", "acme.one")]


def test_broken_files(make: Callable[..., str]) -> None:
    """A file that cannot be run is told with its line and the last line of the traceback; the others are still found."""
    directory = make(
        {"json.py": DECLARE},
        {
            "acme_a.py": DECLARE + "import acme_nowhere\n",
            "acme_b.py": DECLARE + "a = = 1\n",
            "acme_c.py": DECLARE + "raise SystemExit('stop')\n",
            "acme_d.py": DECLARE + "d = Extension('filter', 'acme.d', 'acme.D')\n",
        },
    )
    finder = Finder([directory], search_path=[])
    assert own(finder) == [("filter", "acme.d")]
    plugins = f"{directory}/twisted/plugins"
    assert [str(each) for each in finder.broken()][:3] == [
        f"{plugins}/acme_a.py: line 2: ModuleNotFoundError: No module named 'acme_nowhere'",
        f"{plugins}/acme_b.py: line 2: SyntaxError: invalid syntax",
        f"{plugins}/acme_c.py: line 2: SystemExit: stop",
    ]
    assert "the module name 'json' is taken by" in str(finder.broken()[3])
    assert "twisted.plugins.acme_a" not in sys.modules


def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    """A directory that is not there is not passed over."""
    assert Finder([str(tmp_path / "gone")], search_path=[]).problems() == [f"{tmp_path}/gone: the plugin directory does not exist"]


def test_duplicates(make: Callable[..., str]) -> None:
    """One name twice is told with both origins, and cannot be used; the same object under two names is no second plugin."""
    text = DECLARE + "a = b = Extension('filter', 'acme.a', 'acme.A')\n"
    one, two = make(plugins={"acme_one.py": text}), make(plugins={"acme_two.py": text})
    assert Finder([one], search_path=[]).duplicates() == []
    finder = Finder([one, two], search_path=[])
    sentence = f"filter 'acme.a' is declared 2 times: in {one}/twisted/plugins/acme_one.py and {two}/twisted/plugins/acme_two.py"
    assert finder.duplicates() == [sentence]
    assert finder.problems() == [sentence]
    with pytest.raises(PluginLookupFailed, match="declared 2 times"):
        finder.load("filter", "acme.a")


def test_one_file_given_twice_is_one_file(make: Callable[..., str], tmp_path: Path) -> None:
    """A directory that is on the path as well, or given by two names, does not clash with itself."""
    directory = make(plugins={"acme_one.py": DECLARE + "a = Extension('filter', 'acme.a', 'acme.A')\n"})
    (tmp_path / "link").symlink_to(directory)
    finder = Finder([directory, str(tmp_path / "link"), directory], search_path=[directory])
    assert (own(finder), finder.problems()) == ([("filter", "acme.a")], [])


@pytest.mark.parametrize(
    ("declaration", "sentence"),
    [
        ("'authentikator', 'acme.a', 'acme.A'", "there is no kind 'authentikator'; the kinds are access-log,"),
        ("'filter', 'acme a', 'acme.A'", "may hold only letters, digits"),
        ("'filter', 'acme.a', 'Acme'", "is not 'package.module.Class'"),
        ("'filter', 'acme.a', 'acme:Acme'", "is not 'package.module.Class'"),
    ],
)
def test_wrong_declarations(make: Callable[..., str], declaration: str, sentence: str) -> None:
    """A declaration that cannot be right is a problem before anybody uses it."""
    directory = make(plugins={"acme_one.py": DECLARE + f"a = Extension({declaration})\n"})
    [problem] = Finder([directory], search_path=[]).problems()
    assert problem.startswith(f"{directory}/twisted/plugins/acme_one.py: ")
    assert sentence in problem


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("filter", "haeders", "no filter is named 'haeders'; known: adaptive-concurrency, cors, fault, "),
        ("filtre", "headers", "there is no kind 'filtre'; the kinds are access-log, "),
    ],
)
def test_unknown_names(kind: str, name: str, sentence: str) -> None:
    """What is known is listed, and the nearest is suggested."""
    with pytest.raises(PluginLookupFailed) as caught:
        Finder(search_path=[]).load(kind, name)
    assert caught.value.sentence.startswith(sentence)


def test_unknown_name_names_broken_files(make: Callable[..., str]) -> None:
    """The plugin that is looked for may be in a file that cannot be run, so that is said too."""
    directory = make(plugins={"acme_one.py": DECLARE + "1 / 0\n"})
    with pytest.raises(PluginLookupFailed, match=r"may hold it: .*acme_one\.py: line 2: ZeroDivisionError: division by zero"):
        Finder([directory], search_path=[]).load("filter", "acme.a")


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("acme_gone.Key", "there is no module 'acme_gone'"),
        ("acme_t.Kay", "acme_t has no class 'Kay'. Did you mean 'Key'?"),
        ("acme_t.not_a_class", "is not a class"),
        ("acme_t.NoConfig", "has no nested class Config"),
        ("acme_t.NoInterface", "does not implement IAuthenticator"),
        ("acme_needs.Key", "needs the module 'acme_missing', which is not installed; install the package that provides 'acme_missing'"),
        ("acme_raises.Key", "cannot be imported: ValueError: no"),
    ],
)
def test_targets_that_cannot_be_used(make: Callable[..., str], target: str, sentence: str) -> None:
    """What is wrong with the class behind a name is a sentence that names the plugin."""
    files = {"acme_t.py": TARGET, "acme_needs.py": "import acme_missing\n", "acme_raises.py": "raise ValueError('no')\n"}
    directory = make(files, {"acme_one.py": DECLARE + f"a = Extension('authenticator', 'acme.key', '{target}')\n"})
    with pytest.raises(PluginLookupFailed) as caught:
        Finder([directory], search_path=[]).load("authenticator", "acme.key")
    assert "authenticator 'acme.key'" in caught.value.sentence
    assert sentence in caught.value.sentence


def test_a_missing_dependency_names_the_extra(make: Callable[..., str]) -> None:
    """When the plugin's distribution has an extra that brings the missing package, that is what to install."""
    directory = make({"acme_dist.py": "import acme_redis\n"}, {"acme_one.py": DECLARE + "a = Extension('authenticator', 'acme.key', 'acme_dist.Key')\n"})
    info = Path(directory) / "acme_dist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: acme-dist\nVersion: 1.0\nProvides-Extra: redis\nRequires-Dist: acme-redis>=1; extra == 'redis'\n"
    )
    (info / "top_level.txt").write_text("acme_dist\n")
    (info / "RECORD").write_text("acme_dist.py,,\n")
    with pytest.raises(PluginLookupFailed, match=r"needs the module 'acme_redis'.*pip install 'acme-dist\[redis\]'"):
        Finder([directory], search_path=[]).load("authenticator", "acme.key")


def test_a_plugin_directory_cannot_take_a_place(make: Callable[..., str]) -> None:
    """A module in a plugin directory never stands in for one that is installed."""
    directory = make({"acme_key.py": TARGET})
    Finder([directory], search_path=[]).found()
    assert sys.path[-1] == directory
