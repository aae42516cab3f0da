"""The JSON access log."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from zope.interface.verify import verifyObject

from sidecar.export.access_log import JSONLines
from sidecar.interfaces import IAccessLog, ILineLog, IPluginLifecycle
from sidecar.record import CommonFields, ExchangeRecord, Likeness, OwnFields
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
    assert list(first) == ["time", *ExchangeRecord.__struct_fields__]
    assert (first["time"], first["path"], first["notes"]) == ("2001-09-09T01:46:40.250Z", '/"\n', [["rules", "a"]])
    assert (first["upstream_ms"], second["status"]) == (None, 404)


def test_a_line_of_two_parts_is_the_same_line(tmp_path: Path) -> None:
    """Whichever way it is told of an exchange; what is alike is rendered once."""
    log = JSONLines(JSONLines.Config(path=tmp_path / "log"), FakeContext())
    assert ILineLog.providedBy(log)
    records = [make_record(path='/"\n', started=started, notes=[("rules", "a")], user_agent="caf\xe9 \x85") for started in (1_000_000_000.25, 1_000_000_001.5)]
    fields = [getattr(records[0], name) for name in CommonFields.__struct_fields__]
    likeness = Likeness(CommonFields(*fields))
    log.start()
    for record in records:
        log.log(record)
        log.log_line(likeness, OwnFields(*(getattr(record, name) for name in OwnFields.__struct_fields__)))
    log.stop()
    first, same, second, like = (tmp_path / "log").read_bytes().splitlines()
    assert (first, second) == (same, like) and likeness.json in first and likeness.json in second and first != second


def test_with_chosen_fields_it_wants_whole_records() -> None:
    """These may be of both parts, in any order."""
    assert not ILineLog.providedBy(JSONLines(JSONLines.Config(fields=("status",)), FakeContext()))


def test_chosen_fields(tmp_path: Path) -> None:
    """In the order written, the time first."""
    (line,) = logged(tmp_path / "two", make_record(), fields=("status", "method"))
    assert list(line.items()) == [("time", "2001-09-09T01:46:40.000Z"), ("status", 200), ("method", "GET")]
    (line,) = logged(tmp_path / "one", make_record(), fields=("status",))
    assert list(line) == ["time", "status"]


def test_unknown_fields_stop_the_start() -> None:
    """The known ones are listed."""
    with pytest.raises(ValueError, match=r"no field 'statsu'; there are listener, .*status"):
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
