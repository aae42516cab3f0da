"""Pooled connections lose no request, at whatever moment the application closes them."""

from __future__ import annotations

import socket
import threading
from collections import Counter

from tests.e2e.applications import Application, Request, Wire
from tests.e2e.clients import ask, connect
from tests.e2e.conftest import Plain, Start
from tests.e2e.processes import Place, until

REQUESTS = 10_000
CLIENTS = 8


class Keeper:
    """A client that keeps its connection and costs the machine little: ten thousand requests are many for `http.client`."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._sock: socket.socket | None = None
        self.connections = 0

    def ask(self, method: str, path: str, name: str) -> tuple[int, bytes]:
        """(status, body) of one request, which has `name` as its number and, with POST, as its body."""
        if self._sock is None:
            self._sock = connect(self._place)
            self.connections += 1
        body = name if method == "POST" else ""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        self._sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: app.example\r\nX-Number: {name}\r\n{length}\r\n{body}".encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive()
        head, _, data = data.partition(b"\r\n\r\n")
        fields = head.lower()
        size = int(fields.partition(b"content-length:")[2].partition(b"\r\n")[0])
        while len(data) < size:
            data += self._receive()
        if b"connection: close" in fields:
            self.close()
        return int(head[9:12]), data

    def _receive(self) -> bytes:
        assert self._sock is not None
        data = self._sock.recv(65536)
        if not data:
            raise ConnectionError("the connection ended without an answer")
        return data

    def close(self) -> None:
        """End the connection, if there is one."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()


def run_clients(place: Place, each: int, mixed: bool, failures: list[str], paths: list[str]) -> Counter[str]:
    """`CLIENTS` threads with a keep-alive connection each, `each` requests: answers by method and status. A third is POST when they are `mixed`."""
    answers: Counter[str] = Counter()
    lock = threading.Lock()

    def client(index: int) -> None:
        mine: Counter[str] = Counter()
        channel = Keeper(place)
        for number in range(each):
            method = "POST" if mixed and number % 3 == 0 else "GET"
            name = f"{index}.{number}"
            path = paths[number % len(paths)]
            try:
                status, body = channel.ask(method, path, name)
            except OSError as error:
                failures.append(f"{method} {path} {name}: {error!r}")
                channel.close()
                continue
            mine[f"{method} {status}"] += 1
            if (status, body) != (200, name.encode()):
                failures.append(f"{method} {path} {name}: {status} {body!r}")
        channel.close()
        with lock:
            answers.update(mine)

    threads = [threading.Thread(target=client, args=(index,)) for index in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    return answers


def number(wire: Wire, request: Request) -> None:
    """The request's own name comes back: an answer that went to the wrong client would show."""
    for _ in wire.body(request):
        pass
    wire.answer(request.values("x-number")[0].encode())


def test_ten_thousand_requests(plain: Plain) -> None:
    """GET and POST mixed over eight connections: each gets its own answer, over few connections upstream."""
    plain.app.on("/number", number)
    before, served = plain.app.connections, plain.app.served
    failures: list[str] = []
    answers = run_clients(plain.place, REQUESTS // CLIENTS, True, failures, ["/number"])
    assert failures == []
    assert answers.total() == REQUESTS == plain.app.served - served
    assert plain.app.connections - before <= CLIENTS


def number_and_close(wire: Wire, request: Request) -> bool:
    """Close right after the answer, without having said so."""
    number(wire, request)
    return False


def number_and_cut(wire: Wire, request: Request) -> bool:
    """Likewise by a reset."""
    number(wire, request)
    wire.cut()
    return False


def close_on_the_next(wire: Wire, request: Request) -> bool:
    """Answer, and close when the next request has arrived, without having read it: the moment at which no proxy can know."""
    number(wire, request)
    wire.sock.recv(1)
    return False


AWKWARD = {"/close": number_and_close, "/cut": number_and_cut, "/next": close_on_the_next}


def test_gets_survive_an_application_that_closes_idle_connections(plain: Plain) -> None:
    """Whenever it does: a GET that meets a dying connection is sent again on a fresh one."""
    plain.app.on("/number", number)
    for path, behaviour in AWKWARD.items():
        plain.app.on(path, behaviour)
    failures: list[str] = []
    answers = run_clients(plain.place, 250, False, failures, ["/number", *AWKWARD, "/number"])
    assert failures == [] and answers == {"GET 200": 250 * CLIENTS}
    assert plain.sidecar.metric('sidecar_stale_retries_total{chain="inbound"}') > 0


def test_posts_are_sent_once(plain: Plain) -> None:
    """A POST that met a dying connection is never sent twice: it is answered, or fails with 503 and says why; connections known to be dead are not used."""
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    def counted(wire: Wire, request: Request) -> bool:
        with lock:
            seen[request.values("x-number")[0]] += 1
        number(wire, request)
        return request.values("x-number")[0].endswith("0") is False

    plain.app.on("/counted", counted)
    failures: list[str] = []
    answers = run_clients(plain.place, 150, True, failures, ["/counted"])
    assert max(seen.values()) == 1
    assert answers["GET 200"] == 100 * CLIENTS
    assert all("upstream-closed" in each for each in failures), failures
    assert answers["POST 200"] + len(failures) == 50 * CLIENTS


def test_a_dead_idle_connection_is_not_used_for_a_post(start: Start, app: Application) -> None:
    """An application that was restarted in between costs no request at all, POST or not."""
    sidecar = start(f'{{service: a, inbound: {{listen: "127.0.0.1:0", app: "{app.address}", mtls: disabled}}, admin: "127.0.0.1:0"}}')
    place = sidecar.places["inbound"]
    for _ in range(10):
        assert ask(place, "/number", "POST", b"x").status == 200
        app.cut_all()
        assert until(lambda: sidecar.metric('sidecar_upstream_connections{cluster="app"}') == 0)


def test_waiting_for_a_connection_keeps_the_limits(start: Start, app: Application) -> None:
    """More requests than connections: they wait their turn, and none is lost."""
    limits = "pool: {max_connections: 2, max_pending: 100}"
    sidecar = start(f'{{service: a, inbound: {{listen: "127.0.0.1:0", app: "{app.address}", mtls: disabled, {limits}}}, admin: "127.0.0.1:0"}}')
    app.on("/number", number)
    failures: list[str] = []
    answers = run_clients(sidecar.places["inbound"], 50, True, failures, ["/number"])
    assert failures == [] and answers.total() == 50 * CLIENTS
    assert app.connections <= 2
