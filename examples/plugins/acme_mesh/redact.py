"""Card numbers kept out of answers, while they stream: nothing is held back but digits that may still become a card number.

A card number is a run of 13 to 19 digits with a right check digit (Luhn). All but the last four become "*". Where the chunks of a body begin and end makes no
difference.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from zope.interface import implementer

from sidecar.interfaces import IRequestHeadHook, IResponseBodyHook, IResponseHeadHook
from sidecar.verdicts import STREAM

LONGEST = 19  # digits of a card number, ISO/IEC 7812-1
SHOWN = 4  # digits that may be shown, PCI DSS 3.4.1

_RUN = re.compile(rb"[0-9]{13,}")
_DIGITS_AHEAD = re.compile(rb"[0-9]*")


@implementer(IRequestHeadHook, IResponseHeadHook, IResponseBodyHook)
class RedactCards:
    """Filter `acme.redact-cards`: masks card numbers in the bodies of responses."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`content_types`: which responses are looked at, by the beginning of their Content-Type."""

        content_types: tuple[str, ...] = ("text/", "application/json")

    response_body_mode = STREAM

    def __init__(self, config: Config, context: Any) -> None:
        self._content_types = tuple(each.lower().encode() for each in config.content_types)
        self._count = context.counter("cards", "card numbers masked")

    def request_head(self, exchange: Any) -> None:
        """Ask the application for a body that can be read: not compressed, and whole, because a range could cut a number in two."""
        headers = exchange.request.headers
        headers.remove(b"range")
        headers.set(b"accept-encoding", b"identity")

    def response_head(self, exchange: Any) -> None:
        """Decide whether this body is looked at. What belongs to one exchange stands in `exchange.state`, under the plugin itself."""
        content_type = exchange.response.headers.get(b"content-type", b"").lower()
        if content_type.startswith(self._content_types):
            exchange.state[self] = Redactor()

    def response_body(self, exchange: Any, chunk: bytes, end: bool) -> bytes | None:
        """The chunk with its card numbers masked; None leaves it as it is."""
        redactor = exchange.state.get(self)
        if redactor is None:
            return None
        before = redactor.count
        masked: bytes = redactor.feed(chunk, end)
        if redactor.count != before:
            self._count.inc(by=redactor.count - before)
        return masked


class Redactor:
    """One body on its way. `count`: card numbers masked so far."""

    __slots__ = ("_held", "_overlong", "count")

    def __init__(self) -> None:
        self.count = 0
        self._held = b""  # digits at the end of what was fed: more may follow
        self._overlong = False  # in the midst of a run that is too long to be a card number

    def feed(self, chunk: bytes, end: bool) -> bytes:
        """What may be sent now, for any `chunk`; everything that was held back once `end` is true."""
        text = self._held + chunk
        self._held = b""
        start = 0
        if self._overlong:
            start = _end_of_digits(text)
            self._overlong = start == len(text)
        stop = len(text) if end else _start_of_last_digits(text, start)
        if len(text) - stop > LONGEST:
            self._overlong = True
            stop = len(text)
        self._held = text[stop:]
        return text[:start] + _RUN.sub(self._mask, text[start:stop])

    def _mask(self, match: re.Match[bytes]) -> bytes:
        digits = match[0]
        if len(digits) > LONGEST or not has_check_digit(digits):
            return digits
        self.count += 1
        return b"*" * (len(digits) - SHOWN) + digits[-SHOWN:]


def has_check_digit(digits: bytes) -> bool:
    """Is the last digit the one that Luhn's formula gives for the others?"""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = (digit - 0x30) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _end_of_digits(text: bytes) -> int:
    match = _DIGITS_AHEAD.match(text)
    assert match is not None
    return match.end()


def _start_of_last_digits(text: bytes, start: int) -> int:
    return max(start, len(text.rstrip(b"0123456789")))
