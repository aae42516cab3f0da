"""Numbers that are plain attributes while requests run, and Prometheus text when somebody asks.

Count with a bound child, `child.value += 1`; label names, escaping and sorting cost nothing until a scrape. The number of children of one metric is
bounded: further label values are counted together as "other", and `sidecar_metrics_overflow_total` tells how often.
Text format 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from typing import NamedTuple, TypeVar

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
# Series of one metric. A Prometheus server bears millions in all; a sidecar is one of thousands, and a label value that a client chooses must not fill memory.
SERIES_LIMIT = 1000
OTHER = "other"

_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")

LINES_AT_ONCE = 500  # written in one step, about two milliseconds

Labels = tuple[tuple[str, str], ...]
T = TypeVar("T")
# Work in steps: yields wherever others may have their turn, and returns the result.
Steps = Generator[None, None, T]


class Sample(NamedTuple):
    """One line: the family's name with `suffix` ("_bucket"), labels, value."""

    suffix: str
    labels: Labels
    value: float


class Family(NamedTuple):
    """One metric with all its lines. `type`: counter, gauge or histogram."""

    name: str
    type: str
    help: str
    samples: Iterable[Sample]


class Value:
    """A counter's child: count with `child.value += 1`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class HistogramValue:
    """A histogram's numbers: `counts[i]` observations at most `bounds[i]` (and above the one before), the last those above all bounds."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: list[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, number: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, number)] += 1
        self.sum += number


class Counter:
    """Only grows. Its name ends in `_total`. Children by label values, at most `SERIES_LIMIT`."""

    def __init__(self, name: str, help: str, label_names: tuple[str, ...], overflow: Value) -> None:
        if _METRIC_NAME.fullmatch(name) is None:
            raise ValueError(f"not a metric's name: {name!r}")
        for label in label_names:
            if _LABEL_NAME.fullmatch(label) is None:
                raise ValueError(f"not a label's name in {name}: {label!r}")
        self.name = name
        self.help = help
        self.label_names = label_names
        self._overflow = overflow
        self.children: dict[tuple[str, ...], Value] = {}
        if not label_names:
            self.children[()] = Value()

    def labels(self, *values: str) -> Value:
        """The child for these label values, in the order of the label names; keep it where it is used often. Raises `ValueError` for too few or many."""
        child = self.children.get(values)
        if child is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self.name} has the labels {self.label_names}, not {len(values)} of them")
            if len(self.children) >= SERIES_LIMIT:
                self._overflow.value += 1
                values = (OTHER,) * len(values)
                child = self.children.get(values)
            if child is None:
                child = self.children[values] = Value()
        return child

    def __repr__(self) -> str:
        return f"<counter {self.name} series={len(self.children)}>"

    def inc(self, *values: str, by: float = 1) -> None:
        """Count `by` for these label values."""
        self.labels(*values).value += by

    def samples(self) -> Iterator[Sample]:
        """See `Family`."""
        return (Sample("", tuple(zip(self.label_names, values, strict=True)), child.value) for values, child in list(self.children.items()))


def histogram_samples(labels: Labels, bounds: Sequence[float], counts: Sequence[int], total: float) -> Iterator[Sample]:
    """The lines of one histogram. `counts` as in `HistogramValue`, not yet cumulative; one more than bounds."""
    running = list(accumulate(counts))
    for bound, count in zip(bounds, running, strict=False):
        yield Sample("_bucket", (*labels, ("le", format_number(bound))), count)
    yield Sample("_bucket", (*labels, ("le", "+Inf")), running[-1])
    yield Sample("_sum", labels, total)
    yield Sample("_count", labels, running[-1])


Reading = Callable[[], float | Mapping[tuple[str, ...], float]]
Source = Callable[[], Iterable[Family]]


