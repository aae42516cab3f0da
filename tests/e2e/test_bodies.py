"""Bodies of any size pass with flat memory, however slow one side is; what is cut short is seen to be cut short."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException, IncompleteRead
from pathlib import Path

import pytest

from tests.e2e.applications import Request, Wire
from tests.e2e.clients import Channel, ask, connect, exchange, read_all
from tests.e2e.conftest import Plain, every_reactor

LARGE = 256 * 1024 * 1024  # octets
PIECE = b"0123456789abcdef" * 16384  # 256 KiB


def _largest(name: str) -> int:
    """What the kernel lets one TCP buffer grow to, octets: 6 MiB here, 32 MiB there."""
    return int(Path(f"/proc/sys/net/ipv4/{name}").read_text().split()[2])


# Between a sender and a peer that does not read stand two connections' buffers in the kernel; the sidecar's own part is its two watermarks. All of it, and
# then as much again that must not be sent.
HELD = 2 * _largest("tcp_wmem") + _largest("tcp_rmem") + 2 * 1024 * 1024
PIECES = 2 * HELD // len(PIECE)
# What one exchange may pin beside what the sidecar has anyway: two watermarks, what the system hands over in one read, and the allocator's slack.
GROWTH_MIB = 8.0


def download(wire: Wire, request: Request) -> None:
    """As many octets as the query says."""
    size = int(request.target.partition("?")[2])
    wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    for _ in range(size // len(PIECE)):
        wire.send(PIECE)


def count(wire: Wire, request: Request) -> None:
    """How many octets came."""
    wire.answer(b"%d" % sum(map(len, wire.body(request))))


def pieces(size: int) -> Iterator[bytes]:
    for _ in range(size // len(PIECE)):
        yield PIECE


@pytest.fixture
def bodies(plain: Plain) -> Plain:
    plain.app.on("/download", download)
    plain.app.on("/count", count)
    ask(plain.place, "/download?262144")
    return plain


def test_a_large_download_takes_no_memory(bodies: Plain) -> None:
    """The sidecar's resident memory stays flat."""
    before = bodies.sidecar.forget_peak()
    channel = Channel(bodies.place)
    channel.request("GET", f"/download?{LARGE}")
    response = channel.getresponse()
    got = 0
    buffer = bytearray(1024 * 1024)
    while read := response.readinto(buffer):
        got += read
    channel.close()
    assert got == LARGE
    assert bodies.sidecar.resident_peak() - before < GROWTH_MIB


@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
def test_a_large_upload_takes_no_memory(bodies: Plain, chunked: bool) -> None:
    """Likewise upwards, with a length or in chunks."""
    size = LARGE // 4 if chunked else LARGE
    before = bodies.sidecar.forget_peak()
    channel = Channel(bodies.place)
    fields = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(size)}
    channel.request("POST", "/count", pieces(size), fields, encode_chunked=chunked)
    assert channel.getresponse().read() == b"%d" % size
    channel.close()
    assert bodies.sidecar.resident_peak() - before < GROWTH_MIB


@every_reactor
def test_bodies_on_every_reactor(bodies: Plain) -> None:
    """32 MiB up and down."""
    size = 32 * 1024 * 1024
    assert len(ask(bodies.place, f"/download?{size}").body) == size
    assert ask(bodies.place, "/count", "POST", pieces(size), Content_Length=str(size)).body == b"%d" % size


