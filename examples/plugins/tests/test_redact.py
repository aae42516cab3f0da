"""A body is a stream of chunks that end anywhere: what a filter makes of it must not depend on where."""

from __future__ import annotations

from itertools import pairwise

import pytest
from acme_mesh.redact import LONGEST, RedactCards, Redactor
from hypothesis import given, strategies as st
from zope.interface.verify import verifyObject

from sidecar.interfaces import IRequestHeadHook, IResponseBodyHook, IResponseHeadHook
from sidecar.testing import FakeContext, FakeExchange, make_request, make_response

CARD = b"4111111111111111"
MASKED = b"************1111"


def whole(body: bytes) -> bytes:
    return Redactor().feed(body, True)


def in_pieces(body: bytes, cuts: list[int]) -> bytes:
    redactor = Redactor()
    places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    sent = [redactor.feed(body[a:b], False) for a, b in pairwise(places)]
    return b"".join([*sent, redactor.feed(b"", True)])


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (CARD, MASKED),
        (b'{"card": "4111111111111111"}', b'{"card": "************1111"}'),
        (b"378282246310005, 4222222222222", b"***********0005, *********2222"),
        (b"4111111111111112", b"4111111111111112"),  # the check digit is wrong
        (b"4" * 20, b"4" * 20),
        (b"9" + CARD + b"9" * 4, b"9" + CARD + b"9" * 4),  # part of a longer number
        (b"nothing", b"nothing"),
        (b"", b""),
    ],
)
def test_card_numbers_are_masked_and_nothing_else(body: bytes, sent: bytes) -> None:
    """All digits but the last four."""
    assert whole(body) == sent


@given(
    st.lists(st.sampled_from([CARD, b"378282246310005", b"1", b"00000", b" ", b"x", b"7" * 13, b"5" * 30]), max_size=8).map(b"".join),
    st.lists(st.integers(0, 200), max_size=12),
)
def test_where_chunks_end_makes_no_difference(body: bytes, cuts: list[int]) -> None:
    """Any chunking of a body gives what the whole body gives."""
    assert in_pieces(body, cuts) == whole(body)


def test_the_end_of_a_long_number_is_no_card_number() -> None:
    """Also when its beginning was sent long ago."""
    redactor = Redactor()
    sent = [redactor.feed(b"5" * 30, False), redactor.feed(b"5" * 30, False), redactor.feed(CARD, False), redactor.feed(b" " + CARD, True)]
    assert b"".join(sent) == b"5" * 60 + CARD + b" " + MASKED


def test_little_is_held_back() -> None:
    """However long a run of digits is, no more of it waits than a card number has."""
    redactor = Redactor()
    sent = 0
    for fed in range(1, 1001):
        sent += len(redactor.feed(b"1", False))
        assert fed - sent <= LONGEST


def test_the_filter_masks_a_card_number_that_two_chunks_share() -> None:
    """And counts it."""
    context = FakeContext("acme.redact-cards")
    plugin = RedactCards(RedactCards.Config(), context)
    for promise in (IRequestHeadHook, IResponseHeadHook, IResponseBodyHook):
        assert verifyObject(promise, plugin)
    exchange = FakeExchange(response=make_response(headers={"content-type": "application/json"}, has_body=True))
    plugin.response_head(exchange)
    chunks = [(b"card 41111111", False), (b"11111111.", False), (b"", True)]
    assert [plugin.response_body(exchange, chunk, end) for chunk, end in chunks] == [b"card ", MASKED + b".", b""]
    assert context.counters["cards"].value == 1


def test_other_kinds_of_bodies_are_left_alone() -> None:
    """An image may hold any bytes."""
    plugin = RedactCards(RedactCards.Config(), FakeContext())
    exchange = FakeExchange(response=make_response(headers={"content-type": "image/png"}, has_body=True))
    plugin.response_head(exchange)
    assert plugin.response_body(exchange, CARD, True) is None


def test_the_application_is_asked_for_a_whole_plain_body() -> None:
    """A compressed or partial one could not be read."""
    exchange = FakeExchange(make_request(headers={"accept-encoding": "gzip", "range": "bytes=0-9"}))
    RedactCards(RedactCards.Config(), FakeContext()).request_head(exchange)
    assert exchange.request.headers.get_all(b"accept-encoding") == [b"identity"]
    assert b"range" not in exchange.request.headers