class Registry:
    """All metrics of one process. Names are unique; `text` is what the admin page answers."""

    def __init__(self) -> None:
        self._metrics: dict[str, Counter] = {}
        self._sources: list[Source] = []
        self.overflow = Counter("sidecar_metrics_overflow_total", "Label values that were counted as other.", ("metric",), Value())
        self._metrics[self.overflow.name] = self.overflow

    def counter(self, name: str, help: str, labels: tuple[str, ...] = ()) -> Counter:
        """The counter of this name, made when first asked for.

        Raises `ValueError` when it is there with other labels, or for a name that does not end in `_total`.
        """
        if not name.endswith("_total"):
            raise ValueError(f"a counter's name ends in _total, unlike {name!r}")
        known = self._metrics.get(name)
        if known is None:
            # Registered names are few; only labels can explode.
            known = self._metrics[name] = Counter(name, help, labels, self.overflow.labels(name))
        # Two instances of one plugin count together; two meanings of one name do not.
        elif known.label_names != labels:
            raise ValueError(f"there is a counter {name} with the labels {known.label_names} already")
        return known

    def gauge_function(self, name: str, help: str, read: Reading, labels: tuple[str, ...] = (), type: str = "gauge") -> None:
        """From now on ask `read` at each scrape: a number, or numbers by label values. `type` "counter" for numbers that only grow."""

        def family() -> Iterable[Family]:
            now = read()
            values = now if isinstance(now, Mapping) else {(): now}
            yield Family(name, type, help, (Sample("", tuple(zip(labels, key, strict=True)), value) for key, value in list(values.items())))

        self.add_source(family)

    def add_source(self, source: Source) -> None:
        """From now on ask `source()` for families at each scrape. Families of one name from several sources are put together."""
        self._sources.append(source)

    def families(self) -> list[Family]:
        """Everything as it is now, by name."""
        return [family._replace(samples=list(family.samples)) for family in _result(self._gathering())]

    def _gathering(self) -> Steps[list[Family]]:
        """The families, a source at each step. Their samples are made when they are asked for."""
        found: dict[str, Family] = {}
        for metric in self._metrics.values():
            found[metric.name] = Family(metric.name, "counter", metric.help, metric.samples())
        for source in list(self._sources):
            yield
            for family in source():
                known = found.get(family.name)
                found[family.name] = family if known is None else family._replace(samples=chain(known.samples, family.samples))
        return [found[name] for name in sorted(found)]

    def text(self) -> bytes:
        """The exposition, UTF-8."""
        return _result(self.writing())

    def writing(self) -> Steps[bytes]:
        """The same in steps: thousands of endpoints have tens of thousands of lines."""
        families = yield from self._gathering()
        return (yield from _exposition(families))


def _exposition(families: Iterable[Family]) -> Steps[bytes]:
    """The text format 0.0.4 of these families. A family without samples is left out."""
    pieces: list[bytes] = []
    lines: list[str] = []
    for family in families:
        is_first = True
        for sample in family.samples:
            if is_first:
                is_first = False
                help = family.help.replace("\\", "\\\\").replace("\n", "\\n")
                lines += f"# HELP {family.name} {help}\n", f"# TYPE {family.name} {family.type}\n"
            lines.append(_line(family.name, sample))
            if len(lines) >= LINES_AT_ONCE:
                pieces.append("".join(lines).encode("utf-8", "replace"))
                lines.clear()
                yield
    pieces.append("".join(lines).encode("utf-8", "replace"))
    return b"".join(pieces)


def _result(steps: Steps[T]) -> T:
    """All steps at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def _line(name: str, sample: Sample) -> str:
    labels = ",".join(f'{label}="{_escape(value)}"' for label, value in sample.labels)
    return f"{name}{sample.suffix}{{{labels}}} {format_number(sample.value)}\n" if labels else f"{name}{sample.suffix} {format_number(sample.value)}\n"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def format_number(number: float) -> str:
    """A number as Prometheus reads it: whole ones without a fraction, else the shortest text that reads back the same; +Inf, -Inf, NaN."""
    if number != number:
        return "NaN"
    if number in (float("inf"), float("-inf")):
        return "+Inf" if number > 0 else "-Inf"
    return str(int(number)) if number == int(number) and abs(number) < 1e15 else repr(float(number))
