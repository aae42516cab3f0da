"""Finished spans, one JSON object for each, on a line of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from zope.interface import implementer

from sidecar.export.json_lines import json_line
from sidecar.export.lines import STDOUT, LineWriter
from sidecar.interfaces import IPluginLifecycle, ISpanExporter


@implementer(ISpanExporter, IPluginLifecycle)
class JSONSpans:
    """Span exporter `json`: the fields of `sidecar.telemetry.trace.Span` after `resource`, which says whose span it is."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`path`: a file, or "-" for standard output."""

        path: Path = Path(STDOUT)

    def __init__(self, config: Config, context: Any) -> None:
        self.writer = LineWriter(str(config.path), context)
        node = context.node
        resource = {"service.name": node.service, "service.namespace": node.namespace}
        self._begin = b'{"resource":%b,' % json_line(resource)

    def start(self) -> None:
        """Open the file."""
        self.writer.start()

    def stop(self) -> None:
        """Write what is left and close the file."""
        self.writer.stop()

    def export(self, spans: list[object]) -> None:
        """See `ISpanExporter`."""
        for span in spans:
            self.writer.write(self._begin + json_line(span)[1:] + b"\n")
