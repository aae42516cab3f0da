"""Kind `discovery`, name `dns`: endpoints by A and AAAA records, or by SRV records with their priorities and weights."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import attrs
from msgspec import Struct
from twisted.internet.defer import Deferred, DeferredSemaphore, ensureDeferred, gatherResults
from zope.interface import implementer

from sidecar.address import Address
from sidecar.discovery.findings import Changed, Findings
from sidecar.discovery.resolver import Hosts, LookupFailed, NameServers, NoSuchName
from sidecar.interfaces import IDiscovery
from sidecar.model import Backoff, DNSName, Duration, Endpoint
from sidecar.naming import pace
from sidecar.naming.dns_answers import LookupFamily, Service, refresh_after, weigh
from sidecar.naming.endpoint_file import MAX_PRIORITY
from sidecar.naming.places import make_address

MIN_REFRESH_SECONDS = 1.0  # Envoy: dns_min_refresh_rate; a TTL of 0 must not mean a query for every answer
MAX_REFRESH_SECONDS = 300.0  # a record with a TTL of a day is looked at all the same: somebody may have to move the service now
TARGETS_AT_A_TIME = 16  # of SRV records: each question has a socket of its own
MAX_TARGETS = 1000  # of one name's SRV records; a TCP answer (64 KiB) has room for more than 3000, and each is a question of its own
# With many targets whose TTL is 0 the name servers, which others need too, are asked no more than this on average: 1000 targets every ten seconds.
TARGETS_A_SECOND = 100
TIMEOUT_SECONDS = 2.0  # for one answer of one server; resolv.conf(5) has 5, which is most of what a start waits for


@attrs.define
class _Name:
    """One name that is looked up for itself. `known`: the endpoints of its last good answer; None before there was one."""

    text: str
    what: DNSName
    host: str
    port: int
    waits: pace.Backoff
    known: tuple[Endpoint, ...] | None = None
    was_tried: bool = False
    problem: str = ""
    remark: str = ""  # on its last good answer
    timer: Any = None
    targets: dict[str, tuple[str, ...]] = attrs.field(factory=dict)


@attrs.frozen
class _Target:
    """What an SRV record's target came to. `problem`: why `hosts` are those from before, or none."""

    hosts: Hosts
    problem: NoSuchName | LookupFailed | None = None


