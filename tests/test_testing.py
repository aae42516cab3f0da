"""The fakes that are shipped for plugin authors."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from sidecar.errors import UpstreamTimeout
from sidecar.interfaces import IExchange, IPluginContext, IProbe, IProbeConnection
from sidecar.testing import FakeAnswer, FakeContext, FakeExchange, FakeHTTPClient, FakeProbe, FakeProbeConnection, make_connection, make_request


def test_fakes_keep_the_promises() -> None:
    """What passes with a fake has the interface of the real one."""
    assert verifyObject(IPluginContext, FakeContext())
    assert verifyObject(IExchange, FakeExchange())
    assert verifyObject(IProbe, FakeProbe())
    assert verifyObject(IProbeConnection, FakeProbeConnection())


def test_counters() -> None:
    """They count by label values, and one name is one counter."""
    context = FakeContext()
    counter = context.counter("refused", "", ("why",))
    counter.inc("old")
    context.counter("refused", "").inc("old", by=2)
    assert counter.values == {("old",): 3}
    assert context.counters["refused"].value == 3
    with pytest.raises(ValueError, match="labels"):
        counter.inc()


def test_http_clients() -> None:
    """A client answers as told, and remembers what was asked."""
    answers: list[object] = [FakeAnswer(204), UpstreamTimeout("late"), Deferred()]
    client = FakeHTTPClient(lambda *asked: answers.pop(0))  # type: ignore[arg-type, return-value]
    context = FakeContext(clients={"auth": client})
    got: list[object] = []
    for _ in range(3):
        context.http_client("auth").request(b"GET", b"/").addBoth(got.append)
    assert got[0] == FakeAnswer(204)
    assert got[1].check(UpstreamTimeout)  # type: ignore[attr-defined]
    assert len(got) == 2
    assert [asked[:2] for asked in client.requests] == [(b"GET", b"/")] * 3
    with pytest.raises(ValueError, match="no cluster 'other'"):
        context.http_client("other")


def test_makers() -> None:
    """A request has a Host, a connection with an identity is mutual TLS, notes are kept."""
    assert make_request(has_body=True).content_length is None
    assert list(make_request(authority="a", headers={"Host": "b"}).headers) == [(b"host", b"b")]
    assert make_connection().tls is None
    exchange = FakeExchange(principal="p", connection=make_connection(identity="spiffe://a/b"))
    assert exchange.principal is not None
    exchange.note("who", "what")
    assert exchange.notes == [("who", "what")]
