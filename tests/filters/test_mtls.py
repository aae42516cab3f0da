"""Callers by certificate."""

from __future__ import annotations

from zope.interface.verify import verifyObject

from sidecar.errors import Unauthenticated
from sidecar.facts import Principal
from sidecar.filters.mtls import CACHED_IDENTITIES, MTLSPrincipal
from sidecar.interfaces import IAuthenticator
from sidecar.testing import FakeContext, FakeExchange, make_connection
from sidecar.verdicts import Refuse

ID = "spiffe://example.org/ns/web/sa/frontend"


def plugin(required: bool = False) -> MTLSPrincipal:
    return MTLSPrincipal(MTLSPrincipal.Config(required=required), FakeContext("mtls"))


def exchange(identity: str) -> FakeExchange:
    return FakeExchange(connection=make_connection(identity=identity))


def test_the_identity_is_the_name() -> None:
    """A verified SPIFFE ID names the caller."""
    assert plugin().authenticate(exchange(ID)) == Principal(ID, "mtls")


def test_without_a_certificate() -> None:
    """The next authenticator may know, unless a certificate is required: then 401."""
    assert plugin().authenticate(exchange("")) is None
    refusal = plugin(required=True).authenticate(exchange(""))
    assert isinstance(refusal, Refuse)
    assert isinstance(refusal.error, Unauthenticated)
    assert plugin(required=True).authenticate(exchange(ID)) == Principal(ID, "mtls")


def test_memory_is_bounded() -> None:
    """However many callers there are."""
    mtls = plugin()
    for number in range(CACHED_IDENTITIES + 10):
        assert mtls.authenticate(exchange(f"{ID}{number}")) == Principal(f"{ID}{number}", "mtls")
    assert len(mtls._principals) <= CACHED_IDENTITIES


def test_provides_its_interface() -> None:
    """It is an authenticator."""
    assert verifyObject(IAuthenticator, plugin())
