"""Unit tests of a plugin need no sidecar and no network: `sidecar.testing` has the other sides."""

from __future__ import annotations

import pytest
from acme_mesh.api_key import ApiKey
from zope.interface.verify import verifyObject

from sidecar.errors import Unauthenticated
from sidecar.facts import Principal
from sidecar.interfaces import IAuthenticator
from sidecar.secret import Secret
from sidecar.testing import FakeContext, FakeExchange, make_request
from sidecar.verdicts import Refuse

KEYS = Secret("# owner key\nalice k-alice\n\nbilling   k-billing\n")


def make(context: FakeContext | None = None, header: str = "x-api-key", required: bool = True) -> ApiKey:
    return ApiKey(ApiKey.Config(keys=KEYS, header=header, required=required), context or FakeContext("acme.api-key"))


def asked(plugin: ApiKey, **headers: str) -> object:
    return plugin.authenticate(FakeExchange(make_request(headers={name.replace("_", "-"): value for name, value in headers.items()})))


def test_keeps_the_promise_of_its_kind() -> None:
    """It provides `IAuthenticator`."""
    assert verifyObject(IAuthenticator, make())


@pytest.mark.parametrize(("key", "owner"), [("k-alice", "alice"), ("k-billing", "billing")])
def test_the_owner_of_the_key_is_the_principal(key: str, owner: str) -> None:
    """Every key of the file names its owner."""
    assert asked(make(), x_api_key=key) == Principal(owner, "acme.api-key")


@pytest.mark.parametrize("key", ["", "k-alic", "k-alicee", "K-ALICE", "alice", "#"])
def test_a_key_that_nobody_owns_is_refused_and_counted(key: str) -> None:
    """401, whatever is wrong with the key."""
    context = FakeContext("acme.api-key")
    answer = asked(make(context), x_api_key=key)
    assert isinstance(answer, Refuse) and isinstance(answer.error, Unauthenticated)
    assert context.counters["refused_keys"].value == 1


def test_no_key_is_refused_where_one_is_required() -> None:
    """The sentence says which field is missing."""
    answer = asked(make(header="x-acme"))
    assert isinstance(answer, Refuse) and "x-acme" in answer.error.sentence


def test_no_key_is_left_to_the_next_authenticator_where_none_is_required() -> None:
    """None means: no credential of my kind."""
    assert asked(make(required=False)) is None


def test_two_keys_are_no_key() -> None:
    """Nobody can say which one is meant."""
    exchange = FakeExchange(make_request(headers=[("x-api-key", "k-alice"), ("x-api-key", "k-billing")]))
    assert isinstance(make().authenticate(exchange), Refuse)


def test_the_application_never_sees_the_key() -> None:
    """The field is taken out of the request."""
    exchange = FakeExchange(make_request(headers={"x-api-key": "k-alice", "accept": "*/*"}))
    make().authenticate(exchange)
    assert b"x-api-key" not in exchange.request.headers
    assert b"accept" in exchange.request.headers


@pytest.mark.parametrize(("text", "sentence"), [("", "not one key"), ("# nothing", "not one key"), ("alice", "line 1"), ("a k\nb k k", "line 2")])
def test_a_file_that_is_no_file_of_keys_stops_the_start(text: str, sentence: str) -> None:
    """`ValueError`, with a sentence that has no key in it."""
    with pytest.raises(ValueError, match=sentence):
        ApiKey(ApiKey.Config(keys=Secret(text)), FakeContext())
