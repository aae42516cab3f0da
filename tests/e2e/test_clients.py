"""Clients of every kind get through, and see what they would see without a sidecar."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from http.client import HTTPConnection
from pathlib import Path

import pytest
from websockets.sync.client import connect as connect_websocket

from tests.e2e.applications import Request, Wire
from tests.e2e.clients import Channel, ask, connect, exchange, read_all
from tests.e2e.conftest import REACTORS, Plain, every_reactor

GO_PROGRAM = """
package main

import ("bytes"; "fmt"; "io"; "net/http"; "os"; "sync")

func main() {
	var group sync.WaitGroup
	failed := make(chan error, 1000)
	for worker := 0; worker < 4; worker++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for number := 0; number < 50; number++ {
				sent := bytes.Repeat([]byte("x"), number*1000)
				response, err := http.Post(os.Args[1]+"/echo", "text/plain", bytes.NewReader(sent))
				if err != nil { failed <- err; return }
				got, err := io.ReadAll(response.Body)
				response.Body.Close()
				if err != nil || !bytes.Equal(sent, got) { failed <- fmt.Errorf("got %d of %d: %v", len(got), len(sent), err) }
			}
		}()
	}
	group.Wait()
	if len(failed) > 0 { fmt.Println(<-failed); os.Exit(1) }
	fmt.Println("200 of 200")
}
"""
NODE_PROGRAM = """
const http = require("http");
const agent = new http.Agent({keepAlive: true, maxSockets: 4});
const sockets = new Set();
function one(number) {
  return new Promise((resolve, reject) => {
    const body = "x".repeat(number * 100);
    const request = http.request(process.argv[2] + "/echo", {agent, method: "POST"}, (response) => {
      sockets.add(response.socket.localPort);
      let got = "";
      response.on("data", (piece) => got += piece);
      response.on("end", () => got === body ? resolve() : reject(new Error(`got ${got.length} of ${body.length}`)));
    });
    request.on("error", reject);
    request.end(body);
  });
}
Promise.all(Array.from({length: 200}, (_, number) => one(number))).then(() => { console.log(`200 of 200 over ${sockets.size}`); agent.destroy(); },
  (error) => { console.error(error); process.exit(1); });
"""


def curl(*words: str) -> str:
    if shutil.which("curl") is None:
        pytest.skip("curl is not on this machine")
    done = subprocess.run(["curl", "--silent", "--show-error", "--max-time", "20", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@every_reactor
def test_the_reactor_is_the_one_that_was_asked_for(plain: Plain, request: pytest.FixtureRequest) -> None:
    """`twistd sidecar` picks its own reactor; `--reactor` names another, and everything works there too."""
    name = request.node.callspec.params["plain"]
    wanted = REACTORS[name or os.environ.get("SIDECAR_TEST_REACTOR", "")]
    assert plain.sidecar.json("/server_info")["reactor"] == wanted


@every_reactor
def test_curl_gets_and_posts(plain: Plain) -> None:
    """Methods, fields and bodies arrive and come back."""
    seen = json.loads(curl(f"{plain.url}/facts?a=1&b=%20", "-H", "X-Thing: One", "-H", "x-thing: two"))
    assert (seen["method"], seen["target"], seen["version"]) == ("GET", "/facts?a=1&b=%20", "HTTP/1.1")
    assert [field for field in seen["fields"] if field[0].lower() == "x-thing"] == [["X-Thing", "One"], ["x-thing", "two"]]
    assert curl(f"{plain.url}/echo", "-d", "hello") == "hello"
    assert curl(f"{plain.url}/echo", "-X", "PUT", "-H", "Expect:", "-d", "x" * 100_000) == "x" * 100_000


def test_curl_asks_for_several_over_one_connection(plain: Plain) -> None:
    """curl keeps the connection for its second request."""
    out = curl(f"{plain.url}/one", f"{plain.url}/two", "-o", "/dev/null", "-o", "/dev/null", "-w", "%{http_code} %{num_connects};")
    assert out == "200 1;200 0;"


def test_curl_head_has_no_body(plain: Plain) -> None:
    """HEAD keeps the content-length of the answer and sends no body."""
    plain.app.on("/head", lambda wire, request: wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n"))
    assert "content-length: 12345" in curl("--head", f"{plain.url}/head").lower()
    assert ask(plain.place, "/head", "HEAD").body == b""


@every_reactor
def test_python_clients(plain: Plain) -> None:
    """urllib, and http.client over one connection."""
    with urllib.request.urlopen(f"{plain.url}/echo", data=b"form=1") as response:
        assert response.read() == b"form=1"
    channel = Channel(plain.place)
    answers = [channel.ask("/echo", "POST", b"x" * size).body for size in (0, 1, 65536, 300_000)]
    assert [len(each) for each in answers] == [0, 1, 65536, 300_000]
    channel.close()


@every_reactor
def test_chunked_both_ways(plain: Plain) -> None:
    """A body without a length goes up and comes down in chunks, trailers included."""

    def chunks(wire: Wire, request: Request) -> None:
        got = b"".join(wire.body(request))
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\n" + got[:5] + b"\r\n")
        wire.send(b"%x\r\n" % len(got[5:]) + got[5:] + b"\r\n0\r\nX-Sum: 15\r\n\r\n")

    plain.app.on("/chunks", chunks)
    channel = Channel(plain.place)
    channel.request("POST", "/chunks", iter([b"first", b"-", b"secondary"]), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
    assert channel.getresponse().read() == b"first-secondary"
    assert channel.ask("/after").body == b"ok\n"
    channel.close()
    raw = exchange(plain.place, b"POST /chunks HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: close, te\r\nContent-Length: 6\r\n\r\nabcdef")
    assert b"X-Sum: 15" in raw


def test_node_with_a_keep_alive_agent(plain: Plain, tmp_path: Path) -> None:
    """Two hundred posts over four sockets."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not on this machine")
    (tmp_path / "client.js").write_text(NODE_PROGRAM)
    done = subprocess.run([node, str(tmp_path / "client.js"), plain.url], capture_output=True, text=True, timeout=60)
    assert done.stdout == "200 of 200 over 4\n", done.stderr


