"""Hosts and ports out of answers that others wrote, made into addresses that can be connected to; quick, because there may be ten thousand."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Generator, Iterable, Iterator
from typing import TypeVar

from sidecar.address import Address

T = TypeVar("T")

# Items that are converted between two chances for the event loop: about a millisecond of work.
SLICE_ITEMS = 250

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"  # RFC 1035, section 2.3.4: at most 63 octets
_HOST = re.compile(rf"(?=.{{1,254}}\Z){_LABEL}(?:\.{_LABEL})*\.?")
_ZONE = re.compile(r"[A-Za-z0-9_.-]{1,32}")
_NUMBERS = re.compile(r"[0-9.]+")


def make_address(host: str, port: int) -> Address:
    """The address of an IP address or host name and a port from 1 to 65535. Raises `ValueError` with a sentence for anything else."""
    if not 0 < port < 65536:
        raise ValueError(f"expected a port from 1 to 65535, got {port}")
    if _IPV4.fullmatch(host) is None:
        if ":" in host:
            bare, percent, zone = host.partition("%")
            if percent and _ZONE.fullmatch(zone) is None:
                raise ValueError(f"expected an IP address or a host name, got {host!r}")
            host = str(ipaddress.IPv6Address(bare)) + percent + zone  # its own error is a sentence
        elif _HOST.fullmatch(host) is None or _NUMBERS.fullmatch(host) is not None:
            raise ValueError(f"expected an IP address or a host name, got {host!r}")
    return Address(host=host, port=port)


def sliced(items: Iterable[T], size: int = SLICE_ITEMS) -> Iterator[list[T]]:
    """The items in lists of at most `size`, in order."""
    piece: list[T] = []
    for item in items:
        piece.append(item)
        if len(piece) == size:
            yield piece
            piece = []
    if piece:
        yield piece


# Work in steps: yields wherever the event loop may turn, and returns the result.
Steps = Generator[None, None, T]


def at_once(steps: Steps[T]) -> T:
    """The result of work in steps, without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
