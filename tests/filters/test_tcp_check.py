"""The health check `tcp`: octets as text, and what must come in which order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st
from twisted.internet.defer import ensureDeferred

from sidecar.filters.tcp_check import RECEIVE_BYTES, TCPCheck, octets
from sidecar.testing import FakeContext, FakeProbe, FakeProbeConnection
from sidecar.verdicts import Unwell


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", b""), ("PING\\r\\n", b"PING\r\n"), (r"\x00\xfF\0\t\\n", b"\x00\xff\x00\t\\n"), ("é", "é".encode()), (r"a\\x41", b"a\\x41")],
)
def test_octets(text: str, expected: bytes) -> None:
    """Escapes stand for octets, everything else for itself in UTF-8."""
    assert octets(text) == expected


@given(st.binary(max_size=50))
def test_any_octets_can_be_written(data: bytes) -> None:
    """As hexadecimal escapes."""
    assert octets("".join(f"\\x{octet:02x}" for octet in data)) == data


@pytest.mark.parametrize("config", [{"send": r"\q"}, {"send": "\\"}, {"receive": (r"\x1",)}, {"receive": ("",)}])
def test_what_makes_no_sense_is_refused(config: dict[str, Any]) -> None:
    """When the configuration is read."""
    with pytest.raises(ValueError, match=r"expected \\r|says nothing"):
        TCPCheck.Config(**config)


def ask(connection: FakeProbeConnection, **config: Any) -> Any:
    results: list[Any] = []
    ensureDeferred(TCPCheck(TCPCheck.Config(**config), FakeContext("tcp")).check(FakeProbe(connection=connection))).addBoth(results.append)
    return results[0]


@given(st.lists(st.integers(1, 20), max_size=5))
def test_any_pieces(cuts: list[int]) -> None:
    """However the octets arrive, what must come is found in its order."""
    data, pieces = b"220 mail.example ready\r\n250 fine\r\n", []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    pieces.append(data)
    assert ask(FakeProbeConnection(*[piece for piece in pieces if piece]), receive=("220", "ready", "250 fine")) is None


def test_order_matters() -> None:
    """What came too early does not count."""
    assert ask(FakeProbeConnection(b"250 220"), receive=("220", "250")) == Unwell("closed the connection before b'250' came")


def test_a_talkative_endpoint_is_well() -> None:
    """What was asked for came, and with it more than is ever looked through."""
    assert ask(FakeProbeConnection(b"220" + b"x" * (RECEIVE_BYTES + 1)), receive=("220",)) is None


def test_nothing_is_kept_for_ever() -> None:
    """Somebody who talks without end is not well."""
    verdict = ask(FakeProbeConnection(*[b"x" * 1000] * 100), receive=("y",))
    assert isinstance(verdict, Unwell) and verdict.reason.startswith("sent ") and int(verdict.reason.split()[1]) <= RECEIVE_BYTES + 1000