def test_go_client(plain: Plain, tmp_path: Path) -> None:
    """Two hundred posts from four goroutines."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("go is not on this machine")
    (tmp_path / "client.go").write_text(GO_PROGRAM)
    program = tmp_path / "client"
    built = subprocess.run([go, "build", "-o", str(program), str(tmp_path / "client.go")], capture_output=True, text=True, timeout=110)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program), plain.url], capture_output=True, text=True, timeout=60)
    assert done.stdout == "200 of 200\n"


def frames(wire: Wire, request: Request) -> bool:
    """A WebSocket server by the `websockets` package's own protocol: every message comes back."""
    from websockets.frames import Opcode
    from websockets.server import ServerProtocol

    protocol = ServerProtocol()
    protocol.receive_data(request.head + b"\r\n\r\n")
    protocol.send_response(protocol.accept(protocol.events_received()[0]))
    while True:
        for data in protocol.data_to_send():
            if data:
                wire.send(data)
            else:
                return False
        data = wire.read_some()
        if not data:
            return False
        protocol.receive_data(data)
        for frame in protocol.events_received():
            if frame.opcode is Opcode.TEXT:
                protocol.send_text(frame.data)
            elif frame.opcode is Opcode.BINARY:
                protocol.send_binary(frame.data)


@every_reactor
def test_websocket_client(plain: Plain) -> None:
    """Text, large binary messages, ping and the closing handshake pass; the exchange is recorded as a 101."""
    plain.app.on("/socket", frames)
    with connect_websocket(f"ws://127.0.0.1:{plain.port}/socket") as client:
        client.send("hello")
        assert client.recv(timeout=30) == "hello"
        client.send(b"\x00\xff" * 200_000)
        assert client.recv(timeout=30) == b"\x00\xff" * 200_000
        assert client.ping().wait(10)
        client.close(4321, "done")
        assert client.close_code == 4321
    assert [row["status"] for row in plain.sidecar.records(path="/socket")] == [101]


