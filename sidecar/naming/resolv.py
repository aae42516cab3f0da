"""What a machine's own files say about names: /etc/resolv.conf (resolv.conf(5)) and /etc/hosts (hosts(5)), and which names a short one stands for.

The rules are those of musl and of Kubernetes' pods: one candidate after the other, and a candidate that could not be looked up ends the search - otherwise a
server that is ill for a moment would let another name's address take the place of the right one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import attrs

# resolv.conf(5)
NDOTS = 1
MAX_NDOTS = 15
MAX_SERVERS = 3
DNS_PORT = 53
MAX_NAME = 253  # characters without the dot at the end; RFC 1035, section 2.3.4 counts 255 octets on the wire


@attrs.frozen
class ResolvConf:
    """`servers`: IP addresses. `search`: domains without dots at their ends. `ndots`: names with fewer dots are tried within `search` first."""

    servers: tuple[str, ...] = ("127.0.0.1",)
    search: tuple[str, ...] = ()
    ndots: int = NDOTS


def parse_resolv_conf(text: str) -> ResolvConf:
    """What `text` says; lines that are not understood are passed over, as every resolver does. Without a server it is the local one."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    ndots = NDOTS
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        key, values = words[0], words[1:]
        if key == "nameserver" and len(servers) < MAX_SERVERS and _is_ip(values[0]):
            servers.append(values[0])
        elif key in ("search", "domain"):  # the last of them counts
            search = tuple(name for name in (value.rstrip(".").lower() for value in values) if name and name.isascii())
        elif key == "options":
            for value in values:
                name, _, number = value.partition(":")
                if name == "ndots" and number.isascii() and number.isdigit():
                    ndots = min(int(number), MAX_NDOTS)
    return ResolvConf(tuple(servers) or ("127.0.0.1",), search, ndots)


def parse_hosts(text: str) -> dict[str, tuple[str, ...]]:
    """The IP addresses of each name (lower case), in the file's order; lines that are not understood are passed over."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if len(words) < 2 or not _is_ip(words[0]):
            continue
        for name in words[1:]:
            addresses = found.setdefault(name.rstrip(".").lower(), [])
            if words[0] not in addresses:
                addresses.append(words[0])
    return {name: tuple(addresses) for name, addresses in found.items()}


def candidates(name: str, search: Sequence[str], ndots: int) -> list[str]:
    """The full names (without the dot at the end) to look up for `name`, in order. A dot at its end means: this name alone."""
    name = name.lower()
    if name.endswith("."):
        return [name[:-1]]
    within = [f"{name}.{domain}" for domain in search]
    names = [name, *within] if name.count(".") >= ndots else [*within, name]
    return [each for each in dict.fromkeys(names) if len(each) <= MAX_NAME]


def is_localhost(name: str) -> bool:
    """RFC 6761, section 6.3: these names are loopback whatever a server says."""
    bare = name.lower().rstrip(".")
    return bare == "localhost" or bare.endswith(".localhost")


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True
