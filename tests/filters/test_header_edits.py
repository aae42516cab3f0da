"""The header filter edits both ways."""

from __future__ import annotations

import pytest
from zope.interface.verify import verifyObject

from sidecar.filters.header_edits import HeaderEdits
from sidecar.interfaces import IRequestHeadHook, IResponseHeadHook
from sidecar.model import HeaderOps
from sidecar.testing import FakeContext, FakeExchange, make_request, make_response


def test_both_ways() -> None:
    """The request and the response each get their edits."""
    plugin = HeaderEdits(HeaderEdits.Config(request=HeaderOps(set={"X-Env": "prod"}), response=HeaderOps(remove=("server",))), FakeContext())
    exchange = FakeExchange(make_request(headers={"x-env": "dev"}), response=make_response(headers={"Server": "s", "a": "b"}))
    assert plugin.request_head(exchange) is None
    assert plugin.response_head(exchange) is None
    assert exchange.request.headers.get_all(b"x-env") == [b"prod"]
    assert exchange.response is not None
    assert list(exchange.response.headers) == [(b"a", b"b")]


def test_nothing_configured() -> None:
    """Nothing changes."""
    plugin = HeaderEdits(HeaderEdits.Config(), FakeContext())
    exchange = FakeExchange(response=make_response())
    plugin.request_head(exchange)
    plugin.response_head(exchange)
    assert list(exchange.request.headers) == [(b"host", b"app.example")]


def test_framing_is_refused() -> None:
    """At the start, not for a request."""
    with pytest.raises(ValueError, match="framed"):
        HeaderEdits(HeaderEdits.Config(request=HeaderOps(set={"Transfer-Encoding": "chunked"})), FakeContext())


def test_provides_its_interfaces() -> None:
    """It sees heads and nothing else."""
    plugin = HeaderEdits(HeaderEdits.Config(), FakeContext())
    assert verifyObject(IRequestHeadHook, plugin)
    assert verifyObject(IResponseHeadHook, plugin)
