"""Between plugin and cluster: whatever a plugin does, the cluster has the last good set, and a start does not wait for ever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from zope.interface import implementer

from sidecar.address import Address
from sidecar.discovery.cluster import MERGE_SECONDS, ClusterDiscovery
from sidecar.discovery.static import Static
from sidecar.interfaces import IDiscovery
from sidecar.model import Endpoint
from sidecar.testing import STARTED, Clock, FakeContext


def at(*ports: int) -> list[Endpoint]:
    """Endpoints."""
    return [Endpoint(address=Address("10.0.0.1", port)) for port in ports]


@implementer(IDiscovery)
class Plugin:
    """Does what a test says."""

    def __init__(self) -> None:
        self.first: Any = Deferred()
        self.changed: Any = None
        self.stopped = 0
        self.shown: Any = {"source": "there", "last_success": STARTED, "last_error": "", "failures": 1}

    def watch(self, changed: Any) -> Any:
        """See `IDiscovery`."""
        self.changed = changed
        if isinstance(self.first, Exception):
            raise self.first
        return self.first

    def stop(self) -> None:
        """See `IDiscovery`."""
        self.stopped += 1
        if self.stopped > 1:
            raise RuntimeError("twice")

    def snapshot(self) -> Any:
        """See `IDiscovery`."""
        if isinstance(self.shown, Exception):
            raise self.shown
        return self.shown


class Made:
    """A discovery under test: `sets` is what the cluster was given, `fired` the outcome of its start."""

    def __init__(self, plugin: Any = None, timeout: float = 15.0) -> None:
        self.clock = Clock()
        self.clock.rightNow = STARTED
        self.plugin = plugin or Plugin()
        self.sets: list[list[int]] = []
        self.fired: list[Any] = []
        self.discovery = ClusterDiscovery("pay", "test", self.plugin, self.take, self.clock)
        self.discovery.start(timeout).addBoth(self.fired.append)

    def take(self, endpoints: Sequence[Endpoint]) -> None:
        """`Connector.set_endpoints`."""
        self.sets.append([each.address.port for each in endpoints])


def test_a_set_is_handed_on(caught_logs: list[str]) -> None:
    """At once, and the start goes on when the plugin says that this was the first answer."""
    made = Made()
    made.plugin.changed(at(1, 2))
    assert (made.sets, made.fired) == ([[1, 2]], [])
    made.plugin.first.callback(None)
    assert made.fired == [None]
    made.clock.advance(MERGE_SECONDS)
    made.plugin.changed(at(2, 3, 4))
    made.clock.advance(MERGE_SECONDS)
    made.plugin.changed(at(2, 3, 4))
    made.clock.advance(MERGE_SECONDS)
    assert made.sets == [[1, 2], [2, 3, 4], [2, 3, 4]]
    assert [line for line in caught_logs if line.startswith("pay: ")] == [
        "pay: 2 endpoints came (test); 2 now",
        "pay: 2 endpoints came, 1 endpoint went (test); 3 now",
        "pay: endpoints changed in what is known of them (test); 3 now",
    ]


def test_sets_in_quick_succession() -> None:
    """They are merged: the first at once, of the others the last one, after a while."""
    made = Made()
    for ports in ((1,), (1, 2), (1, 2, 3)):
        made.plugin.changed(at(*ports))
    assert made.sets == [[1]]
    made.clock.advance(MERGE_SECONDS)
    assert made.sets == [[1], [1, 2, 3]]
    made.plugin.changed(at(4))
    assert made.sets == [[1], [1, 2, 3]]
    made.clock.advance(MERGE_SECONDS)
    made.clock.advance(MERGE_SECONDS)
    made.plugin.changed(at(5))
    assert made.sets == [[1], [1, 2, 3], [4], [5]]


@pytest.mark.parametrize(
    ("nonsense", "words"),
    [
        (None, "expected a sequence of sidecar.model.Endpoint, got NoneType"),
        (iter(at(1)), "got list_iterator"),
        (["10.0.0.1:80"], "expected sidecar.model.Endpoint, got str"),
        ([Endpoint(address=Address("10.0.0.1", 0))], "nothing can be connected to at 10.0.0.1:0"),
        ([Endpoint(address=Address("10.0.0.1", 1), weight=-5)], "expected a weight from 0 to 1000000 and a priority from 0, got -5 and 0 for 10.0.0.1:1"),
        ([Endpoint(address=Address("10.0.0.1", 1), weight=2.5)], "got 2.5 and 0 for"),  # type: ignore[arg-type]
        ([Endpoint(address=Address("10.0.0.1", 1), priority=-1)], "got 1 and -1 for"),
        ([Endpoint(address=Address("10.0.0.1", 1), health="ill")], "expected a health of healthy, "),  # type: ignore[arg-type]
        ([Endpoint(address=Address("10.0.0.1", 1), metadata={"version": 2})], "expected texts as metadata, got {'version': 2}"),  # type: ignore[dict-item]
    ],
)
def test_nonsense(nonsense: Any, words: str) -> None:
    """Is refused, counted and shown; the last good set serves on."""
    made = Made()
    made.plugin.changed(at(1))
    made.plugin.changed(nonsense)
    made.clock.advance(1)
    assert made.sets == [[1]]
    shown = made.discovery.snapshot()
    assert shown["refusals"] == 1
    assert words in shown["last_error"]
    made.plugin.changed(at(2))
    assert (made.sets[-1], made.discovery.snapshot()["last_error"]) == ([2], "")


def test_a_start_does_not_wait_for_ever(caught_logs: list[str]) -> None:
    """After the cluster's time it goes on without endpoints, and says why; an answer that comes later is used."""
    made = Made(timeout=3.0)
    made.plugin.shown["last_error"] = "10.0.0.1 did not answer"
    made.clock.advance(2.9)
    assert made.fired == []
    made.clock.advance(0.1)
    assert made.fired == [None]
    assert caught_logs[-1] == "pay: starting without endpoints, none were found within 3 s (test): 10.0.0.1 did not answer"
    made.plugin.changed(at(1))
    made.plugin.first.callback(None)
    assert made.sets == [[1]]


