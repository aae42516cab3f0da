"""Asks name servers, by Twisted Names: the hosts file first, then each candidate of the search list, at one server after the other."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.error import ConnectError
from twisted.logger import Logger
from twisted.names import client, dns, error as names_error

from sidecar.address import Address
from sidecar.discovery.files import State, read_bounded, state_of
from sidecar.naming.dns_answers import LookupFamily, wanted_types
from sidecar.naming.resolv import DNS_PORT, ResolvConf, candidates, is_localhost, parse_hosts, parse_resolv_conf

_log = Logger(namespace="sidecar.discovery")

ROUNDS = 2  # each server is asked so often; resolv.conf(5): attempts
MAX_ALIASES = 8  # of CNAMEs that lead to others; more is a loop
MAX_FILE_BYTES = 1024 * 1024  # of a hosts file; those that block advertisers have a few hundred KiB
HOSTS_TTL = 5.0  # what a file said is looked up again after so many seconds: it costs a stat call
NEGATIVE_TTL = 5.0  # of an answer "no such name" without SOA (RFC 2308, section 5); Envoy: dns_refresh_rate

_TYPES = {"A": dns.A, "AAAA": dns.AAAA, "SRV": dns.SRV}


class LookupFailed(Exception):
    """Nobody could say: what was known before may well hold. A sentence for a person."""


class NoSuchName(Exception):
    """A server says that there is nothing of this name. `ttl`: for how many seconds it says so."""

    def __init__(self, sentence: str, ttl: float) -> None:
        super().__init__(sentence)
        self.ttl = ttl


@attrs.frozen
class Hosts:
    """IP addresses in the order of the answer. `ttl`: seconds, the least on the way to them."""

    addresses: tuple[str, ...]
    ttl: float


@attrs.frozen
class Records:
    """The payloads (Twisted's) of one type."""

    values: tuple[Any, ...]
    ttl: float


class NameServers:
    """`servers`: instead of those of `resolv_conf`. `timeout`: seconds for one answer of one server."""

    def __init__(self, reactor: Any, servers: Sequence[Address], resolv_conf: Path, hosts: Path, search: Sequence[str] | None, timeout: float) -> None:
        self._reactor = reactor
        self._given = tuple((each.host, each.port) for each in servers)
        self._resolv_conf = resolv_conf
        self._hosts = hosts
        self._search = search
        self._timeout = timeout
        self._conf = ResolvConf()
        self._conf_state: State = (0, 0, 0, 0, 0)
        self._hosts_state: State = (0, 0, 0, 0, 0)
        self._names: dict[str, tuple[str, ...]] = {}
        self._resolvers: list[Any] = []

    async def hosts(self, name: str, family: LookupFamily) -> Hosts:
        """The addresses of a host name; an IP address is its own. Raises `NoSuchName` or `LookupFailed`."""
        types, first_is_enough = wanted_types(family)
        local = self._local(name, types, first_is_enough)
        if local is not None:
            return local
        found: list[Hosts] = []
        nothing: NoSuchName | None = None
        for type in types:
            try:
                records = await self.records(name, type)
            except NoSuchName as error:
                nothing = _either(nothing, error)
                continue
            found.append(Hosts(tuple(each.dottedQuad() if type == "A" else _ipv6(each.address) for each in records.values), records.ttl))
            if first_is_enough:
                break
        if not found:
            assert nothing is not None
            raise nothing
        return Hosts(tuple(address for each in found for address in each.addresses), min(each.ttl for each in found))

    async def records(self, name: str, type: str) -> Records:
        """The records of one type, of the first candidate that has any. Raises `NoSuchName` or `LookupFailed`."""
        self._refresh()
        search = self._conf.search if self._search is None else self._search
        nothing: NoSuchName | None = None
        for candidate in candidates(name, search, self._conf.ndots):
            try:
                return await self._records_of(candidate, type)
            except NoSuchName as error:
                nothing = _either(nothing, error)
        raise nothing or NoSuchName(f"{name!r} is too long for a name", NEGATIVE_TTL)

    def _local(self, name: str, types: Sequence[str], first_is_enough: bool) -> Hosts | None:
        """What needs no server."""
        try:
            return Hosts((str(ipaddress.ip_address(name)),), float("inf"))
        except ValueError:
            pass
        state = state_of(self._hosts)
        if state != self._hosts_state:
            self._hosts_state = state
            self._names = parse_hosts(self._text(self._hosts)) if state is not None else {}
        known = self._names.get(name.lower().rstrip("."), ("127.0.0.1", "::1") if is_localhost(name) else ())
        found: list[str] = []
        for type in types:
            found += [each for each in known if (":" in each) == (type == "AAAA")]
            if found and first_is_enough:
                break
        return Hosts(tuple(found), HOSTS_TTL) if found else None

    def _refresh(self) -> None:
        """Take up a changed resolv.conf: laptops change networks."""
        state = state_of(self._resolv_conf)
        if state == self._conf_state and self._resolvers:
            return
        self._conf_state = state
        self._conf = parse_resolv_conf(self._text(self._resolv_conf)) if state is not None else ResolvConf()
        servers = self._given or tuple((each, DNS_PORT) for each in self._conf.servers)
        self._resolvers = [client.Resolver(servers=[each], timeout=(self._timeout,), reactor=self._reactor) for each in servers]

    def _text(self, path: Path) -> str:
        try:
            return read_bounded(path, MAX_FILE_BYTES).decode("utf-8", "replace")
        except ValueError as error:
            _log.warn("{error}", error=str(error))
            return ""

    async def _records_of(self, name: str, type: str) -> Records:
        """Follow aliases, within one answer and by further questions. Raises `NoSuchName` or `LookupFailed`."""
        ttl = float("inf")
        for _ in range(MAX_ALIASES):
            answers, authority = await self._ask(name, type)
            target, ttl = _follow(name, answers, ttl)
            values = [each for each in answers if each.type == _TYPES[type] and _is_name(each, target)]
            if values:
                return Records(tuple(each.payload for each in values), min(ttl, *(each.ttl for each in values)))
            if target == name:
                raise NoSuchName(f"{name} has no {type} records", _negative_ttl(authority))
            name = target
        raise LookupFailed(f"{name}: more than {MAX_ALIASES} aliases lead from one to the next")

    async def _ask(self, name: str, type: str) -> tuple[list[Any], list[Any]]:
        """(answers, authority) of the first server that answers; further ones are asked when one is silent or ill."""
        try:
            octets = name.encode("ascii")
        except UnicodeEncodeError:  # out of an alias or an SRV record: whoever writes those may write anything
            raise LookupFailed(f"{name!r} is no host name") from None
        problems: list[str] = []
        for resolver in self._resolvers * ROUNDS:
            where = "{}:{}".format(*resolver.servers[0])
            try:
                asked: Deferred[Any] = resolver.query(dns.Query(octets, _TYPES[type], dns.IN))
                answers, authority, _ = await asked
            except names_error.DNSNameError as error:
                message = error.args[0] if error.args else None
                raise NoSuchName(f"{name} does not exist", _negative_ttl(getattr(message, "authority", []))) from None
            except names_error.DNSServerError:
                problems.append(f"{where} could not find out")
            except names_error.DNSQueryRefusedError:
                problems.append(f"{where} refused")
            except (names_error.DNSQueryTimeoutError, TimeoutError):
                problems.append(f"{where} did not answer within {self._timeout:g} s")
            except (names_error.ResolverError, names_error.DomainError, ConnectError, OSError) as error:
                problems.append(f"{where}: {str(error) or error.__class__.__name__}")
            else:
                return answers, authority
        raise LookupFailed(f"{name} ({type}): {'; '.join(dict.fromkeys(problems))}")


def _either(first: NoSuchName | None, then: NoSuchName) -> NoSuchName:
    """Of two negative answers: what the first says, for as long as both hold."""
    return then if first is None else NoSuchName(str(first), min(first.ttl, then.ttl))


def _is_name(record: Any, name: str) -> bool:
    return bool(record.name.name.decode("latin-1").lower().rstrip(".") == name)


def _follow(name: str, answers: Sequence[Any], ttl: float) -> tuple[str, float]:
    """Where the aliases in one answer lead from `name`, and the least TTL on the way."""
    for _ in range(MAX_ALIASES):
        alias = next((each for each in answers if each.type == dns.CNAME and _is_name(each, name)), None)
        if alias is None:
            break
        name = alias.payload.name.name.decode("latin-1").lower().rstrip(".")
        ttl = min(ttl, alias.ttl)
    return name, ttl


def _negative_ttl(authority: Sequence[Any]) -> float:
    """RFC 2308, section 5: the lesser of the SOA's own TTL and its MINIMUM."""
    return min((float(min(each.ttl, each.payload.minimum)) for each in authority if each.type == dns.SOA), default=NEGATIVE_TTL)


def _ipv6(packed: bytes) -> str:
    return str(ipaddress.IPv6Address(packed))
