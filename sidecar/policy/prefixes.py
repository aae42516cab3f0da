"""Lists of IP prefixes: is this address in one of them?"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

# Answers are remembered by address text, so that a client which connects again and again is not parsed again.
# Clients choose their addresses (IPv6: by the billion), hence the bound.
CACHED_HOSTS = 4096

UNIX = "unix"


class PrefixList:
    """Prefixes such as `10.0.0.0/8`, `2001:db8::/32`, a bare address, or `unix` for peers on a UNIX socket.

    An IPv4 address mapped into IPv6 (`::ffff:10.0.0.1`) is the IPv4 address. Raises `ValueError` for anything else, and for a prefix with host bits set.
    """

    __slots__ = ("_answers", "_networks", "_unix", "prefixes")

    def __init__(self, prefixes: Iterable[str]) -> None:
        self.prefixes = tuple(prefixes)
        self._unix = UNIX in self.prefixes
        self._answers: dict[str, bool] = {}
        # (IP version, prefix length) -> network numbers
        self._networks: dict[tuple[int, int], set[int]] = {}
        for text in self.prefixes:
            if text != UNIX:
                network = ipaddress.ip_network(text)
                shift = network.max_prefixlen - network.prefixlen
                self._networks.setdefault((network.version, shift), set()).add(int(network.network_address) >> shift)

    def covers(self, host: str) -> bool:
        """Is this address in the list? `host`: an IP address as text, a zone (`%eth0`) is ignored; "" for a UNIX socket. What is no address is in no list."""
        answers = self._answers
        answer = answers.get(host)
        if answer is None:
            if len(answers) >= CACHED_HOSTS:
                answers.clear()
            answer = answers[host] = self._covers(host)
        return answer

    def _covers(self, host: str) -> bool:
        if not host:
            return self._unix
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if address.version == 6 and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        number = int(address)
        version = address.version
        return any(known == version and number >> shift in networks for (known, shift), networks in self._networks.items())

    def __bool__(self) -> bool:
        return bool(self.prefixes)

    def __repr__(self) -> str:
        return f"PrefixList({self.prefixes!r})"
