"""What the proxy itself reads in a request's fields: in one pass, and only once for requests whose fields are the same (`KnownFields`)."""

from __future__ import annotations

import msgspec

from sidecar.codec.grpc import is_content_type
from sidecar.headers import Field
from sidecar.message import RequestHead
from sidecar.policy.timeouts import grpc_timeout_seconds
from sidecar.proxy.hints import EXPECTED, GRPC_TIMEOUT
from sidecar.proxy.http import CERTIFICATE_NAMES

_AGENT, _CONTENT_TYPE = b"user-agent", b"content-type"
# What hops tell each other: the client may not say all of it.
_FORWARDED = CERTIFICATE_NAMES | {b"x-request-id", b"x-forwarded-for", b"x-forwarded-proto"}
_READ = _FORWARDED | {_AGENT, _CONTENT_TYPE, EXPECTED, GRPC_TIMEOUT}


class HeadFacts(msgspec.Struct, frozen=True, gc=False):
    """`forwarded`: the fields that hops tell each other. `speaks_grpc`: by content-type. `call_timeout`: seconds of grpc-timeout, None without one that is
    sound. `expects_time`: was something said of the time that is left (`hints.EXPECTED`)? `agent`: the user agent, "" when it is not told.
    """

    forwarded: list[Field] = []
    speaks_grpc: bool = False
    call_timeout: float | None = None
    expects_time: bool = False
    agent: str = ""


_NOTHING = HeadFacts()


def facts_of(fields: list[Field]) -> HeadFacts:
    """The facts of these fields. Of several with one name the first counts."""
    found = [each for each in fields if each[0] in _READ]
    if not found:
        return _NOTHING
    said: dict[bytes, bytes] = {}
    forwarded: list[Field] = []
    for each in found:
        name = each[0]
        if name in _FORWARDED:
            forwarded.append(each)
        elif name not in said:
            said[name] = each[1]
    agent = said.get(_AGENT)
    return HeadFacts(
        forwarded,
        is_content_type(said.get(_CONTENT_TYPE)),
        grpc_timeout_seconds(said.get(GRPC_TIMEOUT)),
        EXPECTED in said,
        "" if agent is None else agent.decode("latin-1"),
    )


def learn(request: RequestHead) -> HeadFacts:
    """The facts of a request as it came, kept for the next one with the same fields."""
    known = request.known
    if known is None:
        return facts_of(request.headers.fields)
    facts: HeadFacts = facts_of(known)
    known.facts = facts
    return facts
