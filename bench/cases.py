"""What is measured: one `Case` for each pairing of protocols, and the plan that a proxy gets for it. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs

MESSAGE_OCTETS = 1024  # of every answer's body, and of the messages of gRPC in both directions
ALL = frozenset({"sidecar", "envoy", "haproxy", "nginx"})
PAIR = frozenset({"sidecar", "envoy"})


@attrs.frozen
class Case:
    """`client`: what the load generator speaks to the proxy; `upstream`: what the application speaks, "grpc" is HTTP/2 with trailers. `tls`: between client and
    proxy, without a client certificate; `mutual_tls`: between proxy and application, both certificates checked. `is_raw`: the proxy forwards bytes.
    `proxies`: who takes part."""

    name: str
    client: Literal["h1", "h2"] = "h1"
    upstream: Literal["h1", "h2", "grpc"] = "h1"
    tls: bool = False
    mutual_tls: bool = False
    is_raw: bool = False
    proxies: frozenset[str] = ALL

    @property
    def path(self) -> str:
        """What is asked for. gRPC's names a method; the ending tells the application the type of its content."""
        return "/bench.Echo/Unary.grpc" if self.upstream == "grpc" else "/"

    @property
    def body(self) -> bytes:
        """What the application answers, and what a gRPC call sends: one message with the prefix of five octets (not compressed, its length)."""
        message = b"x" * MESSAGE_OCTETS
        return b"\0" + MESSAGE_OCTETS.to_bytes(4, "big") + message if self.upstream == "grpc" else message


CASES = {
    each.name: each
    for each in (
        Case("plain"),
        Case("tls", tls=True),
        Case("mtls", mutual_tls=True, proxies=PAIR),
        # A cleartext port of nginx's speaks one version, and its readiness is asked over HTTP/1.1.
        Case("h2", client="h2", proxies=ALL - {"nginx"}),
        Case("h2-h2", client="h2", upstream="h2", proxies=PAIR),
        Case("grpc", client="h2", upstream="grpc", proxies=PAIR),
        Case("tcp", is_raw=True, proxies=PAIR),
    )
}


@attrs.frozen
class Plan:
    """What a program is to do for `case`: take connections on `port` of 127.0.0.1, forward to `upstream_port`, keep its files in `directory`.

    `admin_port` is its own, if it wants one. `certificate`, `key` and `trust` are PEM files; `combined` holds the first two.
    """

    case: Case
    port: int
    upstream_port: int
    admin_port: int
    directory: Path
    certificate: Path
    key: Path
    trust: Path
    combined: Path

    @property
    def url(self) -> str:
        """Where the proxy answers."""
        return f"{'https' if self.case.tls else 'http'}://127.0.0.1:{self.port}{self.case.path}"

    @property
    def posted(self) -> Path | None:
        """The file that is sent with every request; None when they are GETs."""
        return self.directory / "message" if self.case.upstream == "grpc" else None
