"""Consul's answers as endpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.address import Address
from sidecar.model import Endpoint, Locality
from sidecar.naming import consul
from sidecar.naming.consul import next_index, parse
from sidecar.naming.places import at_once

ANSWER = (Path(__file__).parent.parent / "data" / "discovery" / "consul-health.json").read_bytes()
EXPECTED = (
    Endpoint(
        address=Address("10.1.10.21", 8000), weight=10, locality=Locality(region="eu", zone="eu-1a"), metadata={"version": "1.4"}, hostname="n1"
    ),
    Endpoint(address=Address("10.1.10.13", 8001), weight=3, hostname="n2"),
    Endpoint(address=Address("10.1.10.14", 8002), health="unhealthy", hostname="n3"),
    Endpoint(address=Address("10.1.10.15", 8003), health="draining", hostname="n4"),
)  # fmt: skip


@pytest.mark.parametrize("piece_bytes", [1 << 20, 1, 700])
def test_a_documented_answer(piece_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Address of the service, else of its node; weight by status; maintenance drains; what cannot be connected to is left out and told. Wherever it is cut."""
    monkeypatch.setattr(consul, "PIECE_BYTES", piece_bytes)
    answered = at_once(parse(ANSWER.strip()))
    assert answered.endpoints == EXPECTED
    assert answered.skipped == ("instance 'pay-5' on 'n5': expected a port from 1 to 65535, got 0",)


@pytest.mark.parametrize(
    "content", [b"", b"[", b"{}", b"null", b"[1]", b'[{"Node": {}}]', b"rpc error: No cluster leader", b'[{"Node":{},"Service":{"Port":"x"}}]']
)
def test_what_is_no_answer(content: bytes) -> None:
    """An error page is not taken for an empty service."""
    with pytest.raises(ValueError, match="not an answer of Consul's health API"):
        at_once(parse(content))


def test_an_empty_service() -> None:
    """Is an answer."""
    assert at_once(parse(b"[]")).endpoints == ()


@pytest.mark.parametrize(
    ("text", "last", "expected"),
    [("12", 0, 12), ("12", 12, 12), ("13", 12, 13), ("11", 12, 0), ("0", 0, 0), (None, 5, 0), ("x", 5, 0), ("-1", 0, 0), ("9" * 30, 0, 0)],
)
def test_the_next_index(text: str | None, last: int, expected: int) -> None:
    """As the documentation of blocking queries wants it: never backwards, never below one."""
    assert next_index(text, last) == expected


def ten_thousand() -> bytes:
    """As compact as Consul writes it."""
    items: list[Any] = []
    [template, *_] = json.loads(ANSWER)
    for n in range(10_000):
        item = json.loads(json.dumps(template))
        item["Service"]["Address"] = f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"
        items.append(item)
    return json.dumps(items, separators=(",", ":")).encode()


def test_ten_thousand_instances_in_short_steps() -> None:
    """The event loop turns between steps of at most 250; how long one takes stands in docs/discovery.md."""
    steps = parse(ten_thousand())
    count = 0
    try:
        while True:
            next(steps)
            count += 1
    except StopIteration as end:
        assert len(end.value.endpoints) == 10_000
    assert count >= 40
