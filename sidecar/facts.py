"""What is known of a connection and of a caller: values that the transport fills in once and everybody else only reads."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from sidecar.address import Address
from sidecar.errors import SidecarError
from sidecar.headers import Headers
from sidecar.message import RequestHead


@attrs.frozen
class TLSFacts:
    """One finished handshake. `version`: "TLSv1.3". `server_name`, `alpn`: what was negotiated, "" for none. `peer_identity`: the verified peer's SPIFFE ID, "" when it has none or
    showed no certificate. `peer_subject`: RFC 4514 text. `peer_dns_names`: DNS SANs. `peer_sha256`: hex digest of the DER certificate, "" without one. `own_identity`: our side's.
    `forwarded_client_cert`: this peer as one element of x-forwarded-client-cert, b"" without a certificate. `mark`: what nobody but the two ends of this connection can know, in hex, where both
    are workloads that proved who they are; b"" else. It is a secret.
    """

    version: str = ""
    cipher: str = ""
    server_name: str = ""
    alpn: str = ""
    peer_identity: str = ""
    peer_subject: str = ""
    peer_dns_names: tuple[str, ...] = ()
    peer_sha256: str = ""
    own_identity: str = ""
    forwarded_client_cert: bytes = b""
    mark: bytes = attrs.field(default=b"", repr=False, eq=False)


@attrs.frozen
class ConnectionFacts:
    """One accepted connection. `number` counts from 1 in this process. `original_destination`: where the client meant to go before a redirection, else None.
    `tls` is None on a cleartext connection (and before the handshake). `server_name` and `application_protocols` are what sniffing saw before TLS. `over_limit`: it may only be told that there are too many."""

    number: int
    listener: str
    direction: str
    peer: Address
    local: Address
    original_destination: Address | None = None
    tls: TLSFacts | None = None
    server_name: str = ""
    application_protocols: tuple[str, ...] = ()
    over_limit: bool = False


@attrs.frozen
class Principal:
    """Who is calling, as an authenticator found. `name` is what rules compare (a SPIFFE ID, a JWT subject, an API key's owner); `method` names the authenticator."""

    name: str
    method: str = ""
    claims: Mapping[str, object] = attrs.field(factory=dict)


@attrs.frozen
class AttemptFacts:
    """How one attempt at a request ended. `number` counts from 1. `error` is set when it failed; else `status` and `headers` are the answer's. `trailers`: those of an answer that has nothing else
    (gRPC's Trailers-Only). `grpc_status`: what they or the headers say, None without. `was_sent`: something of the request was given to a connection. `endpoint`: whom it went to, "" when nobody.
    `elapsed`: seconds since the request came in; `remaining`: until the route's timeout, None without one."""

    number: int
    request: RequestHead
    endpoint: str
    error: SidecarError | None
    status: int
    headers: Headers | None
    trailers: Headers | None
    grpc_status: int | None
    was_sent: bool
    elapsed: float
    remaining: float | None
