"""Which part of a request says where it belongs."""

from __future__ import annotations

from sidecar.model import HashPolicy
from sidecar.routing.hash_policy import compile_hash_policies
from sidecar.testing import make_headers, make_request


def key(*policies: HashPolicy, path: str = "/", peer: str = "10.0.0.1", **headers: str) -> tuple[int | None, object]:
    key_of = compile_hash_policies(policies)
    assert key_of is not None
    request = make_request(path=path)
    request.headers = make_headers({name.replace("_", "-"): value for name, value in headers.items()})
    return key_of(request, peer, lambda: b"made")


def test_none() -> None:
    """Nothing to ask."""
    assert compile_hash_policies(()) is None


def test_header() -> None:
    """Its value decides, and nothing else; without it there is no key."""
    policy = HashPolicy(header="X-User")
    assert key(policy, x_user="a", other="1") == key(policy, x_user="a", other="2")
    assert key(policy, x_user="a") != key(policy, x_user="b")
    assert key(policy) == (None, None)


def test_query() -> None:
    """The first parameter of that name."""
    policy = HashPolicy(query="user")
    assert key(policy, path="/a?x=1&user=7") == key(policy, path="/b?user=7") != key(policy, path="/b?user=8")
    assert key(policy, path="/a?xuser=7&user")[0] is None


def test_source_address() -> None:
    """The peer."""
    policy = HashPolicy(source_address=True)
    assert key(policy, peer="10.0.0.1")[0] != key(policy, peer="10.0.0.2")[0]


def test_cookie() -> None:
    """Its value; one is made where that is configured, and hashes as it will when it comes back."""
    assert key(HashPolicy(cookie="s"), cookie="a=1; s=x; b=2") == key(HashPolicy(cookie="s"), cookie='s="x"')
    assert key(HashPolicy(cookie="s"), cookie="xs=1") == (None, None)
    made, line = key(HashPolicy(cookie="s", cookie_ttl=60, cookie_path="/shop"))
    assert line == (b"set-cookie", b"s=made; Max-Age=60; Path=/shop; HttpOnly", b"Set-Cookie: s=made; Max-Age=60; Path=/shop; HttpOnly\r\n")
    assert key(HashPolicy(cookie="s", cookie_ttl=60), cookie="s=made") == (made, None)
    assert b"Max-Age" not in key(HashPolicy(cookie="s", cookie_ttl=0))[1][1]  # type: ignore[index]


def test_several() -> None:
    """Together they make the key; a terminal one that found something is the last."""
    user, tenant = HashPolicy(header="x-user"), HashPolicy(header="x-tenant")
    assert key(user, tenant, x_user="ab", x_tenant="c") != key(user, tenant, x_user="a", x_tenant="bc")
    first = HashPolicy(header="x-user", terminal=True)
    assert key(first, tenant, x_user="a", x_tenant="1") == key(first, tenant, x_user="a", x_tenant="2")
    assert key(first, tenant, x_tenant="1") != key(first, tenant, x_tenant="2")