@every_reactor
def test_a_slow_reader_stops_only_its_own_application(bodies: Plain) -> None:
    """A client that does not read pins little memory and holds up nobody; when it reads, it gets everything."""
    before = bodies.sidecar.forget_peak()
    sent = [0]

    def offer(wire: Wire, request: Request) -> None:
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (PIECES * len(PIECE)))
        for _ in range(PIECES):
            wire.send(PIECE)
            sent[0] += len(PIECE)

    bodies.app.on("/offer", offer)
    with connect(bodies.place, receive_buffer=65536) as slow:
        slow.sendall(b"GET /offer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        seen = -1
        while sent[0] != seen:  # until the application is stopped
            seen = sent[0]
            assert ask(bodies.place, "/echo", "POST", b"others").body == b"others"
            time.sleep(0.1)
        assert sent[0] < HELD
        assert bodies.sidecar.resident_peak() - before < GROWTH_MIB
        assert len(read_all(slow).partition(b"\r\n\r\n")[2]) == PIECES * len(PIECE)


@every_reactor
def test_a_slow_writer_is_waited_for(bodies: Plain) -> None:
    """A request that comes octet by octet is served, and others meanwhile."""
    data = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    with connect(bodies.place) as slow:
        slow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for index in range(len(data)):
            slow.sendall(data[index : index + 1])
            if index % 10 == 0:
                assert ask(bodies.place, "/").body == b"ok\n"
        assert read_all(slow).endswith(b"\r\n\r\nabc")


def test_a_slow_application_stops_only_its_own_client(bodies: Plain) -> None:
    """An application that does not read pins little memory; when it reads, it gets everything."""
    reads = threading.Event()

    def hesitate(wire: Wire, request: Request) -> None:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        reads.wait(20)
        count(wire, request)

    bodies.app.on("/hesitate", hesitate)
    before = bodies.sidecar.forget_peak()
    sent = [0]

    def upload() -> None:
        with connect(bodies.place) as sock:
            sock.sendall(b"POST /hesitate HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (PIECES * len(PIECE)))
            for _ in range(PIECES):
                sock.sendall(PIECE)
                sent[0] += len(PIECE)
            answers.append(read_all(sock))

    answers: list[bytes] = []
    thread = threading.Thread(target=upload)
    thread.start()
    seen = -1
    while sent[0] != seen:
        seen = sent[0]
        assert ask(bodies.place, "/").body == b"ok\n"
        time.sleep(0.1)
    assert sent[0] < HELD
    assert bodies.sidecar.resident_peak() - before < GROWTH_MIB
    reads.set()
    thread.join(40)
    assert answers[0].endswith(b"%d" % (PIECES * len(PIECE)))


CUTS = {
    "counted": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x" * 50_000),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"c350\r\n" + b"x" * 50_000 + b"\r\n"),
    "in-a-chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"c350\r\n" + b"x" * 40_000),
}


@every_reactor
def test_an_application_killed_in_mid_response_is_seen(plain: Plain) -> None:
    """The client is told that the body is not complete, and the record says who failed."""
    told = threading.Event()

    def cut(wire: Wire, request: Request) -> bool:
        _, kind, by = request.path.split("/")
        head, body = CUTS[kind]
        wire.send(head)
        wire.send(body)
        told.wait(10)
        if by == "reset":
            wire.cut()
        return False

    paths = [f"/{kind}/{by}" for kind in CUTS for by in ("close", "reset")]
    for path in paths:
        plain.app.on(path, cut)
        told.clear()
        channel = Channel(plain.place)
        channel.request("GET", path)
        response = channel.getresponse()
        assert response.status == 200 and response.read(1000) == b"x" * 1000
        told.set()
        with pytest.raises((HTTPException, ConnectionError)):
            raise_unless_short(response.read(), response.length)
        channel.close()
    for path in paths:
        row = plain.sidecar.records(path=path)[0]
        assert (row["code"], row["flags"]) == ("upstream-closed", "UC"), row


def raise_unless_short(rest: bytes, length: int | None) -> None:
    """`http.client` returns what there is of a counted body when it asked for everything: then the length that is left tells."""
    if length:
        raise IncompleteRead(rest, length)


def test_a_reset_of_a_close_delimited_body_is_passed_on(plain: Plain) -> None:
    """Only a reset tells that such a body is cut short; the client gets one."""

    def cut(wire: Wire, request: Request) -> bool:
        wire.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000)
        told.wait(10)
        wire.cut()
        return False

    told = threading.Event()
    plain.app.on("/cut-open", cut)
    with connect(plain.place) as sock:
        sock.sendall(b"GET /cut-open HTTP/1.0\r\nHost: x\r\n\r\n")
        got = b""
        while not got.endswith(b"x" * 1000):
            got += sock.recv(65536)
        told.set()
        with pytest.raises(ConnectionResetError):
            sock.recv(1000)


def test_a_client_that_goes_away_frees_the_application(plain: Plain) -> None:
    """Its request is cancelled upstream."""
    gone = threading.Event()

    def endless(wire: Wire, request: Request) -> bool:
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                wire.send(b"4\r\nmore\r\n")
        gone.set()
        return False

    plain.app.on("/endless", endless)
    with connect(plain.place) as sock:
        sock.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(1000)
    assert gone.wait(10)
    assert plain.sidecar.records(path="/endless")[0]["flags"] == "DC"


def test_half_a_request_is_not_a_request(plain: Plain) -> None:
    """A client that ends in the middle of its body: the application never sees it as complete."""
    complete = []

    def body(wire: Wire, request: Request) -> bool:
        with contextlib.suppress(OSError):
            complete.append(sum(map(len, wire.body(request))))
        return False

    plain.app.on("/half", body)
    for framing in (b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"):
        with connect(plain.place) as sock:
            sock.sendall(b"POST /half HTTP/1.1\r\nHost: x\r\n" + framing)
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == b""
    assert plain.sidecar.records(path="/half", count=2) and complete == []
    assert exchange(plain.place, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").endswith(b"ok\n")
