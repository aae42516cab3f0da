"""Endpoints that come and go while requests run: none of them fails, and whoever left is left alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.applications import Application, Request, Wire
from tests.e2e.clients import ask
from tests.e2e.conftest import Start
from tests.e2e.name_server import NameServer
from tests.e2e.processes import Place, SidecarProcess, until

CLIENTS = 4
CONFIG = """
service: client
outbound: {{listen: "127.0.0.1:0", services: {{web: {{mtls: false, {where}}}}}}}
access_log: access.log
tracing: false
admin: "127.0.0.1:0"
"""


@pytest.fixture
def apps() -> Iterator[list[Application]]:
    """Three applications."""
    with ExitStack() as ends:
        made = [Application() for _ in range(3)]
        for each in made:
            ends.callback(each.stop)
        yield made


@contextmanager
def requests_running(place: Place) -> Iterator[list[Any]]:
    """Requests all the while; the list has what did not go well."""
    failures: list[Any] = []
    over = threading.Event()
    counts = [0] * CLIENTS

    def client(index: int) -> None:
        while not over.is_set():
            try:
                answer = ask(place, "/", Host="web")
                if answer.status != 200:
                    failures.append((answer.status, answer.body))
            except OSError as error:
                failures.append(repr(error))
            counts[index] += 1

    threads = [threading.Thread(target=client, args=(index,)) for index in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
        assert all(counts)


def endpoints(sidecar: SidecarProcess) -> set[str]:
    """Of the cluster, as /clusters has them."""
    [web] = [each for each in sidecar.json("/clusters") if each["name"] == "web"]
    return {each["address"] for each in web["endpoints"]}


def served_since(app: Application) -> Any:
    """Asks whether it served anything from now on."""
    before = app.served
    return lambda: app.served > before


def port(app: Application) -> int:
    """Of its address."""
    return int(app.address.rpartition(":")[2])


def test_a_file_that_is_replaced(start: Start, apps: list[Application], tmp_path: Path) -> None:
    """New endpoints get requests, removed ones get none any more, what runs on them ends in peace, and their idle connections close. A broken file changes
    nothing."""
    one, two, three = apps
    file = tmp_path / "web.json"

    def write(*members: Application) -> None:
        (tmp_path / "new").write_text(json.dumps([each.address for each in members]))
        (tmp_path / "new").replace(file)

    held, let_go = threading.Event(), threading.Event()

    def slow(wire: Wire, request: Request) -> None:
        held.set()
        let_go.wait(20)
        wire.answer(b"in peace")

    one.on("/slow", slow)
    write(one)
    sidecar = start(CONFIG.format(where=f"endpoints_file: {file}"))
    place = sidecar.places["outbound"]
    assert endpoints(sidecar) == {one.address}
    slow_answers: list[bytes] = []
    waiting = threading.Thread(target=lambda: slow_answers.append(ask(place, "/slow", Host="web").body))
    waiting.start()
    assert held.wait(10)
    with requests_running(place) as failures:
        write(one, two)
        assert until(served_since(two))
        write(two, three)
        assert until(served_since(three))
        assert until(lambda: endpoints(sidecar) == {two.address, three.address})
        went = one.served
        assert until(served_since(two)) and until(served_since(three))
        assert one.served == went
        file.write_text('["nonsense"]')
        assert until(lambda: sidecar.metric('sidecar_discovery_failures_total{cluster="web"}') >= 1)
        assert until(served_since(two)) and endpoints(sidecar) == {two.address, three.address}
        let_go.set()
        waiting.join(40)
    assert (failures, slow_answers) == ([], [b"in peace"])
    [web] = [each for each in sidecar.json("/clusters") if each["name"] == "web"]
    assert web["discovery"]["plugin"] == "file"
    assert f"{file}:1:2: expected HOST:PORT" in web["discovery"]["last_error"]
    assert until(lambda: not one._open)
    assert "web: 1 endpoint came, 1 endpoint went (file); 2 now" in sidecar.log
    assert sidecar.metric('sidecar_discovery_endpoints{cluster="web"}') == 2


def test_dns(start: Start, apps: list[Application]) -> None:
    """Records that change move the requests within their TTL; a server that falls silent, and a name that disappears, change nothing."""
    one, two, three = apps
    names = NameServer()
    try:
        names.serve_at("_http._tcp.web.example", port(one))
        config = f"{{names: _http._tcp.web.example., servers: ['{names.address}'], min_refresh_rate: 50ms, timeout: 200ms}}"
        sidecar = start(CONFIG.format(where=f"discovery: {{kind: discovery, name: dns, config: {config}}}"))
        place = sidecar.places["outbound"]
        assert endpoints(sidecar) == {one.address}
        with requests_running(place) as failures:
            names.serve_at("_http._tcp.web.example", port(two), port(three))
            assert until(served_since(two)) and until(served_since(three))
            assert until(lambda: endpoints(sidecar) == {two.address, three.address})
            names.is_silent = True
            assert until(lambda: sidecar.metric('sidecar_discovery_failures_total{cluster="web"}') >= 1)
            names.records, names.is_silent = {}, False
            assert until(lambda: "does not exist" in sidecar.log)
            assert endpoints(sidecar) == {two.address, three.address}
            names.serve_at("_http._tcp.web.example", port(one))
            assert until(served_since(one))
        assert failures == []
    finally:
        names.stop()


def test_a_start_without_an_answer(start: Start, apps: list[Application], tmp_path: Path) -> None:
    """The listener opens when the time for it is over, requests get 503 and a sentence, and what is found later is used."""
    file = tmp_path / "web.json"
    full = f"""
