"""The health check `http`: what may be configured, and what each answer means."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import ensureDeferred

from sidecar.errors import ConnectFailed
from sidecar.filters.http_check import HTTPCheck, statuses
from sidecar.headers import Headers
from sidecar.testing import FakeAnswer, FakeContext, FakeProbe
from sidecar.verdicts import DEGRADED, Degraded, Unwell


def ask(probe: FakeProbe, **config: Any) -> Any:
    results: list[Any] = []
    check = HTTPCheck(HTTPCheck.Config(**config), FakeContext("http"))
    ensureDeferred(check.check(probe)).addBoth(results.append)
    return results[0]


@pytest.mark.parametrize(
    ("ranges", "first", "last", "count"),
    [((200,), 200, 200, 1), (("200-299",), 200, 299, 100), (("204", 200, "200-204"), 200, 204, 5), ((), 0, 0, 0), (("599",), 599, 599, 1)],
)
def test_statuses(ranges: tuple[int | str, ...], first: int, last: int, count: int) -> None:
    """Numbers and ranges, both ends included."""
    found = statuses(ranges)
    assert (min(found, default=0), max(found, default=0), len(found)) == (first, last, count)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"path": "healthz"}, "begins with '/'"),
        ({"path": "/a b"}, "without spaces"),
        ({"path": "/a\r\nX: y"}, "without spaces"),
        ({"method": "CONNECT"}, "such as GET"),
        ({"method": "G ET"}, "such as GET"),
        ({"method": "HEAD", "receive": "ok"}, "no body"),
        ({"headers": {"x y": "1"}}, "x y"),
        ({"headers": {"x": "a\r\nb: c"}}, "field"),
        ({"host": "a\nb"}, "expected a host name"),
        ({"host": "a b"}, "expected a host name"),
        ({"expected_statuses": ()}, "no endpoint would ever be well"),
        ({"expected_statuses": ("2xx",)}, "'2xx'"),
        ({"expected_statuses": (100,)}, "100"),
        ({"expected_statuses": ("300-200",)}, "300-200"),
        ({"expected_statuses": ("200-600",)}, "200-600"),
        ({"retriable_statuses": (200,)}, "expected and retriable"),
    ],
)
def test_what_makes_no_sense_is_refused(config: dict[str, Any], sentence: str) -> None:
    """When the configuration is read, with a sentence."""
    with pytest.raises(ValueError, match=sentence):
        HTTPCheck.Config(**config)


def test_what_is_asked() -> None:
    """Method, path, fields; a User-Agent of our own unless there is one."""
    probe = FakeProbe()
    assert ask(probe, method="HEAD", path="/live", host="a.example", headers={"User-Agent": "me"}) is None
    ((method, path, headers, body),) = probe.requests
    assert (method, path, body) == (b"HEAD", b"/live", b"")
    assert headers.get(b"host") == b"a.example" and headers.get_all(b"user-agent") == [b"me"]


@pytest.mark.parametrize(
    ("config", "answer", "verdict"),
    [
        ({}, FakeAnswer(200), None),
        ({}, FakeAnswer(500), Unwell("answered 500", at_once=True)),
        ({"retriable_statuses": ("500-504",)}, FakeAnswer(500), Unwell("answered 500")),
        ({"receive": "ok"}, FakeAnswer(200, body=b"all ok here"), None),
        ({}, FakeAnswer(200, Headers.of([(b"X-Envoy-Degraded", b"")])), DEGRADED),
        ({}, FakeAnswer(503, Headers.of([(b"x-envoy-degraded", b"true")])), Unwell("answered 503", at_once=True)),
        ({"receive": "ok"}, FakeAnswer(200, body=b"no"), Unwell("answered 200 without 'ok' in its body", at_once=True)),
    ],
)
def test_verdicts(config: dict[str, Any], answer: FakeAnswer, verdict: Unwell | Degraded | None) -> None:
    """Status first, then the body."""
    assert ask(FakeProbe(answer), **config) == verdict


def test_errors_pass() -> None:
    """They are the reason, whatever they are."""
    assert ask(FakeProbe(ConnectFailed("refused"))).value.sentence == "refused"
