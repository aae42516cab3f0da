"""When each endpoint is probed, and who is told: the timetable of active health checks.

`Checker` runs one check over all endpoints of a cluster; `ClusterChecks` has all the checks of the cluster and tells its connector what they say together.
What a result means is decided in `cluster.checking`; how an endpoint is reached, in `upstream.probe`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from sidecar.cluster.checking import HEALTHY, NOT_YET, UNCHECKED, UNHEALTHY, CheckState, combined
from sidecar.errors import ConnectFailed, UpstreamError
from sidecar.model import HealthCheck
from sidecar.upstream.endpoint import EndpointPool
from sidecar.upstream.probe import Probe, ProbeConnector
from sidecar.verdicts import Degraded, Unwell

_log = Logger(namespace="sidecar.health")

# Probes begun in one turn of the reactor: with a new connection one costs nearly half a millisecond, and requests want their turn as well.
STARTS_PER_TURN = 5
# Results taken in in one turn: one takes up to half a millisecond, and after a stall all that were waited for come in one turn.
RESULTS_PER_TURN = 10
# Endpoints whose timers are moved in one turn, when the first traffic comes.
SLICE = 256


class Turn:
    """One endpoint under one check. `pool`: the cluster's endpoint; `asked`: the same one as probes see it. `probe`: the one under way, or None."""

    __slots__ = ("asked", "is_over", "pool", "probe", "running", "state", "timer")

    def __init__(self, pool: EndpointPool, asked: EndpointPool, now: float) -> None:
        self.pool = pool
        self.asked = asked
        self.state = CheckState(now)
        self.timer: Any = None
        self.probe: Probe | None = None
        self.running: Deferred[Any] | None = None
        self.is_over = False

    def let_go(self) -> None:
        """Give up the probe that is under way."""
        probe, self.probe = self.probe, None
        running, self.running = self.running, None
        if running is not None:
            running.cancel()
        if probe is not None:
            probe.close()

    def __repr__(self) -> str:
        return f"<Turn {self.asked.text} {self.state!r} probing={self.probe is not None}>"


