"""resolv.conf, hosts and the search list mean what the manual pages say."""

from __future__ import annotations

import pytest

from sidecar.naming.resolv import ResolvConf, candidates, is_localhost, parse_hosts, parse_resolv_conf

KUBERNETES = """\
search shop.svc.cluster.local svc.cluster.local cluster.local
nameserver 10.96.0.10
options ndots:5
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (KUBERNETES, ResolvConf(("10.96.0.10",), ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local"), 5)),
        ("", ResolvConf(("127.0.0.1",))),
        ("nameserver fe80::1%eth0\n", ResolvConf(("fe80::1%eth0",))),
        ("# nameserver 1.1.1.1\n; nameserver 2.2.2.2\nnameserver\nnameserver nonsense\nnameserver 3.3.3.3 # mine\n", ResolvConf(("3.3.3.3",))),
        ("nameserver 1.1.1.1\nnameserver 2.2.2.2\nnameserver 3.3.3.3\nnameserver 4.4.4.4\n", ResolvConf(("1.1.1.1", "2.2.2.2", "3.3.3.3"))),
        ("domain A.example.\n", ResolvConf(search=("a.example",))),
        ("search a.example\nsearch b.example .\n", ResolvConf(search=("b.example",))),
        ("options rotate ndots:99 ndots:x timeout:1\n", ResolvConf(ndots=15)),
    ],
)
def test_resolv_conf(text: str, expected: ResolvConf) -> None:
    """The first three servers, the last search list, the options that are known."""
    assert parse_resolv_conf(text) == expected


def test_hosts() -> None:
    """Names in any case, several addresses each; what is not understood is passed over."""
    text = "127.0.0.1 localhost Localhost.localdomain # here\n::1 localhost\n10.0.0.5\tPay.example. pay\nnonsense pay\n10.0.0.5 pay\n10.0.0.6 pay\n#1.1.1.1 x\n"
    assert parse_hosts(text) == {
        "localhost": ("127.0.0.1", "::1"),
        "localhost.localdomain": ("127.0.0.1",),
        "pay.example": ("10.0.0.5",),
        "pay": ("10.0.0.5", "10.0.0.6"),
    }


@pytest.mark.parametrize(
    ("name", "ndots", "expected"),
    [
        ("pay", 1, ["pay.a", "pay.b", "pay"]),
        ("pay.shop", 1, ["pay.shop", "pay.shop.a", "pay.shop.b"]),
        ("pay.shop", 5, ["pay.shop.a", "pay.shop.b", "pay.shop"]),
        ("Pay.", 5, ["pay"]),
        ("pay", 0, ["pay", "pay.a", "pay.b"]),
        ("x" * 251, 1, ["x" * 251 + ".a", "x" * 251 + ".b", "x" * 251]),
        ("x" * 253, 1, ["x" * 253]),
    ],
)
def test_candidates(name: str, ndots: int, expected: list[str]) -> None:
    """Names with fewer dots than `ndots` are tried within the search list first; a dot at the end ends all guessing."""
    assert candidates(name, ("a", "b"), ndots) == expected


def test_localhost() -> None:
    """RFC 6761, section 6.3."""
    assert [is_localhost(name) for name in ("localhost", "LocalHost.", "a.localhost", "localhost.example")] == [True, True, True, False]
