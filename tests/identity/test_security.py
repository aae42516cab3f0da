"""`sidecar/security.py`: what a cluster offers by ALPN, which an endpoint may have asked it to change."""

from __future__ import annotations

from typing import Any

from sidecar.address import Address
from sidecar.security import UpstreamSide


def test_an_endpoint_that_wants_http1_is_offered_nothing_else(mesh: Any) -> None:
    """The other slot is made when it is first needed; without one everything is offered to everybody."""
    asked = []
    both = mesh.client(alpn=("h2", "http/1.1"))
    server = mesh.server(alpn=("h2", "http/1.1"))

    def h1_slot() -> Any:
        asked.append(True)
        return mesh.client(name="h1", alpn=("http/1.1",))

    place = Address("10.0.0.5", 443)
    side = UpstreamSide(both, "payments", "", h1_slot)
    assert side.client_tls(place).context is both.current and not asked
    context = side.client_tls(place, True).context
    assert asked == [True] and context is not both.current
    for offered, chosen in ((both, "h2"), (mesh.client(name="h1 again", alpn=("http/1.1",)), "http/1.1")):
        pair = mesh.both(mesh.pair(offered, server))
        assert server.check(pair.server, "a").alpn == chosen
    assert UpstreamSide(both, "payments", "").client_tls(place, True).context is both.current
