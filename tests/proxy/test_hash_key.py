"""The key of an exchange: asked for by balancers that hash, computed for nobody else; a cookie that was made reaches the client."""

from __future__ import annotations

from typing import Any

from sidecar.cluster.maglev import Maglev
from sidecar.cluster.ring_hash import RingHash
from sidecar.model import HashPolicy
from sidecar.routing.hash_policy import compile_hash_policies
from sidecar.testing import FakeContext
from tests.memory import GET, OK, World


def world(policy: HashPolicy, cls: Any = RingHash) -> World:
    made = World(endpoints=4)
    balancer = cls(cls.Config(), FakeContext())
    balancer.update(made.connector.pools)
    made.connector.pick = balancer.pick
    made.route.hash_key = compile_hash_policies((policy,))
    return made


def test_one_user_one_endpoint() -> None:
    """Through the whole path: equal headers meet at one endpoint, different ones spread."""
    for cls in (RingHash, Maglev):
        sidecar = world(HashPolicy(header="x-user"), cls)
        for user in range(12):
            for _ in range(3):
                sidecar.send(GET[:-2] + b"X-User: %d\r\n\r\n" % user)
        chosen = [exchange.endpoint_text for exchange in sidecar.exchanges]
        assert all(len(set(chosen[start : start + 3])) == 1 for start in range(0, 36, 3))
        assert len(set(chosen)) > 1


def test_a_made_cookie_comes_back() -> None:
    """The client gets it once, and with it the same endpoint."""
    sidecar = world(HashPolicy(cookie="stick", cookie_ttl=60))
    client, app = sidecar.send(GET)
    app.receive(OK)
    head = client.take()
    assert head.count(b"Set-Cookie: stick=") == 1
    value = head.partition(b"Set-Cookie: ")[2].partition(b";")[0]
    for _ in range(3):
        client, _ = sidecar.send(GET[:-2] + b"Cookie: " + value + b"\r\n\r\n")
    assert len({exchange.endpoint_text for exchange in sidecar.exchanges}) == 1
    assert len({exchange.hash_key() for exchange in sidecar.exchanges}) == 1


def test_nobody_else_pays() -> None:
    """A balancer that does not hash leaves the policies alone."""
    sidecar = World()
    sidecar.route.hash_key = lambda *args: 1 / 0  # type: ignore[assignment, return-value]
    client, app = sidecar.send(GET)
    app.receive(OK)
    assert client.take().startswith(b"HTTP/1.1 200 ")
