"""Counters, gauges, histograms and their text, read back by a reader of our own."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

from sidecar.telemetry.metrics import LINES_AT_ONCE, SERIES_LIMIT, Family, HistogramValue, Registry, Sample, format_number, histogram_samples

_LINE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (\S+)')
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"')


def parse(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """A reader of the text format, written from its description."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    # Only a line feed ends a line; other separators may stand in a label.
    for line in text.decode().split("\n"):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        assert match is not None, line
        labels = tuple((name, re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), value)) for name, value in _LABEL.findall(match[2] or ""))
        assert (match[1], labels) not in found
        found[match[1], labels] = float(match[3])
    return found


def histogram(name: str, bounds: list[float], observed: list[float], labels: tuple[tuple[str, str], ...] = ()) -> Family:
    """One with these observations."""
    value = HistogramValue(bounds)
    for number in observed:
        value.observe(number)
    return Family(name, "histogram", "A histogram.", list(histogram_samples(labels, value.bounds, value.counts, value.sum)))


def test_the_page() -> None:
    """Help, type and one line for each series, sorted by name."""
    registry = Registry()
    registry.counter("b_total", 'Some \\ "help"\nin two lines.', ("x",)).labels("1").value += 2
    registry.gauge_function("a", "A gauge.", lambda: 0.5)
    registry.add_source(lambda: [histogram("c_seconds", [0.1, 1], [0.1], (("x", "y"),))])
    text = registry.text().decode()
    assert text[: text.index("# HELP sidecar_")] == (
        "# HELP a A gauge.\n# TYPE a gauge\na 0.5\n"
        '# HELP b_total Some \\\\ "help"\\nin two lines.\n# TYPE b_total counter\nb_total{x="1"} 2\n'
        "# HELP c_seconds A histogram.\n# TYPE c_seconds histogram\n"
        'c_seconds_bucket{x="y",le="0.1"} 1\nc_seconds_bucket{x="y",le="1"} 1\nc_seconds_bucket{x="y",le="+Inf"} 1\n'
        'c_seconds_sum{x="y"} 0.1\nc_seconds_count{x="y"} 1\n'
    )


@given(st.dictionaries(st.text(), st.floats(allow_nan=False) | st.integers(-(10**20), 10**20), max_size=10))
def test_every_label_value_comes_back(values: dict[str, float]) -> None:
    """Whatever the label values, a reader gets them and the numbers back."""
    values = {key.encode("utf-8", "replace").decode(): value for key, value in values.items()}
    registry = Registry()
    registry.add_source(lambda: [Family("m", "gauge", "", [Sample("", (("l", key),), value) for key, value in values.items()])])
    assert parse(registry.text()) == {("m", (("l", key),)): float(value) for key, value in values.items()}


@given(st.lists(st.floats(0, 1e6)))
def test_histograms_are_cumulative(observed: list[float]) -> None:
    """Each bucket counts what is at most its bound, the last one everything."""
    registry = Registry()
    registry.add_source(lambda: [histogram("h", [1, 10, 100], observed)])
    found = parse(registry.text())
    for bound in ("1", "10", "100", "+Inf"):
        assert found["h_bucket", (("le", bound),)] == sum(number <= float(bound) for number in observed)
    assert found["h_count", ()] == len(observed)
    assert found["h_sum", ()] == pytest.approx(sum(observed))


def test_series_are_bounded() -> None:
    """Label values beyond the limit are counted together, and it can be seen that they are."""
    registry = Registry()
    counter = registry.counter("c_total", "", ("key",))
    for number in range(SERIES_LIMIT + 5):
        counter.inc(str(number))
    found = parse(registry.text())
    assert found["c_total", (("key", "other"),)] == 5
    assert found["sidecar_metrics_overflow_total", (("metric", "c_total"),)] == 5
    assert len(counter.children) == SERIES_LIMIT + 1


def test_one_name_one_meaning() -> None:
    """The same metric is given twice; a name with another meaning is refused."""
    registry = Registry()
    counter = registry.counter("c_total", "", ("a",))
    assert registry.counter("c_total", "", ("a",)) is counter
    with pytest.raises(ValueError, match="there is a counter c_total"):
        registry.counter("c_total", "", ("b",))


@pytest.mark.parametrize(
    "make",
    [
        lambda r: r.counter("c", ""),
        lambda r: r.counter("a b_total", ""),
        lambda r: r.counter("a_total", "", ("b-c",)),
        lambda r: r.counter("a_total", "", ("__b",)),
        lambda r: r.counter("a_total", "", ("b",)).labels(),
    ],
)
def test_names_and_labels_that_make_no_sense(make: object) -> None:
    """They are refused when made."""
    with pytest.raises(ValueError, match=r"name|_total|labels"):
        make(Registry())  # type: ignore[operator]


def test_functions_and_sources() -> None:
    """They are asked at each scrape; families of one name are put together."""
    registry = Registry()
    numbers = {("a",): 1.0}
    registry.gauge_function("g", "G.", lambda: len(numbers))
    registry.gauge_function("l_total", "L.", lambda: numbers, ("x",), "counter")
    registry.add_source(lambda: [Family("l_total", "counter", "L.", [Sample("", (("x", "c"),), 3)])])
    numbers["b",] = 2.0
    found = parse(registry.text())
    assert found["g", ()] == 2
    assert [found["l_total", (("x", each),)] for each in "abc"] == [1, 2, 3]
    assert registry.text().count(b"# TYPE l_total counter") == 1


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1"), (1.0, "1"), (0.1, "0.1"), (float("inf"), "+Inf"), (float("-inf"), "-Inf"), (float("nan"), "NaN"), (1e300, "1e+300")]
)
def test_numbers(number: float, text: str) -> None:
    """As Prometheus reads them."""
    assert format_number(number) == text


def test_bounds_belong_to_their_own_bucket() -> None:
    """An observation equal to a bound counts as at most that bound."""
    value = HistogramValue([1.0, 2.0])
    for number in (1.0, 1.5, 2.0, 3.0):
        value.observe(number)
    assert value.counts == [1, 2, 1]
    assert value.sum == 7.5


def test_thousands_of_lines_are_written_in_steps() -> None:
    """No step reads or writes many, and the text is the same as at once."""
    registry = Registry()
    registry.counter("many_total", "", ("number",))
    for number in range(900):
        registry.counter("many_total", "", ("number",)).inc(str(number))
    registry.gauge_function("more", "", lambda: {(str(number),): number for number in range(5000)}, ("number",))
    steps = registry.writing()
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            assert end.value == registry.text() and end.value.count(b"\n") > 5900
            break
        count += 1
        # What comes meanwhile does not disturb.
        registry.counter("many_total", "", ("number",)).labels(str(count % 900)).value += 0
    assert count >= 5900 // LINES_AT_ONCE