def test_a_start_that_waits_for_as_long_as_it_takes() -> None:
    """A timeout of 0 is none."""
    made = Made(timeout=0.0)
    made.clock.advance(1e6)
    assert made.fired == []
    made.plugin.first.callback(None)
    assert made.fired == [None]


def test_a_plugin_that_cannot_watch() -> None:
    """Fails the start with what it raises, at once or later."""
    plugin = Plugin()
    plugin.first = ValueError("no")
    assert Made(plugin).fired[0].getErrorMessage() == "no"
    made = Made()
    made.plugin.first.errback(ValueError("no"))
    assert made.fired[0].getErrorMessage() == "no"
    assert made.clock.getDelayedCalls() == []


def test_many_are_looked_at_in_steps() -> None:
    """Ten thousand are not handed on in the turn in which they come; the start waits for them, and what comes later counts."""
    made = Made()
    made.plugin.changed(at(*range(1, 10_001)))
    made.plugin.first.callback(None)
    assert made.sets == [] and made.fired == []
    made.clock.pump([0.0] * 200)
    assert len(made.sets) == 1 and len(made.sets[0]) == 10_000 and made.fired == [None]
    made.clock.advance(MERGE_SECONDS)
    made.plugin.changed(at(*range(1, 9001)))
    made.plugin.changed(at(7))
    made.clock.pump([0.0] * 200)
    assert made.sets[1:] == [[7]] and made.discovery.refusals == 0
    made.plugin.changed([*at(*range(1, 5000)), "nonsense"])
    made.clock.pump([0.0] * 200)
    assert made.discovery.refusals == 1 and len(made.sets) == 2
    made.plugin.changed(at(*range(1, 5000)))
    made.discovery.stop()
    made.clock.pump([0.0] * 200)
    assert len(made.sets) == 2


def test_stop() -> None:
    """Who waits goes on, nothing is handed on any more, no timer is left; a plugin that raises then harms nobody."""
    made = Made()
    made.plugin.changed(at(1))
    made.plugin.changed(at(2))
    made.discovery.stop()
    assert made.fired == [None]
    made.plugin.changed(at(3))
    made.clock.advance(10)
    assert made.sets == [[1]]
    assert made.clock.getDelayedCalls() == []
    made.discovery.stop()
    assert made.plugin.stopped == 2


@pytest.mark.parametrize("shown", [{}, {"last_success": "yesterday", "failures": None}, RuntimeError("no"), None])
def test_snapshots_of_any_kind(shown: Any) -> None:
    """The pages and metrics can be read whatever a plugin tells of itself."""
    made = Made()
    made.plugin.shown = shown
    found = made.discovery.snapshot()
    assert (found["plugin"], found["age_seconds"], found["failures"], found["endpoints"]) == ("test", None, 0, 0)


def test_age() -> None:
    """Seconds since the last good answer."""
    made = Made()
    made.clock.advance(7.5)
    assert made.discovery.snapshot()["age_seconds"] == 7.5


def test_static() -> None:
    """The plugin `static` has told all when the start asks."""
    made = Made(Static(Static.Config(endpoints=tuple(at(1, 2))), FakeContext("static")))
    assert (made.sets, made.fired) == ([[1, 2]], [None])
    assert made.discovery.snapshot()["source"] == "the configuration"
    made.discovery.stop()
