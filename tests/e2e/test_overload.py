"""A sidecar at its limits says no in words, keeps what it has, and recovers."""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.e2e.applications import Application, Request, Wire
from tests.e2e.clients import Channel, ask, connect, exchange, read_all
from tests.e2e.conftest import Start
from tests.e2e.processes import until

CONFIG = """
service: web
inbound: {{listen: "127.0.0.1:0", app: "{app}", mtls: disabled}}
admin: "127.0.0.1:0"
access_log: access.log
drain_time: 1s
overload: {overload}
listeners:
  - {{name: tcp, address: "127.0.0.1:0", direction: inbound, filter_chains: [{{tcp: {{cluster: app}}}}]}}
  - {{name: small, address: "127.0.0.1:0", direction: inbound, max_connections: 1, filter_chains: [{{http: {{routes: inbound}}}}]}}
"""


class Waiting:
    """A behaviour that answers when it is told to. `waiting`: how many wait."""

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.waiting = 0

    def __call__(self, wire: Wire, request: Request) -> None:
        self.waiting += 1
        self.may_go.wait(20)
        wire.answer(b"at last")


def test_requests_beyond_the_limit(start: Start, app: Application) -> None:
    """Two run; the third gets 503 with the reason, health pages answer all the while, and when the two are over there is room again."""
    sidecar = start(CONFIG.format(app=app.address, overload="{max_requests: 2}"))
    app.on("/slow", slow := Waiting())
    held = [Channel(sidecar.places["inbound"]) for _ in range(2)]
    for channel in held:
        channel.request("GET", "/slow")
    assert until(lambda: slow.waiting == 2)
    refused = ask(sidecar.places["inbound"], "/third")
    assert (refused.status, refused.json["code"], refused.fields["retry-after"]) == (503, "overloaded", "1")
    assert "overload.max_requests" in refused.json["detail"] and 'details="overloaded"' in refused.fields["proxy-status"]
    assert sidecar.page("/healthz/ready")[0] == 200 and sidecar.json("/overload")["requests"] == 2
    slow.may_go.set()
    assert [channel.getresponse().read() for channel in held] == [b"at last"] * 2
    assert ask(sidecar.places["inbound"], "/again").status == 200
    (record,) = sidecar.records(path="/third")
    assert (record["flags"], record["code"], record["attempts"]) == ("OM", "overloaded", 0)
    assert sidecar.metric('sidecar_overload_requests_refused_total{reason="requests"}') == 1


def test_memory_beyond_the_limit(start: Start, app: Application) -> None:
    """A sidecar that has less memory than it takes refuses everything, and still answers for its health."""
    sidecar = start(CONFIG.format(app=app.address, overload="{max_memory: 1MiB, refresh_interval: 50ms, actions: {stop_accepting_connections: null}}"))
    assert until(lambda: ask(sidecar.places["inbound"], "/").status == 503)
    refused = ask(sidecar.places["inbound"], "/")
    assert "memory is short" in refused.json["detail"] and refused.fields["connection"] == "close"
    assert sidecar.page("/healthz/live")[0] == 200
    assert sidecar.metric('sidecar_overload_active{action="stop_accepting_requests"}') == 1
    assert sidecar.metric("sidecar_process_resident_memory_bytes") > 1024 * 1024
    assert "overload: stop_accepting_requests begins: memory is at " in sidecar.log


def test_connections_beyond_the_limit(start: Start, app: Application) -> None:
    """Over HTTP they are told why, elsewhere they are closed; both are counted, and those from before go on."""
    sidecar = start(CONFIG.format(app=app.address, overload="{max_connections: 2}"))
    held = [Channel(sidecar.places["inbound"]) for _ in range(2)]
    assert [channel.ask("/").status for channel in held] == [200, 200]
    answer = exchange(sidecar.places["inbound"], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 503 ") and b"overload.max_connections" in answer and b"connection: close" in answer.lower()
    assert exchange(sidecar.places["tcp"], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") == b""
    assert [channel.ask("/").status for channel in held] == [200, 200]
    assert sidecar.metric("sidecar_overload_connections_refused_total") == 2
    assert sidecar.metric('sidecar_downstream_connections_over_limit_total{listener="inbound"}') == 1
    held[0].close()
    # Nearly at the limit connections are not kept after their next request, so there is room again.
    assert until(lambda: ask(sidecar.places["inbound"], "/").status == 200)


def test_connections_beyond_a_listeners_limit(start: Start, app: Application) -> None:
    """They see the end of the connection or a reset, nothing else, and are counted."""
    sidecar = start(CONFIG.format(app=app.address, overload="{}"))
    held = Channel(sidecar.places["small"])
    assert held.ask("/").status == 200
    with connect(sidecar.places["small"]) as second:
        with contextlib.suppress(OSError):
            second.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            second.shutdown(socket.SHUT_WR)
        assert read_all(second) == b""
    assert sidecar.metric('sidecar_downstream_connections_over_limit_total{listener="small"}') == 1
    assert held.ask("/").status == 200
    held.close()
    assert until(lambda: sidecar.json("/listeners")[2]["connections"] == 0)
    assert ask(sidecar.places["small"], "/").status == 200
