"""The JSON access log."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from zope.interface.verify import verifyObject

from sidecar.export.access_log import JSONLines
from sidecar.interfaces import IAccessLog, IPluginLifecycle
from sidecar.record import ExchangeRecord
from sidecar.testing import FakeContext, make_record


def logged(path: Path, *records: ExchangeRecord, fields: tuple[str, ...] = ()) -> list[dict[str, object]]:
    log = JSONLines(JSONLines.Config(path=str(path), fields=fields), FakeContext())
    log.start()
    for record in records:
        log.log(record)
    log.stop()
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_exchange_is_a_line(tmp_path: Path) -> None:
    """All fields of the record, after a time for people."""
    first, second = logged(tmp_path / "log", make_record(started=1_000_000_000.25, path='/"\n', notes=[("rules", "a")]), make_record(status=404))
    assert list(first)[:2] == ["time", "started"]
    assert set(first) == {"time", *ExchangeRecord.__struct_fields__}
    assert (first["time"], first["path"], first["notes"]) == ("2001-09-09T01:46:40.250Z", '/"\n', [["rules", "a"]])
    assert (first["upstream_ms"], second["status"]) == (None, 404)


def test_chosen_fields(tmp_path: Path) -> None:
    """In the order written, the time first."""
    (line,) = logged(tmp_path / "two", make_record(), fields=("status", "method"))
    assert list(line.items()) == [("time", "2001-09-09T01:46:40.000Z"), ("status", 200), ("method", "GET")]
    (line,) = logged(tmp_path / "one", make_record(), fields=("status",))
    assert list(line) == ["time", "status"]


def test_unknown_fields_stop_the_start() -> None:
    """The known ones are listed."""
    with pytest.raises(ValueError, match=r"no field 'statsu'; there are started, .*status"):
        JSONLines(JSONLines.Config(fields=("statsu",)), FakeContext())


@given(st.lists(st.floats(0, 4e9)))
def test_times(moments: list[float]) -> None:
    """Never later than the moment, less than a millisecond before it, whatever was logged before."""
    log = JSONLines(JSONLines.Config(fields=("started",)), FakeContext())
    for moment in moments:
        log.log(make_record(started=moment))
    for line, moment in zip(log.writer._lines, moments, strict=True):
        text = json.loads(line)["time"]
        assert len(text) == 24
        assert (datetime.fromisoformat(text[:19] + "+00:00").timestamp(), int(text[20:23])) == (int(moment), int((moment - int(moment)) * 1000))


def test_provides_its_interfaces() -> None:
    """It is an access log that holds a file open."""
    log = JSONLines(JSONLines.Config(), FakeContext())
    assert verifyObject(IAccessLog, log)
    assert verifyObject(IPluginLifecycle, log)
