"""A sidecar that is told to go: no request is lost, and it goes."""

from __future__ import annotations

import signal
import threading
import time
from http.client import HTTPException

import pytest

from sidecar.downstream.h1 import DRAIN_IDLE_SECONDS
from tests.e2e.applications import Application, Request, Wire
from tests.e2e.clients import Channel, ask, connect
from tests.e2e.conftest import REACTORS, Start
from tests.e2e.processes import SidecarProcess, until

CONFIG = '{{service: a, inbound: {{listen: "127.0.0.1:0", app: "{app}", mtls: disabled}}, access_log: access.log, admin: "127.0.0.1:0", drain_time: {drain}}}'


class Load:
    """Threads with keep-alive connections that ask all the time; one ends when it is told `Connection: close`, or cannot connect any more."""

    def __init__(self, sidecar: SidecarProcess, threads: int = 8) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self.goes = threading.Event()  # the sidecar was told
        self._place = sidecar.places["inbound"]
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(index,)) for index in range(threads)]
        for thread in self._threads:
            thread.start()

    def _ask(self, index: int) -> None:
        number = 0
        while True:
            channel = Channel(self._place)
            try:
                channel.connect()
            except ConnectionRefusedError:
                if not self.goes.is_set():
                    self.failures.append("refused before the signal")
                return
            asked = 0
            answered = time.monotonic()
            while True:
                number += 1
                try:
                    answer = channel.ask("/echo", "POST" if number % 2 else "GET", b"%d" % number if number % 2 else None)
                except (OSError, HTTPException) as error:
                    # On a busy machine this thread may have slept for so long that its connection was an idle one.
                    was_idle = self.goes.is_set() and time.monotonic() - answered > DRAIN_IDLE_SECONDS * 0.8
                    if (asked and not was_idle) or not self.goes.is_set():
                        self.failures.append(f"request {number} of {index}, {asked} of its connection: {error!r}")
                    # A connection that waited in the listener's backlog when that closed was never accepted: nobody can serve it.
                    return
                asked += 1
                answered = time.monotonic()
                with self._lock:
                    self.answered += 1
                if answer.status != 200 or answer.body != (b"%d" % number if number % 2 else b""):
                    self.failures.append(repr(answer))
                if answer.fields.get("connection") == "close":
                    break
            channel.close()
            if self.goes.is_set():
                return

    def end(self) -> None:
        """All threads are through."""
        for thread in self._threads:
            thread.join(40)


@pytest.mark.parametrize("reactor", [pytest.param(each, id=each or "sidecar") for each in REACTORS])
def test_sigterm_under_load_loses_no_request(start: Start, app: Application, reactor: str) -> None:
    """Every request on an open connection is answered, each connection is told to close, and the status is 0."""
    sidecar = start(CONFIG.format(app=app.address, drain="10m"), reactor=reactor)
    load = Load(sidecar)
    assert until(lambda: load.answered > 300)
    load.goes.set()
    sidecar.signal(signal.SIGTERM)
    status = sidecar.wait()
    load.end()
    assert load.failures == []
    assert status == 0
    assert load.answered == len(sidecar.records(count=load.answered))  # and all of them are in the access log


def test_a_running_exchange_ends_before_the_sidecar(start: Start, app: Application) -> None:
    """A slow answer is waited for; new connections are refused meanwhile, and readiness says so."""
    proceeds = threading.Event()

    def slow(wire: Wire, request: Request) -> None:
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
        proceeds.wait(10)
        wire.send(b"def")

    app.on("/slow", slow)
    sidecar = start(CONFIG.format(app=app.address, drain="10s"))
    channel = Channel(sidecar.places["inbound"])
    channel.request("GET", "/slow")
    response = channel.getresponse()
    sidecar.signal()
    assert until(lambda: sidecar.page("/healthz/ready")[0] == 503)
    with pytest.raises(OSError):
        connect(sidecar.places["inbound"])
    assert sidecar.process.poll() is None
    proceeds.set()
    assert response.read() == b"abcdef"
    assert sidecar.wait() == 0
    channel.close()


def test_the_drain_time_is_the_limit(start: Start, app: Application) -> None:
    """What does not end in time is cut, and the status is 0 all the same."""
    app.on("/never", lambda wire, request: wire.sock.recv(1))
    sidecar = start(CONFIG.format(app=app.address, drain="300ms"))
    channel = Channel(sidecar.places["inbound"])
    channel.request("GET", "/never")
    assert until(lambda: app.served == 1)
    began = time.monotonic()
    sidecar.signal()
    assert sidecar.wait() == 0
    assert time.monotonic() - began >= 0.3
    with pytest.raises((HTTPException, OSError)):
        channel.getresponse()
    channel.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(start: Start, app: Application, number: signal.Signals) -> None:
    """Whoever asks twice means it: long before the drain time is over."""
    app.on("/never", lambda wire, request: wire.sock.recv(1))
    sidecar = start(CONFIG.format(app=app.address, drain="10m"))
    channel = Channel(sidecar.places["inbound"])
    channel.request("GET", "/never")
    assert until(lambda: app.served == 1)
    sidecar.signal(number)
    assert until(lambda: "draining" in sidecar.log)
    assert sidecar.process.poll() is None
    sidecar.signal(number)
    assert sidecar.wait() == 0
    channel.close()


def test_an_idle_sidecar_ends_quickly(start: Start, app: Application) -> None:
    """Idle connections do not hold it up until the drain time is over."""
    sidecar = start(CONFIG.format(app=app.address, drain="10m"))
    channel = Channel(sidecar.places["inbound"])
    assert channel.ask("/").status == 200
    untouched = connect(sidecar.places["inbound"])
    sidecar.signal()
    assert sidecar.wait() == 0
    channel.close()
    untouched.close()


def test_drain_by_the_admin_page(start: Start, app: Application) -> None:
    """POST /drain closes the listeners and lets connections end; the process stays until it is told."""
    sidecar = start(CONFIG.format(app=app.address, drain="5s"))
    assert ask(sidecar.places["inbound"], "/").status == 200
    assert sidecar.page("/drain")[0] == 405
    assert sidecar.page("/drain", "POST", origin="http://evil.example")[0] == 403
    assert sidecar.page("/healthz/ready")[0] == 200
    assert sidecar.page("/drain", "POST")[0] == 200
    assert sidecar.page("/healthz/ready")[0] == 503 and sidecar.page("/healthz/live")[0] == 200
    with pytest.raises(OSError):
        connect(sidecar.places["inbound"])
    assert sidecar.process.poll() is None
    sidecar.signal()
    assert sidecar.wait() == 0


def test_sighup_ends_nothing(start: Start, app: Application) -> None:
    """Elsewhere it means "read your configuration again": connections must not pay for that. The log says that it is ignored."""
    sidecar = start(CONFIG.format(app=app.address, drain="1s"))
    sidecar.signal(signal.SIGHUP)
    until(lambda: "SIGHUP is ignored" in sidecar.log)
    assert sidecar.page("/healthz/ready")[0] == 200
