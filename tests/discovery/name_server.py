"""A name server on loopback, UDP and TCP: an authority of Twisted Names whose records a test changes, and what goes wrong with servers in life."""

from __future__ import annotations

import copy
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.names import authority, dns, server

from sidecar.address import Address

ZONE = "shop.example"
TTL = 60


def soa(minimum: int = 7) -> Any:
    """The zone's own record: negative answers hold for `minimum` seconds."""
    return dns.Record_SOA(mname=b"ns." + ZONE.encode(), rname=b"root." + ZONE.encode(), serial=1, minimum=minimum, ttl=TTL)


class Zone(authority.FileAuthority):
    """An authority without a file."""

    def loadFile(self, filename: None) -> None:
        """Begin with nothing but the zone's own record."""
        self.soa = (ZONE.encode(), soa())
        self.records = {ZONE.encode(): [soa()]}


class NameServer(server.DNSServerFactory):
    """Serves `records` (by name). `mood`: "" well, "silent", "ill" (SERVFAIL) or "refuses". `asked`: (name, type) of each question."""

    def __init__(self, reactor: Any, records: dict[str, list[Any]]) -> None:
        self.zone = Zone(None)
        super().__init__(authorities=[self.zone])
        self.verbose = 0
        self.noisy = False
        self.mood = ""
        self.asked: list[tuple[str, str]] = []
        self.transports: list[str] = []
        self.set(records)
        self._udp, self._tcp = self._listen(reactor)
        self.address = Address("127.0.0.1", self._udp.getHost().port)

    def _listen(self, reactor: Any) -> tuple[Any, Any]:
        """One port for both, which the system has to have free for both."""
        while True:
            tcp = reactor.listenTCP(0, self, interface="127.0.0.1")
            try:
                return reactor.listenUDP(tcp.getHost().port, dns.DNSDatagramProtocol(self, reactor), interface="127.0.0.1"), tcp
            except CannotListenError:
                tcp.stopListening()

    def set(self, records: dict[str, list[Any]]) -> None:
        """These are the records from now on."""
        self.zone.records = {ZONE.encode(): [soa()]} | {name.encode(): list(payloads) for name, payloads in records.items()}

    def handleQuery(self, message: Any, protocol: Any, address: Any) -> Any:
        """Answer, or behave as the mood is."""
        self.asked.append((message.queries[0].name.name.decode(), dns.QUERY_TYPES[message.queries[0].type]))
        self.transports.append("udp" if address is not None else "tcp")
        if self.mood == "silent":
            return None
        if self.mood:
            refusal = copy.copy(message)
            refusal.answer, refusal.rCode = 1, dns.ESERVER if self.mood == "ill" else dns.EREFUSED
            self.sendReply(protocol, refusal, address)
            return None
        return super().handleQuery(message, protocol, address)

    def sendReply(self, protocol: Any, message: Any, address: Any) -> None:
        """By UDP no more than 512 octets, as RFC 1035 has it: the rest is cut, and says so."""
        if address is not None and len(message.toStr()) > 512:
            message = copy.copy(message)
            message.answers, message.trunc = [], 1
        super().sendReply(protocol, message, address)

    async def end(self) -> None:
        """Close the sockets."""
        await self._udp.stopListening()
        await self._tcp.stopListening()


def a(*addresses: str, ttl: int = TTL) -> list[Any]:
    """A and AAAA records."""
    return [dns.Record_AAAA(each, ttl=ttl) if ":" in each else dns.Record_A(each, ttl=ttl) for each in addresses]


def srv(priority: int, weight: int, port: int, target: str, ttl: int = TTL) -> Any:
    """An SRV record."""
    return dns.Record_SRV(priority, weight, port, target.encode(), ttl=ttl)


def cname(target: str, ttl: int = TTL) -> Any:
    """An alias."""
    return dns.Record_CNAME(target.encode(), ttl=ttl)
