"""What can be seen of a running sidecar: admin pages, access records, and what a failing plugin leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.applications import Application
from tests.e2e.clients import ask
from tests.e2e.conftest import Plain, Start, every_reactor
from tests.e2e.processes import until

PLUGINS = """
from sidecar.extension import Extension

failing = Extension(kind="filter", name="test.failing", target="failing_filter.Failing", summary="Raises in every hook.")
"""
FAILING = """
import msgspec
from zope.interface import implementer

from sidecar.interfaces import IExchangeDone, IRequestHeadHook, IResponseHeadHook


@implementer(IRequestHeadHook, IResponseHeadHook, IExchangeDone)
class Failing:
    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        where: str = "request"

    def __init__(self, config, context):
        self.where = config.where

    def request_head(self, exchange):
        if self.where == "request":
            raise RuntimeError("on purpose")

    def response_head(self, exchange):
        if self.where == "response":
            raise RuntimeError("on purpose")

    def exchange_done(self, exchange, record):
        if self.where == "done":
            raise RuntimeError("on purpose")
"""


@every_reactor
def test_admin_pages(plain: Plain) -> None:
    """Each answers, and says what is true."""
    assert ask(plain.place, "/seen").status == 200
    sidecar = plain.sidecar
    assert sidecar.page("/healthz/live")[0] == sidecar.page("/healthz/ready")[0] == 200
    listeners = {each["name"]: each for each in sidecar.json("/listeners")}
    assert set(listeners) == {"inbound", "tcp", "unix", "ipv6", "others"} and listeners["inbound"]["accepted"] > 0
    clusters = {each["name"]: each for each in sidecar.json("/clusters")}
    assert clusters["app"]["requests"] > 0 and clusters["app"]["endpoints"][0]["address"] == plain.app.address
    dump = sidecar.json("/config_dump")
    assert plain.app.address in json.dumps(dump)
    assert sidecar.page("/nothing")[0] == 404
    assert "/healthz/ready" in sidecar.page("/")[1]


def test_metrics_count(plain: Plain) -> None:
    """Requests by code, and latency, in Prometheus' format."""
    ask(plain.sidecar.places["others"], "/direct")
    text = plain.sidecar.page("/stats/prometheus")[1]
    assert "istio_requests_total{" in text and 'response_code="299"' in text and "istio_request_duration_milliseconds_bucket{" in text
    assert plain.sidecar.metric("process_resident_memory_bytes") > 1_000_000


def test_an_access_record_is_a_line_of_json(plain: Plain) -> None:
    """With what was asked, what came of it, and how long it took."""
    ask(plain.place, "/recorded?a=1", "POST", b"abcd", User_Agent="test/1", x_request_id="id-1")
    row = plain.sidecar.records(path="/recorded?a=1")[0]
    assert (row["method"], row["authority"], row["status"], row["protocol"]) == ("POST", "app.example", 200, "HTTP/1.1")
    assert (row["request_bytes"], row["response_bytes"], row["cluster"], row["endpoint"]) == (4, 3, "app", plain.app.address)
    assert (row["user_agent"], row["request_id"], row["flags"], row["code"], row["attempts"]) == ("test/1", "id-1", "", "", 1)
    assert row["time"].endswith("Z") and row["duration_ms"] >= row["upstream_ms"] > 0 and len(row["trace_id"]) == 32


def test_records_go_to_standard_output_by_default(start: Start, app: Application) -> None:
    """And nothing else does."""
    sidecar = start(f'{{service: a, inbound: {{listen: "127.0.0.1:0", app: "{app.address}", mtls: disabled}}, admin: null}}')
    ask(sidecar.places["inbound"], "/one")
    assert until(lambda: sidecar.output.endswith("}\n"))
    assert [json.loads(line)["path"] for line in sidecar.output.splitlines()] == ["/one"]


def test_a_plugin_that_raises_does_not_take_the_sidecar_down(start: Start, app: Application, tmp_path: Path) -> None:
    """The exchange gets 500 and the plugin's name, or goes on where the entry says fail_open; the next one is served all the same."""
    directory = tmp_path / "plugins"
    directory.mkdir()
    (directory / "failing_filter.py").write_text(FAILING)
    (directory / "names.py").write_text(PLUGINS)
    for where, fails_open, status in (("request", False, 500), ("request", True, 200), ("response", False, 500), ("done", False, 200)):
        extension = f"{{kind: filter, name: test.failing, fail_open: {str(fails_open).lower()}, config: {{where: {where}}}}}"
        listen = f'inbound: {{listen: "127.0.0.1:0", app: "{app.address}", mtls: disabled}}'
        sidecar = start(
            f'{{service: a, {listen}, extensions: [{extension}], access_log: access.log, admin: "127.0.0.1:0"}}',
            "--plugin-dir",
            str(directory),
            name=f"{where}-{fails_open}",
        )
        sidecar.expects_traceback = True
        for _ in range(3):
            answer = ask(sidecar.places["inbound"], "/failing")
            assert answer.status == status, (where, fails_open, answer)
            if status == 500:
                assert (answer.json["code"], answer.json["side"]) == ("plugin-failed", "plugin")
        rows = sidecar.records(path="/failing", count=3)
        assert [row["status"] for row in rows] == [status] * 3
        assert where == "done" or all("test.failing" in json.dumps(row["notes"]) for row in rows)
        # A reply of the sidecar's own passes the response hooks, too, and meets the same plugin again.
        assert sidecar.metric('sidecar_plugin_failures_total{kind="filter",plugin="test.failing"}') == (6 if where == "response" else 3)
        assert "on purpose" in sidecar.log  # the traceback is in the log, once or more
        sidecar.kill()
