"""The troubles in order, and what was promised against what happened. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

# Share of its weight by which an application's share of the load may differ in calm.
BALANCE_SHARE = 0.05
# Requests below which shares say nothing.
BALANCE_REQUESTS = 200
CALM_SECONDS = 0.25  # a GET that took longer in calm waited for the machine, and so did others, health checks among them
SLOW_SECONDS = 0.5  # a GET that took longer met trouble on its way


@attrs.frozen
class Phase:
    """`troubles`: (index of a backend, what happens to it). `seconds`: how long they last; then all is made well, and each has to be used again."""

    name: str
    seconds: float
    troubles: tuple[tuple[int, str], ...] = ()

    @property
    def is_calm(self) -> bool:
        """Is all well in it?"""
        return not self.troubles


@attrs.frozen
class Result:
    """One request as the client saw it. `status`: 0 when there was no answer. `backend`: who answered, "" for the sidecar itself."""

    phase: int
    method: str
    id: str
    status: int
    seconds: float
    backend: str = ""
    detail: str = ""


@attrs.define
class Outcome:
    """What came of one phase. `recovered`: seconds from its end until each backend was thought well and answered again, by name; None: it was not."""

    phase: Phase
    recovered: dict[str, float | None] = attrs.field(factory=dict)
    results: list[Result] = attrs.field(factory=list)


def scenario(kinds: Sequence[str], obedient: Sequence[str], calm: float, trouble: float) -> Iterator[Phase]:
    """Every trouble, to one application after the other, with calm in between; then several at once. Then the same again, of the next ones."""
    able = [index for index, kind in enumerate(kinds) if kind in obedient]
    turn = 0
    while True:
        count = len(kinds)
        one = turn % count
        yield Phase("calm", calm)
        yield Phase(f"kill {kinds[one]}", trouble, ((one, "kill"),))
        yield Phase("calm", calm)
        stopped = (one + 1) % count
        yield Phase(f"SIGSTOP {kinds[stopped]}", trouble, ((stopped, "stop"),))
        yield Phase("calm", calm)
        for number, mode in enumerate(("reset", "503", "refuse", "idle 20", "slow 300", "slow 4000")):
            index = able[(turn + number) % len(able)]
            yield Phase(f"{mode} {kinds[index]}", trouble, ((index, mode),))
            if mode in ("refuse", "slow 4000"):
                yield Phase("calm", calm)
        if count > 2:
            well = (turn + 2) % count
            modes = ("kill", "stop", "kill", "stop")
            troubles = tuple((index, modes[index % 4]) for index in range(count) if index != well)
            yield Phase(f"only {kinds[well]} is well", trouble, troubles)
            yield Phase("calm", calm)
            well = able[turn % len(able)]
            troubles = tuple((index, "503" if index in able else "kill") for index in range(count) if index != well)
            yield Phase(f"503 but {kinds[well]}", trouble, troubles)
            yield Phase("calm", calm)
        turn += 1


def short_scenario(count: int, trouble: float, calm: float) -> list[Phase]:
    """The worst of it, for `count` that obey, at least three."""
    return [
        Phase("calm", calm),
        Phase("kill", trouble, ((0, "kill"),)),
        Phase("SIGSTOP", trouble, ((1, "stop"),)),
        Phase("reset", trouble, ((2, "reset"),)),
        Phase("503", trouble, ((0, "503"),)),
        Phase("idle 20", trouble, ((1, "idle 20"),)),
        Phase("503 but one", trouble, tuple((index, "503") for index in range(count) if index != 1)),
        Phase("reset but one", trouble, tuple((index, "reset") for index in range(count) if index != 2)),
        Phase("only one is well", trouble, tuple((index, ("refuse", "kill")[index % 2]) for index in range(count - 1))),
        Phase("calm", calm),
    ]


def row(outcome: Outcome, weights: Mapping[str, int], twice: set[str], limit: float) -> dict[str, Any]:
    """One phase's numbers and its verdict: `broken` holds a sentence for each promise that was not kept. `twice`: ids delivered more than once. `limit`:
    seconds within which a backend is used again."""
    gets = [each for each in outcome.results if each.method == "GET"]
    posts = [each for each in outcome.results if each.method == "POST"]
    failed = [each for each in gets if each.status != 200]
    doubled = [each.id for each in posts if each.id in twice]
    shares = _shares(outcome.results)
    broken = [
        f"GET failed: {status or 'no answer'} {detail} ({count} times)" for (status, detail), count in Counter((e.status, e.detail) for e in failed).items()
    ]
    broken += [f"POST {each} was delivered twice" for each in doubled[:3]]
    for name, seconds in outcome.recovered.items():
        if seconds is None or seconds > limit:
            broken.append(f"{name} was not used again within {limit:g} s" + ("" if seconds is None else f", but after {seconds:.1f} s"))
    times = sorted(each.seconds for each in gets) or [0.0]
    # Where somebody was slow all the same the machine was busy with something else: no calm to judge.
    if outcome.phase.is_calm and sum(shares.values()) >= BALANCE_REQUESTS and times[-1] < CALM_SECONDS:
        broken += _unbalanced(shares, weights)
    return {
        "phase": outcome.phase.name,
        "requests": len(outcome.results),
        "get_failed": len(failed),
        "get_slow": sum(seconds > SLOW_SECONDS for seconds in times),
        "post_failed": sum(each.status != 200 for each in posts),
        "post_twice": len(doubled),
        "p50_ms": round(times[len(times) // 2] * 1000, 1),
        "p99_ms": round(times[int(len(times) * 0.99)] * 1000, 1),
        "max_ms": round(times[-1] * 1000, 1),
        "shares": dict(sorted(shares.items())),
        "recovered_seconds": {name: None if seconds is None else round(seconds, 2) for name, seconds in outcome.recovered.items()},
        "broken": broken,
    }


def _shares(results: Sequence[Result]) -> Counter[str]:
    return Counter(each.backend for each in results if each.backend and each.status == 200)


def _unbalanced(shares: Counter[str], weights: Mapping[str, int]) -> list[str]:
    total, all_weights = sum(shares.values()), sum(weights.values())
    found = []
    for name, weight in weights.items():
        want = total * weight / all_weights
        if abs(shares[name] - want) > BALANCE_SHARE * want:
            found.append(f"{name} had {shares[name]} of {total} requests; its weight gives it {want:.0f}")
    return found


def delivered_twice(deliveries: Sequence[Counter[str]]) -> set[str]:
    """Ids that reached applications more than once, the same or different ones."""
    total: dict[str, int] = defaultdict(int)
    for each in deliveries:
        for name, count in each.items():
            total[name] += count
    return {name for name, count in total.items() if count > 1}


COLUMNS = (
    ("phase", "phase", "{}"),
    ("requests", "requests", "{}"),
    ("get_failed", "GET failed", "{}"),
    ("get_slow", "slow", "{}"),
    ("post_failed", "POST failed", "{}"),
    ("post_twice", "twice", "{}"),
    ("p50_ms", "p50 ms", "{:.1f}"),
    ("p99_ms", "p99 ms", "{:.0f}"),
    ("max_ms", "max ms", "{:.0f}"),
)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows for people, with a verdict each."""
    lines = [[heading for _, heading, _ in COLUMNS] + ["back after", "verdict"]]
    for each in rows:
        times = each["recovered_seconds"].values()
        back = "never" if None in times else f"{max(times, default=0.0):.1f} s"
        lines.append([form.format(each[key]) for key, _, form in COLUMNS] + [back, "BROKEN" if each["broken"] else "kept"])
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    text = [
        "  ".join(cell.ljust(width) if index == 0 else cell.rjust(width) for index, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    for each in rows:
        text += [f"{each['phase']}: {sentence}" for sentence in each["broken"]]
    return "\n".join(text)