@implementer(IDiscovery)
class DNS:
    """The endpoints behind one or more names. Made with `(config, context)`."""

    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`names`: HOST:PORT for address records, or a name without port for SRV records; or a `DNSName` with more about its endpoints. `mode`: "strict" (each
        address is an endpoint) or "logical" (one at a time). `lookup_family`: which addresses. `on_negative`: what "no such name" means: "keep" what was known,
        or "empty". `servers`, `search`: instead of resolv.conf's."""

        names: str | tuple[str | DNSName, ...]
        mode: Literal["strict", "logical"] = "strict"
        lookup_family: LookupFamily = "v4_preferred"
        on_negative: Literal["keep", "empty"] = "keep"
        min_refresh_rate: Duration = MIN_REFRESH_SECONDS
        max_refresh_rate: Duration = MAX_REFRESH_SECONDS
        failure_refresh_rate: Backoff = Backoff(base=1.0, max=30.0)
        timeout: Duration = TIMEOUT_SECONDS
        servers: tuple[Address, ...] = ()
        search: tuple[str, ...] | None = None
        resolv_conf: Path = Path("/etc/resolv.conf")
        hosts_file: Path = Path("/etc/hosts")

    @staticmethod
    def validate(config: Config) -> Iterator[str]:
        """What types cannot say."""
        names = _names(config)
        if not names:
            yield "expected at least one name"
        for each in names:
            try:
                _, port = _split(each.name)
            except ValueError as error:
                yield str(error)
                continue
            if not port and each.weight != 1:
                yield f"the SRV records of {each.name} have weights of their own"
            if each.priority > MAX_PRIORITY:
                yield f"expected a priority up to {MAX_PRIORITY}, got {each.priority}"
        if len({each.name for each in names}) < len(names):
            yield "a name stands here twice"
        least, most = pace.MIN_BASE_SECONDS, config.max_refresh_rate
        if not least <= config.min_refresh_rate <= most:
            yield f"expected a min_refresh_rate of at least {least:g} s and at most max_refresh_rate ({most:g} s), got {config.min_refresh_rate:g} s"
        yield from pace.rate_problems(config.failure_refresh_rate.base)
        if not config.timeout:
            yield "expected a timeout above 0"
        for server in config.servers:
            if not server.is_ip or not server.port:
                yield f"expected the IP address and port of a name server, got {server}"

    def __init__(self, config: Config, context: Any) -> None:
        for problem in self.validate(config):
            raise ValueError(problem)
        self._config = config
        self._clock = context.clock
        self._log = context.log
        self._servers = NameServers(context.reactor, config.servers, config.resolv_conf, config.hosts_file, _search(config), config.timeout)
        backoff = config.failure_refresh_rate
        self._names = [_Name(each.name, each, *_split(each.name), waits=pace.Backoff(backoff.base, backoff.max, random.random)) for each in _names(config)]
        self._is_told = False
        self._at_a_time = DeferredSemaphore(TARGETS_AT_A_TIME)
        self._findings = Findings(", ".join(name.text for name in self._names), context.clock, context.log)

    def watch(self, changed: Changed) -> Deferred[None]:
        """See `IDiscovery`."""
        first = self._findings.begin(changed)
        for name in self._names:
            self._look(name)
        return first

    def stop(self) -> None:
        """See `IDiscovery`. A question that is on its way is not waited for."""
        self._findings.stop()
        for name in self._names:
            if name.timer is not None and name.timer.active():
                name.timer.cancel()

    def snapshot(self) -> dict[str, Any]:
        """See `IDiscovery`."""
        return self._findings.snapshot()

    # -- looking up --------------------------------------------------------------------------------------------------------------------------

    def _look(self, name: _Name) -> None:
        ensureDeferred(self._lookup(name)).addErrback(lambda failure: self._log.failure("looking up {name} ended", failure, name=name.text))

    async def _lookup(self, name: _Name) -> None:
        """Ask once, and say when to ask again."""
        config = self._config
        is_given_up = False
        name.remark = ""
        try:
            name.known, ttl = await (self._services(name) if not name.port else self._addresses(name))
            wait = refresh_after(ttl, config.min_refresh_rate, config.max_refresh_rate, random.random)
            name.problem = ""
            name.waits.succeeded()
        except NoSuchName as error:
            wait = refresh_after(error.ttl, config.min_refresh_rate, config.max_refresh_rate, random.random)
            name.problem = str(error)
            name.waits.succeeded()
            is_given_up = True
            if config.on_negative == "empty":
                name.known = ()
                name.problem = ""
        except LookupFailed as error:
            name.problem = str(error)
            wait = name.waits.failed()
        except Exception:
            # Whatever it was: the next look-up may go well, and none would be the end of it.
            self._log.failure("looking up {name} failed", name=name.text)
            name.problem = f"{name.text}: looking it up failed; the log tells why"
            wait = name.waits.failed()
        if not self._findings.is_watching:
            return
        name.was_tried = True
        name.timer = self._clock.callLater(wait, self._look, name)
        self._report(name.problem, is_given_up)

    def _report(self, problem: str, is_given_up: bool) -> None:
        """Tell of all names together, once each was asked for: a part of the endpoints would get the traffic of all."""
        if problem:
            self._findings.failed(problem)
        if not all(name.was_tried for name in self._names):
            return
        known = [name.known for name in self._names if name.known is not None]
        if known and not (problem and self._is_told):
            found: dict[Address, Endpoint] = {}
            for endpoints in known:
                for endpoint in endpoints:
                    found.setdefault(endpoint.address, endpoint)
            self._is_told = True
            self._findings.found(tuple(found.values()), next(filter(None, (name.problem or name.remark for name in self._names)), ""))
        elif is_given_up and not known:
            self._findings.give_up()

    async def _addresses(self, name: _Name) -> tuple[tuple[Endpoint, ...], float]:
        hosts = await self._servers.hosts(name.host, self._config.lookup_family)
        addresses = hosts.addresses
        if self._config.mode == "logical":
            # One at a time, and the same one while it is in the answers: servers rotate them.
            current = name.known[0].address.host if name.known else ""
            addresses = (current,) if current in addresses else addresses[:1]
        else:
            addresses = tuple(sorted(addresses))  # servers rotate them, which is no change
        weight, priority = name.what.weight, name.what.priority
        return tuple(_endpoint(name, make_address(each, name.port), weight, priority, name.host) for each in dict.fromkeys(addresses)), hosts.ttl

    async def _services(self, name: _Name) -> tuple[tuple[Endpoint, ...], float]:
        """SRV records and the addresses of their targets. A target that cannot be looked up now keeps the addresses that it had."""
        records = await self._servers.records(name.host, "SRV")
        # RFC 2782: the target "." says that there is decidedly no such service.
        named = [(record, target) for record in records.values if (target := record.target.name.decode("latin-1").lower().rstrip("."))]
        targets = list(dict.fromkeys(target for _, target in named))
        if len(targets) > MAX_TARGETS:
            name.remark = f"{name.host} has {len(targets)} targets, of which {MAX_TARGETS} are used"
            named, targets = _first(named)
        asking: list[Deferred[_Target]] = [self._at_a_time.run(self._target, name, target) for target in targets]
        found = dict(zip(targets, await gatherResults(asking), strict=True))
        name.targets = {target: each.hosts.addresses for target, each in found.items()}
        # At port 0 nobody can be connected to; one such record takes nothing from the others.
        usable = [(record, target) for record, target in named if record.port]
        services = [Service(record.priority, record.weight, record.port, target, found[target].hosts.addresses) for record, target in usable]
        ttl = min(records.ttl, *(each.hosts.ttl for each in found.values())) if found else records.ttl
        ttl = max(ttl, len(targets) / TARGETS_A_SECOND)
        problems = [each.problem for each in found.values() if each.problem is not None]
        if len(usable) < len(named):
            name.remark = f"{name.host} has a record with port 0, to which nobody can connect"
        weighed = weigh(services)
        if not weighed:
            raise (problems[0] if problems else NoSuchName(name.remark or f"{name.host} is not served", ttl))
        weighed.sort(key=lambda each: (each.priority, each.host, each.port))
        if self._config.mode == "logical":
            weighed = weighed[:1]
        return tuple(_endpoint(name, make_address(each.host, each.port), each.weight, name.what.priority + each.priority, each.target) for each in weighed), ttl

    async def _target(self, name: _Name, target: str) -> _Target:
        try:
            return _Target(await self._servers.hosts(f"{target}.", self._config.lookup_family))
        except NoSuchName as error:
            return _Target(Hosts((), error.ttl), error)
        except LookupFailed as error:
            return _Target(Hosts(name.targets.get(target, ()), self._config.min_refresh_rate), error)


