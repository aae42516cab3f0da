"""A process that may have many descriptors has them, and keeps half of them for others than its clients."""

from __future__ import annotations

import resource
import sys

import pytest

from sidecar.transport.descriptors import client_descriptors, raise_limit


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    state = {"now": (1024, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: state["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: state.update(now=pair))
    return state


def test_the_soft_limit_becomes_the_hard_one(limit: dict[str, tuple[int, int]]) -> None:
    assert client_descriptors() == 512
    raise_limit()
    assert limit["now"] == (4096, 4096) and client_descriptors() == 2048


def test_a_limit_that_cannot_be_raised_stays(limit: dict[str, tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(kind: int, pair: tuple[int, int]) -> None:
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_limit()
    assert limit["now"] == (1024, 4096)


def test_without_a_limit_nobody_waits(limit: dict[str, tuple[int, int]]) -> None:
    limit["now"] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert client_descriptors() == sys.maxsize
