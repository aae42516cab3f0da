"""`sidecar/filters/cors.py`: who may call from a page, and what browsers are told."""

from __future__ import annotations

import re
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from sidecar.filters.cors import Cors, OriginMatch
from sidecar.interfaces import IRequestHeadHook, IResponseHeadHook
from sidecar.testing import FakeContext, FakeExchange, make_request, make_response

SHOP = OriginMatch(exact="https://shop.example")
PREFLIGHT = {"origin": "https://shop.example", "access-control-request-method": "POST"}


def cors(*origins: OriginMatch, **settings: Any) -> tuple[Cors, FakeContext]:
    context = FakeContext()
    return Cors(Cors.Config(allow_origin_string_match=origins or (SHOP,), **settings), context), context


def asked(plugin: Cors, method: str = "GET", headers: dict[str, str] | None = None, answer: dict[str, str] | None = None) -> tuple[Any, dict[bytes, bytes]]:
    """(the verdict, the answer's fields if it went through)."""
    exchange = FakeExchange(make_request(method=method, headers=headers or {}), response=make_response(headers=answer or {}))
    verdict = plugin.request_head(exchange)
    if verdict is not None:
        return verdict, dict(verdict.headers)
    plugin.response_head(exchange)
    assert exchange.response is not None
    return None, dict(exchange.response.headers)


def test_provides_its_interfaces() -> None:
    plugin, _ = cors()
    assert verifyObject(IRequestHeadHook, plugin) and verifyObject(IResponseHeadHook, plugin)


def test_preflight_of_an_allowed_origin_is_answered_here() -> None:
    names = ("x-grpc-web", "content-type")
    plugin, _ = cors(allow_methods=("GET", "POST"), allow_headers=names, max_age=600.0, allow_credentials=True, expose_headers=("a",))
    verdict, fields = asked(plugin, "OPTIONS", PREFLIGHT)
    assert verdict.status == 200 and fields == {
        b"access-control-allow-origin": b"https://shop.example",
        b"access-control-allow-methods": b"GET, POST",
        b"access-control-allow-headers": b"x-grpc-web, content-type",
        b"access-control-max-age": b"600",
        b"access-control-allow-credentials": b"true",
        b"vary": b"Origin",
    }


def test_answers_to_an_allowed_origin_say_so() -> None:
    """Whatever the application said about it."""
    plugin, _ = cors(expose_headers=("grpc-status", "grpc-message"), allow_credentials=True)
    _, fields = asked(plugin, headers={"origin": "https://shop.example"}, answer={"access-control-allow-origin": "https://other.example", "vary": "Accept"})
    assert fields[b"access-control-allow-origin"] == b"https://shop.example" and fields[b"access-control-expose-headers"] == b"grpc-status, grpc-message"
    assert fields[b"access-control-allow-credentials"] == b"true"


@pytest.mark.parametrize(
    ("match", "origin", "allowed"),
    [
        (OriginMatch(exact="*"), "null", True),
        (OriginMatch(exact="https://a.example"), "https://a.example", True),
        (OriginMatch(exact="https://a.example"), "https://a.example.evil", False),
        (OriginMatch(suffix=".a.example"), "https://b.a.example", True),
        (OriginMatch(prefix="https://a"), "http://a", False),
        (OriginMatch(contains="a.example"), "https://a.example:1", True),
        (OriginMatch(regex=r"https://[a-z]+\.a\.example"), "https://b.a.example", True),
        (OriginMatch(regex=r"https://[a-z]+\.a\.example"), "https://b.a.example.evil", False),
    ],
)
def test_origins(match: OriginMatch, origin: str, allowed: bool) -> None:
    plugin, _ = cors(match)
    _, fields = asked(plugin, headers={"origin": origin})
    assert fields.get(b"access-control-allow-origin") == (origin.encode() if allowed else None)


def test_others_pass_and_are_promised_nothing() -> None:
    plugin, _ = cors()
    for headers in ({}, {"origin": "https://evil.example"}, {**PREFLIGHT, "origin": "https://evil.example"}):
        verdict, fields = asked(plugin, "OPTIONS", headers)
        assert verdict is None and fields == {b"vary": b"Origin"}
    verdict, _ = asked(plugin, "OPTIONS", {"origin": "https://shop.example"})
    assert verdict is None, "no preflight without the method that it asks for"


def test_other_preflights_need_not_reach_the_application() -> None:
    plugin, _ = cors(forward_not_matching_preflights=False)
    verdict, fields = asked(plugin, "OPTIONS", {**PREFLIGHT, "origin": "https://evil.example"})
    assert verdict.status == 200 and fields == {b"vary": b"Origin"}


@pytest.mark.parametrize("may", [True, False])
def test_private_networks(may: bool) -> None:
    plugin, _ = cors(allow_private_network_access=may)
    _, fields = asked(plugin, "OPTIONS", {**PREFLIGHT, "access-control-request-private-network": "true"})
    assert (b"access-control-allow-private-network" in fields) == may


def test_vary_is_said_once() -> None:
    plugin, _ = cors()
    for value in ("Origin", "accept, origin", "*"):
        assert asked(plugin, answer={"vary": value})[1] == {b"vary": value.encode()}


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong, told in (
        (lambda: OriginMatch(), "one test"),
        (lambda: OriginMatch(exact="a", prefix="b"), "one test"),
        (lambda: OriginMatch(regex="("), "not a regular expression"),
        (lambda: cors(OriginMatch(exact="*"), allow_credentials=True), "any origin"),
        (lambda: cors(allow_headers=("a\r\nb: c",)), "no name"),
        (lambda: cors(allow_methods=("",)), "no name"),
    ):
        with pytest.raises(ValueError, match=re.escape(told)):
            wrong()
