"""grpcio's client and server through one sidecar and through two: `python -m tests.conformance.grpc_python`, from the root of the repository."""

from __future__ import annotations

import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from tests.conformance.grpc_server import LARGEST, Calls
from tests.conformance.sidecars import Report, Way, ways

SECONDS = 60


def fails(code: grpc.StatusCode, call: Callable[[], Any]) -> grpc.RpcError:
    """The call fails with this status."""
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, error
        return error
    raise AssertionError(f"the call went well and should have been {code}")


class Client:
    """The cases; `check_` begins the name of each."""

    def __init__(self, channel: Any, server: Any) -> None:
        self.channel = channel
        self.server = server

    def call(self, kind: str, method: str) -> Any:
        """A method of the channel."""
        return getattr(self.channel, kind)(f"/test.Calls/{method}")

    def check_unary(self) -> None:
        unary = self.call("unary_unary", "Unary")
        for size in (0, 1, 100, 70_000):
            assert unary(b"ab" * size, timeout=SECONDS) == b"ba" * size

    def check_metadata(self) -> None:
        binary = bytes(range(256))
        answer, call = self.call("unary_unary", "Unary").with_call(b"x", metadata=(("x-echo", "a, b"), ("x-echo-bin", binary)), timeout=SECONDS)
        assert answer == b"x" and ("x-echo", "a, b") in list(call.initial_metadata()) and ("x-echo-bin", binary) in list(call.trailing_metadata())

    def check_large_messages(self) -> None:
        message = bytes(range(256)) * (LARGEST // 1024)
        assert self.call("unary_unary", "Unary")(message, timeout=SECONDS) == message[::-1]

    def check_compression(self) -> None:
        answer = self.call("unary_unary", "Unary")(b"a" * 100_000, compression=grpc.Compression.Gzip, timeout=SECONDS)
        assert answer == b"a" * 100_000

    def check_client_streaming(self) -> None:
        assert self.call("stream_unary", "Up")(iter([b"x" * 1000] * 5000), timeout=SECONDS) == b"5000000"
        assert self.call("stream_unary", "Up")(iter([]), timeout=SECONDS) == b"0"

    def check_server_streaming(self) -> None:
        numbers = [int(each[:8]) for each in self.call("unary_stream", "Down")(b"5000 1000", timeout=SECONDS)]
        assert numbers == list(range(5000))
        assert list(self.call("unary_stream", "Down")(b"0 8", timeout=SECONDS)) == []

    def check_bidirectional_streaming(self) -> None:
        turns: list[bytes] = []
        came = threading.Semaphore(1)

        def ask() -> Iterator[bytes]:
            for number in range(500):
                came.acquire()  # one at a time: each answer is here before the next question
                yield b"%d" % number

        for answer in self.call("stream_stream", "Both")(ask(), timeout=SECONDS):
            turns.append(answer)
            came.release()
        assert turns == [b"%d!" % number for number in range(500)]

    def check_statuses_without_an_answer(self) -> None:
        for code in grpc.StatusCode:
            if code is not grpc.StatusCode.OK:
                error: Any = fails(code, lambda code=code: self.call("unary_unary", "Fail")(b"%d" % code.value[0], timeout=SECONDS))
                assert error.details() == "no: 100% – \u2603"

    def check_status_behind_messages(self) -> None:
        found = []

        def collect() -> None:
            for each in self.call("unary_stream", "Broken")(b"", timeout=SECONDS):
                found.append(each)

        fails(grpc.StatusCode.DATA_LOSS, collect)
        assert found == [b"one", b"two"]

    def check_unknown_method(self) -> None:
        fails(grpc.StatusCode.UNIMPLEMENTED, lambda: self.call("unary_unary", "Nothing")(b"", timeout=SECONDS))

    def check_deadline(self) -> None:
        fails(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: list(self.call("unary_stream", "Wait")(b"x", timeout=0.3)))
        assert self.server.waits.cancelled.acquire(timeout=10), "the server did not hear of it"

    def check_cancellation(self) -> None:
        call = self.call("unary_stream", "Wait")(b"x", timeout=SECONDS)
        assert next(call) == b"x"
        call.cancel()
        assert call.code() == grpc.StatusCode.CANCELLED
        assert self.server.waits.cancelled.acquire(timeout=10), "the server did not hear of it"

    def check_many_streams(self) -> None:
        unary = self.call("unary_unary", "Unary")
        running = [unary.future(b"%d" % number, timeout=SECONDS) for number in range(2000)]
        assert [each.result() for each in running] == [(b"%d" % number)[::-1] for number in range(2000)]


def run(way: Way, server: Any, report: Report, prefix: str = "") -> None:
    """All cases."""
    limits = (("grpc.max_receive_message_length", LARGEST), ("grpc.max_send_message_length", LARGEST))
    with grpc.insecure_channel(f"127.0.0.1:{way.port}", options=limits) as channel:
        client = Client(channel, server)
        for name in [each for each in dir(Client) if each.startswith("check_")]:
            try:
                getattr(client, name)()
            except Exception:
                report.case(f"{prefix}{name[6:]}, {way.name}", traceback.format_exc())
            else:
                report.case(f"{prefix}{name[6:]}, {way.name}")


def main() -> int:
    """Run it."""
    report = Report("grpcio")
    server = Calls()
    try:
        with tempfile.TemporaryDirectory() as name, ways(Path(name), f"127.0.0.1:{server.port}") as found:
            for way in found:
                run(way, server, report)
    finally:
        server.stop()
    return report.status


if __name__ == "__main__":
    sys.exit(main())
