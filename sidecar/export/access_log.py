"""The access log: one JSON object for each exchange, on a line of its own."""

from __future__ import annotations

from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
from zope.interface import alsoProvides, implementer

from sidecar.export.json_lines import json_line
from sidecar.export.lines import STDOUT, LineWriter
from sidecar.interfaces import IAccessLog, ILineLog, IPluginLifecycle
from sidecar.record import ExchangeRecord

_FIELDS = ExchangeRecord.__struct_fields__
_MILLISECONDS = tuple(b'%03dZ",' % number for number in range(1000))  # how the time ends, and what follows


@implementer(IAccessLog, IPluginLifecycle)
class JSONLines:
    """Access log `json`: `{"time": "2025-01-01T00:00:00.000Z", ...}` with the fields of `ExchangeRecord`."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`path`: a file, or "-" for standard output. `fields`: which fields of the record, in this order; all when empty. `time` is always there, first."""

        path: Path = Path(STDOUT)
        fields: tuple[str, ...] = ()

        def __post_init__(self) -> None:
            """Raises `ValueError` for a field that there is not, so that `sidecar check` finds it."""
            unknown = [name for name in self.fields if name not in _FIELDS]
            if unknown:
                raise ValueError(f"the access record has no field {unknown[0]!r}; there are {', '.join(_FIELDS)}")

    def __init__(self, config: Config, context: Any) -> None:
        self.writer = LineWriter(str(config.path), context)
        self._write = self.writer.write
        # The line's beginning, up to the second: made once for each second.
        self._second = -1
        self._begin = b""
        self._names = config.fields
        self._values = attrgetter(*config.fields) if config.fields else None
        if not config.fields:
            alsoProvides(self, ILineLog)

    def start(self) -> None:
        """Open the file."""
        self.writer.start()

    def stop(self) -> None:
        """Write what is left and close the file."""
        self.writer.stop()

    def log(self, record: Any) -> None:
        """See `IAccessLog`."""
        chosen: object = record
        if self._values is not None:
            values = self._values(record)
            chosen = dict(zip(self._names, values if len(self._names) > 1 else (values,), strict=True))
        started = record.started
        second = int(started)
        if second != self._second:
            self._begin_second(second)
        # What the encoder gives begins with "{"; the time (RFC 3339, cut to the millisecond) is put before its first field.
        self._write(b"".join((self._begin, _MILLISECONDS[int((started - second) * 1000)], json_line(chosen)[1:], b"\n")))

    def log_line(self, likeness: Any, own: Any) -> None:
        """See `ILineLog`: the same line as `log` writes, when it has all fields."""
        common = likeness.json
        if not common:
            likeness.json = common = json_line(likeness.fields)[1:-1] + b","
        fraction = own.started - self._second
        if not 0.0 <= fraction < 1.0:
            self._begin_second(int(own.started))
            fraction = own.started - self._second
        self._write(b"".join((self._begin, _MILLISECONDS[int(fraction * 1000)], common, json_line(own)[1:], b"\n")))

    def _begin_second(self, second: int) -> None:
        self._second = second
        self._begin = datetime.fromtimestamp(second, UTC).strftime('{"time":"%Y-%m-%dT%H:%M:%S.').encode()
