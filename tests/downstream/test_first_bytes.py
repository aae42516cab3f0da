"""`sidecar/downstream/first_bytes.py`: the client's first bytes choose the version."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from sidecar.codec.h2.frames import PREFACE, settings_frame
from sidecar.codec.h2.limits import H2Limits
from sidecar.downstream.first_bytes import FirstBytes
from sidecar.downstream.h1 import H1ServerConnection
from sidecar.downstream.h2 import H2ServerConnection
from sidecar.model import HTTP2Options, HTTPLimits
from tests.memory import GET, MemoryTransport, World


def undecided(world: World) -> MemoryTransport:
    """A connection whose client has said nothing."""

    def h1(closed: Any) -> H1ServerConnection:
        return H1ServerConnection(world.http, world.limits, world._begin, world._refuse, closed, b"http", False)

    def h2(closed: Any) -> H2ServerConnection:
        return H2ServerConnection(world.http, world.limits, HTTP2Options(), world._begin, world._refuse, closed, b"http", H2Limits())

    protocol = FirstBytes(h1, h2, world.closed.append)
    transport = MemoryTransport(protocol)
    protocol.makeConnection(transport)
    return transport


@pytest.mark.parametrize("pieces", [1, 3, 100])
@pytest.mark.parametrize(
    ("data", "kind"),
    [(PREFACE + settings_frame({}), H2ServerConnection), (GET, H1ServerConnection), (b"PRINT / HTTP/1.1\r\nHost: a\r\n\r\n", H1ServerConnection)],
)
def test_first_bytes_choose(pieces: int, data: bytes, kind: type) -> None:
    """However they are cut."""
    world = World()
    transport = undecided(world)
    size = max(1, len(data) // pieces)
    for start in range(0, len(data), size):
        transport.receive(data[start : start + size])
    assert type(transport.protocol) is kind
    if kind is H1ServerConnection:
        assert len(world.exchanges) == 1
    else:
        assert transport.take()[3] == 4, "SETTINGS come first"
    transport.lose()
    assert [type(each) for each in world.closed] == [FirstBytes], "the listener knows the connection by this object"


@pytest.mark.parametrize("count", [3, 13, 14, 20, 23])
def test_a_preface_in_slow_octets_has_the_head_timeout_in_all(count: int) -> None:
    """Wherever it stops; the connection of HTTP/2 that its first 14 octets make does not begin to wait anew."""
    world = World(limits=HTTPLimits(head_timeout=30.0))
    transport = undecided(world)
    for number in range(29):
        transport.receive(PREFACE[number : number + 1] if number < count else b"")
        world.clock.advance(1)
    assert not transport.closing
    world.clock.advance(2)
    assert transport.closing and not world.exchanges


def test_silence_ends_as_over_http1() -> None:
    """The head timeout, a close, a drain."""
    world = World()
    first, second, third = (undecided(world) for _ in range(3))
    first.end()
    third.protocol.drain()
    assert first.closing
    world.clock.advance(world.limits.head_timeout + 1)
    assert second.closing and third.closing
    second.lose()
    assert len(world.closed) == 1


@pytest.mark.parametrize("data", [b"", GET[:-2], PREFACE + settings_frame({})])
def test_who_has_gone_is_freed_at_once(data: bytes) -> None:
    """Without the collector, which leaves alone what lived long. Other tests may have left some."""

    def connections() -> int:
        return sum(isinstance(each, FirstBytes | H1ServerConnection | H2ServerConnection) for each in gc.get_objects())

    world = World()
    gc.collect()
    before = connections()
    gc.disable()
    try:
        transport = undecided(world)
        if data:
            transport.receive(data)
        transport.lose()
        assert len(world.closed) == 1
        transport.protocol = transport.producer = None  # as a real one
        del world.closed[:], transport
        assert connections() == before
    finally:
        gc.enable()
