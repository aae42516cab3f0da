"""What tells callers apart for rate limits."""

from __future__ import annotations

import pytest

from sidecar.policy.descriptors import DESCRIPTORS, compile_descriptors
from sidecar.testing import FakeExchange, make_connection, make_request

REQUEST = make_request("POST", "/a/b?c", "Shop.example:80", {"X-Key": "k1"})
EXCHANGE = FakeExchange(REQUEST, principal="spiffe://example.org/ns/a/sa/b", route_name="r", cluster_name="c", connection=make_connection("[2001:db8::1]:7"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("principal", "spiffe://example.org/ns/a/sa/b"),
        ("peer", "2001:db8::1"),
        ("method", "POST"),
        ("path", "/a/b"),
        ("authority", "shop.example:80"),
        ("route", "r"),
        ("cluster", "c"),
        ("header:x-KEY", "k1"),
        ("header:x-other", ""),
    ],
)
def test_each_descriptor(name: str, value: str) -> None:
    """Every name gives its value as text."""
    assert compile_descriptors((name,))(EXCHANGE) == (value,)


def test_every_name_is_tested() -> None:
    """The table above is complete."""
    assert set(DESCRIPTORS) == {"principal", "peer", "method", "path", "authority", "route", "cluster"}


def test_several_and_none() -> None:
    """As many values as names, in their order."""
    assert compile_descriptors(())(EXCHANGE) == ()
    assert compile_descriptors(("method", "route", "method"))(EXCHANGE) == ("POST", "r", "POST")


def test_nothing_known() -> None:
    """A caller without a name, on a UNIX socket, with a repeated field."""
    exchange = FakeExchange(make_request(headers=[("a", "1"), ("a", "2")]), connection=make_connection("unix:/run/x"))
    assert compile_descriptors(("principal", "peer", "header:a"))(exchange) == ("", "unix:/run/x", "1,2")


def test_unknown_names() -> None:
    """The known ones are listed."""
    with pytest.raises(ValueError, match=r"no descriptor 'user'; there are principal, .* and header:<name>"):
        compile_descriptors(("user",))
    with pytest.raises(ValueError, match="field name"):
        compile_descriptors(("header:",))
