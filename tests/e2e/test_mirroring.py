"""Mirrors on the wire: over HTTP/1.1 and over HTTP/2, with bodies that a slow mirror does not hold up."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.e2e.applications import Application, Request, Wire
from tests.e2e.clients import ask
from tests.e2e.conftest import Start
from tests.e2e.processes import until

CONFIG = """
service: web
inbound: {{listen: "unix:{directory}/next.sock", app: "{next}", mtls: disabled}}
outbound:
  listen: 127.0.0.1:0
  services:
    main: {{mtls: false, hosts: ["*"], endpoints: ["{app}"], mirrors: [{{cluster: next, timeout: 2s}}]}}
    next: {{mtls: false, hosts: [next], protocol: {protocol}, endpoints: ["{mirror}"]}}
admin: "127.0.0.1:0"
access_log: access.log
drain_time: 1s
"""


@pytest.mark.parametrize("protocol", ["h1", "h2"])
def test_copies(start: Start, app: Application, short_directory: Path, protocol: str) -> None:
    """Both get the request, the mirror with -shadow; over HTTP/2 by way of the sidecar's own listener, since the application speaks HTTP/1.1."""
    mirror = Application()
    bodies: list[tuple[str, bytes]] = []

    def keep(wire: Wire, request: Request) -> None:
        bodies.append((request.values("host")[0], b"".join(wire.body(request))))
        wire.answer(b"nobody reads this", "500 Oh No")

    mirror.on("/echo", keep)
    directory = short_directory / protocol
    directory.mkdir()
    try:
        through = mirror.address if protocol == "h1" else f"unix:{directory}/next.sock"
        sidecar = start(CONFIG.format(app=app.address, next=mirror.address, mirror=through, protocol=protocol, directory=directory))
        for body in (b"", b"x" * 100, b"y" * 50_000):
            answer = ask(sidecar.places["outbound"], "/echo", "POST", body)
            assert (answer.status, answer.body) == (200, body)
        assert until(lambda: len(bodies) == 3)
        assert sorted(len(body) for _, body in bodies) == [0, 100, 50_000] and {host for host, _ in bodies} == {"app.example-shadow"}
        assert until(lambda: sidecar.metric('sidecar_mirror_error_responses_total{cluster="next"}') == 3)
        assert sidecar.metric('sidecar_mirror_active{cluster="next"}') == 0
    finally:
        mirror.stop()


def test_a_mirror_that_hangs(start: Start, app: Application, short_directory: Path) -> None:
    """The original is as quick and whole as ever; the mirror is cut for the body that it does not take, and for the answer that it does not give."""
    mirror = Application()
    may_go = threading.Event()
    mirror.converse = lambda wire: may_go.wait(20)  # type: ignore[method-assign]
    body = b"z" * 8_000_000
    try:
        sidecar = start(CONFIG.format(app=app.address, next=mirror.address, mirror=mirror.address, protocol="h1", directory=short_directory))
        answer = ask(sidecar.places["outbound"], "/echo", "POST", body)
        assert answer.status == 200 and answer.body == body
        assert ask(sidecar.places["outbound"], "/facts").status == 200
        assert until(lambda: sidecar.metric('sidecar_mirror_cut_total{cluster="next"}') == 2)
        assert sidecar.metric('sidecar_mirror_active{cluster="next"}') == 0
    finally:
        may_go.set()
        mirror.stop()