def test_connect_becomes_a_tunnel(plain: Plain) -> None:
    """After 200 to CONNECT the connection carries octets, and each side's end reaches the other."""

    def tunnel(wire: Wire, request: Request) -> bool:
        wire.send(b"HTTP/1.1 200 OK\r\n\r\nearly ")
        got = b""
        while data := wire.read_some():
            got += data
        wire.send(got[::-1])
        return False

    plain.app.on("db.example:5432", tunnel)
    with connect(plain.place) as sock:
        sock.sendall(b"CONNECT db.example:5432 HTTP/1.1\r\nHost: db.example:5432\r\n\r\n")
        got = b""
        while not got.endswith(b"early "):
            got += sock.recv(1000)
        assert got.startswith(b"HTTP/1.1 200 ")
        sock.sendall(b"abc")
        sock.shutdown(1)
        assert read_all(sock) == b"cba"


@every_reactor
def test_http_1_0_client(plain: Plain) -> None:
    """Such a client gets no chunks, and its connection closes unless it asked to keep it."""

    def chunked(wire: Wire, request: Request) -> None:
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")

    plain.app.on("/chunked", chunked)
    got = exchange(plain.place, b"GET /chunked HTTP/1.0\r\nHost: x\r\n\r\n")
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.split(b" ", 2)[1] == b"200" and body == b"hello" and b"chunked" not in head.lower()
    got = exchange(plain.place, b"GET /a HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\nGET /b HTTP/1.0\r\nHost: x\r\n\r\n")
    assert got.count(b"ok\n") == 2 and b"connection: keep-alive" in got.lower()


@every_reactor
def test_pipelined_requests_are_answered_in_order(plain: Plain) -> None:
    """Three hundred requests in one piece, mixed with bodies: as many answers, in order."""
    data = b""
    for number in range(300):
        body = b"%d;" % number
        data += b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    data += b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with connect(plain.place) as sock:
        sock.sendall(data)
        got = read_all(sock)
    answers = [each.partition(b"\r\n\r\n")[2] for each in got.split(b"HTTP/1.1 ")[1:]]
    assert answers == [b"%d;" % number for number in range(300)] + [b"ok\n"]


@every_reactor
def test_expect_100_continue(plain: Plain) -> None:
    """The application's 100 reaches curl before the body; without it curl would wait a second, which it is told to do for a minute."""

    def careful(wire: Wire, request: Request) -> None:
        assert request.values("expect") == ["100-continue"]
        wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        wire.answer(b"%d" % sum(map(len, wire.body(request))))

    plain.app.on("/careful", careful)
    assert curl(f"{plain.url}/careful", "-H", "Expect: 100-continue", "--expect100-timeout", "60", "-d", "x" * 5000) == "5000"


def test_expect_100_continue_refused(plain: Plain) -> None:
    """A final answer instead of 100 reaches the client, which never sends its body."""

    def refuse(wire: Wire, request: Request) -> None:
        wire.answer(b"no", "403 Forbidden")

    plain.app.on("/refuse", refuse)
    out = curl(f"{plain.url}/refuse", "-H", "Expect: 100-continue", "--expect100-timeout", "60", "-d", "x" * 5000, "-w", " %{http_code} %{size_upload}")
    assert out == "no 403 0"
    head = exchange(plain.place, b"POST /refuse HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
    assert b"connection: close" in head.lower()  # where the next request begins cannot be told


@every_reactor
def test_an_early_answer_reaches_a_client_that_still_sends(plain: Plain) -> None:
    """The application says 413 after the head and closes, while the client has megabytes to go: the client reads 413, not 503 and not a reset."""

    def early(wire: Wire, request: Request) -> bool:
        wire.answer(b"too much", "413 Content Too Large", "Connection: close")
        return False

    plain.app.on("/early", early)
    for _ in range(5):
        with connect(plain.place) as sock:
            sock.sendall(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n")
            try:
                for _ in range(80):
                    sock.sendall(b"x" * 100_000)
            except (BrokenPipeError, ConnectionResetError):
                pass
            got = read_all(sock)
        assert got.startswith(b"HTTP/1.1 413 ") and got.endswith(b"too much"), got[:500]


def test_http_client_keeps_one_connection(plain: Plain) -> None:
    """A hundred requests of one client come over one connection, and the application sees few."""
    before = plain.app.connections
    channel = HTTPConnection("127.0.0.1", plain.port, timeout=30)
    channel.connect()
    first = channel.sock
    for _ in range(100):
        channel.request("GET", "/")
        assert channel.getresponse().read() == b"ok\n"
    assert channel.sock is first and plain.app.connections - before <= 1
    channel.close()
