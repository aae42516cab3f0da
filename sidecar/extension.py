"""The declaration that plugin files hold: names only, so that looking for plugins imports nothing heavy."""

from __future__ import annotations

import attrs
from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface, implementer


class IExtension(Interface):
    """One plugin of the sidecar, by name."""

    kind = Attribute("str: one of `KINDS`")
    name = Attribute("str: what configuration files say; a team's own names look like 'acme.api-key'")
    target = Attribute("str: 'package.module.Class', imported when the configuration first uses it")
    summary = Attribute("str: one line for `sidecar plugins`")


# The kinds there are, with the question each answers.
KINDS = {
    "connection-filter": "may this connection come in?",
    "authenticator": "who is calling?",
    "authorizer": "may this principal do this?",
    "rate-limiter": "how much is left for these descriptors?",
    "filter": "anything on heads, bodies, trailers, completion of an exchange",
    "tracer": "propagate and create spans",
    "span-exporter": "where spans go",
    "access-log": "where records of exchanges go",
    "balancer": "which endpoint?",
    "retry-policy": "is a failed attempt worth another one?",
    "health-check": "is this endpoint well?",
    "discovery": "what endpoints are there?",
    "certificate-source": "where identity comes from",
}


@implementer(IPlugin, IExtension)
@attrs.frozen
class Extension:
    """`Extension(kind="authenticator", name="acme.api-key", target="acme.auth.ApiKey", summary="...")` in a file under `twisted/plugins/`."""

    kind: str
    name: str
    target: str
    summary: str = ""