node: {{service: client}}
listeners:
  - name: outbound
    address: "127.0.0.1:0"
    direction: outbound
    filter_chains: [{{http: {{routes: {{name: all, virtual_hosts: [{{name: all, routes: [{{cluster: web}}]}}]}}}}}}]
clusters: [{{name: web, discovery: {{kind: discovery, name: file, config: {{path: {file}}}}}, initial_fetch_timeout: 300ms}}]
admin: "127.0.0.1:0"
"""
    sidecar = start(full)
    assert "web: starting without endpoints, none were found within 0.3 s (file): " in sidecar.log
    answer = ask(sidecar.places["outbound"], "/")
    assert answer.status == 503
    assert b"no-healthy-endpoint" in answer.body
    file.write_text(json.dumps([apps[0].address]))
    assert until(lambda: ask(sidecar.places["outbound"], "/").status == 200)


def test_told_to_stop_while_it_waits(tmp_path: Path) -> None:
    """A start that waits for a first answer ends at once when it is told to."""
    sidecar = SidecarProcess(tmp_path / "sidecar", CONFIG.format(where=f"endpoints_file: {tmp_path / 'never.json'}"))
    try:
        assert until(lambda: "never.json cannot be read" in sidecar.log, 20)
        sidecar.signal()
        assert sidecar.wait(10) == 0
        assert "accepts at" not in sidecar.log
    finally:
        sidecar.end()


def test_ten_thousand_endpoints(start: Start, apps: list[Application], tmp_path: Path) -> None:
    """Are taken into use and let go again while requests run."""
    file = tmp_path / "web.json"
    file.write_text(json.dumps([apps[0].address]))
    sidecar = start(CONFIG.format(where=f"endpoints_file: {file}"))
    many = [{"address": f"127.1.{number // 250}.{number % 250 + 1}:9", "weight": 0} for number in range(10_000)]
    with requests_running(sidecar.places["outbound"]) as failures:
        (tmp_path / "new").write_text(json.dumps([apps[0].address, *many]))
        (tmp_path / "new").replace(file)
        assert until(lambda: "10000 endpoints came" in sidecar.log, 30)
        file.write_text(json.dumps([apps[0].address]))
        assert until(lambda: "10000 endpoints went" in sidecar.log, 30)
        assert until(served_since(apps[0]))
    assert failures == []
