"""Against the `h2` library, both ways round: many streams, any chunking; every message arrives whole, and neither side has anything to complain about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
from hypothesis import given, settings, strategies as st

from sidecar.codec.h2.connection import H2Connection
from sidecar.codec.h2.limits import H2Limits
from sidecar.headers import Headers
from sidecar.message import End, RequestHead, ResponseHead
from tests.codec.h2.peers import written


@dataclass
class Message:
    fields: list[tuple[bytes, bytes]]
    chunks: list[bytes]
    trailers: list[tuple[bytes, bytes]]


@dataclass
class Received:
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    ended: bool = False

    def matches(self, message: Message) -> bool:
        return (self.fields, self.body, self.trailers, self.ended) == (message.fields, b"".join(message.chunks), message.trailers, True)


pairs = st.tuples(st.sampled_from([b"x-a", b"accept", b"x-long-name", b"authorization", b"traceparent"]), st.sampled_from([b"", b"1", b"v" * 200]))
messages = st.builds(
    Message,
    st.lists(pairs, max_size=5),
    st.lists(st.binary(min_size=1, max_size=50) | st.just(b"x" * 30_000), max_size=4),
    st.lists(pairs.filter(lambda p: p[0] != b"authorization"), max_size=2),
)
exchanges = st.lists(st.tuples(messages, messages), min_size=1, max_size=5)
LIMITS = H2Limits(stream_window=70_000, connection_window=100_000, table_octets=512)


class Theirs:
    """The library, sending with an eye on its windows."""

    def __init__(self, client_side: bool) -> None:
        self.engine = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client_side, header_encoding=None))
        self.engine.initiate_connection()
        self.waiting: dict[int, tuple[list[bytes], list[tuple[bytes, bytes]]]] = {}
        self.received: dict[int, Received] = {}

    def send(self, stream_id: int, pseudo: list[tuple[bytes, bytes]], message: Message) -> None:
        self.engine.send_headers(stream_id, [*pseudo, *message.fields])
        self.waiting[stream_id] = (list(message.chunks), message.trailers)

    def go_on(self) -> None:
        for stream_id in list(self.waiting):
            chunks, trailers = self.waiting[stream_id]
            while chunks:
                room = min(self.engine.local_flow_control_window(stream_id), self.engine.max_outbound_frame_size)
                if not room:
                    break
                self.engine.send_data(stream_id, chunks[0][:room])
                chunks[0] = chunks[0][room:]
                if not chunks[0]:
                    del chunks[0]
            else:
                del self.waiting[stream_id]
                if trailers:
                    self.engine.send_headers(stream_id, trailers, end_stream=True)
                else:
                    self.engine.end_stream(stream_id)

    def take(self, data: bytes) -> list[int]:
        """The streams whose message is now whole."""
        ended = []
        for event in self.engine.receive_data(data):
            if isinstance(event, h2.events.RequestReceived | h2.events.ResponseReceived):
                got = self.received[event.stream_id] = Received()
                got.fields = [(bytes(name), bytes(value)) for name, value in event.headers if name[:1] != b":"]
            elif isinstance(event, h2.events.DataReceived):
                self.received[event.stream_id].body += event.data
                self.engine.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.TrailersReceived):
                self.received[event.stream_id].trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
            elif isinstance(event, h2.events.StreamEnded):
                self.received[event.stream_id].ended = True
                ended.append(event.stream_id)
            else:
                assert not isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated), event
        return ended


class Ours:
    """Our codec, with an owner that delivers at once."""

    def __init__(self, is_client: bool) -> None:
        self.codec = H2Connection(is_client, LIMITS)
        self.codec.start()
        self.received: dict[int, Received] = {}

    def send(self, stream_id: int, head: RequestHead | ResponseHead, message: Message) -> None:
        self.codec.send_head(stream_id, head, False)
        for chunk in message.chunks:
            self.codec.send_data(stream_id, chunk)
        self.codec.send_end(stream_id, Headers.of(message.trailers) if message.trailers else None)

    def take(self, data: bytes) -> list[int]:
        ended = []
        for stream_id, event in self.codec.receive(data, 0.0):
            if isinstance(event, RequestHead | ResponseHead):
                got = self.received[stream_id] = Received()
                got.fields = [pair for pair in event.headers if pair[0] != b"host"]
                assert not event.end_stream
            elif isinstance(event, bytes):
                self.received[stream_id].body += event
                self.codec.consumed(stream_id, len(event))
            elif isinstance(event, End):
                self.received[stream_id].trailers = list(event.trailers) if event.trailers else []
                self.received[stream_id].ended = True
                ended.append(stream_id)
            else:
                assert type(event).__name__ in ("SettingsChanged", "WindowOpened"), event
        return ended


def carry(ours: Ours, theirs: Theirs, cuts: list[int], answer_ours: Any, answer_theirs: Any) -> None:
    """Until nothing moves: octets both ways, cut at `cuts`."""
    step = 0
    while True:
        theirs.go_on()
        there, back = written(ours.codec), theirs.engine.data_to_send()
        if not there and not back:
            return
        for data, take, answer in ((there, theirs.take, answer_theirs), (back, ours.take, answer_ours)):
            while data:
                size = cuts[step % len(cuts)]
                step += 1
                for stream_id in take(data[:size]):
                    answer(stream_id)
                data = data[size:]


@settings(max_examples=40)
@given(exchanges, st.lists(st.integers(1, 40_000), min_size=1, max_size=6))
def test_our_client_with_their_server(wanted: list[tuple[Message, Message]], cuts: list[int]) -> None:
    ours, theirs = Ours(True), Theirs(False)
    answers = {}
    carry(ours, theirs, cuts, lambda _: None, lambda _: None)
    for asked, answer in wanted:
        stream_id = ours.codec.open_stream()
        assert stream_id is not None
        answers[stream_id] = (asked, answer)
        ours.send(stream_id, RequestHead(b"POST", b"/p", b"a", Headers.of(asked.fields), content_length=None, end_stream=False), asked)
    carry(ours, theirs, cuts, lambda _: None, lambda stream_id: theirs.send(stream_id, [(b":status", b"200")], answers[stream_id][1]))
    for stream_id, (asked, answer) in answers.items():
        assert theirs.received[stream_id].matches(asked)
        assert ours.received[stream_id].matches(answer)
    assert ours.codec.open_streams == 0


@settings(max_examples=40)
@given(exchanges, st.lists(st.integers(1, 40_000), min_size=1, max_size=6))
def test_their_client_with_our_server(wanted: list[tuple[Message, Message]], cuts: list[int]) -> None:
    ours, theirs = Ours(False), Theirs(True)
    answers = {}
    for asked, answer in wanted:
        stream_id = theirs.engine.get_next_available_stream_id()
        answers[stream_id] = (asked, answer)
        theirs.send(stream_id, [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")], asked)

    def answer_one(stream_id: int) -> None:
        answer = answers[stream_id][1]
        ours.send(stream_id, ResponseHead(200, Headers.of(answer.fields)), answer)

    carry(ours, theirs, cuts, answer_one, lambda _: None)
    for stream_id, (asked, answer) in answers.items():
        assert ours.received[stream_id].matches(asked)
        assert theirs.received[stream_id].matches(answer)
    assert ours.codec.open_streams == 0