class Checker:
    """One check. `plugin`: `IHealthCheck`, and `account` counts what it does. `has_traffic()`: has the cluster been used? `dice()`: from 0 up to 1.
    `later(call)`: calls in the next turn
    of the reactor. `told(pool)`: called after each result. `record(event)`: takes what goes into the event log; None without one.
    """

    def __init__(
        self,
        settings: HealthCheck,
        plugin: Any,
        account: Any,
        connector: ProbeConnector,
        has_traffic: Callable[[], bool],
        seconds: Callable[[], float],
        timer: Callable[[Callable[[], object]], Any],
        later: Callable[[Callable[[], None]], Any],
        dice: Callable[[], float],
        record: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.name = settings.check.name
        self.settings = settings
        self.connector = connector
        self.turns: dict[EndpointPool, Turn] = {}
        self.running = 0
        self.counters = {"attempts": 0, "success": 0, "failure": 0, "timeouts": 0}
        self.told: Callable[[EndpointPool], None] = lambda pool: None
        self._plugin = plugin
        self._account = account
        self._has_traffic = has_traffic
        self._seconds = seconds
        self._timer = timer
        self._later = later
        self._dice = dice
        self._record = record
        self._queue: deque[Turn] = deque()
        self._begun = self._taken = 0  # in this turn of the reactor
        self._results: deque[tuple[Turn, Probe, Unwell | Degraded | None]] = deque()
        self._is_pumping = self._is_stopped = False
        self._last_raised = ""
        self._looks = timer(self._look_for_traffic)
        self._saw_traffic = False

    # -- who is checked --------------------------------------------------------------------------------------------------------------------------

    def add(self, pool: EndpointPool) -> None:
        """Check this endpoint from now on."""
        now = self._seconds()
        turn = self.turns[pool] = Turn(pool, self.connector.asked(pool.configured), now)
        turn.timer = self._timer(lambda: self._timer_fired(turn))
        if self.settings.initial_jitter:
            turn.timer.set(now + self._dice() * self.settings.initial_jitter)
        else:
            self._enqueue(turn)
        if not self._saw_traffic and not self._looks.is_set:
            self._looks.set(now + self.settings.interval)

    def remove(self, pool: EndpointPool) -> None:
        """Check it no more."""
        turn = self.turns.pop(pool, None)
        if turn is None:
            return
        turn.is_over = True
        turn.timer.close()
        if turn.probe is not None:
            self.running -= 1
            turn.let_go()
        self.connector.let_go(turn.asked)
        self._pump()

    def stop(self) -> None:
        """No more probes."""
        self._is_stopped = True
        self._looks.close()
        for pool in list(self.turns):
            self.remove(pool)
        self.connector.stop()

    # -- when ------------------------------------------------------------------------------------------------------------------------------------

    def _timer_fired(self, turn: Turn) -> None:
        if turn.probe is None:
            self._enqueue(turn)
            return
        self.counters["timeouts"] += 1
        turn.let_go()
        # What it was asked on may be dead without anybody having been told.
        self.connector.drop(turn.asked)
        self._ended(turn, Unwell(f"no answer within {self.settings.timeout:g} s"))

    def _enqueue(self, turn: Turn) -> None:
        self._queue.append(turn)
        self._pump()

    def _pump(self) -> None:
        """Begin probes, as many as may run and as few as one turn of the reactor bears."""
        if self._is_pumping or self._is_stopped:
            return
        self._is_pumping = True
        queue = self._queue
        while queue and self._begun < STARTS_PER_TURN and self.running < self.settings.max_concurrent:
            turn = queue.popleft()
            if not turn.is_over:
                if not self._begun:
                    self._later(self._next_turn)
                self._begun += 1
                self._probe(turn)
        self._is_pumping = False

    def _next_turn(self) -> None:
        self._begun = 0
        self._pump()

    def _look_for_traffic(self) -> None:
        """While nobody uses the cluster its endpoints are asked seldom; the first request ends that."""
        if not self._has_traffic():
            if self.turns:
                self._looks.set(self._seconds() + self.settings.interval)
            return
        self._saw_traffic = True
        self._hurry(iter(list(self.turns.values())))

    def _hurry(self, turns: Iterator[Turn]) -> None:
        interval = self.settings.interval
        latest = self._seconds() + interval
        for number, turn in enumerate(turns, 1):
            if turn.probe is None and not turn.is_over and latest < turn.timer.deadline < float("inf"):
                turn.timer.set(latest - interval * self._dice())
            if number == SLICE:
                self._later(lambda: self._hurry(turns))
                return

    # -- one probe -------------------------------------------------------------------------------------------------------------------------------

    def _probe(self, turn: Turn) -> None:
        self.running += 1
        self.counters["attempts"] += 1
        timeout = self.settings.timeout
        then = self._seconds()
        turn.timer.set(then + timeout)
        probe = turn.probe = Probe(self.connector, turn.asked, turn.pool.hostname, timeout)
        account = self._account
        account.calls += 1
        running = maybeDeferred(self._plugin.check, probe)
        account.seconds += self._seconds() - then
        turn.running = running
        running.addCallbacks(self._answered, self._raised, callbackArgs=(turn, probe), errbackArgs=(turn, probe))
        running.addErrback(self._mistake)

    def _answered(self, answer: Any, turn: Turn, probe: Probe) -> None:
        if turn.probe is not probe:
            return  # too late
        if answer is not None and not isinstance(answer, Unwell | Degraded):
            self._account.failures += 1
            answer = Unwell(f"the plugin {self.name} answered {type(answer).__name__}, which is no verdict")
        self._result(turn, probe, answer)

    def _raised(self, failure: Failure, turn: Turn, probe: Probe) -> None:
        if turn.probe is not probe:
            return
        error = failure.value
        if isinstance(error, UpstreamError):
            # Its frames know the failure that knows it: a cycle for each probe of an outage, which only the collector would find.
            failure.cleanFailure()
            # Another port says nothing about the one that requests go to.
            self._result(turn, probe, Unwell(error.sentence, is_absent=type(error) is ConnectFailed and self.settings.port is None))
            return
        self._account.failures += 1
        text = f"the plugin {self.name} raised {type(error).__name__}: {error}"
        if text != self._last_raised:
            # Once for each text: the traceback of one endpoint is that of all.
            self._last_raised = text
            _log.failure("{cluster}: health check {name} raised", failure, cluster=self.connector.name, name=self.name)
        self._result(turn, probe, None if self._account.fail_open else Unwell(text))

    def _mistake(self, failure: Failure) -> None:
        _log.failure("{cluster}: the result of health check {name} was not taken in", failure, cluster=self.connector.name, name=self.name)

    def _result(self, turn: Turn, probe: Probe, problem: Unwell | Degraded | None) -> None:
        """It came in time, whenever it is taken in."""
        turn.timer.clear()
        self._results.append((turn, probe, problem))
        self._take_in()

    def _take_in(self) -> None:
        while self._results and self._taken < RESULTS_PER_TURN:
            if not self._taken:
                self._later(self._next_results)
            self._taken += 1
            turn, probe, problem = self._results.popleft()
            if turn.probe is probe:  # else it left the cluster meanwhile
                self._close(turn)
                try:
                    self._ended(turn, problem)
                except Exception:
                    self._mistake(Failure())

    def _next_results(self) -> None:
        self._taken = 0
        self._take_in()

    def _close(self, turn: Turn) -> None:
        probe, turn.probe, turn.running = turn.probe, None, None
        if probe is not None:
            probe.close()

    def _ended(self, turn: Turn, problem: Unwell | Degraded | None) -> None:
        self.running -= 1
        self.connector.rest(turn.asked)
        state, settings, now = turn.state, self.settings, self._seconds()
        is_first, was_degraded = state.state is UNCHECKED, state.is_degraded
        if not isinstance(problem, Unwell):
            self.counters["success"] += 1
            changed = state.succeeded(settings, now, problem is not None)
            if state.is_degraded is not was_degraded and self._record is not None:
                self._write(turn, "degraded_healthy_host" if state.is_degraded else "no_longer_degraded_host", is_first)
        else:
            self.counters["failure"] += 1
            changed = state.failed(settings, problem.reason, problem.at_once, now, problem.is_absent)
        turn.timer.set(now + state.delay(settings, self._saw_traffic or self._has_traffic(), self._dice()))
        if self._record is not None and (changed or (isinstance(problem, Unwell) and settings.always_log_health_check_failures)):
            event = "health_check_failure" if not changed else "add_healthy" if state.state is HEALTHY else "eject_unhealthy"
            self._write(turn, event, is_first)
        self.told(turn.pool)
        self._pump()

    def _write(self, turn: Turn, event: str, is_first: bool) -> None:
        assert self._record is not None
        self._record({
            "health_checker_type": self.name, "cluster_name": self.connector.name, "host": turn.asked.text, "event": event, "first_check": is_first,
            "reason": "" if turn.state.succeeded_last else turn.state.reason,
        })  # fmt: skip

    def snapshot(self, pool: EndpointPool) -> dict[str, Any]:
        """What `/clusters` shows of one endpoint under this check."""
        turn = self.turns.get(pool)
        if turn is None:
            return {"check": self.name, "state": UNCHECKED}
        now = self._seconds()
        waits = turn.probe is None and turn.timer.is_set
        return {
            "check": self.name,
            **turn.state.snapshot(now),
            "probing": turn.probe is not None,
            "next_probe_in_seconds": round(max(0.0, turn.timer.deadline - now), 1) if waits else None,
        }

    def __repr__(self) -> str:
        return f"<Checker {self.connector.name} {self.name} endpoints={len(self.turns)} running={self.running} waiting={len(self._queue)}>"


class ClusterChecks:
    """All checks of one cluster. `connector`: the cluster's own, which is told (`set_checked`) and asked who its endpoints are."""

    def __init__(self, connector: Any, checkers: Sequence[Checker]) -> None:
        self.name = connector.name
        self.checkers = tuple(checkers)
        self._connector = connector
        # Endpoints that have not had all their first checks.
        self._unchecked: set[EndpointPool] = set()
        self._waiting: list[Deferred[None]] = []
        self._none = CheckState(0.0)
        self._has_begun = False
        for checker in checkers:
            checker.told = self._told
        connector.membership_observers.append(self._changed)

    def start(self) -> Deferred[None]:
        """Begin. Fires when each endpoint that there is by then has been checked once. Until `warmed` those of the beginning are in use: nothing is served
        yet, and an endpoint is only taken out, with a line in the log, that was looked at."""
        self._has_begun = True
        self._add(list(self._connector.pools))
        done: Deferred[None] = Deferred()
        self._waiting.append(done)
        self._look_if_done()
        return done

    def warmed(self) -> None:
        """Listeners open: an endpoint that was not checked in time is not used before it is."""
        for pool in self._unchecked:
            self._connector.set_checked(pool, False, NOT_YET)

    def stop(self) -> None:
        """No more checks."""
        for checker in self.checkers:
            checker.stop()
        self._unchecked.clear()
        self._look_if_done()

    def counts(self) -> dict[str, int]:
        """Endpoints by state, for metrics."""
        found = {"healthy": 0, "degraded": 0, "unhealthy": 0, "unchecked": 0}
        for pool in self.checkers[0].turns:
            state = "unchecked" if pool in self._unchecked else "unhealthy" if pool.check_failure is not None else "degraded" if pool.is_degraded else "healthy"
            found[state] += 1
        return found

    def snapshot(self, pool: EndpointPool) -> list[dict[str, Any]]:
        """What `/clusters` shows of one endpoint."""
        return [checker.snapshot(pool) for checker in self.checkers]

    def _changed(self, added: list[EndpointPool], removed: list[EndpointPool]) -> None:
        if not self._has_begun:
            # What discovery finds before is there when checks begin.
            return
        for pool in removed:
            self._unchecked.discard(pool)
            for checker in self.checkers:
                checker.remove(pool)
        for pool in added:
            # It is told of before it is used, and must show first that it is well.
            pool.check_failure = NOT_YET
        self._add(added)
        self._look_if_done()

    def _add(self, pools: list[EndpointPool]) -> None:
        self._unchecked.update(pools)
        for checker in self.checkers:
            for pool in pools:
                checker.add(pool)

    def _told(self, pool: EndpointPool) -> None:
        # A check that comes later in the list may not have it yet, when an earlier one has its answer at once.
        turns = [(checker.name, checker.turns.get(pool)) for checker in self.checkers]
        states = [(name, self._none if turn is None else turn.state) for name, turn in turns]
        is_healthy, reason = combined(states)
        is_first = pool in self._unchecked
        if is_first:
            if any(state.state is UNCHECKED for _, state in states) and not any(state.state is UNHEALTHY for _, state in states):
                return  # another check has still to look at it
            self._unchecked.discard(pool)
            if not is_healthy and pool.check_failure is not None:
                # For the connector nothing changes: it is not in use.
                _log.warn("{cluster}: {endpoint} fails its first health check: {reason}", cluster=self.name, endpoint=pool.text, reason=reason)
        if not is_healthy or pool.check_failure is not None or all(state.succeeded_last for _, state in states):
            # A failure below the threshold leaves the state as it is, but it is no success, which would end an ejection.
            is_absent = any(state.state is UNHEALTHY and state.is_absent for _, state in states)
            self._connector.set_checked(pool, is_healthy, reason, is_absent, is_healthy and any(state.is_degraded for _, state in states))
        if is_first:
            self._look_if_done()

    def _look_if_done(self) -> None:
        if self._unchecked:
            return
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done.callback(None)

    def __repr__(self) -> str:
        return f"<ClusterChecks {self.name} {self.counts()}>"