def _first(named: list[tuple[Any, str]]) -> tuple[list[tuple[Any, str]], list[str]]:
    """As many records, with their targets, as are taken: the most preferred, and always the same ones, however the server rotates them."""
    ordered = sorted(named, key=lambda each: (each[0].priority, each[1]))
    targets = list(dict.fromkeys(target for _, target in ordered))[:MAX_TARGETS]
    taken = set(targets)
    return [each for each in ordered if each[1] in taken], targets


def _endpoint(name: _Name, address: Address, weight: int, priority: int, hostname: str) -> Endpoint:
    what = name.what
    return Endpoint(address=address, weight=weight, priority=priority, hostname=hostname, locality=what.locality, metadata=what.metadata)


def _names(config: DNS.Config) -> tuple[DNSName, ...]:
    names = (config.names,) if isinstance(config.names, str) else config.names
    return tuple(DNSName(name=each) if isinstance(each, str) else each for each in names)


def _search(config: DNS.Config) -> tuple[str, ...] | None:
    return None if config.search is None else tuple(each.strip(".").lower() for each in config.search)


def _split(name: str) -> tuple[str, int]:
    """(host, port) of HOST:PORT; (name, 0) of the name of SRV records. Raises `ValueError` with a sentence."""
    expected = f"expected HOST:PORT, or a name such as _http._tcp.payments.shop.svc for SRV records, got {name!r}"
    host, colon, port = name.rpartition(":")
    if not colon:
        host, port = name, ""
        if not name.startswith("_"):
            raise ValueError(expected)
    elif not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(expected)
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        make_address(host, int(port or 1))
    except ValueError:
        raise ValueError(expected) from None
    return host, int(port or 0)
