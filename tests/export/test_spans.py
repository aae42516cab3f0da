"""The JSON span exporter."""

from __future__ import annotations

import json
from pathlib import Path

from zope.interface.verify import verifyObject

from sidecar.export.spans import JSONSpans
from sidecar.interfaces import IPluginLifecycle, ISpanExporter
from sidecar.model import Node
from sidecar.telemetry.trace import client_span, server_span
from sidecar.testing import STARTED, FakeContext, make_record


def test_each_span_is_a_line(tmp_path: Path) -> None:
    """The span's fields, and whose span it is."""
    exporter = JSONSpans(JSONSpans.Config(path=str(tmp_path / "spans")), FakeContext(node=Node(service="orders", namespace="shop")))
    record = make_record(trace_id="a" * 32, span_id="b" * 16)
    exporter.start()
    exporter.export([client_span(record, "c" * 16, STARTED, "127.0.0.1:1", True, 0), server_span(record, "")])
    exporter.stop()
    client, server = (json.loads(line) for line in (tmp_path / "spans").read_text().splitlines())
    assert client["resource"] == server["resource"] == {"service.name": "orders", "service.namespace": "shop"}
    assert (client["parent_span_id"], server["span_id"], server["kind"]) == ("b" * 16, "b" * 16, "server")
    assert client["attributes"]["server.port"] == 1


def test_provides_its_interfaces() -> None:
    """It is a span exporter that holds a file open."""
    exporter = JSONSpans(JSONSpans.Config(), FakeContext())
    assert verifyObject(ISpanExporter, exporter)
    assert verifyObject(IPluginLifecycle, exporter)
