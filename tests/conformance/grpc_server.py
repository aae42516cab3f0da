"""A gRPC server of grpcio whose messages are plain octets, so that clients in any language need no generated code: all kinds of calls, and what goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc

LARGEST = 64 * 1024 * 1024


def unary(message: bytes, context: Any) -> bytes:
    """The message backwards; `x-echo` and `x-echo-bin` come back, the first in the head and the second in the trailers."""
    for key, value in context.invocation_metadata():
        if key == "x-echo":
            context.send_initial_metadata((("x-echo", value),))
        elif key == "x-echo-bin":
            context.set_trailing_metadata((("x-echo-bin", value),))
    return message[::-1]


def fail(message: bytes, context: Any) -> bytes:
    """The status that the message names, without an answer: trailers-only."""
    context.abort({each.value[0]: each for each in grpc.StatusCode}[int(message)], "no: 100% – \u2603")
    raise AssertionError("abort raises")


class Waits:
    """`Wait` never answers by itself; `cancelled` counts how often that was ended from outside."""

    def __init__(self) -> None:
        self.cancelled = threading.Semaphore(0)

    def __call__(self, message: bytes, context: Any) -> Iterator[bytes]:
        ended = threading.Event()
        context.add_callback(ended.set)
        yield message
        ended.wait(20)
        self.cancelled.release()


def down(message: bytes, context: Any) -> Iterator[bytes]:
    """As many messages of as many octets as asked: "COUNT SIZE"."""
    count, size = map(int, message.split())
    for number in range(count):
        yield b"%08d" % number + b"x" * (size - 8)


def broken(message: bytes, context: Any) -> Iterator[bytes]:
    """Two messages, then a status: DATA_LOSS."""
    yield b"one"
    yield b"two"
    context.abort(grpc.StatusCode.DATA_LOSS, "lost")


class Calls:
    """The server, started. `port`: where; `options`: more channel arguments."""

    def __init__(self, port: int = 0, options: tuple[tuple[str, int], ...] = ()) -> None:
        self.waits = Waits()
        methods = {
            "Unary": grpc.unary_unary_rpc_method_handler(unary),
            "Fail": grpc.unary_unary_rpc_method_handler(fail),
            "Wait": grpc.unary_stream_rpc_method_handler(self.waits),
            "Down": grpc.unary_stream_rpc_method_handler(down),
            "Broken": grpc.unary_stream_rpc_method_handler(broken),
            "Up": grpc.stream_unary_rpc_method_handler(lambda messages, context: b"%d" % sum(map(len, messages))),
            "Both": grpc.stream_stream_rpc_method_handler(lambda messages, context: (each + b"!" for each in messages)),
        }
        limits = (("grpc.max_receive_message_length", LARGEST), ("grpc.max_send_message_length", LARGEST))
        self.server = grpc.server(futures.ThreadPoolExecutor(64), options=(*limits, *options))
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Calls", methods),))
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.server.start()

    def stop(self, grace: float = 0.0) -> None:
        """End it; running calls have `grace` seconds."""
        self.server.stop(grace).wait()
