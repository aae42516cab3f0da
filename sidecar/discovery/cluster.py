"""Between a discovery plugin and the cluster that it is for: what it tells is checked, merged, counted and said, then handed on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from sidecar.address import Address
from sidecar.discovery.steps import in_turns
from sidecar.model import Endpoint, Health
from sidecar.naming.places import Steps, at_once, sliced

_log = Logger(namespace="sidecar.discovery")

# Sets that come sooner one after the other are merged, the last one counts (Envoy: update_merge_window, which is 1 s): a rolling update of a large service
# would keep the process busy with comparing.
MERGE_SECONDS = 0.2
LOOKED_AT_ONCE = 1000  # endpoints, a millisecond or two; more are looked at in steps
# What `model.Endpoint` says of these.
MAX_WEIGHT = 1_000_000
HEALTHS = get_args(Health)


class ClusterDiscovery:
    """One cluster's. `plugin`: an `IDiscovery`; `hand_on(endpoints)`: the cluster takes a whole new set. `start`, then `stop`; reactor thread only."""

    def __init__(self, cluster: str, plugin_name: str, plugin: Any, hand_on: Callable[[Sequence[Endpoint]], None], clock: Any) -> None:
        self.cluster = cluster
        self.plugin_name = plugin_name
        self.updates = 0
        # Sets that were refused because they are none.
        self.refusals = 0
        self.count = 0
        self._plugin = plugin
        self._hand_on = hand_on
        self._clock = clock
        self._refusal = ""
        self._addresses: set[Address] = set()
        self._saying: Deferred[None] | None = None
        self._looking: Deferred[Any] | None = None
        self._next: tuple[Endpoint, ...] | None = None
        self._window: Any = None
        self._first: Deferred[None] | None = None
        self._timer: Any = None
        self._is_stopped = False

    # -- start and stop ----------------------------------------------------------------------------------------------------------------------

    def start(self, timeout_seconds: float) -> Deferred[None]:
        """Watch. Fires when the first answer was handed on, or need not be waited for, or after `timeout_seconds` (0: never); fails with what the plugin
        raises.
        """
        first: Deferred[None] = Deferred()
        self._first = first
        watching = maybeDeferred(self._plugin.watch, self._changed)
        watching.addCallbacks(lambda _: self._found(), self._failed)
        if self._first is not None and timeout_seconds:
            self._timer = self._clock.callLater(timeout_seconds, self._late, timeout_seconds)
        return first

    def stop(self) -> None:
        """End watching; what the cluster has it keeps. Never raises."""
        self._is_stopped = True
        if self._window is not None and self._window.active():
            self._window.cancel()
        self._end_saying()
        self._end_looking()
        self._fire()
        try:
            self._plugin.stop()
        except Exception:
            _log.failure("{cluster}: discovery {plugin} failed to stop", cluster=self.cluster, plugin=self.plugin_name)

    def _found(self) -> None:
        """The plugin has told what it knows first; that may still be looked at."""
        if self._looking is None:
            self._fire()
        else:
            self._looking.addCallback(lambda _: self._fire())

    def _fire(self, result: Failure | None = None) -> None:
        first, self._first = self._first, None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if first is not None:
            first.callback(None) if result is None else first.errback(result)
        elif result is not None and not self._is_stopped:
            _log.failure("{cluster}: discovery {plugin} failed", result, cluster=self.cluster, plugin=self.plugin_name)

    def _failed(self, failure: Failure) -> None:
        self._fire(failure)

    def _late(self, seconds: float) -> None:
        why = self.snapshot()["last_error"] or "no answer yet"
        _log.warn(
            "{cluster}: starting without endpoints, none were found within {seconds} s ({plugin}): {why}",
            cluster=self.cluster,
            seconds=f"{seconds:g}",
            plugin=self.plugin_name,
            why=why,
        )
        self._fire()

    # -- a new set ---------------------------------------------------------------------------------------------------------------------------

    def _changed(self, endpoints: Any) -> None:
        """What the plugin calls."""
        if self._is_stopped:
            return
        self._end_looking()
        if isinstance(endpoints, Sequence) and len(endpoints) > LOOKED_AT_ONCE:
            # Until it is found good the one before serves, and the start waits.
            looking = self._looking = in_turns(self._clock, _refusal(endpoints))
            looking.addCallback(lambda refusal: self._looked(endpoints, refusal)).addErrback(self._not_looked)
        else:
            self._looked(endpoints, at_once(_refusal(endpoints)))

    def _end_looking(self) -> None:
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()

    def _not_looked(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            _log.failure("{cluster}: what discovery told could not be taken in", failure, cluster=self.cluster)

    def _looked(self, endpoints: Any, refusal: str) -> None:
        """`refusal`: what is wrong with them, or ""."""
        self._looking = None
        if refusal:
            self.refusals += 1
            self._refusal = f"discovery {self.plugin_name} told of something that is no set of endpoints: {refusal}"
            _log.error("{cluster}: {refusal}; the last good one stays in use", cluster=self.cluster, refusal=self._refusal)
            return
        self._refusal = ""
        self._next = tuple(endpoints)
        if self._window is None or not self._window.active():
            self._use()

    def _use(self) -> None:
        """Hand on what was told last, if anything was since; what comes within the window waits for its end."""
        endpoints, self._next = self._next, None
        if endpoints is None:
            return
        self.updates += 1
        self.count = len(endpoints)
        self._window = self._clock.callLater(MERGE_SECONDS, self._use)
        self._hand_on(endpoints)
        # Thousands of addresses take long to compare. What was not said yet is said with this.
        self._end_saying()
        self._saying = in_turns(self._clock, self._said(endpoints))
        self._saying.addErrback(self._not_said)

    def _said(self, endpoints: tuple[Endpoint, ...]) -> Steps[None]:
        addresses: set[Address] = set()
        for piece in sliced(endpoints):
            addresses.update([each.address for each in piece])
            yield
        stayed = 0
        for each in sliced(addresses):
            stayed += len(self._addresses.intersection(each))
            yield
        came, went = len(addresses) - stayed, len(self._addresses) - stayed
        self._addresses = addresses
        said = ", ".join(filter(None, (_counted(came, "came"), _counted(went, "went")))) or "endpoints changed in what is known of them"
        _log.info("{cluster}: {said} ({plugin}); {count} now", cluster=self.cluster, said=said, plugin=self.plugin_name, count=len(addresses))

    def _end_saying(self) -> None:
        saying, self._saying = self._saying, None
        if saying is not None:
            saying.cancel()

    def _not_said(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            _log.failure("{cluster}: what changed could not be told", failure, cluster=self.cluster)

    # -- what is shown -----------------------------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """What `/clusters` shows: what the plugin says of itself (see `IDiscovery`), and `plugin`, `updates`, `refusals`, `endpoints` and `age_seconds`, the
        time since the last good answer, None before the first.
        """
        try:
            told = dict(self._plugin.snapshot())
        except Exception as error:
            told = {"last_error": f"its snapshot() raised {type(error).__name__}: {error}"}
        last = told.get("last_success")
        is_time = isinstance(last, int | float)
        return {
            **told,
            "plugin": self.plugin_name,
            "source": str(told.get("source", "")),
            "last_success": last if is_time else None,
            "last_error": self._refusal or str(told.get("last_error") or ""),
            "failures": told["failures"] if isinstance(told.get("failures"), int) else 0,
            "age_seconds": round(max(0.0, self._clock.seconds() - last), 3) if is_time else None,
            "updates": self.updates,
            "refusals": self.refusals,
            "endpoints": self.count,
        }


def _counted(count: int, what: str) -> str:
    return f"{count} endpoint{'s' if count > 1 else ''} {what}" if count else ""


def _refusal(endpoints: Any) -> Steps[str]:
    """What is wrong with what a plugin told, or ""."""
    if not isinstance(endpoints, Sequence):
        return f"expected a sequence of sidecar.model.Endpoint, got {type(endpoints).__name__}"
    for piece in sliced(endpoints):
        refusal = next(filter(None, map(_refusal_of, piece)), "")
        if refusal:
            return refusal
        yield
    return ""


def _refusal_of(each: Any) -> str:
    if not isinstance(each, Endpoint):
        return f"expected sidecar.model.Endpoint, got {type(each).__name__}"
    if not each.address.path and not 0 < each.address.port < 65536:
        return f"nothing can be connected to at {each.address}"
    # Structs are not checked when they are made, and balancers add weights up.
    if type(each.weight) is not int or not 0 <= each.weight <= MAX_WEIGHT or type(each.priority) is not int or each.priority < 0:
        return f"expected a weight from 0 to {MAX_WEIGHT} and a priority from 0, got {each.weight!r} and {each.priority!r} for {each.address}"
    if each.health not in HEALTHS:
        return f"expected a health of {', '.join(HEALTHS)}, got {each.health!r} for {each.address}"
    if each.metadata and not all(isinstance(value, str) for value in each.metadata.values()):
        return f"expected texts as metadata, got {each.metadata!r} for {each.address}"
    return ""
